"""The module: options, inputs, state, torch.func, training, cost, and the graphs that torch.compile makes of it."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from closeness import assert_close
from small_models import EACH_KIND_ONCE
from torch import Tensor, fx
from torch.func import functional_call, grad, stack_module_state, vmap

from mvc.compile.compiler import compile_model
from mvc.errors import UserError
from mvc.measure import flops
from mvc.model import functional
from mvc.model.config import MIXER_FORMS, PATTERN_PRESETS, get_config
from mvc.model.module import MambaVision, create_model
from mvc.passes.graph.fx_utils import op_counts

# 10⁹ multiply-adds of convolutions, matrix products and attention at the variant's own size. The published figures are
# rounded and count attention differently (T 4.4, L3-512 489.1).
GMACS = {
    "T": 4.565,
    "T2": 5.235,
    "S": 7.578,
    "B": 15.162,
    "L": 35.160,
    "L2": 37.880,
    "L2-512-21K": 206.204,
    "L3-256-21K": 123.547,
    "L3-512-21K": 511.293,
}


@pytest.fixture
def tiny() -> MambaVision:
    torch.manual_seed(0)
    return create_model("tiny", layer_scale=0.5)


def images(batch: int = 2, height: int = 64, width: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", GMACS)
def test_multiply_adds(name):
    model = create_model(name, device="meta").eval()
    size = model.config.image_size
    with torch.no_grad():
        work = flops.count(lambda: model(torch.empty(1, 3, size, size, device="meta")))
    assert work / 2e9 == pytest.approx(GMACS[name], rel=0.005)


def test_options():
    model = create_model("TINY", num_classes=7, in_chans=1, drop_path_rate=0.4).eval()
    assert model.config == get_config("tiny", num_classes=7, in_chans=1, drop_path_rate=0.4)
    assert model(images(channels=1)).shape == (2, 7)
    assert create_model(model.config).config == model.config
    with pytest.raises(UserError, match="'drop_path'"):
        create_model("tiny", drop_path=0.4)


def test_without_a_head_scores_are_the_pooled_features():
    model = create_model("tiny", num_classes=0).eval()
    assert torch.equal(model(images()), model.forward_features(images()).pooled)


def test_meta_device_makes_no_tensors():
    assert all(tensor.is_meta for tensor in create_model("L3-512-21K", device="meta").tensors().values())


def test_dtype_leaves_the_scan_parameters_in_float32():
    model = create_model("tiny", dtype=torch.bfloat16).eval()
    kept = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {name for name, _ in model.named_parameters() if name.endswith(("A_log", ".D"))}
    assert model(images().bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (224, 100)], ids=lambda size: "{}x{}".format(*size))
def test_shapes(tiny, size):
    features = tiny.eval().forward_features(images(2, *size))
    for stage, stage_map in enumerate(features.stages):
        sides = (-(-side // 2 ** (stage + 2)) for side in size)
        assert stage_map.shape == (2, 16 * 2**stage, *sides), f"stage {stage + 1}"
    assert features.pooled.shape == (2, 128)
    assert tiny(images(2, *size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(1, 3, 31, 64), ValueError, "at least 32 x 32, got 31 x 64"),
        (torch.zeros(1, 3, 64, 16), ValueError, "at least 32 x 32, got 64 x 16"),
        (torch.zeros(1, 4, 64, 64), ValueError, r"got shape \(1, 4, 64, 64\)"),
        (torch.zeros(3, 64, 64), ValueError, r"got shape \(3, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64).double(), TypeError, r"torch\.float32, got torch\.float64"),
        (torch.zeros(1, 3, 64, 64).byte(), TypeError, r"torch\.float32, got torch\.uint8"),
    ],
    ids=["low", "narrow", "channels", "no_batch", "float64", "uint8"],
)
def test_unusable_images_are_named(tiny, x, error, message):
    with pytest.raises(error, match=message):
        tiny.eval()(x)
    if error is ValueError:
        with pytest.raises(error, match=message):
            tiny.eval().forward_features(x)


def test_state_deepcopy_and_pickle_keep_the_scores(tiny):
    scores = tiny.eval()(images())
    other = create_model("tiny", layer_scale=0.5).eval()
    other.load_state_dict(tiny.state_dict(), strict=True)
    copies = {"state_dict": other, "deepcopy": copy.deepcopy(tiny), "pickle": pickle.loads(pickle.dumps(tiny))}
    for name, copied in copies.items():
        assert torch.equal(copied(images()), scores), name


def test_evaluation_is_deterministic(tiny):
    assert torch.equal(tiny.eval()(images()), tiny(images()))


def test_a_sample_does_not_depend_on_its_batch(tiny):
    x = images(5)
    assert_close("scores", torch.cat([tiny.eval()(sample) for sample in x.split(1)]), tiny(x))


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided"])
def test_layout_of_the_image_does_not_matter(tiny, layout):
    x = images(2, 48, 64)
    same = {
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "strided": x.repeat_interleave(2, dim=3)[..., ::2],
    }[layout]
    assert torch.equal(same, x)
    assert_close("scores", tiny.eval()(same), tiny(x))


@pytest.mark.versions
def test_functional_call(tiny):
    other = {name: tensor + 0.1 if tensor.is_floating_point() else tensor for name, tensor in tiny.tensors().items()}
    called = functional_call(tiny.eval(), other, (images(),))
    assert torch.equal(called, functional.forward(other, images(), tiny.config))
    assert not torch.equal(called, tiny(images()))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_first_call_with_a_config_may_be_within_a_transform(compiled, fresh_dynamo):
    """Where a module cannot be made."""
    torch.manual_seed(0)
    model = create_model("tiny", num_classes=11 + compiled).eval()
    params, buffers, x = dict(model.named_parameters()), dict(model.named_buffers()), images()

    def gradients(params: dict[str, Tensor]) -> dict[str, Tensor]:
        return grad(lambda p: functional.forward(p | buffers, x, model.config).square().sum())(params)

    call = torch.compile(gradients, backend="eager", fullgraph=True) if compiled else gradients
    found = call({name: parameter.detach() for name, parameter in params.items()})
    model(x).square().sum().backward()
    for name, parameter in params.items():
        assert_close(name, found[name], parameter.grad, roundings=256)


def test_grad_is_that_of_autograd(tiny):
    tiny.eval()
    params = dict(tiny.named_parameters())

    def loss(params: dict[str, Tensor]) -> Tensor:
        return functional_call(tiny, params, (images(),)).square().sum()

    gradients = grad(loss)({name: parameter.detach() for name, parameter in params.items()})
    loss(params).backward()
    for name, parameter in params.items():
        assert_close(name, gradients[name], parameter.grad, roundings=256)


def test_vmap_over_an_ensemble():
    models = [create_model("tiny").eval() for _ in range(3)]
    params, buffers = stack_module_state(models)
    x = images()
    scores = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(params, buffers)
    assert_close("scores", scores, torch.stack([model(x) for model in models]))


def test_vmap_over_images(tiny):
    x = images(6).unflatten(0, (3, 2))
    assert_close("scores", vmap(tiny.eval())(x), torch.stack([tiny(batch) for batch in x]))


def test_gradients_per_sample(tiny):
    """vmap of grad, as differentially private training does it."""
    tiny.eval()
    params = {name: parameter.detach() for name, parameter in tiny.named_parameters()}

    def loss(params: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(tiny, params, (sample.unsqueeze(0),)).square().sum()

    per_sample = vmap(grad(loss), (None, 0))(params, images(2))
    for name in params:
        one_by_one = torch.stack([grad(loss)(params, sample)[name] for sample in images(2)])
        assert_close(name, per_sample[name], one_by_one, roundings=256)


def test_training_updates_batch_norm_as_torch_does(tiny):
    x = images(4)
    norm, weight = torch.nn.BatchNorm2d(8, eps=1e-4), tiny.state_dict()["patch_embed.conv_down.0.weight"]
    tiny.train()
    for _ in range(2):
        tiny(x)
        norm(torch.nn.functional.conv2d(x, weight, stride=2, padding=1))
    for name in ("running_mean", "running_var"):
        assert_close(name, tiny.state_dict()[f"patch_embed.conv_down.1.{name}"], norm.state_dict()[name])
    counters = {name: t.item() for name, t in tiny.named_buffers() if name.endswith("num_batches_tracked")}
    assert set(counters.values()) == {2}, counters


def test_evaluation_changes_no_buffer(tiny):
    before = {name: tensor.clone() for name, tensor in tiny.named_buffers()}
    tiny.eval()(images())
    for name, tensor in tiny.named_buffers():
        assert torch.equal(tensor, before[name]), name


def assert_all_gradients(model: MambaVision, autocast: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = torch.nn.functional.cross_entropy(model.train()(images(4)), torch.arange(4))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.dtype == parameter.dtype, name
        assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"
        assert parameter.grad.any(), f"{name} has a zero gradient"


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16-autocast"])
@pytest.mark.parametrize("mixer", MIXER_FORMS)
def test_gradients_reach_every_parameter(mixer, autocast):
    torch.manual_seed(0)
    assert_all_gradients(create_model("tiny", mixer=mixer, layer_scale=0.5, drop_path_rate=0.0), autocast)


@pytest.mark.parametrize("attention", [preset.replace("SEED", "7") for preset in PATTERN_PRESETS] + [("AA", "MM")])
def test_every_placement_of_attention_trains(attention):
    torch.manual_seed(0)
    assert_all_gradients(create_model("tiny", attention=attention, drop_path_rate=0.0), autocast=False)


def test_autocast_rounds_as_bfloat16_does(tiny):
    x = images()
    expected = tiny.eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = tiny(x)
    in_bfloat16 = create_model("tiny", layer_scale=0.5, dtype=torch.bfloat16).eval()
    in_bfloat16.load_state_dict(tiny.state_dict())
    error, budget = ((y.float() - expected).abs().max() for y in (autocast, in_bfloat16(x.bfloat16())))
    assert error <= 2 * budget + torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_a_few_steps_lower_the_loss(tiny):
    optimizer = torch.optim.SGD(tiny.train().parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(tiny(images(4)), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses


class Recorder:
    """A backend that keeps the graphs that Dynamo captured and runs them as they are."""

    def __init__(self) -> None:
        self.graphs: list[fx.Graph] = []

    def __call__(self, module: fx.GraphModule, inputs: list) -> object:
        self.graphs.append(module.graph)
        return module.forward

    def compile(self, model: MambaVision) -> Callable[[Tensor], Tensor]:
        torch._dynamo.reset()
        return torch.no_grad()(torch.compile(model.eval(), backend=self, fullgraph=True))


@pytest.mark.parametrize("name", ["tiny", "T", "B", "L2"])
def test_one_graph_without_breaks(name):
    """The other variants differ from these in numbers alone."""
    model, recorder = create_model(name, device="meta"), Recorder()
    size = model.config.image_size
    recorder.compile(model)(torch.empty(1, 3, size, size, device="meta"))
    assert len(recorder.graphs) == 1
    scans = sum(model.config.block_pattern(stage).count("M") for stage in (2, 3))
    assert op_counts(recorder.graphs[0])["mvc.selective_scan"] == scans


def dynamic_graphs(model: MambaVision, sizes: list[tuple[int, int, int]], backend: str = "eager") -> int:
    """Run (batch, height, width) after (batch, height, width) with dynamic shapes, as eager does; how many graphs."""
    torch._dynamo.reset()
    inputs = [images(*size) for size in sizes]
    with torch.no_grad():
        compiled, report = compile_model(model.eval(), inputs[0], backend=backend, dynamic=True)
        for x in inputs:
            assert_close(f"scores of {tuple(x.shape)}", compiled(x), model(x), roundings=256)
    return len(report.graphs)


@pytest.mark.slow
def test_batches_share_a_graph_apart_from_one(tiny):
    batches = [2, 3, 8, 15, 16, 31, 32]
    assert dynamic_graphs(tiny, [(batch, 64, 96) for batch in batches]) == 1
    assert dynamic_graphs(tiny, [(batch, 64, 96) for batch in (4, 1, 20)]) <= 2


# Stage 4 of tiny sees one window up to 64 pixels and several beyond; stage 3 has several from 33 pixels on.
ONE, SEVERAL = (33, 50, 64), (65, 96, 100, 128, 160)


def pairs(heights: tuple[int, ...], widths: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Every height and every width, those that windows divide and those that they do not, batch 2 and 3."""
    longest = max(len(heights), len(widths))
    return [(2 + i % 2, heights[i % len(heights)], widths[(i + 1) % len(widths)]) for i in range(longest)]


@pytest.mark.versions
@pytest.mark.parametrize("heights", [ONE, SEVERAL], ids=["one-high", "several-high"])
@pytest.mark.parametrize("widths", [ONE, SEVERAL], ids=["one-wide", "several-wide"])
def test_sizes_of_a_window_pattern_share_a_graph(tiny, heights, widths):
    assert dynamic_graphs(tiny, pairs(heights, widths)) == 1


@pytest.mark.slow
def test_window_patterns_have_a_graph_each_at_most(tiny):
    sizes = [size for heights in (SEVERAL, ONE) for widths in (SEVERAL, ONE) for size in pairs(heights, widths)[:2]]
    assert dynamic_graphs(tiny, sizes) <= 4


def test_a_square_example_serves_other_sizes(tiny):
    assert dynamic_graphs(tiny, [(2, 96, 96), (2, 96, 128), (3, 70, 128)]) == 1


@pytest.mark.versions
@pytest.mark.slow
def test_inductor_serves_batches_and_sizes_from_one_graph():
    torch.manual_seed(0)
    model = create_model("tiny", layer_scale=0.5, **EACH_KIND_ONCE)
    sizes = [(4, 96, 128), (2, 65, 65), (16, 97, 80), (32, 127, 70), (3, 128, 128)]
    assert dynamic_graphs(model, sizes, backend="inductor") == 1


@pytest.mark.slow
def test_compiled_bfloat16_errs_as_eager_does(tiny):
    """Against float32, compiled code keeps more in float32 between fused operations: at most twice eager's error."""
    x = images(4)
    expected = tiny.eval()(x)
    model = create_model("tiny", layer_scale=0.5, dtype=torch.bfloat16).eval()
    model.load_state_dict(tiny.state_dict())
    with torch.no_grad():
        compiled, _ = compile_model(model, x.bfloat16())
        errors = [(run(x.bfloat16()).float() - expected).norm() for run in (compiled, model)]
    assert errors[0] <= 2 * errors[1] + torch.finfo(torch.bfloat16).eps * expected.norm()


@pytest.mark.versions
def test_blocks_of_a_kind_are_one_compile_region():
    """A region that is called once stays one in torch 2.11; later versions write it into its caller."""
    depths = {"depths": (2, 1, 2, 4)}
    model = create_model("tiny", compile_regions=True, **depths).eval()
    plain = create_model("tiny", **depths).eval()
    plain.load_state_dict(model.state_dict())
    x, recorder = torch.randn(2, 3, 64, 64), Recorder()
    with torch.no_grad():
        torch.testing.assert_close(recorder.compile(model)(x), plain(x))
        assert torch.equal(model(x), plain(x))
        call = torch.compile(functional.forward, backend="eager", fullgraph=True)
        torch.testing.assert_close(call(model.tensors(), x, model.config), plain(x))
    bodies = [node.target for node in recorder.graphs[0].find_nodes(op="get_attr")]
    shared = [count for count in Counter(bodies).values() if count > 1]
    assert shared == [2, 2, 2], "two convolution blocks, two mixers, two attention blocks"
