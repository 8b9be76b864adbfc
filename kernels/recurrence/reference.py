"""The oracle: the linear recurrence as its formula says it, one step at a time, in plain torch.

Runs in the dtype of the result, but at least in float32; differentiable by autograd. Nothing optimised may import it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvc.kernels.recurrence.checks import result_dtype


def linear_recurrence(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    """h_t = a_t h_{t-1} + b_t along `dim` of a and b broadcast, rounded once to the dtype of `result_dtype`."""
    dtype = result_dtype(a, b, initial)
    sums = torch.promote_types(dtype, torch.float32)
    a, b = (t.to(sums) for t in torch.broadcast_tensors(a, b))
    steps = list(zip(a.unbind(dim), b.unbind(dim), strict=True))
    state = b.new_zeros((*b.shape[:dim], *b.shape[dim + 1 :])) if initial is None else initial.to(sums)
    states = []
    for factor, addend in reversed(steps) if reverse else steps:
        state = factor * state + addend
        states.append(state)
    if reverse:
        states.reverse()
    return torch.stack(states, dim).to(dtype) if states else (a * b).to(dtype)
