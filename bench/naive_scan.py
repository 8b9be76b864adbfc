"""The published scan as one naive Triton kernel in an op, `mvc_bench::naive_scan`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

CHANNELS = 32  # channels of a block


@triton.jit
def naive_scan_kernel(
    u, delta, A, B, C, D, bias, y, length, dim,
    u_b, u_d, u_l, delta_b, delta_d, delta_l, B_b, B_n, B_l, C_b, C_n, C_l, y_b, y_d, y_l,
    STATE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One program computes CHANNELS channels of one sequence, a step at a time."""
    batch, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n, mask = tl.arange(0, STATE), d < dim
    a = tl.load(A + d[:, None] * STATE + n[None, :], mask[:, None], 0.0)
    skip, shift = tl.load(D + d, mask, 0.0), tl.load(bias + d, mask, 0.0)
    state = tl.zeros((CHANNELS, STATE), tl.float32)
    for t in range(length):
        x = tl.load(u + batch * u_b + d * u_d + t * u_l, mask, 0.0).to(tl.float32)
        step = tl.load(delta + batch * delta_b + d * delta_d + t * delta_l, mask, 0.0).to(tl.float32) + shift
        step = tl.where(step > 20.0, step, tl.log(1.0 + tl.exp(step)))
        b = tl.load(B + batch * B_b + n * B_n + t * B_l).to(tl.float32)
        c = tl.load(C + batch * C_b + n * C_n + t * C_l).to(tl.float32)
        state = tl.exp(step[:, None] * a) * state + (step * x)[:, None] * b[None, :]
        out = tl.sum(state * c[None, :], 1) + x * skip
        tl.store(y + batch * y_b + d * y_d + t * y_l, out.to(y.dtype.element_ty), mask)


def naive_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """The published scan, softplus(delta + bias) included; u, delta (batch, dim, length), B, C (batch, N, length)."""
    return torch.ops.mvc_bench.naive_scan(u, delta, A, B, C, D, delta_bias)


# Beside the function above, which a model holds: a model is copied, and torch's ops cannot be.
@triton_op("mvc_bench::naive_scan", mutates_args={})
def _launch(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    y = torch.empty_like(u)
    batch, dim, length = u.shape
    strides = (stride for each in (u, delta, B, C, y) for stride in each.stride())
    grid = (batch, triton.cdiv(dim, CHANNELS))
    wrap_triton(naive_scan_kernel)[grid](
        u, delta, A, B, C, D, delta_bias, y, length, dim, *strides, STATE=A.shape[1], CHANNELS=CHANNELS, num_warps=1
    )
    return y
