"""The oracle: the selective scan as its recurrence says it, one step at a time, in plain torch.

Runs in float64 for float64 inputs, otherwise in float32; differentiable by autograd. Nothing optimised may import it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def selective_scan(*inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    """h_t = Ā_t h_{t-1} + B̄_t u_t and y_t = C_t·h_t + D u_t, then y_t SiLU(z_t) (Mamba, arXiv 2312.00752, eq. 2).

    Ā = exp(ΔA) and B̄ = ΔB, as Mamba's code and the published MambaVision weights have them, in place of the papers'
    zero-order hold.

    Args:
        inputs: the fields of `ScanInputs`.

    Returns:
        y (batch, length, dim) in u's dtype, and the last state (batch, dim, N) in the dtype of the sums.
    """
    u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse = inputs
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    batch, length, dim = u.shape
    B, C = (_per_channel(t.to(dtype), u) for t in (B, C))
    delta, x, A = delta.to(dtype), u.to(dtype), A.to(dtype)
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)

    if initial_state is None:
        state = u.new_zeros((batch, dim, A.shape[1]), dtype=dtype)
    else:
        state = initial_state.to(dtype, copy=True)  # it is the last state where there are no steps
    outputs = []
    # Unbound, not indexed: the gradient of an index is a tensor as large as all the steps.
    deltas, Bs, Cs, xs = (tensor.unbind(1) for tensor in (delta, B, C, x))
    for t in reversed(range(length)) if reverse else range(length):
        step = deltas[t].unsqueeze(-1)
        if reset is not None:
            state = torch.where(reset[:, t, None, None], 0.0, state)
        state = torch.exp(step * A) * state + step * Bs[t] * xs[t].unsqueeze(-1)
        outputs.append((state * Cs[t]).sum(-1))
    if reverse:
        outputs.reverse()
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)
    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), state


def _per_channel(weights: Tensor, u: Tensor) -> Tensor:
    """(batch, length, groups, N) or (dim, N) -> (batch, length, dim, N)."""
    if weights.dim() == 2:
        return weights.expand(*u.shape[:2], *weights.shape)
    return weights.repeat_interleave(u.shape[2] // weights.shape[2], dim=2)
