"""The activations of Triton kernels against torch's in float64, interpreted.

Whether Triton's kernels are interpreted is decided when triton is imported, so for these this file runs itself in a
process of its own.
"""

from __future__ import annotations

import functools
import importlib.util

import pytest
import torch
from fused_kernels import IN_TORCH
from scan_cases import assert_within_budget, print_failures

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

import triton
import triton.language as tl

from mvc.kernels.triton_epilogue import ACTIVATIONS, activated

SPECIAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3e38, -3e38, 1e-40)


@triton.jit
def kernel(p_x, p_y, ACTIVATION: tl.constexpr):
    i = tl.arange(0, 2048)
    tl.store(p_y + i, activated(tl.load(p_x + i), ACTIVATION))


def activation_run(name: str) -> None:
    x = torch.linspace(-12, 12, 2048)
    x[: len(SPECIAL)] = torch.tensor(SPECIAL)
    y = torch.empty_like(x)
    kernel[(1,)](x, y, ACTIVATION=name)
    special, usual = slice(len(SPECIAL)), slice(len(SPECIAL), None)
    # One at a time: torch's vectorised GELU makes a NaN of an infinity on a CPU.
    expected = torch.stack([IN_TORCH[name](one.double()) for one in x[special]]).float()
    torch.testing.assert_close(y[special], expected, equal_nan=True)
    oracle = IN_TORCH[name](x[usual].double())
    assert_within_budget(y[usual], oracle, IN_TORCH[name](x[usual]), name)
    # What is small keeps its digits: half precision would show a relative error of 5e-4 below zero.
    small = (x[usual] < 0) & (x[usual] > -4)
    torch.testing.assert_close(y[usual][small], oracle[small].float(), atol=0, rtol=4e-4)
    torch.testing.assert_close(y[usual], oracle.float(), atol=2e-7, rtol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_interpreted(name, failures):
    assert failures[name] is None


if __name__ == "__main__":
    print_failures({name: functools.partial(activation_run, name) for name in ACTIVATIONS})
