"""The linear recurrence as a user calls it: h_t = a_t h_{t-1} + b_t along any axis.

Importing this module registers `mvc::linear_recurrence`, which is what graphs hold where a recurrence is found that is
no selective scan.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mvc.kernels.recurrence import ops
from mvc.kernels.scan.checks import check_flags, check_tensors

OPS = {
    None: "linear_recurrence",
    "chunked": "linear_recurrence_chunked",
    "cpp": "linear_recurrence_cpu",
    "triton": "linear_recurrence_triton",
}
IMPLEMENTATIONS = ("reference", "chunked", "cpp", "triton")


def linear_recurrence(
    a: Tensor,
    b: Tensor,
    initial: Tensor | None = None,
    *,
    dim: int,
    reverse: bool = False,
    impl: Literal["reference", "chunked", "cpp", "triton"] | None = None,
) -> Tensor:
    """All states of h_t = a_t h_{t-1} + b_t along `dim`, elementwise over the other axes.

    It can be differentiated any number of times, forwards and backwards; in forward-mode AD torch's own operations run
    whatever `impl` is. Autocast leaves it as it is.

    NaN and infinities are where impl="reference" has them: a zero in `a` is a factor as any other, and NaN or an
    infinity times zero is NaN. Where an element of `a` is infinite there may be NaN in place of an infinity.

    Args:
        a, b: of shapes that broadcast against each other, with at least one axis between them; float16, bfloat16,
            float32 or float64, not necessarily the same, any strides.
        initial: the state before the first step, of the broadcast shape without `dim` or broadcast to it; zero by
            default.
        dim: the axis along which it runs, counted in the broadcast shape; negative from the last.
        reverse: run from the last index to the first.
        impl: None takes the fastest for the device and dtype. "reference" runs step by step and "chunked" in linear
            time, both in plain torch on any device, and take float64 too; "cpp" runs on a CPU, built on first use;
            "triton" on a GPU. "chunked" and "triton" cut the length into pieces: the product of `a` over some hundred
            steps must be finite, or the state before them zero.

    Returns:
        h: of the broadcast shape, in the promoted dtype of the inputs. States are float32, or float64 where any input
        is, and rounded once.

    Raises:
        TypeError: an argument that is no dense tensor, or of a dtype that cannot be used; a `dim` or `reverse` of
            another type.
        ValueError: shapes, devices or `dim` that do not fit, an unknown `impl`, or one that cannot run here.
    """
    check_tensors({"a": a, "b": b}, {"initial": initial})
    check_flags(reverse=reverse)
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim must be an int, got {dim!r}")
    rank = max(a.dim(), b.dim())
    if not -rank <= dim < rank:
        raise ValueError(f"dim is {dim}; it must be an axis of a and b broadcast, from {-rank} to {rank - 1}")
    dim %= rank
    ops.check_kinds(a, b, initial, dim)
    _check_impl(impl, a, ops.result_dtype(a, b, initial))
    if impl == "reference":
        return _step_by_step(a, b, initial, dim, reverse)
    return ops.call(OPS[impl], a, b, initial, dim, reverse)


def _step_by_step(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    """The oracle: differentiable by autograd, in float64 for float64 inputs, otherwise in float32."""
    ops.check(a, b, initial, dim)
    dtype = ops.result_dtype(a, b, initial)
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


def _check_impl(impl: str | None, a: Tensor, dtype: torch.dtype) -> None:
    if impl is not None and not (isinstance(impl, str) and impl in IMPLEMENTATIONS):
        raise ValueError(f"impl is {impl!r}; it must be None or one of {', '.join(map(repr, IMPLEMENTATIONS))}")
    if impl in ("cpp", "triton"):
        if dtype == torch.float64:
            raise TypeError(f"an input is torch.float64, which impl={impl!r} does not take; use 'chunked'")
        if not _loaded(impl):
            raise ValueError(f"impl={impl!r} is not available here; leave it out, or use 'chunked'")
    if impl == "cpp" and a.device.type not in ("cpu", "meta"):
        raise ValueError(f"impl='cpp' runs on a CPU, a is on {a.device}; leave impl out for the best for a device")
    if impl == "triton" and a.device.type == "cpu":
        raise ValueError("impl='triton' runs on a GPU, a is on cpu; leave impl out for the best for a device")


@torch.compiler.assume_constant_result
def _loaded(impl: str) -> bool:
    """Whether the implementation's op is there; builds or imports it when first asked."""
    if impl == "triton":
        return ops.triton_available()
    from mvc.kernels import cpu_scan

    return cpu_scan.available()
