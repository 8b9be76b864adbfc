"""The mixers of Vim and VMamba against their formulas, and what the models refuse, initialise and drop."""

from __future__ import annotations

import copy

import pytest
import torch
from closeness import assert_close
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from mvc.errors import UserError
from mvc.models import VARIANTS, create_model
from mvc.models.vim import Vim, VimConfig
from mvc.models.vmamba import CrossScan, VMamba, VMambaConfig


def recurrence(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """The scan step by step; u and dt (batch, length, channels), B and C (batch, length, states)."""
    delta, state, outputs = F.softplus(dt + bias), torch.zeros(len(u), *A.shape, dtype=u.dtype), []
    for t in range(u.shape[1]):
        step = delta[:, t, :, None]
        state = torch.exp(step * A) * state + step * B[:, t, None] * u[:, t, :, None]
        outputs.append((state * C[:, t, None]).sum(-1) + D * u[:, t])
    return torch.stack(outputs, dim=1)


def randomized(module: nn.Module) -> nn.Module:
    """In float64, with every tensor drawn anew, so that both directions and all routes differ."""
    torch.manual_seed(0)
    for parameter in module.double().requires_grad_(False).parameters():
        parameter.normal_(std=0.5)
    return module


def vim_mixer(mixer: nn.Module, x: Tensor) -> Tensor:
    """As the paper has it: everything is flipped, goes through the same steps, and is flipped back."""

    def direction(x: Tensor, z: Tensor, end: str) -> Tensor:
        weights = dict(mixer.named_parameters())
        conv, x_proj, dt_proj = (getattr(mixer, f"{name}{end}") for name in ("conv1d", "x_proj", "dt_proj"))
        u = F.silu(F.conv1d(F.pad(x.mT, (3, 0)), conv.weight, conv.bias, groups=x.shape[2])).mT
        dt, B, C = x_proj(u).split((dt_proj.in_features, 16, 16), dim=2)
        A = -weights[f"A{end}_log"].exp()
        return recurrence(u, dt @ dt_proj.weight.mT, A, B, C, weights[f"D{end}"], dt_proj.bias) * F.silu(z)

    x, z = mixer.in_proj(x).chunk(2, dim=2)
    ahead, back = direction(x, z, ""), direction(x.flip(1), z.flip(1), "_b").flip(1)
    return mixer.out_proj((ahead + back) / 2)


def cross_scan(op: CrossScan, x: Tensor) -> Tensor:
    """With the positions of each route written out."""
    _, height, width, _ = x.shape
    x = F.silu(op.conv2d(op.in_proj(x).permute(0, 3, 1, 2))).flatten(2).mT  # (batch, positions, inner)
    rows = torch.arange(height * width)
    columns = torch.tensor([h * width + w for w in range(width) for h in range(height)])
    A, D = -op.A_logs.exp().unflatten(0, (4, -1)), op.Ds.unflatten(0, (4, -1))
    y = torch.zeros_like(x)
    for k, route in enumerate((rows, columns, rows.flip(0), columns.flip(0))):
        u = x[:, route]
        dt, B, C = (u @ op.x_proj_weight[k].mT).split(op.split, dim=2)
        y[:, route] += recurrence(u, dt @ op.dt_projs_weight[k].mT, A[k], B, C, D[k], op.dt_projs_bias[k])
    return op.out_proj(op.out_norm(y)).unflatten(1, (height, width))


@pytest.mark.parametrize("tokens", [1, 3, 17])
def test_the_mixer_of_vim(tokens):
    mixer, x = randomized(create_model("Vim-trial").layers[0].mixer), torch.randn(2, tokens, 32, dtype=torch.float64)
    assert_close("mixer", mixer(x), vim_mixer(mixer, x))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (6, 2)], ids=lambda size: str(size))
@pytest.mark.parametrize(("expand", "states"), [(1, 1), (2, 3)])
def test_the_four_routes_of_vmamba(height, width, expand, states):
    config = VMambaConfig("test", 16, (1, 1, 1, 1), expand, d_state=states)
    op, x = randomized(CrossScan(config, 16)), torch.randn(2, height, width, 16, dtype=torch.float64)
    assert_close("routes", op(x), cross_scan(op, x), roundings=256)


MOVES = ("clone", "copy", "flip", "roll", "cat", "stack", "index", "gather")


def moved(module: nn.Module, x: Tensor) -> list[str]:
    """What moves data of each image and changes no value of it, in a trace of the module in inference."""
    with torch.no_grad():
        graph = make_fx(module)(x).graph
    calls = [node for node in graph.nodes if node.op == "call_function" and "val" in node.meta]
    of_images = [node for node in calls if isinstance(node.meta["val"], Tensor) and node.meta["val"].shape[0] == len(x)]
    return [str(node.target) for node in of_images if any(move in str(node.target) for move in MOVES)]


def test_the_routes_of_vmamba_take_one_copy():
    """Of the map with its columns one after the other; both directions of a route read the same memory."""
    op = CrossScan(VARIANTS["VMamba-trial"], 16)
    assert moved(op, torch.randn(3, 4, 5, 16)) == ["aten.clone.default"]


def test_the_directions_of_vim_take_no_flip():
    """Products copy the library's convolution, whose length is innermost; compiled, it is none (test_peer_compile)."""
    mixer = create_model("Vim-trial").layers[0].mixer
    assert moved(mixer, torch.randn(3, 17, 32)) == ["aten.clone.default"] * 2


def test_vim_puts_the_class_in_the_middle():
    model = create_model("Vim-trial").requires_grad_(False)
    model.pos_embed.zero_()
    images = torch.randn(2, 3, 32, 32)
    tokens, patches = model.embed(images), model.patch_embed(images)
    assert tokens.shape == (2, 17, 32)
    assert_close("class token", tokens[:, 8], model.cls_token[0].expand(2, 32))
    assert_close("patches", torch.cat((tokens[:, :8], tokens[:, 9:]), dim=1), patches)


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (200, 40)], ids=lambda size: "x".join(map(str, size)))
def test_vmamba_takes_any_size(size):
    model, images = create_model("VMamba-trial").eval().requires_grad_(False), torch.randn(2, 3, *size)
    features = model.forward_features(images)
    assert [tuple(each.shape[2:]) for each in features.stages] == [
        tuple(-(-side // 2**level) for side in size) for level in (2, 3, 4, 5)
    ]
    exact = copy.deepcopy(model).double()(images.double())
    assert_close("scores", model(images), exact.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_half_precision(family, dtype):
    """Few roundings of the scores away from the same weights in float64; the residual stream of Vim is float32."""
    torch.manual_seed(0)
    model = create_model(f"{family}-trial", dtype=dtype).eval().requires_grad_(False)
    images = torch.randn(4, 3, 32, 32, dtype=dtype)
    exact = copy.deepcopy(model).double()(images.double())
    scores = model(images)
    assert scores.dtype == dtype
    error = ((scores - exact).abs().max() / exact.abs().max()).item()
    print(f"{family} {dtype}: {error / torch.finfo(dtype).eps:.2f} roundings")
    assert error <= 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_autocast(family):
    model, images = create_model(f"{family}-trial").eval().requires_grad_(False), torch.randn(4, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(images)
    error = ((scores - model(images)).abs().max() / model(images).abs().max()).item()
    assert 0 < error <= 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_autocast_converts_no_float64(family):
    model = create_model(f"{family}-trial", dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match=r"float64, got torch\.float32"):
        model(torch.randn(1, 3, 32, 32))


DIRECT = ("conv1d", "conv1d_b", "dt_proj", "dt_proj_b")  # of which Vim reads the tensors
TRAINED = {"Vim": (32, 32), "VMamba": (64, 40)}  # a last map of one position would leave its decays without a gradient


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_training_reaches_every_parameter(family, dtype):
    torch.manual_seed(0)
    model = create_model(f"{family}-trial", dtype=dtype, drop_path_rate=0.3)
    loss = model(torch.randn(8, 3, *TRAINED[family], dtype=dtype)).float().square().sum()
    (1024 * loss).backward()  # float16 holds the smallest gradients then
    without = [name for name, p in model.named_parameters() if not (p.grad.isfinite().all() and p.grad.any())]
    assert not without
    assert model(torch.randn(0, 3, 32, 32, dtype=dtype)).shape == (0, 10), "an empty batch has no scores"


@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_gradients(family):
    """In float32 as in float64."""
    torch.manual_seed(0)
    model, images = create_model(f"{family}-trial"), torch.randn(3, 3, *TRAINED[family])
    exact = copy.deepcopy(model).double()
    model(images).square().sum().backward()
    exact(images.double()).square().sum().backward()
    for (name, ours), wanted in zip(model.named_parameters(), exact.parameters(), strict=True):
        error = ((ours.grad - wanted.grad).abs().max() / wanted.grad.abs().max()).item()
        assert error <= 1e-5, f"{name}: {error:.1e} of the largest gradient"


@torch.no_grad()
@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_transformations_and_copies(family):
    """vmap over images, images in other memory, torch.export with a batch of any size, a copy by the state dict."""
    torch.manual_seed(0)
    model, images = create_model(f"{family}-trial").eval(), torch.randn(3, 3, 64, 32)[:, :, ::2]
    scores = model(images)
    assert_close("vmap", torch.vmap(lambda image: model(image[None])[0])(images), scores)
    assert torch.equal(model(images.contiguous(memory_format=torch.channels_last)), scores)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (images[:2].contiguous(),), dynamic_shapes=({0: batch},))
    assert_close("exported", exported.module()(images.contiguous()), scores)
    another = create_model(f"{family}-trial", device="meta").to_empty(device="cpu").eval()
    another.load_state_dict(model.state_dict())
    assert torch.equal(another(images), scores)
    on_meta = create_model(f"{family}-trial", device="meta")(torch.empty(2, 3, 32, 32, device="meta"))
    assert on_meta.shape == (2, 10)
    assert on_meta.is_meta


@torch.no_grad()
@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_hooks(family):
    """They run on every layer but those that docs/models.md names."""
    model, seen = create_model(f"{family}-trial").eval(), set()
    for name, layer in model.named_modules():
        layer.register_forward_hook(lambda *_, name=name: seen.add(name))
    model(torch.randn(1, 3, 32, 32))
    silent = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name not in seen}
    assert silent == {"Vim": {"layers", *DIRECT}, "VMamba": {"layers", "blocks", "classifier", "out_norm"}}[family]


@torch.no_grad()
def test_one_exported_vmamba_takes_every_size():
    torch.manual_seed(0)
    model = create_model("VMamba-trial").eval()
    sides = {2: torch.export.Dim("height", min=33, max=256), 3: torch.export.Dim("width", min=33, max=256)}
    exported = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(sides,)).module()
    images = torch.randn(2, 3, 45, 61)
    assert_close("scores", exported(images), model(images))


def test_vim_refuses_other_sizes():
    with pytest.raises(UserError, match=r"images of 32 x 40, and this model has positions for 32 x 32 alone"):
        create_model("Vim-trial")(torch.randn(1, 3, 32, 40))


@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_what_is_refused(family):
    model = create_model(f"{family}-trial")
    with pytest.raises(UserError, match=r"x must be images \(batch, 3, height, width\), got shape \(2, 1, 32, 32\)"):
        model(torch.randn(2, 1, 32, 32))
    with pytest.raises(UserError, match=r"got shape \(3, 32, 32\)"):
        model(torch.randn(3, 32, 32))
    with pytest.raises(TypeError, match=r"x must have the parameters' dtype torch.float32, got torch.float64"):
        model(torch.randn(1, 3, 32, 32).double())
    with pytest.raises(TypeError, match="x must be"):
        model([1.0])
    with pytest.raises(UserError, match="config field channels is 0"):
        create_model(f"{family}-trial", channels=0)
    with pytest.raises(UserError, match="config field drop_path_rate is 1"):
        create_model(f"{family}-trial", drop_path_rate=1)
    with pytest.raises(UserError, match="config field d_state is 257; it must be a whole number from 1 to 256"):
        create_model(f"{family}-trial", d_state=257)
    with pytest.raises(UserError, match="config field name is ''"):
        create_model(f"{family}-trial", name="")
    with pytest.raises(UserError, match="config field num_classes is 0"):
        create_model(f"{family}-trial", num_classes=0)


def test_initialisation_of_vim():
    torch.manual_seed(0)
    model = Vim(VimConfig("test", 64, depth=4, image_size=64, num_classes=500)).requires_grad_(False)
    for layer in model.layers:
        mixer, rank = layer.mixer, 4
        for A_log, D in ((mixer.A_log, mixer.D), (mixer.A_b_log, mixer.D_b)):
            assert_close("A", A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
            assert torch.equal(D, torch.ones(128))
        steps = F.softplus(mixer.dt_proj.bias)
        assert 1e-3 * 0.999 <= steps.min() < 2e-3
        assert 5e-2 < steps.max() <= 1e-1 * 1.001
        assert not mixer.dt_proj_b.bias.any()
        for weight, bound in (
            (mixer.dt_proj.weight, rank**-0.5),
            (mixer.dt_proj_b.weight, rank**-0.5),
            (mixer.in_proj.weight, 64**-0.5),
            (mixer.out_proj.weight, 128**-0.5 / 4**0.5),
            (mixer.conv1d.weight, 4**-0.5),
        ):
            assert 0.97 * bound < weight.abs().max() <= bound
    for tensor, deviation in (
        (model.head.weight, 0.02),
        (model.pos_embed, 0.02),
        (model.patch_embed.proj.weight, (3 * 16 * 16) ** -0.5),
    ):
        assert tensor.std().item() == pytest.approx(deviation, rel=0.1)
    assert not model.head.bias.any()
    assert not model.patch_embed.proj.bias.any()


def test_initialisation_of_vmamba():
    torch.manual_seed(0)
    model = VMamba(VMambaConfig("test", 64, (1, 1, 1, 1), 2, d_state=3)).requires_grad_(False)
    op, mlp = model.layers[1].blocks[0].op, model.layers[1].blocks[0].mlp
    assert_close("A", op.A_logs.exp(), torch.arange(1.0, 4).expand(4 * 256, 3))
    assert torch.equal(op.Ds, torch.ones(4 * 256))
    steps = F.softplus(op.dt_projs_bias)
    assert 1e-3 * 0.999 <= steps.min() < 1.1e-3
    assert 9e-2 < steps.max() <= 1e-1 * 1.001
    for weight, bound in ((op.x_proj_weight, 256**-0.5), (op.dt_projs_weight, 8**-0.5), (op.conv2d.weight, 9**-0.5)):
        assert 0.97 * bound < weight.abs().max() <= bound
    for linear in (op.in_proj, op.out_proj, mlp.fc1, mlp.fc2, model.classifier.head):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert linear.bias is None or not linear.bias.any()


def test_drop_path():
    vim = create_model("Vim-S", device="meta")
    assert [layer.drop_path_rate for layer in vim.layers][:2] == [0, 0]
    assert vim.layers[23].drop_path_rate == pytest.approx(0.05 * 22 / 23)
    vmamba = create_model("VMamba-T", device="meta")
    rates = [block.drop_path_rate for layer in vmamba.layers for block in layer.blocks]
    assert rates == pytest.approx([0.2 * index / 13 for index in range(14)])


@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_dropped_paths_leave_what_they_should(family):
    """With nearly all paths dropped in training the scores are those of the residual stream alone."""
    torch.manual_seed(0)
    model = create_model(f"{family}-trial", drop_path_rate=1 - 1e-9).requires_grad_(False)
    if family == "Vim":  # its first rates are zero, and the last add has the full one
        model.layers[1].drop_path_rate = model.config.drop_path_rate
        images = torch.randn(2, 3, 32, 32)
        assert_close("token", model.forward_features(images), model.norm_f(model.embed(images)[:, 8]))
    else:
        last = model.layers[3]
        x = torch.randn(2, 128, 3, 3)
        assert torch.equal(last(x), x)
        assert not torch.equal(last.eval()(x), x)
