"""The linear recurrence over a length that is unknown while a program is traced, from torch's own operations.

Each step starts as a segment of one, from a zero state. Every round joins each segment with the one before it, so that
segments double until they reach the first step. Shifts are by powers of two and need no multiple of the length, so that
nothing is asked of it; the rounds follow from its bound.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class _Segments(NamedTuple):
    """For each step, (batch, length, ...), the segment that ends there."""

    decay: Tensor  # the product of its decays
    state: Tensor  # where it ends if it starts from zero
    reset: Tensor | None  # whether it holds a reset


def linear_recurrence(
    decay: Tensor, drive: Tensor, initial: Tensor, *, bound: int, reset: Tensor | None = None, reverse: bool = False
) -> Tensor:
    """`mvc.kernels.recurrence.chunked.linear_recurrence` for a length of at most `bound`."""
    segments, shift = _Segments(decay, torch.addcmul(drive, decay, torch.zeros_like(drive)), reset), 1
    while shift < bound:
        segments = _join(_earlier(segments, shift, reverse), segments)
        shift *= 2
    return _join(_Segments(decay, initial.unsqueeze(1), reset), segments).state


def _earlier(segments: _Segments, shift: int, reverse: bool) -> _Segments:
    """The segments that ended so many steps before; nothing where there are none."""
    length = segments.decay.shape[1]
    shift = torch.sym_min(shift, length)

    def shifted(values: Tensor, fill: float | bool) -> Tensor:
        space = (0, 0) * (values.dim() - 2)
        if reverse:
            return F.pad(values, (*space, 0, shift), value=fill)[:, shift:]
        return F.pad(values, (*space, shift, 0), value=fill)[:, :length]

    reset = None if segments.reset is None else shifted(segments.reset, False)
    return _Segments(shifted(segments.decay, 1.0), shifted(segments.state, 0.0), reset)


def _join(first: _Segments, second: _Segments) -> _Segments:
    """Each of `second` behind that of `first`, whose state alone may have a length of one."""
    decay, state, reset = second
    alone = ~decay.isfinite() & (first.state == 0)  # it has run from zero: its end is right, whatever the product
    if reset is not None:
        alone = alone | reset
    state = torch.where(alone, state, torch.addcmul(state, decay, first.state))
    product = kept_from_zero(decay * first.decay, (decay != 0) & (first.decay != 0))
    return _Segments(product, state, None if reset is None else reset | first.reset)


def kept_from_zero(product: Tensor, factors_are_not: Tensor) -> Tensor:
    """The product of decays, which is not zero where none of its factors is: an infinite state decays for ever.

    The smallest normal number with the zero's sign takes its place; ONNX has no `copysign`, and 1/0 has that sign too.
    A complex product may vanish: it makes NaN of an infinite state, which is not finite either.
    """
    if product.is_complex():
        return product
    tiny = torch.finfo(product.dtype).tiny
    smallest = torch.where(product.reciprocal() < 0, -tiny, tiny)
    return torch.where((product == 0) & factors_are_not, smallest.to(product.dtype), product)
