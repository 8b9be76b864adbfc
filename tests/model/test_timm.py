"""The variants under timm's functions: what timm asks of a family of models, its loaders, and a UNet on top of them."""

import copy
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import save_published
from torch import Tensor, fx, nn
from torch.autograd.graph import saved_tensors_hooks

import mvc
from mvc.errors import UserError
from mvc.model.image import preprocess

timm = pytest.importorskip("timm", reason="timm is not installed")
mvc_timm = importlib.import_module("mvc.timm")

TINY = "mvc_mambavision_tiny"
REPOSITORIES = {
    "mvc_mambavision_t": "nvidia/MambaVision-T-1K",
    "mvc_mambavision_t2": "nvidia/MambaVision-T2-1K",
    "mvc_mambavision_s": "nvidia/MambaVision-S-1K",
    "mvc_mambavision_b": "nvidia/MambaVision-B-1K",
    "mvc_mambavision_l": "nvidia/MambaVision-L-1K",
    "mvc_mambavision_l2": "nvidia/MambaVision-L2-1K",
    "mvc_mambavision_b_21k": "nvidia/MambaVision-B-21K",
    "mvc_mambavision_l_21k": "nvidia/MambaVision-L-21K",
    "mvc_mambavision_l2_512_21k": "nvidia/MambaVision-L2-512-21K",
    "mvc_mambavision_l3_256_21k": "nvidia/MambaVision-L3-256-21K",
    "mvc_mambavision_l3_512_21k": "nvidia/MambaVision-L3-512-21K",
}


def create(name: str = TINY, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **arguments)


def images(batch: int = 2, height: int = 64, width: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def assert_same(tensors: list[Tensor] | tuple[Tensor, ...], expected: list[Tensor] | tuple[Tensor, ...]) -> None:
    assert [t.shape for t in tensors] == [t.shape for t in expected]
    for index, (a, b) in enumerate(zip(tensors, expected, strict=True)):
        assert torch.equal(a, b), f"tensor {index} differs"


# The registry and the default configurations


def test_names():
    assert set(timm.list_models("mvc_*")) == {*REPOSITORIES, TINY}
    assert set(timm.list_models("mvc_*", pretrained=True)) == set(REPOSITORIES)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_published_weights_have_their_place_and_licence(name):
    cfg = timm.get_pretrained_cfg(name)
    assert (cfg.hf_hub_id, cfg.license) == (REPOSITORIES[name], "cc-by-nc-sa-4.0")
    assert cfg.origin_url == f"https://huggingface.co/{REPOSITORIES[name]}"


@pytest.mark.parametrize("name", ["mvc_mambavision_t", "mvc_mambavision_t2", "mvc_mambavision_l3_512_21k"])
def test_timms_transform_is_our_preprocessing(name):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pytest.importorskip("torchvision", reason="timm's transforms need torchvision")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 421, 3), dtype=np.uint8)
    photograph = image_module.fromarray(pixels)
    model = create(name, device="meta")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    assert_same([transform(photograph)], [preprocess(photograph, model.config)[0]])


def test_changed_preprocessing_reaches_timms_transform():
    changes = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1), "crop": 0.75, "crop_mode": "squash"}
    wanted = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1), "crop_pct": 0.75, "crop_mode": "border"}
    for arguments in ({}, {"features_only": True}):
        model = create(device="meta", pretrained_cfg_overlay={"crop_mode": "border"}, **changes, **arguments)
        assert timm.data.resolve_model_data_config(model).items() >= wanted.items()
    assert timm.get_pretrained_cfg(TINY).mean == mvc.VARIANTS["tiny"].mean, "the registry stays"


@pytest.mark.parametrize("name", [TINY, "mvc_mambavision_t", "mvc_mambavision_l3_256_21k"])
def test_default_configuration(name):
    model = create(name, device="meta").eval()
    cfg, state = model.default_cfg, model.state_dict()
    assert cfg is model.pretrained_cfg
    assert {f"{cfg['classifier']}.weight", f"{cfg['first_conv']}.weight"} <= state.keys()
    x = torch.empty(1, *cfg["input_size"], device="meta")
    features = model.forward_features(x)
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    assert model.forward_head(features).shape == (1, model.num_classes) == (1, cfg["num_classes"])
    with pytest.raises(UserError, match="at least 32 x 32"):
        model(torch.empty(1, 3, 31, 32, device="meta"))


# Forward, backward


@pytest.mark.parametrize(("name", "variant", "size"), [(TINY, "tiny", (50, 33)), ("mvc_mambavision_t", "T", (32, 32))])
def test_scores_parameters_and_names_are_those_of_create_model(name, variant, size):
    ours, theirs = create(name), (torch.manual_seed(0), mvc.create_model(variant))[1]
    assert ours.config == theirs.config
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = images(1, *reversed(size)).transpose(2, 3)  # not contiguous
    with torch.no_grad():
        assert_same([ours.eval()(x)], [theirs.eval()(x)])


@pytest.mark.parametrize("name", [TINY])
def test_every_parameter_gets_a_gradient(name):
    model = create(name).train()
    model(images()).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_arguments_reach_the_configuration():
    model = create(
        num_classes=7, in_chans=1, drop_rate=0.5, proj_drop_rate=0.25, attn_drop_rate=0.125, drop_path_rate=0.4,
        img_size=(96, 96), window_sizes=(3, 3), dtype=torch.float64,
    )  # fmt: skip
    assert model.config == mvc.get_config(
        "tiny", num_classes=7, in_chans=1, drop_rate=0.25, attn_drop_rate=0.125, drop_path_rate=0.4,
        image_size=96, window_sizes=(3, 3),
    )  # fmt: skip
    assert model.head_drop.p == 0.5
    assert timm.models.get_model_input_config(model)["input_size"] == (1, 96, 96)
    assert model(images(channels=1).double()).shape == (2, 7)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"output_stride": 16}, "output_stride is 16; it must be 32, because every stage halves the map; leave it out"),
        ({"img_size": (64, 96)}, "img_size is (64, 96); it must be a whole number of at least 32, or a pair of one;"),
        ({"img_size": 16}, "img_size is 16; it must be a whole number of at least 32"),
        ({"global_pool": "mean"}, "global_pool is 'mean'; it must be one of avg, max, avgmax, catavgmax, or ''"),
        ({"global_pool": ""}, "global_pool is ''; it must be one of avg, max, avgmax, catavgmax before a head"),
        ({"features_only": True, "feature_cls": "fx"}, "feature_cls is 'fx'; it must be one of getter, hook"),
        ({"feature_cls": "hook"}, "unknown config field 'feature_cls'"),
        ({"depth": 3}, "unknown config field 'depth'"),
        ({"drop_rate": 1.5}, "drop_rate is 1.5; it must be a number from 0 to below 1"),
        ({"drop_rate": "half"}, "drop_rate is 'half'"),
        ({"num_classes": -1}, "num_classes is -1"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_refusals(arguments, sentence):
    with pytest.raises(UserError) as caught:
        create(**arguments)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", "fastavg"])
def test_pooling(pool):
    model = create(global_pool=pool, dtype=torch.float64).eval()
    x = model.forward_features(images().double())
    mean, most = x.mean((2, 3)), x.amax((2, 3))
    expected = {"max": most, "avgmax": (mean + most) / 2, "catavgmax": torch.cat((mean, most), 1)}.get(pool, mean)
    assert torch.allclose(model.forward_head(x, pre_logits=True), expected, rtol=1e-14, atol=1e-14)
    assert model(images().double()).shape == (2, 10)


def test_without_pooling_the_result_is_the_map():
    model = create(num_classes=0, global_pool="").eval()
    assert_same([model(images())], [model.forward_features(images())])


def test_reset_classifier():
    model = create(dtype=torch.float64).eval()
    assert model.get_classifier() is model.head
    model.reset_classifier(3, "catavgmax")
    assert model(images().double()).shape == (2, 3)
    assert (model.num_classes, model.config.num_classes, model.head_hidden_size) == (3, 3, 256)
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(images().double()).shape == (2, 256)
    with pytest.raises(UserError, match="global_pool is ''"):
        model.reset_classifier(3, "")
    assert model.num_classes == 0


# Features


@pytest.mark.parametrize("feature_cls", ["getter", "hook"])
def test_features_only(feature_cls):
    expected = (torch.manual_seed(0), mvc.create_model("tiny"))[1].eval().forward_features(images(1, 50, 70)).stages
    model = create(features_only=True, feature_cls=feature_cls).eval()
    maps = model(images(1, 50, 70))
    assert_same(maps, expected)
    assert [x.shape[1] for x in maps] == model.feature_info.channels() == [16, 32, 64, 128]
    assert [-(-50 // stride) for stride in model.feature_info.reduction()] == [x.shape[2] for x in maps]
    assert model.feature_info.module_name() == [f"levels.{stage}" for stage in range(4)]
    model = create(features_only=True, feature_cls=feature_cls, out_indices=(0, -2)).eval()
    assert_same(model(images(1, 50, 70)), [expected[0], expected[2]])


def test_forward_intermediates():
    model = create().eval()
    stages = mvc.MambaVision.forward_features(model, images()).stages
    end, maps = model.forward_intermediates(images())
    assert_same([end, *maps], [model.forward_features(images()), *stages])
    for indices, wanted in ((2, [2, 3]), ([0, -1], [0, 3]), ((2, 1), [1, 2])):
        assert_same(
            model.forward_intermediates(images(), indices, intermediates_only=True), [stages[i] for i in wanted]
        )
    (normed,) = model.forward_intermediates(images(), 1, norm=True, intermediates_only=True)
    assert_same([normed], [end])
    (_, last), channels_last = stages[2:], model.forward_intermediates(images(), 1, output_fmt="NHWC")[1]
    assert_same(channels_last, [last.permute(0, 2, 3, 1)])


def test_stop_early_computes_no_further_stage():
    model = create().eval()
    model.levels[2].register_forward_hook(lambda *_: pytest.fail("the third stage was computed"))
    end, maps = model.forward_intermediates(images(), [0, 1], stop_early=True)
    assert_same([end], [maps[1]])


@pytest.mark.parametrize("indices", [0, 5, [4], [-5], [], "1", [1.0]])
def test_stages_that_there_are_not(indices):
    with pytest.raises(UserError, match="indices is"):
        create().forward_intermediates(images(), indices)


def test_prune_intermediate_layers():
    model = create().eval()
    expected = model.forward_intermediates(images(), [0, 1], intermediates_only=True)
    assert model.prune_intermediate_layers([0, 1]) == [0, 1]
    assert_same(model.forward_intermediates(images(), [0, 1], intermediates_only=True), expected)
    assert model.num_features == 32
    assert_same([model(images())], [expected[1]])
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"patch_embed", "levels"}
    assert not any(name.startswith("levels.1.downsample") for name, _ in model.named_parameters())
    whole = create()
    whole.prune_intermediate_layers(1, prune_head=False)
    assert whole(images()).shape == (2, 10)


# Training


def test_layer_decay_has_a_group_for_each_block():
    model = create(depths=(1, 2, 2, 2))
    layers = timm.models.group_parameters(model, model.group_matcher(), reverse=True)
    assert layers.keys() == dict(model.named_parameters()).keys()
    blocks = {"levels.0.blocks.0": 1, "levels.1.blocks.0": 2, "levels.1.blocks.1": 3, "levels.3.blocks.1": 7}
    places = {"patch_embed": 0, **blocks, "levels.0.downsample": 1, "levels.1.downsample": 3, "norm": 7, "head": 8}
    for place, layer in places.items():
        assert {number for name, number in layers.items() if name.startswith(f"{place}.")} == {layer}, place
    coarse = timm.models.group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert {(name.split(".")[0], layer) for name, layer in coarse.items()} == {
        ("patch_embed", 0), *(("levels", stage) for stage in range(1, 5)), ("norm", 4), ("head", 5),
    }  # fmt: skip


def test_groups_of_parameters_for_an_optimizer():
    model = create()
    skipped = model.no_weight_decay()
    groups = importlib.import_module("timm.optim").param_groups_layer_decay(
        model, weight_decay=0.1, no_weight_decay_list=skipped, weight_decay_exclude_1d=False, layer_decay=0.5
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[p]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == set(names.values())
    assert found["head.weight"] == (1.0, 0.1)
    assert found["levels.3.blocks.1.mlp.fc1.weight"] == (0.5, 0.1)
    assert found["levels.3.blocks.0.mixer.A_log"] == found["levels.3.blocks.0.mixer.D"] == (0.25, 0)
    assert found["patch_embed.conv_down.0.weight"] == (0.5**7, 0.1)
    assert found["patch_embed.conv_down.1.weight"] == (0.5**7, 0)
    assert all(name.endswith((".A_log", ".D")) or names_a_norm(name) for name in skipped)


def names_a_norm(name: str) -> bool:
    return "norm" in name or name.startswith(("patch_embed.conv_down.1.", "patch_embed.conv_down.4."))


def step(model: nn.Module, call: nn.Module) -> tuple[list[Tensor], int]:
    """Scores, gradients and buffers after a step of training, and the bytes that a second forward keeps besides the
    model's own."""
    torch.manual_seed(2)
    scores = call(images())
    scores.square().sum().backward()
    results = [scores, *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = call(images())
    assert scores.requires_grad  # alive, and with it what is kept
    return results, sum(kept.values())


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_gradient_checkpointing_keeps_less_and_computes_the_same(compiled):
    plain = create(drop_path_rate=0.0 if compiled else 0.5).train()  # compiled code draws other random numbers
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    call = torch.compile(checkpointed, backend="aot_eager", fullgraph=True) if compiled else checkpointed
    (expected, bytes_kept), (results, fewer) = step(plain, plain), step(checkpointed, call)
    assert_same(results, expected)
    assert fewer < 0.5 * bytes_kept, f"{fewer} bytes kept, {bytes_kept} without checkpoints"
    checkpointed.set_grad_checkpointing(False)
    assert not any(level.grad_checkpointing for level in checkpointed.levels)


def test_a_graph_with_checkpoints_may_be_used_twice():
    plain = create(drop_path_rate=0.0).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    for model in (plain, checkpointed):
        loss = model(images()).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    assert_same([p.grad for p in checkpointed.parameters()], [p.grad for p in plain.parameters()])
    assert_same(list(checkpointed.buffers()), list(plain.buffers()))


# Checkpoints


@pytest.fixture
def published(tmp_path) -> Path:
    """A file in the published form: its names have a prefix, and it has no moving average."""
    return save_published({f"model.{name}": t for name, t in trained(3).items()}, tmp_path / "tiny.pth.tar")


def trained(seed: int) -> dict[str, Tensor]:
    """A state dict of values that no initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(own.shape, generator=generator) if own.is_floating_point() else own + seed
        for name, own in create().state_dict().items()
    }


def assert_state(model: nn.Module, expected: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert_same([state[name] for name in expected], list(expected.values()))


def test_published_file_loads_by_every_way_of_timm(published):
    assert_state(create(pretrained=True, pretrained_cfg_overlay={"file": str(published)}), trained(3))
    assert_state(create(checkpoint_path=str(published)), trained(3))
    model = create()
    timm.models.load_checkpoint(model, str(published))
    assert_state(model, trained(3))
    with pytest.raises(RuntimeError, match=r"Missing key\(s\)"):
        model.load_state_dict({"model.head.bias": torch.zeros(10)})


def test_pretrained_is_the_hubs_file(monkeypatch):
    asked = []

    def answer(repository: str, **_: object) -> dict[str, Tensor]:
        asked.append(repository)
        return {f"model.{name}": value for name, value in trained(3).items()}

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", answer)
    monkeypatch.setattr("timm.models._builder.has_hf_hub", lambda **_: True)
    overlay = {"hf_hub_id": REPOSITORIES["mvc_mambavision_t"]}
    assert_state(create(pretrained=True, pretrained_cfg_overlay=overlay), trained(3))
    assert asked == ["nvidia/MambaVision-T-1K"]


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".bin", ".pth"])
def test_checkpoints_go_both_ways(suffix, tmp_path):
    path, ours = tmp_path / f"tiny{suffix}", mvc.create_model("tiny")
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch", reason="safetensors is not installed").save_file(trained(4), path)
    else:
        torch.save(trained(4), path)
    assert_state(create(checkpoint_path=str(path)), trained(4))
    mvc.load_weights(ours, path)
    assert_state(ours, trained(4))
    theirs = create()
    mvc.load_weights(theirs, path)
    assert_state(theirs, trained(4))


def test_moving_average(tmp_path):
    path, model = str(tmp_path / "training.pth.tar"), create()
    torch.save({"state_dict": trained(5), "state_dict_ema": trained(6)}, path)
    for use_ema, seed in ((True, 6), (False, 5)):
        timm.models.load_checkpoint(model, path, use_ema=use_ema)
        assert_state(model, trained(seed))
        mvc.load_weights(model, path, ema=not use_ema)
        assert_state(model, trained(11 - seed))


@pytest.mark.parametrize("channels", [1, 4])
def test_pretrained_stem_for_other_channels(channels, published):
    model = create(pretrained=True, in_chans=channels, pretrained_cfg_overlay={"file": str(published)})
    weight = trained(3)["patch_embed.conv_down.0.weight"]
    cyclic = weight[:, [index % 3 for index in range(channels)]] * (3 / channels)
    expected = weight.sum(1, keepdim=True) if channels == 1 else cyclic
    assert torch.allclose(model.patch_embed.conv_down[0].weight, expected, rtol=1e-6)
    assert_same([model.norm.weight], [trained(3)["norm.weight"]])
    assert model(images(channels=channels)).shape == (2, 10)


def test_pretrained_for_other_classes_and_for_features(published):
    overlay = {"file": str(published)}
    model = create(pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay)
    assert_same([model.norm.weight, model.head.bias], [trained(3)["norm.weight"], torch.zeros(3)])
    features = create(pretrained=True, features_only=True, pretrained_cfg_overlay=overlay)
    expected = {name: t for name, t in trained(3).items() if not name.startswith(("head", "norm"))}
    assert_state(features.model, expected)


# Programs of it


def test_torch_fx_and_torch_jit_trace():
    model = create().eval()
    with torch.no_grad():
        expected = model(images())
        assert_same([fx.symbolic_trace(model)(images())], [expected])
        assert_same([torch.jit.trace(model, images())(images())], [expected])


def test_unet_of_segmentation_models():
    smp = pytest.importorskip("segmentation_models_pytorch", reason="segmentation_models_pytorch is not installed")
    torch.manual_seed(0)
    narrow = {"decoder_channels": (16, 8, 8, 4, 4), "classes": 2, "drop_path_rate": 0.0}
    eager = smp.Unet(f"tu-{TINY}", encoder_weights=None, **narrow)
    model = copy.deepcopy(eager)
    results = []
    for module, call in ((eager, eager), (model, torch.compile(model, backend="aot_eager", fullgraph=True))):
        masks = call(images())
        masks.square().sum().backward()
        results.append([masks, *(parameter.grad for parameter in module.parameters())])
    assert results[0][0].shape == (2, 2, 64, 64)
    assert_same(results[1], results[0])


def test_without_timm_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    monkeypatch.delitem(sys.modules, "mvc.timm")
    with pytest.raises(ImportError, match=r"mvc.timm needs timm: pip install 'mvc-mambavision\[timm\]'"):
        importlib.import_module("mvc.timm")
