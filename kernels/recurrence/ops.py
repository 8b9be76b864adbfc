"""Registers `torch.ops.mvc.linear_recurrence`: schema, which implementation runs, and what every implementation shares.

`mvc::linear_recurrence` runs on what is best for the device. `linear_recurrence_chunked`, `linear_recurrence_cpu` and
`linear_recurrence_triton` are the same op with one implementation each; loading `cpu_scan` and `triton_recurrence`
defines the last two. `mvc.kernels.recurrence.linear_recurrence` is the function for people.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mvc.kernels.scan import chunked
from mvc.kernels.scan.ops import TAGS
from mvc.kernels.scan.rules import op, refuse_tangents
from mvc.kernels.torch_private import forward_mode, under_functorch

SCHEMA = "(Tensor a, Tensor b, Tensor? initial, int dim, bool reverse) -> Tensor"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def call(name: str, a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    """The op `mvc::{name}`, also under torch.func's transforms; in forward-mode AD torch's own operations."""
    if forward_mode():
        return in_torch(a, b, initial, dim, reverse)
    if under_functorch():
        return _Transformable.apply(a, b, initial, dim, reverse, name)
    return op(name)(a, b, initial, dim, reverse)


def result_dtype(a: Tensor, b: Tensor, initial: Tensor | None) -> torch.dtype:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return dtype if initial is None else torch.promote_types(dtype, initial.dtype)


def check_kinds(a: Tensor, b: Tensor, initial: Tensor | None, dim: int) -> None:
    """Raise TypeError for a dtype and ValueError for a device, rank or `dim` that cannot be used; asks for no size."""
    for name, tensor in {"a": a, "b": b, "initial": initial}.items():
        if tensor is None:
            continue
        if tensor.dtype not in DTYPES:
            hint = "; complex states are not supported: use the real form" if tensor.is_complex() else ""
            raise TypeError(f"{name} must be {' or '.join(map(str, DTYPES))}, got {tensor.dtype}{hint}")
        if tensor.device != a.device:
            raise ValueError(f"{name} must be on a's device {a.device}, got {tensor.device}")
    rank = max(a.dim(), b.dim())
    if not 0 <= dim < rank:
        raise ValueError(f"dim is {dim}; it must be an axis of a and b broadcast, from 0 to {rank - 1}")
    if initial is not None and initial.dim() >= rank:
        raise ValueError(f"initial has {initial.dim()} axes; a and b broadcast have {rank - 1} without dim")


def check(a: Tensor, b: Tensor, initial: Tensor | None, dim: int) -> None:
    """Besides `check_kinds`, raise ValueError for shapes that do not fit together."""
    check_kinds(a, b, initial, dim)
    try:
        shape = torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError as error:
        seen = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"a and b must broadcast against each other, got shapes {seen}") from error
    lanes = (*shape[:dim], *shape[dim + 1 :])
    if initial is None:
        return
    missing = len(lanes) - initial.dim()
    if any(size not in (1, lane) for size, lane in zip(initial.shape, lanes[missing:], strict=True)):
        seen = tuple(initial.shape)
        raise ValueError(f"initial must broadcast to {lanes}, the shape of a and b without dim; got shape {seen}")


def _run_chunked(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    refuse_tangents("linear_recurrence", a, b, initial)
    return in_torch(a, b, initial, dim, reverse)


def in_torch(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    """The op in torch's own operations."""
    check(a, b, initial, dim)
    dtype = result_dtype(a, b, initial)
    sums = torch.promote_types(dtype, torch.float32)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    a, b = (t.to(sums).expand(shape).movedim(dim, 0) for t in (a, b))
    if b.numel() == 0:
        return b.new_empty(shape, dtype=dtype)
    start = b.new_zeros(b.shape[1:]) if initial is None else initial.to(sums).expand(b.shape[1:])
    with torch.autocast(a.device.type, enabled=False):
        states = chunked.linear_recurrence(a[None], b[None], start[None], reverse=reverse)[0]
    return states.movedim(0, dim).to(dtype, copy=True, memory_format=torch.contiguous_format)


def _fastest(a: Tensor, dtype: torch.dtype) -> str:
    """Name of the op with the implementation that suits a and the result's dtype; loads it."""
    if dtype == torch.float64:
        return "linear_recurrence_chunked"
    if a.is_cpu:
        from mvc.kernels import cpu_scan

        return "linear_recurrence_cpu" if cpu_scan.available() else "linear_recurrence_chunked"
    return "linear_recurrence_triton" if triton_available() else "linear_recurrence_chunked"


@functools.cache
def triton_available() -> bool:
    """Whether `mvc::linear_recurrence_triton` could be registered; registers it."""
    try:
        from mvc.kernels.recurrence import triton_ops as triton_recurrence  # noqa: F401
    except ImportError:
        return False
    return True


def _run_fastest(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    check(a, b, initial, dim)
    return op(_fastest(a, result_dtype(a, b, initial)))(a, b, initial, dim, reverse)


def _fake(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    # Checks no size: to compare those that are unknown while tracing would make guards of them.
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape), dtype=result_dtype(a, b, initial))


def _setup_context(ctx, inputs: tuple, output: Tensor, *, name: str) -> None:
    a, b, initial, ctx.dim, ctx.reverse = inputs
    ctx.name, ctx.shape_b, ctx.dtype_b = name, b.shape, b.dtype
    ctx.save_for_backward(a, initial, output if ctx.needs_input_grad[0] else None)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    """g_t = ∂h_t + a_{t+1} g_{t+1} runs the other way; b gets g_t, a gets g_t h_{t-1}, the initial state a_0 g_0."""
    a, initial, states = ctx.saved_tensors
    dim, reverse = ctx.dim, ctx.reverse
    grad = grad.to(torch.promote_types(grad.dtype, torch.float32))  # so that g is rounded after its sums
    decay = a[(None,) * (grad.dim() - a.dim())]
    decay = decay.expand(*decay.shape[:dim], grad.shape[dim], *decay.shape[dim + 1 :])
    following = _shifted(decay, torch.zeros_like(_ends(decay, dim, 1)), dim, not reverse)
    g = call(ctx.name, following, grad, None, dim, not reverse)

    grad_a = grad_b = grad_initial = None
    if ctx.needs_input_grad[0]:
        lanes = (*grad.shape[:dim], *grad.shape[dim + 1 :])
        start = grad.new_zeros(lanes) if initial is None else initial.to(grad.dtype).expand(lanes)
        before = _shifted(states.to(grad.dtype), start.unsqueeze(dim), dim, reverse)  # h_{t-1}
        grad_a = (g * before).sum_to_size(a.shape).to(a.dtype)
    if ctx.needs_input_grad[1]:
        grad_b = g.sum_to_size(ctx.shape_b).to(ctx.dtype_b)
    if initial is not None and ctx.needs_input_grad[2]:
        carried = _ends(decay, dim, -1 if reverse else 1) * _ends(g, dim, -1 if reverse else 1)
        grad_initial = carried.sum(dim).sum_to_size(initial.shape).to(initial.dtype)  # no step: a sum of nothing
    return grad_a, grad_b, grad_initial, None, None


def _ends(values: Tensor, dim: int, count: int) -> Tensor:
    """The first `count` slices, the last of a negative one, or as many as there are."""
    return values[(slice(None),) * dim + (slice(count, None) if count < 0 else slice(count),)]


def _shifted(values: Tensor, first: Tensor, dim: int, reverse: bool) -> Tensor:
    """`values` a step later in the order in which they run, `first` (one slice) in front; the last drops out."""
    length = values.shape[dim]
    if reverse:
        later = values[(slice(None),) * dim + (slice(1, None),)]
        return torch.cat((later, first), dim)[(slice(None),) * dim + (slice(length),)]
    earlier = values[(slice(None),) * dim + (slice(-1),)]
    return torch.cat((first, earlier), dim)[(slice(None),) * dim + (slice(length),)]


def _vmap(name: str, info, in_dims: tuple[int | None, ...], a, b, initial, dim: int, reverse: bool):
    """The mapped axis becomes the first one; b always has it, so that the result does."""
    rank = max(t.dim() - (axis is not None) for t, axis in zip((a, b), in_dims[:2], strict=True))
    a, b = (_mapped_first(t, axis, rank) for t, axis in zip((a, b), in_dims[:2], strict=True))
    if initial is not None:
        initial = _mapped_first(initial, in_dims[2], rank - 1)
    return op(name)(a, b.expand(info.batch_size, *b.shape[1:]), initial, dim + 1, reverse), 0


def _mapped_first(tensor: Tensor, axis: int | None, rank: int) -> Tensor:
    """`tensor` with `rank` axes behind its mapped one, which has size 1 where it is not mapped."""
    tensor = tensor.unsqueeze(0) if axis is None else tensor.movedim(axis, 0)
    return tensor[(slice(None), *(None,) * (rank + 1 - tensor.dim()))]


def _flops(a_shape, b_shape, *args, **kwargs) -> int:
    return 2 * math.prod(torch.broadcast_shapes(a_shape, b_shape))


class _Transformable(torch.autograd.Function):
    """Stands for the ops under torch.func's transforms, which refuse what `register_autograd` makes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, b, initial, dim, reverse, name):
        return op(name)(a, b, initial, dim, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *inputs, name = inputs
        _setup_context(ctx, inputs, output, name=name)

    @staticmethod
    def backward(ctx, grad):
        return *_backward(ctx, grad), None


def register_fake(name: str) -> None:
    """The shape of `mvc::{name}`, for an op that torch cannot trace through."""
    torch.library.register_fake(f"mvc::{name}", _fake)


def register_rules(name: str) -> None:
    """Give the defined op `mvc::{name}` what every implementation shares."""
    setup_context = functools.partial(_setup_context, name=name)
    torch.library.register_autograd(f"mvc::{name}", _backward, setup_context=setup_context)
    torch.library.register_vmap(f"mvc::{name}", functools.partial(_vmap, name))
    register_flop_formula(op(name).overloadpacket)(_flops)


def _define(name: str) -> None:
    torch.library.define(f"mvc::{name}", SCHEMA, tags=TAGS)
    torch.library.impl(f"mvc::{name}", "default", _run_chunked)
    register_fake(name)
    register_rules(name)


_define("linear_recurrence")
torch.library.impl("mvc::linear_recurrence", ("cpu", "cuda"), _run_fastest)
_define("linear_recurrence_chunked")
