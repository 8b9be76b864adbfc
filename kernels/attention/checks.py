"""What the arguments of attention must be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mvc.kernels.checks import IN_TRITON, check_layouts, check_one_dtype

WIDEST_HEAD = 128
LAYOUT = ("batch, heads, length, d",)


def check(q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
    """Raise TypeError for what is no dense tensor or of a wrong dtype, ValueError for a shape, device or scale that
    does not fit."""
    sizes = check_layouts(dict.fromkeys("qkv", LAYOUT), {"q": q, "k": k, "v": v}, {})
    check_one_dtype({"q": q, "k": k, "v": v}, IN_TRITON)
    if sizes["d"] > WIDEST_HEAD:
        raise ValueError(f"q has heads of {sizes['d']} channels, and at most {WIDEST_HEAD} fit")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be a number above 0, got {scale}; multiply q by a factor of another sign")


def check_backward(grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float) -> None:
    """The same of the backward: out and its gradient are like q, and logsumexp is (batch, heads, length) in float32."""
    check(q, k, v, scale)
    for name, tensor in (("grad_out", grad_out), ("out", out)):
        if tensor.shape != q.shape or tensor.dtype != q.dtype:
            wanted = f"{tuple(q.shape)} and {q.dtype} as q is"
            raise ValueError(f"{name} must be {wanted}, got {tuple(tensor.shape)} and {tensor.dtype}")
    if lse.shape != q.shape[:-1] or lse.dtype != torch.float32:
        wanted = f"{tuple(q.shape[:-1])} and torch.float32"
        raise ValueError(f"logsumexp must be {wanted}, got {tuple(lse.shape)} and {lse.dtype}")
