"""Registers `torch.ops.mvc.selective_scan` and its backward: schema, kernels, shapes, autograd and vmap.

The schema takes every tensor positionally, because autograd and vmap registration take no keyword-only tensors, and
B and C always as (batch, length, groups, N); `mvc.kernels.scan.selective_scan` is the function for people.
"""

from __future__ import annotations

import torch
from torch import Tensor

if __name__ != "mvc.kernels.ops":
    raise ImportError(f"import this module as mvc.kernels.ops, not as {__name__}: it would register its ops twice")

from mvc.kernels import chunked
from mvc.kernels.torch_private import under_functorch

INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, bool delta_softplus"
)
TENSOR_INPUTS = 9
# The kernels read any strides, so Inductor need not copy an input into the layout that it had in eager mode.
TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)

torch.library.define("mvc::selective_scan", f"({INPUTS}) -> (Tensor, Tensor)", tags=TAGS)
torch.library.define(
    "mvc::selective_scan_backward",
    f"(Tensor grad_y, Tensor grad_last_state, {INPUTS}) -> ({', '.join(['Tensor'] * TENSOR_INPUTS)})",
    tags=TAGS,
)


@torch.library.impl("mvc::selective_scan", "default")
def _selective_scan(u: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    # Autocast stays switched on inside an op; it would round the states.
    with torch.autocast(u.device.type, enabled=False):
        return chunked.selective_scan(u, *inputs)


@torch.library.impl("mvc::selective_scan_backward", "default")
def _selective_scan_backward(grad_y: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, ...]:
    with torch.autocast(grad_y.device.type, enabled=False):
        gradients = chunked.selective_scan_backward(grad_y, *inputs)
    return tuple(grad_y.new_empty(0) if gradient is None else gradient for gradient in gradients)


@torch.library.register_fake("mvc::selective_scan")
def _selective_scan_fake(u: Tensor, delta: Tensor, A: Tensor, *_: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    batch, _, dim = u.shape
    state_dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    return u.new_empty(u.shape), u.new_empty((batch, dim, A.shape[1]), dtype=state_dtype)


@torch.library.register_fake("mvc::selective_scan_backward")
def _selective_scan_backward_fake(grad_y: Tensor, grad_last_state: Tensor, *inputs: Tensor | bool | None):
    return tuple(grad_y.new_empty(0) if t is None else t.new_empty(t.shape) for t in inputs[:TENSOR_INPUTS])


def _setup_context(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_y: Tensor, grad_last_state: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    run = _TransformableBackward.apply if under_functorch() else torch.ops.mvc.selective_scan_backward
    gradients = run(grad_y, grad_last_state, *inputs, ctx.delta_softplus)
    present = (None if t is None else gradient for t, gradient in zip(inputs, gradients, strict=True))
    return *present, None


def _no_setup(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    """A backward that only raises needs nothing saved."""


def _no_second_derivative(ctx, *gradients: Tensor) -> None:
    raise RuntimeError("mvc::selective_scan can be differentiated once, not twice; impl='reference' can be, twice too")


torch.library.register_autograd("mvc::selective_scan", _backward, setup_context=_setup_context)
torch.library.register_autograd("mvc::selective_scan_backward", _no_second_derivative, setup_context=_no_setup)


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


# Where each tensor input of the op counts channels (u, delta, A, D, z, delta_bias, initial_state) or groups (B, C).
CHANNEL_AXES = (2, 2, 0, 2, 2, 0, 2, 0, 1)


@torch.library.register_vmap("mvc::selective_scan")
def _selective_scan_vmap(info, in_dims, *inputs):
    """Mapped scans are one scan over more channels, each with B and C of its own group."""
    *tensors, delta_softplus = inputs
    size = info.batch_size
    folded = map(_fold_into_channels, tensors, CHANNEL_AXES, in_dims[:TENSOR_INPUTS], [size] * TENSOR_INPUTS)
    y, last_state = torch.ops.mvc.selective_scan(*folded, delta_softplus)
    return (_unfold_from_channels(y, 2, size), _unfold_from_channels(last_state, 1, size)), (2, 1)


@torch.library.register_vmap("mvc::selective_scan_backward")
def _selective_scan_backward_vmap(info, in_dims, *inputs):
    *tensors, delta_softplus = inputs
    size, axes = info.batch_size, (2, 1, *CHANNEL_AXES)  # grad_y and grad_last_state come first
    folded = map(_fold_into_channels, tensors, axes, in_dims[: len(axes)], [size] * len(axes))
    gradients = torch.ops.mvc.selective_scan_backward(*folded, delta_softplus)
    present = [t is not None for t in tensors[2:]]
    unfolded = (
        _unfold_from_channels(gradient, axis, size) if there else gradient
        for gradient, axis, there in zip(gradients, CHANNEL_AXES, present, strict=True)
    )
    return tuple(unfolded), tuple(axis if there else None for axis, there in zip(CHANNEL_AXES, present, strict=True))


# torch.func's transforms refuse what `register_autograd` makes; under them these stand for the ops. Their forward takes
# its arguments by name, since Dynamo cannot trace one that takes *arguments.


class _TransformableScan(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus):
        return torch.ops.mvc.selective_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus)

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)


class _TransformableBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad_y, grad_last_state, u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus):
        inputs = (u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus)
        return torch.ops.mvc.selective_scan_backward(grad_y, grad_last_state, *inputs)

    setup_context = staticmethod(_no_setup)
    backward = staticmethod(_no_second_derivative)


def selective_scan(*inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    """`torch.ops.mvc.selective_scan`, also under torch.func's transforms."""
    return _TransformableScan.apply(*inputs) if under_functorch() else torch.ops.mvc.selective_scan(*inputs)
