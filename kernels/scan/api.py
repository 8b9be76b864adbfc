"""The selective scan as a user calls it: validate, choose an implementation, return."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from mvc.kernels import eager, implementations, torch_private
from mvc.kernels.checks import check_flags, check_tensors
from mvc.kernels.eager import Tensors
from mvc.kernels.scan import fast_path, ops, reference  # noqa: F401  ops registers them
from mvc.kernels.scan.checks import check_dense, check_inputs
from mvc.kernels.scan.rules import lowered_by_autocast, selective_scan as call_op


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
    reverse: bool = False,
    reset: Tensor | None = None,
    impl: implementations.Name | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan (arXiv 2312.00752, algorithm 2) over (batch, length, dim) tensors of any strides.

    With Δ = softplus(delta + delta_bias) where asked, h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t and
    y_t = C_t·h_t + D u_t, then y_t SiLU(z_t). States and sums are float32, or float64 for a float64 u.

    NaN and infinities are in y and in the states where impl="reference" has them, and gradients are not finite in the
    same elements, whichever of both they are; of a channel with a NaN in A, more gradients may be NaN. None passes a
    reset. Where a decay exp(Δ A) is infinite, y and states too may be NaN in place of infinite; and where the decays of
    many steps multiply to more than the largest number, the results of all but the reference may not be finite, since
    they cut a long sequence into pieces.

    In forward-mode AD (`torch.func.jvp`, `jacfwd`, dual levels) torch's own operations run whatever `impl` is, slower
    and with the tangents of the reference; there it can be differentiated any number of times.

    Args:
        u, delta, z: (batch, length, dim), float32, float16 or bfloat16. A (batch, dim, length) tensor passed transposed
            is not copied.
        A: (dim, N), float32 and real, N from 1 to 256; negative for a state that decays.
        B, C: (batch, length, N), or (batch, length, groups, N) where each group serves dim / groups channels, or
            constant (dim, N); dtypes as u's.
        D, delta_bias: (dim,); dtypes as u's.
        delta_softplus: apply softplus to the (biased) delta.
        initial_state: (batch, dim, N), float32, the state before the first step; zero by default.
        return_last_state: also return the state after the last step, (batch, dim, N) in the dtype of the sums.
        reverse: run from the last step to the first; the last state is then the one after step 0.
        reset: (batch, length), bool; the state is set to zero before each true step, in the order in which they run,
            so that packed sequences do not see each other (`reset_from_cu_seqlens`).
        impl: None chooses the fastest for the device and dtype. "reference" runs step by step and "chunked" in linear
            time, both in plain torch on any device, and accept float64 throughout too; "cpp" runs on a CPU, built on
            first use; "triton" on a GPU.

    Returns:
        y (batch, length, dim) in u's dtype, or (y, last state). Under autocast u, delta, B, C and z are cast to its
        dtype.

    Raises:
        TypeError: an argument that is no dense tensor, or of a dtype that cannot be used; a flag that is no bool.
        ValueError: a shape, device or N that does not fit, an unknown `impl`, or one that cannot run here.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state, reset)
    flags = (delta_softplus, reverse)
    usual = type(delta_softplus) is type(reverse) is type(return_last_state) is bool
    if usual and (impl is None or type(impl) is str) and eager.applies(tensors):
        try:
            key = eager.signature(tensors, impl, *flags)
        except RuntimeError:  # a nested tensor has no strides: asking each one would take a call longer
            _check(impl, tensors)
            raise
        prepared = eager.find(key)
        if prepared is None:
            _check(impl, tensors)
            name = implementations.op_name("selective_scan", impl or implementations.fastest(u.device, u.dtype))
            prepared = fast_path.prepare(key, name, tensors, *flags)
        if prepared is not None:
            y, last_state = fast_path.selective_scan(prepared, tensors)
            return (y, last_state) if return_last_state else y
    else:
        check_flags(delta_softplus=delta_softplus, reverse=reverse, return_last_state=return_last_state)
        _check(impl, tensors)
    if impl == "reference":
        y, last_state = _reference(tensors, flags)
    else:
        name = implementations.op_name("selective_scan", impl)
        y, last_state = call_op(name, *fast_path.grouped(tensors), *flags)
    return (y, last_state) if return_last_state else y


def _reference(tensors: Tensors, flags: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    u, delta, A, B, C, D, z, *others = fast_path.grouped(tensors)
    u, delta, B, C, z = lowered_by_autocast(u, delta, B, C, z)
    return reference.selective_scan(u, delta, A, B, C, D, z, *others, *flags)


def _check(impl: str | None, tensors: Tensors) -> None:
    """The errors of `selective_scan`, those of its flags apart."""
    check_dense(tensors)
    check_inputs(tensors)
    u = tensors[0]
    implementations.check(impl, u.device, u.dtype, "u")


def reset_from_cu_seqlens(cu_seqlens: Tensor, length: int, *, reverse: bool = False) -> Tensor:
    """`reset` for sequences packed one after the other into a batch of one.

    Offsets are looked at in eager calls on a CPU. A GPU would be waited for, and what is traced has no values yet:
    there an offset outside of 0 to `length` counts as the nearer of the two, and no error is raised.

    Args:
        cu_seqlens: (sequences + 1,), int32 or int64: where each sequence starts, and the end of the last. From 0 to
            `length`, and none below the one before it; equal ones are an empty sequence.
        length: steps in all.
        reverse: whether the scan runs from the last step to the first.

    Returns:
        (1, length), bool, true at the step of each sequence that runs first, on the device of `cu_seqlens`.

    Raises:
        TypeError: `cu_seqlens` is no dense integer tensor, `length` no int or `reverse` no bool.
        ValueError: `cu_seqlens` has not one axis or holds other offsets; `length` is negative.
    """
    check_tensors({"cu_seqlens": cu_seqlens}, {})
    check_flags(reverse=reverse)
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"cu_seqlens must be an int32 or int64 tensor, got {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"cu_seqlens must be (sequences + 1,), got shape {tuple(cu_seqlens.shape)}")
    if isinstance(length, bool) or not isinstance(length, (int, torch.SymInt)):
        raise TypeError(f"length must be an int, got {length!r}")
    if torch_private.untraced() and torch_private.is_plain(cu_seqlens):
        _check_offsets(cu_seqlens, length)
    # One place more than steps: an empty sequence may start after the last step, or end before the first.
    steps = cu_seqlens.new_zeros((1, length + 1), dtype=torch.bool)
    first = cu_seqlens[1:] if reverse else cu_seqlens[:-1]
    steps = steps.index_fill(1, first.long().clamp(0, length), True)
    return steps[:, 1:] if reverse else steps[:, :length]


def _check_offsets(cu_seqlens: Tensor, length: int) -> None:
    if not 0 <= length < 2**63 - 1:
        raise ValueError(f"length must be the number of steps, from 0, got {length}")
    if cu_seqlens.device.type != "cpu":
        return
    offsets = cu_seqlens.tolist()
    if offsets[0] != 0 or offsets[-1] != length:
        raise ValueError(f"cu_seqlens must run from 0 to length {length}, got {offsets[0]} to {offsets[-1]}")
    for index, (start, end) in enumerate(itertools.pairwise(offsets)):
        if end < start:
            raise ValueError(f"cu_seqlens must not fall, got {start} and then {end} at index {index + 1}")
