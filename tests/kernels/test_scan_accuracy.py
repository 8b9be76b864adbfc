"""How exact the scan is in float32 over long sequences, and that it stays finite where the exact result is."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from scan_cases import (
    DIFFERENTIABLE,
    FORMS,
    Case,
    Inputs,
    assert_each_state_of_A_within_budget,
    assert_scan_within_budget,
    implementation,
    make_inputs,
    map_tensors,
    reference,
    run,
)
from torch import Tensor

from mvc.kernels.scan.checks import SEQUENCE_DTYPES

LONG = Case(batch=1, length=4096, dim=32, states=16, options=("D", "z", "delta_bias", "initial_state"))
BFLOAT16_MAX = torch.finfo(torch.bfloat16).max


@pytest.fixture(params=["chunked", "cpp"])
def scan(request):
    return implementation(request.param)


def log_uniform(low: float, high: float, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.empty(shape).uniform_(math.log(low), math.log(high), generator=generator).exp()


def long_inputs(*forms: str, A: Tensor, delta: tuple[float, float]) -> Inputs:
    """Steps log-uniform within `delta`; a bias of zero, for its gradient."""
    inputs = make_inputs(LONG.plus(*forms))
    steps = log_uniform(*delta, inputs["delta"].shape)
    return inputs | {"A": A, "delta": steps, "delta_bias": torch.zeros(LONG.dim)}


PUBLISHED_A = -torch.arange(1.0, LONG.states + 1).repeat(LONG.dim, 1)
FAMILIES = {
    "published initialisation": long_inputs(A=PUBLISHED_A, delta=(1e-3, 1e-1)),
    "small steps": long_inputs(A=PUBLISHED_A, delta=(0.9e-3, 1.1e-3)),
    # |ΔA| about 1e-4: a bias of the exponential near 1 would add up over thousands of steps.
    "slow decay": long_inputs(A=-log_uniform(0.5e-2, 2e-2, PUBLISHED_A.shape), delta=(0.5e-2, 2e-2)),
}


@functools.cache
def oracle_and_sequential(family: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inputs = FAMILIES[family]
    return run(reference, map_tensors(Tensor.double, inputs)), run(reference, inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_over_4096_steps(family, scan):
    """Error at most 1.5 times that of the sequential float32 recurrence plus 1e-7, in relative L2 norm.

    One bound for both implementations: chunked must be as exact as C++. Of a whole tensor, since the largest error of a
    gradient with few elements is chance: by other inputs 0.5 to 2.1 times the sequential one, the norm 0.3 to 1.3.
    """
    oracle, sequential = oracle_and_sequential(family)
    actual = run(scan, FAMILIES[family])
    above = {}
    for name, exact in oracle.items():
        error, of_sequential = (
            ((result[name].double() - exact).norm() / exact.norm()).item() for result in (actual, sequential)
        )
        if not error <= 1.5 * of_sequential + 1e-7:
            above[name] = f"error {error:.3g}, sequentially {of_sequential:.3g}"
    assert not above


def test_constant_and_reverse_over_4096_steps(scan):
    assert_scan_within_budget(long_inputs(*FORMS, A=PUBLISHED_A, delta=(1e-3, 1e-1)), scan)


def test_the_gradient_of_A_in_each_state_under_strong_decay(scan):
    assert_each_state_of_A_within_budget(scan)


@pytest.mark.parametrize("largest_delta", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("largest_A", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("dtype", SEQUENCE_DTYPES, ids=str)
def test_any_decay_is_finite(dtype, largest_A, largest_delta, scan):
    inputs = make_inputs(Case(length=63, dim=33, options=("initial_state",)), dtype)
    inputs["delta"] = (torch.logspace(-4, 0, 63)[:, None] * largest_delta).to(dtype).expand(2, 63, 33).contiguous()
    inputs["A"] = (torch.logspace(-2, 0, 8) * -largest_A).expand(33, 8).contiguous()
    assert_finite_where_the_oracle_is(inputs, scan, backward=True)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name != "A"])
def test_largest_bfloat16_values(name, backward, scan):
    inputs = make_inputs(Case(length=19, dim=33), torch.bfloat16) | {"delta_softplus": False}
    inputs = map_tensors(lambda tensor: tensor.clamp(-1, 1) / 16, inputs)
    inputs |= {name: inputs[name].abs() for name in ("delta", "delta_bias")}  # a negative step would be growth
    headroom = 2**9 if backward else 1  # gradients are sums over batch, length and states
    inputs[name] = torch.full_like(inputs[name], BFLOAT16_MAX / headroom)
    assert_finite_where_the_oracle_is(inputs, scan, backward=backward)


def assert_finite_where_the_oracle_is(inputs: Inputs, scan, *, backward: bool) -> None:
    """Finite wherever the float64 result can be written in the dtype."""
    oracle = run(reference, map_tensors(Tensor.double, inputs), backward=backward)
    assert oracle["y"].to(inputs["u"].dtype).isfinite().any(), "the oracle's own result overflows everywhere"
    for result, tensor in run(scan, inputs, backward=backward).items():
        lost = oracle[result].to(tensor.dtype).isfinite() & ~tensor.isfinite()
        assert not lost.any(), f"{result}: {lost.sum()} of {lost.numel()} numbers"


@pytest.mark.parametrize("states", [8, 20])
@pytest.mark.parametrize("softplus", [(), ("softplus",)], ids=["", "softplus"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_nan_gives_nan(name, softplus, states, scan):
    """A NaN reaches what the recurrence takes it to, and nothing else."""
    options = ("D", "z", "delta_bias", "initial_state", *softplus)
    inputs = make_inputs(Case(length=63, dim=34, states=states, groups=2, options=options))
    position = tuple(size // 2 for size in inputs[name].shape)
    inputs[name][position] = math.nan
    expected = run(reference, map_tensors(Tensor.double, inputs))
    actual = run(scan, inputs)
    for result in ("y", "last state"):
        assert torch.equal(actual[result].isnan(), expected[result].isnan()), result
    for result, tensor in actual.items():
        assert not (expected[result].isnan() & ~tensor.isnan()).any(), result
