"""The linear recurrence h_t = a_t h_{t-1} + b_t along any axis, and the op `mvc::linear_recurrence`.

It is what graphs hold where a recurrence is found that is no selective scan.
"""

from __future__ import annotations

import torch
from mvc.kernels import chunked
from torch import Tensor

OP = "mvc::linear_recurrence"


def linear_recurrence(
    a: Tensor, b: Tensor, initial: Tensor | None = None, *, dim: int, reverse: bool = False
) -> Tensor:
    """All states of h_t = a_t h_{t-1} + b_t along `dim`, elementwise over the other axes.

    Args:
        a, b: of shapes that broadcast against each other; float16, bfloat16, float32 or float64, any strides.
        initial: the state before the first step, of the broadcast shape without `dim` or broadcast to it; zero by
            default.
        dim: the axis along which it runs.
        reverse: run from the last index to the first.

    Returns:
        h: of the broadcast shape, in the promoted dtype of the inputs. Sums are float32 for half precision.

    Raises:
        TypeError: an input that is not a floating-point tensor. ValueError: shapes or `dim` that do not fit.
    """
    for name, tensor in {"a": a, "b": b, "initial": initial}.items():
        if tensor is None and name == "initial":
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            seen = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {seen}")
    shape = torch.broadcast_shapes(a.shape, b.shape)
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"dim is {dim}; it must be an axis of the broadcast shape {tuple(shape)}")
    return torch.ops.mvc.linear_recurrence(a, b, initial, dim % len(shape), reverse)


def _dtype(*tensors: Tensor | None) -> torch.dtype:
    dtypes = [t.dtype for t in tensors if t is not None]
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = torch.promote_types(result, dtype)
    return result


def _run(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    dtype = _dtype(a, b, initial)
    sums = torch.promote_types(dtype, torch.float32)
    a, b = (t.to(sums).movedim(dim, 0) for t in torch.broadcast_tensors(a, b))
    start = a.new_zeros(a.shape[1:]) if initial is None else initial.to(sums).expand(a.shape[1:])
    states = chunked.linear_recurrence(a[None], b[None], start[None], reverse=reverse)[0]
    return states.movedim(0, dim).to(dtype, copy=True, memory_format=torch.contiguous_format)


def _fake(a: Tensor, b: Tensor, initial: Tensor | None, dim: int, reverse: bool) -> Tensor:
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape), dtype=_dtype(a, b, initial))


def _setup_context(ctx, inputs: tuple, output: Tensor) -> None:
    a, b, initial, ctx.dim, ctx.reverse = inputs
    ctx.shape_b = b.shape
    ctx.save_for_backward(a, initial, output)
    ctx.dtype_b = b.dtype


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    """g_t = grad_t + a_{t+1} g_{t+1} runs the other way; b gets g_t, a gets g_t h_{t-1}, the initial state a_0 g_0."""
    a, initial, states = ctx.saved_tensors
    dim, reverse = ctx.dim, ctx.reverse
    decay = a.expand(states.shape)
    length = states.shape[dim]
    first, others = (length - 1, 0) if reverse else (0, 1)
    zero = torch.zeros_like(states.narrow(dim, 0, min(length, 1)))
    if length == 0:
        grad_initial = None if initial is None else torch.zeros_like(initial)
        return torch.zeros_like(a), grad.new_zeros(ctx.shape_b, dtype=ctx.dtype_b), grad_initial, None, None
    following = decay.narrow(dim, others, length - 1)
    following = torch.cat((zero, following) if reverse else (following, zero), dim)
    g = torch.ops.mvc.linear_recurrence(following, grad, None, dim, not reverse)
    start = zero if initial is None else initial.to(states.dtype).expand(zero.squeeze(dim).shape).unsqueeze(dim)
    before = states.narrow(dim, 1 - others, length - 1)
    before = torch.cat((before, start) if reverse else (start, before), dim)
    grad_a = (g * before).sum_to_size(a.shape).to(a.dtype)
    grad_b = g.sum_to_size(ctx.shape_b).to(ctx.dtype_b)
    grad_initial = None
    if initial is not None:
        grad_initial = (decay.select(dim, first) * g.select(dim, first)).sum_to_size(initial.shape).to(initial.dtype)
    return grad_a, grad_b, grad_initial, None, None


torch.library.define(
    OP, "(Tensor a, Tensor b, Tensor? initial, int dim, bool reverse) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
torch.library.impl(OP, "default", _run)
torch.library.register_fake(OP, _fake)
torch.library.register_autograd(OP, _backward, setup_context=_setup_context)
