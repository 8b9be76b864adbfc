"""`mvc::fused_conv2d_triton`: a convolution with the operations after it, as one Triton kernel; for inference.

Importing this module imports triton and registers the op.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from mvc.kernels import inference_only
from mvc.kernels.checks import check_layouts, refuse_tangents
from mvc.kernels.convolution.triton_kernel import convolution_kernel
from mvc.kernels.convolution.triton_tiles import TILES, parts
from mvc.kernels.torch_private import is_plain
from mvc.kernels.triton_epilogue import ACTIVATIONS

READ_AT_ONCE = 8  # elements, 16 bytes in half precision
MOST = 2**31  # elements of an image: offsets in it have 32 bits
LAYOUTS = {
    "x": ("batch, channels, height, width",),
    "weight": ("outputs, channels, kernel height, kernel width",),
    "bias": ("outputs",),
    "residual": ("batch, outputs, result height, result width",),
}


@triton_op("mvc::fused_conv2d_triton", mutates_args={})
def fused_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    tile: int,
) -> Tensor:
    """residual + activation(conv2d(x, weight) + bias), channels_last, summed in float32 and rounded once.

    Args:
        x: (batch, channels, height, width), best channels_last: where channels are not neighbours in memory, it is
            copied.
        weight: (outputs, channels, kernel height, kernel width) of x's dtype, best channels_last, else it is copied.
        bias: (outputs,) in any stride, or None.
        activation: "none", "relu", "silu", "gelu" or "gelu_tanh".
        residual: of the result's shape, or None.
        stride, padding: along the height and along the width. There are no groups and there is no dilation.
        tile: an index of `mvc.kernels.convolution.triton_tiles.TILES`.

    Raises:
        TypeError: an argument that is no dense tensor, a dtype other than float32, float16 and bfloat16, or dtypes of x
            and weight that differ.
        ValueError: shapes or devices that do not fit together, a kernel that is larger than the padded image, an image
            of 2³¹ elements or more, or a stride, padding, activation or tile that is not there.
    """
    refuse_tangents("fused_conv2d_triton", x, weight, bias, residual)
    _check_options(activation, stride, padding, tile)
    if is_plain(x):  # the sizes of tensors without values may be unknown: comparing them would make guards of them
        _check(x, weight, bias, residual, stride, padding)
    batch, channels, *sizes = x.shape
    outputs, _, *kernel = weight.shape
    height, width = (_result_size(*each) for each in zip(sizes, kernel, stride, padding, strict=True))
    y = x.new_empty((batch, height, width, outputs)).permute(0, 3, 1, 2)
    if y.numel() == 0:
        return y
    x, residual = _channels_last(x), None if residual is None else _channels_last(residual)
    bias = None if bias is None else bias.contiguous()
    images, lines, columns = TILES[tile][1:]
    shape = TILES[tile].shape
    wide, narrow = parts(outputs, shape.outputs)
    programs = TILES[tile].blocks(batch, height, width) * -(-outputs // (wide + narrow))
    wrap_triton(convolution_kernel)[(programs,)](
        x, weight.permute(0, 2, 3, 1).reshape(outputs, -1), bias, residual, y,
        batch, *sizes, height, width, *_strides(x), *_strides(residual),
        C=channels, OUTPUTS=outputs, KERNEL_H=kernel[0], KERNEL_W=kernel[1], STRIDE_H=stride[0], STRIDE_W=stride[1],
        PADDING_H=padding[0], PADDING_W=padding[1], X_MULTIPLE=multiple(_strides(x)),
        RESIDUAL_MULTIPLE=multiple(_strides(residual)), ACTIVATION=activation, B_N=images, B_H=lines, B_W=columns,
        WIDE=wide, NARROW=narrow, INNER=shape.inner, STAGES=shape.stages, num_warps=shape.warps,
    )  # fmt: skip
    return y


def _result_size(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def _channels_last(tensor: Tensor) -> Tensor:
    """With channels that are neighbours in memory, any strides else."""
    is_so = tensor.shape[1] == 1 or tensor.stride(1) == 1
    return tensor if is_so else tensor.contiguous(memory_format=torch.channels_last)


def _strides(tensor: Tensor | None) -> tuple[int, int, int]:
    """Over images, lines and columns."""
    return (0, 0, 0) if tensor is None else (tensor.stride(0), tensor.stride(2), tensor.stride(3))


def multiple(strides: Sequence[int]) -> int:
    """What divides the strides, of the elements that a thread reads at once; tracing may not know a stride."""
    if not all(isinstance(stride, int) for stride in strides):
        return 1
    return math.gcd(READ_AT_ONCE, *strides)


def _check_options(activation: str, stride: Sequence[int], padding: Sequence[int], tile: int) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; it must be one of {', '.join(map(repr, ACTIVATIONS))}")
    for name, values, least in (("stride", stride, 1), ("padding", padding, 0)):
        if len(values) != 2 or min(values) < least:
            raise ValueError(f"{name} is {list(values)}; it must be two numbers of at least {least}")
    if not 0 <= tile < len(TILES):
        raise ValueError(f"tile is {tile}; it must be an index of the {len(TILES)} rows of triton_tiles.TILES")


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> None:
    sizes = check_layouts(LAYOUTS, {"x": x, "weight": weight}, {"bias": bias, "residual": residual})
    if x.dtype == torch.float64:
        raise TypeError("x must be torch.float32, torch.float16 or torch.bfloat16, got torch.float64")
    if weight.dtype != x.dtype:
        raise TypeError(f"weight must be {x.dtype} as x is, got {weight.dtype}; cast one of them")
    if min(weight.shape[1:]) == 0:
        raise ValueError(f"weight must have a channel and a tap at least, got shape {tuple(weight.shape)}")
    for i, axis in enumerate(("height", "width")):
        size = _result_size(sizes[axis], sizes[f"kernel {axis}"], stride[i], padding[i])
        if size < 1:
            seen = f"{sizes[f'kernel {axis}']} with padding {padding[i]}, and x's is {sizes[axis]}"
            raise ValueError(f"weight's kernel {axis} is {seen}; it must fit into the padded image")
        if residual is not None and sizes[f"result {axis}"] != size:
            raise ValueError(f"residual must have {axis} {size} as the result, got {sizes[f'result {axis}']}")
    for name, image in (("x", x), ("residual", residual)):
        if image is not None and _reach(image) >= MOST:
            raise ValueError(f"an image of {name} spans {_reach(image)} elements; it must be less than 2**31")


def _reach(tensor: Tensor) -> int:
    """How many elements of memory an image spans."""
    return sum((size - 1) * abs(stride) for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))


def _flops(
    x_shape: Sequence[int], weight_shape: Sequence[int], *args: object, out_shape: Sequence[int], **kwargs: object
) -> int:
    """What torch counts for the convolution; what follows it is not counted."""
    return conv_flop_count(list(x_shape), list(weight_shape), list(out_shape))


inference_only.register("fused_conv2d_triton")
register_flop_formula(torch.ops.mvc.fused_conv2d_triton)(_flops)
