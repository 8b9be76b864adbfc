"""What the recurrence's arguments must be, and the sentences that say so."""

from __future__ import annotations

import torch
from torch import Tensor

from mvc.kernels import implementations
from mvc.kernels.checks import DTYPES

ACCEPTED = (*DTYPES, torch.complex64, torch.complex128)


def result_dtype(a: Tensor, b: Tensor, initial: Tensor | None) -> torch.dtype:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return dtype if initial is None else torch.promote_types(dtype, initial.dtype)


def check_kinds(
    a: Tensor, b: Tensor, initial: Tensor | None, dim: int, impl: implementations.Name | None = None
) -> None:
    """Raise TypeError for a dtype and ValueError for a device, rank or `dim` that cannot be used; asks for no size.

    Args:
        impl: the implementation whose op is called, which may refuse dtypes that others take.
    """
    for name, tensor in {"a": a, "b": b, "initial": initial}.items():
        if tensor is None:
            continue
        if tensor.dtype not in ACCEPTED:
            raise TypeError(f"{name} must be {' or '.join(map(str, ACCEPTED))}, got {tensor.dtype}")
        if tensor.device != a.device:
            raise ValueError(f"{name} must be on a's device {a.device}, got {tensor.device}")
    dtype = result_dtype(a, b, initial)
    if impl is not None and (reason := implementations.refusal(impl, a.device, dtype)) is not None:
        raise TypeError(reason)
    rank = max(a.dim(), b.dim())
    if not 0 <= dim < rank:
        raise ValueError(f"dim is {dim}; it must be an axis of a and b broadcast, from 0 to {rank - 1}")
    if initial is not None and initial.dim() >= rank:
        raise ValueError(f"initial has {initial.dim()} axes; a and b broadcast have {rank - 1} without dim")


def check(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, impl: implementations.Name | None = None) -> None:
    """Besides `check_kinds`, raise ValueError for shapes that do not fit together."""
    check_kinds(a, b, initial, dim, impl)
    try:
        same = a.dim() == b.dim() and a.shape == b.shape  # rank first: no guard on sizes that are unknown
        shape = a.shape if same else torch.broadcast_shapes(a.shape, b.shape)  # which is slow
    except RuntimeError as error:
        seen = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"a and b must broadcast against each other, got shapes {seen}") from error
    lanes = (*shape[:dim], *shape[dim + 1 :])
    if initial is None:
        return
    missing = len(lanes) - initial.dim()
    if any(size not in (lane, 1) for size, lane in zip(initial.shape, lanes[missing:], strict=True)):
        seen = tuple(initial.shape)
        raise ValueError(f"initial must broadcast to {lanes}, the shape of a and b without dim; got shape {seen}")
