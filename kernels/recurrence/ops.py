"""Registers `torch.ops.mvc.linear_recurrence` and `linear_recurrence_chunked`, and what every implementation shares.

`mvc::linear_recurrence` is the portable op: it runs on the fastest implementation for its tensors. `mvc.kernels
.recurrence.linear_recurrence` is the function for people.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mvc.kernels import implementations
from mvc.kernels.checks import refuse_tangents
from mvc.kernels.recurrence import chunked
from mvc.kernels.recurrence.checks import check, check_kinds, result_dtype
from mvc.kernels.schemas import RecurrenceInputs, define, op
from mvc.kernels.torch_private import forward_mode, under_functorch


def call(name: str, a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    """The op `mvc::{name}`, also under torch.func's transforms; in forward-mode AD torch's own operations."""
    if forward_mode():
        return in_torch(a, b, initial, dim, reverse)
    if under_functorch():
        return _Transformable.apply(a, b, initial, dim, reverse, name)
    return op(name)(a, b, initial, dim, reverse)


def _run_chunked(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    refuse_tangents("linear_recurrence_chunked", a, b, initial)
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


def _run_fastest(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    name = implementations.fastest(a.device, result_dtype(a, b, initial))
    return op(implementations.op_name("linear_recurrence", name))(a, b, initial, dim, reverse)


def _fake(
    impl: implementations.Name | None, a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool
) -> Tensor:
    # Checks no size: to compare those that are unknown while tracing would make guards of them.
    check_kinds(a, b, initial, dim, impl)
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape), dtype=result_dtype(a, b, initial))


def _setup_context(ctx, inputs: tuple, output: Tensor, *, name: str) -> None:
    a, b, initial, ctx.dim, ctx.reverse = inputs
    ctx.name, ctx.shape_b, ctx.dtype_b = name, b.shape, b.dtype
    ctx.save_for_backward(a, initial, output if ctx.needs_input_grad[0] else None)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    """g_t = ∂h_t + a_{t+1} g_{t+1} runs the other way; b gets g_t, a gets g_t h_{t-1}, the initial state a_0 g_0.

    Of complex numbers, a and h stand there conjugated, which is torch's convention.
    """
    a, initial, states = ctx.saved_tensors
    dim, reverse = ctx.dim, ctx.reverse
    grad = grad.to(torch.promote_types(grad.dtype, torch.float32))  # so that g is rounded after its sums
    decay = a.conj()[(None,) * (grad.dim() - a.dim())]
    decay = decay.expand(*decay.shape[:dim], grad.shape[dim], *decay.shape[dim + 1 :])
    following = _shifted(decay, torch.zeros_like(_ends(decay, dim, 1)), dim, not reverse)
    g = call(ctx.name, following, grad, None, dim, not reverse)

    grad_a = grad_b = grad_initial = None
    if ctx.needs_input_grad[0]:
        lanes = (*grad.shape[:dim], *grad.shape[dim + 1 :])
        start = grad.new_zeros(lanes) if initial is None else initial.to(grad.dtype).expand(lanes)
        before = _shifted(states.to(grad.dtype), start.unsqueeze(dim), dim, reverse)  # h_{t-1}
        grad_a = _gradient_of(a.shape, a.dtype, g * before.conj())
    if ctx.needs_input_grad[1]:
        grad_b = _gradient_of(ctx.shape_b, ctx.dtype_b, g)
    if initial is not None and ctx.needs_input_grad[2]:
        carried = _ends(decay, dim, -1 if reverse else 1) * _ends(g, dim, -1 if reverse else 1)
        grad_initial = _gradient_of(initial.shape, initial.dtype, carried.sum(dim))  # no step: a sum of nothing
    return grad_a, grad_b, grad_initial, None, None


def _gradient_of(shape: torch.Size, dtype: torch.dtype, gradient: Tensor) -> Tensor:
    """Of an input that was broadcast; the real part of a complex gradient where the input is real."""
    gradient = gradient if dtype.is_complex or not gradient.is_complex() else gradient.real
    return gradient.sum_to_size(shape).to(dtype)


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
    """`tensor` with `rank` axes after its mapped one, which has size 1 where it is not mapped."""
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


def register_fake(name: str, impl: implementations.Name | None = None) -> None:
    """The shape of `mvc::{name}`, for an op that torch cannot trace through.

    Args:
        impl: the implementation whose op it is, where that refuses dtypes.
    """
    torch.library.register_fake(f"mvc::{name}", functools.partial(_fake, impl))


def register_rules(name: str) -> None:
    """Give the defined op `mvc::{name}` what every implementation shares."""
    setup_context = functools.partial(_setup_context, name=name)
    torch.library.register_autograd(f"mvc::{name}", _backward, setup_context=setup_context)
    torch.library.register_vmap(f"mvc::{name}", functools.partial(_vmap, name))
    register_flop_formula(op(name).overloadpacket)(_flops)


def define_recurrence(name: str, function: Callable[..., Tensor]) -> None:
    """Define the op `mvc::{name}`, which runs the function on any device, with all its rules."""
    define(name, RecurrenceInputs, results=1)
    torch.library.impl(f"mvc::{name}", "default", function)
    register_fake(name)
    register_rules(name)


define_recurrence("linear_recurrence", _run_fastest)
define_recurrence("linear_recurrence_chunked", _run_chunked)
