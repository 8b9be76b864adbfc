"""The selective scan as a user calls it: validate, choose an implementation, return."""

from __future__ import annotations

from typing import Literal

import torch
from mvc.kernels import ops, reference
from torch import Tensor

IMPLEMENTATIONS = ("reference", "chunked")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    impl: Literal["reference", "chunked"] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan (arXiv 2312.00752, algorithm 2) over (batch, length, dim) tensors of any strides.

    With Δ = softplus(delta + delta_bias) where asked, h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t and
    y_t = C_t·h_t + D u_t, then y_t SiLU(z_t). States and sums are float32, or float64 for a float64 u.

    Args:
        u, delta, z: (batch, length, dim), floating point.
        A: (dim, N), real; negative for a state that decays.
        B, C: (batch, length, N), or (batch, length, groups, N) where each group serves dim / groups channels.
        D, delta_bias: (dim,).
        delta_softplus: apply softplus to the (biased) delta.
        initial_state: (batch, dim, N), the state before the first step; zero by default.
        return_last_state: also return the state after the last step, (batch, dim, N) in the dtype of the sums.
        impl: "reference" runs step by step in plain torch; "chunked", which None stands for, is linear-time and
            vectorised.

    Returns:
        y (batch, length, dim) in u's dtype, or (y, last state).

    Raises:
        TypeError: a tensor argument of a dtype that cannot be used.
        ValueError: a shape or device that does not fit, or an unknown `impl`.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    if impl not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"impl is {impl!r}; it must be None or one of {', '.join(map(repr, IMPLEMENTATIONS))}")
    B, C = (t.unsqueeze(2) if t.dim() == 3 else t for t in (B, C))
    inputs = (u, delta, A, B, C)
    options = {"D": D, "z": z, "delta_bias": delta_bias, "initial_state": initial_state}
    if impl == "reference":
        y, last_state = reference.selective_scan(*inputs, **options, delta_softplus=delta_softplus)
    else:
        y, last_state = ops.selective_scan(*inputs, *options.values(), delta_softplus)
    return (y, last_state) if return_last_state else y


def _check(u, delta, A, B, C, D, z, delta_bias, initial_state) -> None:
    """Raise what `selective_scan` documents."""
    required = {"u": u, "delta": delta, "A": A, "B": B, "C": C}
    optional = {"D": D, "z": z, "delta_bias": delta_bias, "initial_state": initial_state}
    present = {**required, **{name: t for name, t in optional.items() if t is not None}}
    for name, tensor in present.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if u.dim() != 3:
        raise ValueError(f"u must be (batch, length, dim), got shape {tuple(u.shape)}")
    if A.dim() != 2:
        raise ValueError(f"A must be (dim, N), got shape {tuple(A.shape)}")
    batch, length, dim = u.shape
    states = A.shape[1]
    sequence = (batch, length, dim)
    shapes = {"delta": sequence, "A": (dim, states), "D": (dim,), "z": sequence, "delta_bias": (dim,)}
    shapes["initial_state"] = (batch, dim, states)
    for name, shape in shapes.items():
        if name in present and present[name].shape != shape:
            seen = tuple(present[name].shape)
            raise ValueError(f"{name} must have shape {shape} beside u {tuple(u.shape)}, got {seen}")
    for name in ("B", "C"):
        _check_grouped(name, present[name], u, states)
    if B.shape[2:-1] != C.shape[2:-1]:
        raise ValueError(f"B and C must have the same groups, got shapes {tuple(B.shape)} and {tuple(C.shape)}")
    for name, tensor in present.items():
        if tensor.dtype not in DTYPES:
            hint = "; complex states are not supported: use the real form" if tensor.dtype.is_complex else ""
            raise TypeError(f"{name} must be one of {', '.join(map(str, DTYPES))}, got {tensor.dtype}{hint}")
        if tensor.device != u.device:
            raise ValueError(f"{name} must be on u's device {u.device}, got {tensor.device}")


def _check_grouped(name: str, tensor: Tensor, u: Tensor, states: int) -> None:
    batch, length, dim = u.shape
    fits = tensor.dim() in (3, 4) and tensor.shape[:2] == (batch, length) and tensor.shape[-1] == states
    groups = tensor.shape[2] if fits and tensor.dim() == 4 else 1
    if not fits:
        raise ValueError(
            f"{name} must be (batch, length, N) or (batch, length, groups, N) with batch {batch}, length {length} and "
            f"N {states}, got shape {tuple(tensor.shape)}"
        )
    if groups == 0 or dim % groups:
        raise ValueError(f"{name} has {groups} groups; their number must divide u's dim {dim}")
