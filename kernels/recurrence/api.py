"""The linear recurrence as a user calls it: h_t = a_t h_{t-1} + b_t along any axis.

Importing this module registers `mvc::linear_recurrence`, which is what graphs hold where a recurrence is found that is
no selective scan.
"""

from __future__ import annotations

from torch import Tensor

from mvc.kernels import implementations
from mvc.kernels.checks import check_flags, check_tensors
from mvc.kernels.recurrence import ops, reference
from mvc.kernels.recurrence.checks import check, check_kinds, result_dtype
from mvc.kernels.torch_private import untraced


def linear_recurrence(
    a: Tensor,
    b: Tensor,
    initial: Tensor | None = None,
    *,
    dim: int,
    reverse: bool = False,
    impl: implementations.Name | None = None,
) -> Tensor:
    """All states of h_t = a_t h_{t-1} + b_t along `dim`, elementwise over the other axes.

    It can be differentiated any number of times, forwards and backwards; in forward-mode AD torch's own operations run
    whatever `impl` is. Autocast leaves it as it is.

    NaN and infinities are where impl="reference" has them: a zero in `a` is a factor as any other, and NaN or an
    infinity times zero is NaN. Where an element of `a` is infinite there may be NaN in place of an infinity. Complex
    states are finite where those of impl="reference" are; in a product of complex numbers that are not, torch puts NaN
    for most infinities.

    Args:
        a, b: of shapes that broadcast against each other, with at least one axis between them; float16, bfloat16,
            float32, float64, complex64 or complex128, not necessarily the same, any strides.
        initial: the state before the first step, of the broadcast shape without `dim` or broadcast to it; zero by
            default. A dtype as those of a and b.
        dim: the axis along which it runs, counted in the broadcast shape; negative from the last.
        reverse: run from the last index to the first.
        impl: None chooses the fastest for the device and dtype. "reference" runs step by step and "chunked" in linear
            time, both in plain torch on any device, and take every dtype; "cpp" runs on a CPU, built on first use, and
            takes all but float64; "triton" runs on a GPU, and takes neither float64 nor complex numbers. "chunked" and
            "triton" cut the length into pieces: the product of `a` over some hundred steps, over all of them where
            "chunked" is exported for a free length, must be finite, or the state before them zero.

    Returns:
        h: of the broadcast shape, in the dtype to which torch promotes those of the inputs: float64 beside complex64
        is complex128. States are in that dtype, but at least float32, and rounded once. Gradients are torch's, those of
        real inputs real.

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
    if untraced() or impl == "reference":
        check(a, b, initial, dim)
    else:  # to compare sizes that are unknown while tracing would make guards of them
        check_kinds(a, b, initial, dim)
    implementations.check(impl, a.device, result_dtype(a, b, initial), "an input")
    if impl == "reference":
        return reference.linear_recurrence(a, b, initial, dim, reverse)
    return ops.call(implementations.op_name("linear_recurrence", impl), a, b, initial, dim, reverse)
