"""What the scan's arguments must be, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvc.kernels.checks import check_tensors
from mvc.kernels.schemas import TENSORS

SEQUENCE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
STATE_DTYPES = (torch.float32,)
MAX_STATES = 256


def check_dense(tensors: Sequence[Tensor | None]) -> None:
    """Raise TypeError for a tensor that is missing, is none, or is not dense."""
    given = dict(zip(TENSORS, tensors, strict=True))
    required = {name: given.pop(name) for name in ("u", "delta", "A", "B", "C")}
    check_tensors(required, given)


def check_inputs(tensors: Sequence[Tensor | None]) -> None:
    """Raise TypeError for a dtype and ValueError for a shape or device that the scan cannot use."""
    present = {name: tensor for name, tensor in zip(TENSORS, tensors, strict=True) if tensor is not None}
    u = present["u"]
    _check_shapes(present)
    for name, tensor in present.items():
        check_dtype(name, tensor.dtype, u.dtype)
        if tensor.device != u.device:
            raise ValueError(f"{name} must be on u's device {u.device}, got {tensor.device}")


def check_op(tensors: Sequence[Tensor | None]) -> None:
    """`check_inputs` for an op, whose B and C have an axis of groups or are constant."""
    check_inputs(tensors)
    for name, weights in zip("BC", tensors[3:5], strict=True):
        if weights.dim() == 3:
            raise ValueError(f"{name} needs an axis of groups in the op: pass {name}.unsqueeze(2)")


def check_backward(grad_y: Tensor, grad_last_state: Tensor, tensors: Sequence[Tensor | None]) -> None:
    """`check_op` for a backward op, which also takes the gradients of its op's results."""
    check_op(tensors)
    u, _, A, *_ = tensors
    shapes = {"grad_y": (grad_y, u.shape), "grad_last_state": (grad_last_state, (u.shape[0], *A.shape))}
    for name, (gradient, shape) in shapes.items():
        if gradient.shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(gradient.shape)}")


def _check_shapes(present: dict[str, Tensor]) -> None:
    u, A = present["u"], present["A"]
    if u.dim() != 3:
        raise ValueError(f"u must be (batch, length, dim), got shape {tuple(u.shape)}")
    if A.dim() != 2:
        raise ValueError(f"A must be (dim, N), got shape {tuple(A.shape)}")
    batch, length, dim = u.shape
    states = A.shape[1]
    check_states(states)
    sequence = (batch, length, dim)
    shapes = {"delta": sequence, "A": (dim, states), "D": (dim,), "z": sequence, "delta_bias": (dim,)}
    shapes |= {"initial_state": (batch, dim, states), "reset": (batch, length)}
    for name, shape in shapes.items():
        if name in present and present[name].shape != shape:
            seen = tuple(present[name].shape)
            raise ValueError(f"{name} must have shape {shape} beside u {tuple(u.shape)}, got {seen}")
    B, C = (_check_weights(name, present[name], u, states) for name in ("B", "C"))
    if B is not None and C is not None and B != C:
        raise ValueError(f"B and C must have the same number of groups, got {B} and {C}")


def _check_weights(name: str, weights: Tensor, u: Tensor, states: int) -> int | None:
    """The groups of B or C; None where it is constant."""
    batch, length, dim = u.shape
    if weights.dim() == 2 and weights.shape == (dim, states):  # rank first: no guard on batch where it is unknown
        return None
    if weights.dim() not in (3, 4) or weights.shape[:2] != (batch, length) or weights.shape[-1] != states:
        raise ValueError(
            f"{name} must be (batch, length, N), (batch, length, groups, N) or constant (dim, N) with batch {batch}, "
            f"length {length}, dim {dim} and N {states}, got shape {tuple(weights.shape)}"
        )
    groups = weights.shape[2] if weights.dim() == 4 else 1
    if groups == 0 or dim % groups:
        raise ValueError(f"{name} has {groups} groups; their number must divide u's dim {dim}")
    return groups


def check_dtype(name: str, dtype: torch.dtype, of_u: torch.dtype, *, u: str = "u") -> None:
    """Raise TypeError for a dtype that the scan does not take; `u` is what the caller calls u."""
    if name == "reset":
        allowed = (torch.bool,)
    else:
        allowed = STATE_DTYPES if name in ("A", "initial_state") else SEQUENCE_DTYPES
        if name == u or of_u == torch.float64:
            allowed += (torch.float64,)
    if dtype not in allowed:
        beside = "" if name in (u, "reset") else f" beside a {of_u} {u}"
        hint = "; complex states are not supported: use the real form" if dtype.is_complex else ""
        raise TypeError(f"{name} must be {' or '.join(map(str, allowed))}{beside}, got {dtype}{hint}")


def check_states(states: int) -> None:
    """Raise ValueError for an N that the scan cannot use."""
    if not 1 <= states <= MAX_STATES:
        raise ValueError(f"A has {states} states (its last axis); N must be from 1 to {MAX_STATES}")
