"""The scans that others publish in plain torch: each becomes one selective scan, and computes what it did."""

from __future__ import annotations

import pytest
import torch
from mamba_ssm_reference import selective_scan_ref
from torch import Tensor
from toy_passes import all_passes, capture

from mvc.passes import pipeline
from mvc.passes.graph.fx_utils import op_counts

BATCH, DIM, LENGTH, STATES = 2, 4, 6, 3
ALL = ("D", "z", "delta_bias", "softplus", "last_state")
WEIGHTS = {"variable": (BATCH, STATES, LENGTH), "constant": (DIM, STATES), "grouped": (BATCH, 2, STATES, LENGTH)}


def published_inputs(dtype: torch.dtype, B: str, C: str, options: tuple[str, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.rand(shape, generator=generator).to(dtype).requires_grad_()

    sequence = (BATCH, DIM, LENGTH)
    required = {"u": random(*sequence), "delta": random(*sequence), "B": random(*WEIGHTS[B]), "C": random(*WEIGHTS[C])}
    A = (-random(DIM, STATES, dtype=torch.float32)).detach().requires_grad_()
    optional = {"D": random(DIM, dtype=torch.float32), "z": random(*sequence), "delta_bias": random(DIM)}
    return {**required, "A": A, **{name: t for name, t in optional.items() if name in options}}


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


CASES = [
    *((B, C, ALL, torch.float32) for B in WEIGHTS for C in WEIGHTS),
    *(
        ("variable", "variable", options, torch.float32)
        for options in ((), ("D",), ("z",), ("delta_bias",), ("softplus",))
    ),
    *((B, C, ALL, torch.bfloat16) for B, C in (("variable", "variable"), ("grouped", "constant"))),
]


@pytest.mark.parametrize(
    ("B", "C", "options", "dtype"), CASES, ids=lambda v: "+".join(v) or "plain" if isinstance(v, tuple) else str(v)
)
def test_mamba_ssm_reference(B, C, options, dtype):
    """The sums are float32 on both sides: in float32 within 64 of its roundings, in bfloat16 two (y, and y times z)."""
    inputs = published_inputs(dtype, B, C, options)
    flags = {"delta_softplus": "softplus" in options, "return_last_state": "last_state" in options}

    def model(inputs):
        return selective_scan_ref(**inputs, **flags)

    module, example = capture(model, inputs)
    pipeline.run(all_passes(), module, strict=True)
    calls = op_counts(module.graph)
    assert {op: count for op, count in calls.items() if op.startswith("mvc.")} == {"mvc.selective_scan_cpu": 1}
    assert not calls.keys() & {"exp", "stack", "einsum"}

    expected, actual = model(inputs), module(*example)
    expected = expected if isinstance(expected, tuple) else (expected,)
    budget = 64 * torch.finfo(torch.float32).eps if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert relative(ours, theirs) <= budget
    gradients = (
        torch.autograd.grad(sum(y.float().sin().sum() for y in ys), inputs.values()) for ys in (actual, expected)
    )
    for name, ours, theirs in zip(inputs, *gradients, strict=True):
        assert relative(ours, theirs) <= budget, name


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("form", ["sequential", "parallel"])
def test_mambapy(form, training):
    mambapy = pytest.importorskip("mambapy.mamba")
    torch.manual_seed(0)
    config = mambapy.MambaConfig(d_model=8, n_layers=2, d_state=4, pscan=form == "parallel")
    model = mambapy.Mamba(config).train(training)
    x = torch.randn(2, 8, 8, requires_grad=training)
    with torch.set_grad_enabled(training):
        module, example = capture(model, x)
        pipeline.run(all_passes(), module, strict=True)
        scans = {op: count for op, count in op_counts(module.graph).items() if op.startswith("mvc.")}
        assert scans == {"mvc.selective_scan_cpu": config.n_layers}
        (actual,), expected = module(*example), model(x)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        if training:
            leaves = [x, *model.parameters()]
            pairs = zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (actual, expected)), strict=True)
            for ours, theirs in pairs:
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
