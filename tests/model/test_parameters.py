"""Names, shapes, counts and initial values of the model's tensors."""

import math

import golden
import pytest
import torch

from mvc.model.config import VARIANTS
from mvc.model.module import create_model

COUNTS = {
    "T": 31_794_248,
    "T2": 35_104_008,
    "S": 50_140_584,
    "B": 97_685_288,
    "L": 227_961_048,
    "L2": 241_554_824,
    "L3": 739_570_472,
}


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "tiny"])
def test_parameter_count(name):
    model = create_model(name, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name.split("-")[0]]


@pytest.mark.parametrize("name", golden.VARIANTS)
def test_names_shapes_and_order_are_the_published(name):
    published = list(golden.spec(name).items())
    assert [(key, list(t.shape)) for key, t in create_model(name, device="meta").state_dict().items()] == published


def shapes(variant: str, **changes: object) -> dict[str, torch.Size]:
    model = create_model(variant, device="meta", **changes)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def fresh() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return create_model("tiny", dim=64, layer_scale=1e-5).state_dict()


def ending(tensors: dict[str, torch.Tensor], *endings: str) -> dict[str, torch.Tensor]:
    found = {name: tensor for name, tensor in tensors.items() if name.endswith(endings)}
    assert found, endings
    return found


def test_linear_weights_are_truncated_normal(fresh):
    linear = ending(fresh, "_proj.weight", "qkv.weight", "proj.weight", "fc1.weight", "fc2.weight", "head.weight")
    for name, weight in linear.items():
        standard_error = 0.02 / math.sqrt(2 * weight.numel())
        assert weight.std().item() == pytest.approx(0.02, abs=5 * standard_error), name
        assert weight.mean().item() == pytest.approx(0.0, abs=5 * 0.02 / math.sqrt(weight.numel())), name


def test_linear_biases_are_zero_that_of_dt_proj_included(fresh):
    biases = ending(fresh, "dt_proj.bias", "qkv.bias", "proj.bias", "fc1.bias", "fc2.bias", "head.bias")
    assert any(name.endswith("dt_proj.bias") for name in biases)
    for name, bias in biases.items():
        assert not bias.any(), name


def test_norms_start_at_one_and_zero(fresh):
    norms = {name.rsplit(".", 1)[0] for name in fresh if name.endswith("running_mean")}
    norms |= {name.rsplit(".", 1)[0] for name in fresh if ".norm" in name}
    assert {"norm", "patch_embed.conv_down.1", "levels.2.blocks.0.norm2"} <= norms
    for norm in norms:
        for leaf, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
            tensor = fresh.get(f"{norm}.{leaf}")
            assert tensor is None or (tensor == value).all(), f"{norm}.{leaf}"


def test_batch_norm_counts_from_zero(fresh):
    for name, counter in ending(fresh, "num_batches_tracked").items():
        assert (counter.dtype, counter.shape, counter.item()) == (torch.int64, (), 0), name


def test_scan_starts_with_decays_one_to_n(fresh):
    for name, A_log in ending(fresh, "A_log").items():
        wanted = torch.arange(1, 9, dtype=torch.float64).log().expand(A_log.shape[0], 8)
        torch.testing.assert_close(A_log, wanted.float(), rtol=0, atol=0, msg=name)
    for name, D in ending(fresh, ".D").items():
        assert (D == 1).all(), name


def test_layer_scale_is_in_stages_3_and_4_alone(fresh):
    gammas = ending(fresh, "gamma_1", "gamma_2")
    assert {name.split(".")[1] for name in gammas} == {"2", "3"}
    for name, gamma in gammas.items():
        assert (gamma == 1e-5).all(), name
    assert not [name for name in shapes("T") if "gamma" in name]


def test_convolutions_start_as_those_of_torch(fresh):
    for name, weight in ending(fresh, "conv1.weight", "conv1d_x.weight", "reduction.0.weight").items():
        bound = 1 / math.sqrt(weight[0].numel())
        assert 0.9 * bound < weight.abs().max() <= bound, name


def test_initial_values_follow_the_seed():
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(create_model("tiny").state_dict()["head.weight"])
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_no_classes_leaves_out_the_head():
    assert shapes("T").keys() - shapes("T", num_classes=0).keys() == {"head.weight", "head.bias"}


def test_other_classes_and_channels():
    found = shapes("T", num_classes=7, in_chans=1)
    assert found["head.weight"] == (7, 640)
    assert found["patch_embed.conv_down.0.weight"] == (32, 1, 3, 3)


@pytest.mark.parametrize(
    ("mixer", "inner", "branches", "out"),
    [("concat", 32, "xz", 64), ("gated", 32, "xz", 32), ("regular", 64, "x", 64), ("causal", 64, "x", 64)],
)
def test_tensors_of_each_mixer_form(mixer, inner, branches, out):
    prefix = "levels.2.blocks.0.mixer."
    found = shapes("tiny", mixer=mixer)
    own = {name.removeprefix(prefix): shape for name, shape in found.items() if name.startswith(prefix)}
    convs = {f"conv1d_{branch}.weight": (inner, 1, 3) for branch in branches}
    assert own == {
        "A_log": (inner, 8),
        "D": (inner,),
        "in_proj.weight": (64, 64),
        "x_proj.weight": (4 + 2 * 8, inner),
        "dt_proj.weight": (inner, 4),
        "dt_proj.bias": (inner,),
        "out_proj.weight": (64, out),
        **convs,
    }


def test_pattern_decides_which_blocks_attend():
    attending = [name for name in shapes("tiny", attention=("AM", "MA")) if name.endswith("qkv.weight")]
    assert attending == ["levels.2.blocks.0.mixer.qkv.weight", "levels.3.blocks.1.mixer.qkv.weight"]
