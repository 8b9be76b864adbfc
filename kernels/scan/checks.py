"""What the scan's arguments must be, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SEQUENCE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
STATE_DTYPES = (torch.float32,)
DTYPES = (*SEQUENCE_DTYPES, torch.float64)
MAX_STATES = 256


def check_tensors(required: dict[str, Tensor], optional: dict[str, Tensor | None]) -> None:
    """Raise TypeError for an argument that is no tensor, or none whose elements lie in memory at its strides."""
    for name, value in required.items():
        _check_dense(name, value)
    for name, value in optional.items():
        if value is not None:
            _check_dense(name, value)


def _check_dense(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one; pad it, or pack its sequences")
    if isinstance(value, torch.masked.MaskedTensor):
        raise TypeError(f"{name} must be a dense tensor, got a masked one; pass {name}.to_tensor(0) or the like")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one of layout {value.layout}; pass {name}.to_dense()")


def check_flags(**flags: bool) -> None:
    """Raise TypeError for a flag that is neither True nor False: any text is true, "no" too."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def check_inputs(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
) -> None:
    """Raise TypeError for a dtype and ValueError for a shape or device that the scan cannot use."""
    present = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z}
    present |= {"delta_bias": delta_bias, "initial_state": initial_state, "reset": reset}
    present = {name: tensor for name, tensor in present.items() if tensor is not None}
    _check_shapes(present)
    for name, tensor in present.items():
        check_dtype(name, tensor.dtype, u.dtype)
        if tensor.device != u.device:
            raise ValueError(f"{name} must be on u's device {u.device}, got {tensor.device}")


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
    """Raise TypeError for a dtype that the scan does not take; `u` is the name that its caller gives to u."""
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


def check_layouts(
    layouts: Mapping[str, tuple[str, ...]], required: dict[str, Tensor], optional: dict[str, Tensor | None]
) -> dict[str, int]:
    """The size of each axis by its name, which must be the same in all tensors.

    Args:
        layouts: the axes of each tensor by name, "batch, dim, length"; where there are several layouts, the number of
            axes tells them apart.

    Raises:
        TypeError: an argument that is no dense tensor, or not of real floating point.
        ValueError: a device other than that of the first, a shape that has no layout, or that differs from another's.
    """
    sizes = {"1": 1}
    check_tensors(required, optional)
    present = required | {name: tensor for name, tensor in optional.items() if tensor is not None}
    first, device = next((name, tensor.device) for name, tensor in present.items())
    for name, tensor in present.items():
        if tensor.is_complex():
            raise TypeError(f"{name} is {tensor.dtype}; complex states are not supported: use the real form")
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} must be {' or '.join(map(str, DTYPES))}, got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{name} must be on {first}'s device {device}, got {tensor.device}")
        axes = {len(layout.split(", ")): layout.split(", ") for layout in layouts[name]}.get(tensor.dim())
        if axes is None or any(sizes.get(axis, size) != size for axis, size in zip(axes, tensor.shape, strict=True)):
            wanted = " or ".join(f"({layout})" if ", " in layout else f"({layout},)" for layout in layouts[name])
            known = ", ".join(f"{axis} {size}" for axis, size in sizes.items() if axis in wanted and axis != "1")
            beside = f" with {known}" if known else ""
            raise ValueError(f"{name} must be {wanted}{beside}, got shape {tuple(tensor.shape)}")
        sizes |= dict(zip(axes, tensor.shape, strict=True))
    return sizes
