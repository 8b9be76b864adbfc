"""Inputs for the tests of attention, and how far from the oracle a result may be."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.passes.accuracy import REPLAYED, rounding

NAMES = ("out", "logsumexp", "dq", "dk", "dv")
LAYOUTS = {
    "projection": lambda b, h, n, d: torch.randn(b, n, 3, h, d).transpose(1, 3).unbind(2),
    "contiguous": lambda b, h, n, d: [torch.randn(b, h, n, d) for _ in "qkv"],
    "channels first": lambda b, h, n, d: [torch.randn(b, h, d, n).mT for _ in "qkv"],
    "strided": lambda b, h, n, d: [torch.randn(n, 2 * h, b, 2 * d).permute(2, 1, 0, 3)[:, ::2, :, ::2] for _ in "qkv"],
    "expanded": lambda b, h, n, d: [torch.randn(1, h, 1, d).expand(b, h, n, d), *torch.randn(2, b, h, n, d)],
}


class Case(NamedTuple):
    length: int
    d: int
    dtype: torch.dtype = torch.float32
    layout: str = "projection"
    batch: int = 1
    heads: int = 2
    factor: float = 1.0  # of q

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"B{self.batch}-H{self.heads}-L{self.length}-D{self.d}-{dtype}-{self.layout}-{self.factor}"


def make_inputs(case: Case) -> list[Tensor]:
    """q, k, v and the gradient of what comes out."""
    torch.manual_seed(0)
    q, k, v = LAYOUTS[case.layout](case.batch, case.heads, case.length, case.d)
    grad = torch.randn(case.batch, case.length, case.heads, case.d).transpose(1, 2)
    return [each.to(case.dtype) for each in (case.factor * q, k, v, grad)]


def results(attention, q: Tensor, k: Tensor, v: Tensor, grad: Tensor, scale: float) -> list[Tensor]:
    """Those of `NAMES`."""
    q, k, v = (each.detach().requires_grad_() for each in (q, k, v))
    out, lse = attention(q, k, v, scale)
    return [out.detach(), lse.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def in_torch(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """In torch's own operations, in the dtype of q."""
    return F.scaled_dot_product_attention(q, k, v, scale=scale), (q @ k.mT * scale).logsumexp(-1)


def assert_within_budget(case: Case, attention) -> None:
    """Against float64: twice the error of torch in that dtype, and a rounding, of the terms that each is a sum of."""
    inputs, scale = make_inputs(case), case.d**-0.5
    wide = [each.double() for each in inputs]
    actual = results(attention, *inputs, scale)
    eager, oracle = results(in_torch, *inputs, scale), results(in_torch, *wide, scale)
    for name, one, own, exact, size in zip(NAMES, actual, eager, oracle, _sizes(wide, scale), strict=True):
        dtype = torch.float32 if name == "logsumexp" else case.dtype
        assert one.dtype == dtype, name
        assert one.shape == exact.shape, name
        error, own_error = ((each.double() - exact).norm() / size for each in (one, own))
        tolerance = REPLAYED.tolerance(rounding(dtype), eager_error=float(own_error))
        assert case.batch == 0 or error <= tolerance, f"{name}: error {error:.1e}, torch's own {own_error:.1e}"


def _sizes(inputs: list[Tensor], scale: float) -> list[Tensor]:
    """The norms of the sums with the absolute values of their terms: the gradient of one key's weight is nothing."""
    q, k, v, grad = inputs
    scores = q @ k.mT * scale
    weights, sizes = scores.softmax(-1), (q.abs() @ k.abs().mT * scale).logsumexp(-1)
    terms = weights * 2 * (grad.abs() @ v.abs().mT) * scale
    sums = (weights @ v.abs(), sizes, terms @ k.abs(), terms.mT @ q.abs(), weights.mT @ grad.abs())
    return [each.norm() for each in sums]
