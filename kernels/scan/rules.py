"""What a scan op has whichever implementation runs: shapes, autograd, autocast, FLOPs, and torch.func's transforms."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mvc.kernels.checks import requires_gradient
from mvc.kernels.scan import chunked
from mvc.kernels.schemas import DIFFERENTIABLE, GRADIENTS, ScanInputs, define, op
from mvc.kernels.torch_private import below_autograd, forward_mode, under_functorch

Inputs = tuple["Tensor | bool | None", ...]


def _fake(u: Tensor, delta: Tensor, A: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    # Checks nothing: to compare sizes that are unknown while tracing would make guards of them.
    batch, _, dim = u.shape
    state_dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    return u.new_empty(u.shape), u.new_empty((batch, dim, A.shape[1]), dtype=state_dtype)


def _fake_backward(grad_y: Tensor, grad_last_state: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, ...]:
    tensors = inputs[: len(DIFFERENTIABLE)]
    return tuple(grad_y.new_empty(0) if t is None else t.new_empty(t.shape) for t in tensors)


def _setup_context(ctx, inputs: Inputs, output: tuple[Tensor, Tensor], *, name: str) -> None:
    *tensors, ctx.delta_softplus, ctx.reverse = inputs
    ctx.name = name
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_y: Tensor, grad_last_state: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    gradients = backward(ctx.name, grad_y, grad_last_state, *tensors, ctx.delta_softplus, ctx.reverse)
    return *present(tensors, gradients), None, None, None  # reset and the two flags


def backward(name: str, *inputs: Tensor | bool | None) -> tuple[Tensor, ...]:
    """The backward of the op `mvc::{name}`, also under torch.func's transforms and in forward-mode AD."""
    if forward_mode():
        with torch.autocast(inputs[0].device.type, enabled=False):
            return chunked.selective_scan_backward(*inputs)
    return _TransformableBackward.apply(name, *inputs) if under_functorch() else op(name, backward=True)(*inputs)


def present(tensors: Sequence[Tensor | None], gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """The results of a backward op, with None in place of the empty tensor that it returns for an absent input."""
    return [None if t is None else gradient for t, gradient in zip(tensors, gradients, strict=False)]


def _no_setup(ctx, inputs: Inputs, output: tuple[Tensor, ...]) -> None:
    """A backward that only raises needs nothing saved."""


def _no_second_derivative(ctx, *gradients: Tensor) -> None:
    raise RuntimeError("mvc::selective_scan can be differentiated once, not twice; impl='reference' can be, twice too")


@torch.compiler.assume_constant_result  # Dynamo in torch 2.11 cannot trace the question
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def autocast_is_on(device: str) -> bool:
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def lowered_by_autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """u, delta, B, C and z in autocast's dtype where it is on; A, D, delta_bias and the states stay as they are."""
    device = tensors[0].device.type
    if not autocast_is_on(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def _autocast(name: str, device: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(u, delta, A, B, C, D, z, *others):
        u, delta, B, C, z = lowered_by_autocast(u, delta, B, C, z)
        with torch.autocast(device, enabled=False):
            return op(name)(u, delta, A, B, C, D, z, *others)

    return run


def flops(u_shape, delta_shape, A_shape, *args, **kwargs) -> int:
    """7 for each step, channel and state: ΔA, its exponential, two to decay and add, B's product, two to read out."""
    return 7 * u_shape[0] * u_shape[1] * A_shape[0] * A_shape[1]


def flops_backward(grad_y_shape, grad_last_state_shape, u_shape, delta_shape, A_shape, *args, **kwargs) -> int:
    """19: five for the states again; two each for g, for the gradients of B, C, Δu, Δ and A; and two more products."""
    return 19 * u_shape[0] * u_shape[1] * A_shape[0] * A_shape[1]


def define_scan(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    """Define the op `mvc::{name}` and its backward, which run these functions on any device, with all their rules."""
    define(name, ScanInputs, results=2)
    define(f"{name}_backward", ScanInputs, *GRADIENTS, results=len(DIFFERENTIABLE))
    torch.library.impl(f"mvc::{name}", "default", forward)
    torch.library.impl(f"mvc::{name}_backward", "default", backward)
    register_fakes(name)
    register_rules(name)


def register_fakes(name: str) -> None:
    """Shapes of `mvc::{name}` and its backward, for an op that torch cannot trace through."""
    torch.library.register_fake(f"mvc::{name}", _fake)
    torch.library.register_fake(f"mvc::{name}_backward", _fake_backward)


def register_rules(name: str) -> None:
    """Give the defined op `mvc::{name}` and its backward what every implementation shares."""
    forward, backward = f"mvc::{name}", f"mvc::{name}_backward"
    setup_context = functools.partial(_setup_context, name=name)
    torch.library.register_autograd(forward, _backward, setup_context=setup_context)
    torch.library.register_autograd(backward, _no_second_derivative, setup_context=_no_setup)
    torch.library.register_vmap(forward, functools.partial(_vmap, name))
    torch.library.register_vmap(backward, functools.partial(_vmap_backward, name))
    for key, device in (("AutocastCPU", "cpu"), ("AutocastCUDA", "cuda")):
        torch.library.impl(forward, key, _autocast(name, device))
    register_flop_formula(op(name).overloadpacket)(flops)
    register_flop_formula(op(name, backward=True).overloadpacket)(flops_backward)


def register_kept_rules(name: str) -> None:
    """Let gradients of `mvc::{name}` start from what `mvc::{name}_training` keeps for `mvc::{name}_gradients`."""
    gradients = f"mvc::{name}_gradients"
    for key in ("AutogradCPU", "AutogradCUDA"):  # go before "Autograd", which `register_rules` has filled
        torch.library.impl(f"mvc::{name}", key, functools.partial(_differentiated, name))
    torch.library.register_autograd(gradients, _no_second_derivative, setup_context=_no_setup)
    register_flop_formula(op(f"{name}_training").overloadpacket)(flops)
    register_flop_formula(op(f"{name}_gradients").overloadpacket)(_flops_gradients)


def _flops_gradients(grad_y_shape, grad_last_state_shape, states_shape, *args, **kwargs) -> int:
    return flops_backward(grad_y_shape, grad_last_state_shape, *args, **kwargs)


def _differentiated(name: str, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    if requires_gradient(*inputs):
        return _KeptScan.apply(name, *inputs)
    with below_autograd():
        return op(name)(*inputs)


class _KeptScan(torch.autograd.Function):
    """A scan whose forward keeps the states that its backward starts from."""

    @staticmethod
    def forward(ctx, name: str, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
        with below_autograd():
            y, last_state, states = op(f"{name}_training")(*inputs)
        *tensors, ctx.delta_softplus, ctx.reverse = inputs
        ctx.name = name
        ctx.save_for_backward(states, *tensors)
        return y, last_state

    @staticmethod
    def backward(ctx, grad_y: Tensor, grad_last_state: Tensor) -> tuple[Tensor | None, ...]:
        states, *tensors = ctx.saved_tensors
        inputs = (grad_y, grad_last_state, states, *tensors, ctx.delta_softplus, ctx.reverse)
        return None, *present(tensors, op(f"{ctx.name}_gradients")(*inputs)), None, None, None


def _fold_into_channels(tensor: Tensor | None, position: int, in_dim: int | None, size: int) -> Tensor | None:
    """A mapped axis of `size` becomes a factor of the axis at `position`, which counts channels or groups."""
    if tensor is None:
        return None
    mapped = tensor.unsqueeze(position).expand(*tensor.shape[:position], size, *tensor.shape[position:])
    if in_dim is not None:
        mapped = tensor.movedim(in_dim, position)
    return mapped.flatten(position, position + 1)


def _unfold_from_channels(tensor: Tensor, position: int, size: int) -> Tensor:
    return tensor.unflatten(position, (size, -1))


def _channel_axes(tensors: list[Tensor | None], in_dims: tuple[int | None, ...]) -> tuple[int, ...]:
    """Where each differentiable input counts channels or, for B and C that are not constant, groups."""
    ranks = (t.dim() - (in_dim is not None) for t, in_dim in zip(tensors[3:5], in_dims[3:5], strict=True))
    return (2, 2, 0, *(2 if rank == 4 else 0 for rank in ranks), 0, 2, 0, 1)


def _each(size: int, run: Callable, in_dims: tuple[int | None, ...], inputs: Inputs) -> tuple[tuple[Tensor, ...], int]:
    """One run for each index of the mapped axis: a mapped reset has no channels to fold into."""
    results = []
    for index in range(size):
        selected = (t if axis is None else t.select(axis, index) for t, axis in zip(inputs, in_dims, strict=True))
        results.append(run(*selected))
    return tuple(torch.stack(result) for result in zip(*results, strict=True)), 0


def _vmap(name: str, info, in_dims: tuple[int | None, ...], *inputs: Tensor | bool | None):
    *tensors, reset, delta_softplus, reverse = inputs
    size = info.batch_size
    if in_dims[len(tensors)] is not None:
        outputs, axis = _each(size, op(name), in_dims, inputs)
        return outputs, (axis, axis)
    axes = _channel_axes(tensors, in_dims)
    folded = map(_fold_into_channels, tensors, axes, in_dims, [size] * len(axes))
    y, last_state = op(name)(*folded, reset, delta_softplus, reverse)
    return (_unfold_from_channels(y, 2, size), _unfold_from_channels(last_state, 1, size)), (2, 1)


def _vmap_backward(name: str, info, in_dims: tuple[int | None, ...], *inputs: Tensor | bool | None):
    *tensors, reset, delta_softplus, reverse = inputs
    size, run = info.batch_size, op(name, backward=True)
    present = [t is not None for t in tensors[2:]]
    if in_dims[len(tensors)] is not None:
        gradients, axis = _each(size, run, in_dims, inputs)
        return gradients, (axis,) * len(gradients)
    axes = (2, 1, *_channel_axes(tensors[2:], in_dims[2:]))  # grad_y and grad_last_state come first
    folded = map(_fold_into_channels, tensors, axes, in_dims, [size] * len(axes))
    gradients = run(*folded, reset, delta_softplus, reverse)
    unfolded = (
        _unfold_from_channels(gradient, axis, size) if there else gradient
        for gradient, axis, there in zip(gradients, axes[2:], present, strict=True)
    )
    return tuple(unfolded), tuple(axis if there else None for axis, there in zip(axes[2:], present, strict=True))


# torch.func's transforms refuse what `register_autograd` makes; under them these stand for the ops. Their forward takes
# its arguments by name, since Dynamo cannot trace one that takes *arguments.


class _TransformableScan(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name, u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse):
        return op(name)(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        name, *inputs = inputs
        _setup_context(ctx, inputs, output, name=name)

    @staticmethod
    def backward(ctx, grad_y, grad_last_state):
        return None, *_backward(ctx, grad_y, grad_last_state)


class _TransformableBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        name, grad_y, grad_last, u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse
    ):
        inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse)
        return op(name, backward=True)(grad_y, grad_last, *inputs)

    setup_context = staticmethod(_no_setup)
    backward = staticmethod(_no_second_derivative)


def selective_scan(name: str, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    """The op `mvc::{name}`, also under torch.func's transforms.

    In forward-mode AD, of which torch.library knows nothing, torch's own operations take its place: torch knows the
    tangent of each, and they can be differentiated again.
    """
    if forward_mode():
        u, delta, A, B, C, D, z, *others = inputs
        u, delta, B, C, z = lowered_by_autocast(u, delta, B, C, z)
        with torch.autocast(u.device.type, enabled=False):
            return chunked.selective_scan(u, delta, A, B, C, D, z, *others)
    return _TransformableScan.apply(name, *inputs) if under_functorch() else op(name)(*inputs)
