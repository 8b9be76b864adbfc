"""The model computes what the published one does, on weights and images that can be rebuilt anywhere."""

import golden
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mvc.model.functional import Features
from mvc.model.module import MambaVision, create_model

TOLERANCE = 1e-4  # of the largest golden value; two float32 orders of the same sums differ by 1e-5 at most

CASES = [pytest.param(variant, size, id=f"{variant}-{'x'.join(map(str, size))}") for variant, size in golden.cases()]


def relative_errors(variant: str, size: tuple[int, int, int], scores: Tensor, features: Features) -> dict[str, float]:
    """The largest error of each golden tensor over its largest golden value; shapes are asserted."""
    figures, suffix = golden.figures(variant), "x".join(map(str, size))
    actual = {"logits": scores, "pooled": features.pooled}
    for index, stage_map in enumerate(features.stages, start=1):
        shape = figures[f"stage{index}_shape_{suffix}"].tolist()
        assert list(stage_map.shape) == shape, f"stage{index}: shape {list(stage_map.shape)}, published {shape}"
        actual[f"stage{index}"] = golden.sampled(stage_map)
    errors = {}
    for name, tensor in actual.items():
        expected = figures[f"{name}_{suffix}"]
        assert tensor.shape == expected.shape, f"{name}: shape {tuple(tensor.shape)}, golden {tuple(expected.shape)}"
        errors[name] = ((tensor.float() - expected).abs().max() / expected.abs().max()).item()
    return errors


def assert_within_tolerance(errors: dict[str, float]) -> None:
    assert set(errors) > {"logits", "pooled"}
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE}
    assert not wrong, f"beyond {TOLERANCE} of the largest golden value: {wrong}"


def everything(model: MambaVision, x: Tensor) -> tuple[Tensor, Features]:
    """Scores and features in one pass: the head on the pooled vector is what `forward` returns."""
    features = model.forward_features(x)
    return torch.nn.functional.linear(features.pooled, model.head.weight, model.head.bias), features


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("variant", "size"), CASES)
def test_eager(variant, size, layout):
    model, x = golden.model(variant), golden.image(*size).contiguous(memory_format=layout)
    assert_within_tolerance(relative_errors(variant, size, model(x), model.forward_features(x)))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("variant", "size", "layout"),
    [("T", (1, 256, 192), torch.contiguous_format), ("B", (1, 224, 224), torch.channels_last)],
    ids=["T-padded-contiguous", "B-channels_last"],
)
def test_compiled(variant, size, layout):
    """With padded windows, and with the factors that only B and larger have; the variants differ in numbers alone."""
    torch._dynamo.reset()
    model, x = golden.model(variant), golden.image(*size).contiguous(memory_format=layout)
    compiled = torch.compile(everything, fullgraph=True)
    assert_within_tolerance(relative_errors(variant, size, *compiled(model, x)))


class RoundToBFloat16(TorchDispatchMode):
    """Float32 arithmetic whose every result is rounded to bfloat16 once; A = -exp(A_log) stays float32, as in bf16."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.exp, torch.ops.aten.neg):
            return results
        return tree_map_only(Tensor, lambda t: t.bfloat16().float() if t.dtype == torch.float32 else t, results)


def load_in_bfloat16(variant: str) -> MambaVision:
    """As `create_model(dtype=torch.bfloat16)` holds it: A_log and D stay float32."""
    model = create_model(variant, dtype=torch.bfloat16, device="meta").eval().requires_grad_(False)
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: t.to(dtypes[name]) for name, t in golden.weights(variant).items()}, assign=True)
    return model


@torch.no_grad()
def test_bfloat16_errs_as_rounding_does():
    """Against the golden float32 figures, bf16 errs at most twice as much as float32 arithmetic on the same rounded
    weights and image with every result rounded once, plus one rounding."""
    variant, size = "T", (1, 256, 192)
    model, x = load_in_bfloat16(variant), golden.image(*size).bfloat16()
    errors = relative_errors(variant, size, *everything(model, x))
    model.float()
    with RoundToBFloat16():
        rounded = everything(model, x.float())
    for name, rounding_error in relative_errors(variant, size, *rounded).items():
        budget = 2 * rounding_error + torch.finfo(torch.bfloat16).eps
        assert errors[name] <= budget, f"{name}: bf16 errs by {errors[name]:.3g}, budget {budget:.3g}"
