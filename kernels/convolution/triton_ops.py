"""`mvc::fused_conv2d_triton`: a convolution with the operations after it, as one Triton kernel; for inference.

Importing this module imports triton and registers the op.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from mvc.kernels import inference_only
from mvc.kernels.checks import is_empty, refuse_tangents
from mvc.kernels.convolution.checks import check, check_window, result_size
from mvc.kernels.convolution.triton_kernel import convolution_kernel
from mvc.kernels.convolution.triton_tiles import TILES, parts
from mvc.kernels.torch_private import is_plain
from mvc.kernels.triton_arguments import check_options, common_factor

READ_AT_ONCE = 8  # elements, 16 bytes in half precision


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
    check_options(activation, tile, TILES)
    check_window(stride, padding)
    if is_plain(x):  # the sizes of tensors without values may be unknown: comparing them would make guards of them
        check(x, weight, bias, residual, stride, padding)
    batch, channels, *sizes = x.shape
    outputs, _, *kernel = weight.shape
    height, width = (result_size(*each) for each in zip(sizes, kernel, stride, padding, strict=True))
    y = x.new_empty((batch, height, width, outputs)).permute(0, 3, 1, 2)
    if is_empty(y):
        return y
    x, residual = _channels_last(x), None if residual is None else _channels_last(residual)
    bias = None if bias is None else bias.contiguous()
    images, lines, columns = TILES[tile][1:]
    shape = TILES[tile].shape
    wide, narrow = parts(outputs, shape.outputs)
    programs = TILES[tile].blocks(batch, height, width) * triton.cdiv(outputs, wide + narrow)
    wrap_triton(convolution_kernel)[(programs,)](
        x, weight.permute(0, 2, 3, 1).reshape(outputs, -1), bias, residual, y,
        batch, *sizes, height, width, *_strides(x), *_strides(residual),
        C=channels, OUTPUTS=outputs, KERNEL_H=kernel[0], KERNEL_W=kernel[1], STRIDE_H=stride[0], STRIDE_W=stride[1],
        PADDING_H=padding[0], PADDING_W=padding[1], X_MULTIPLE=common_factor(READ_AT_ONCE, *_strides(x)),
        RESIDUAL_MULTIPLE=common_factor(READ_AT_ONCE, *_strides(residual)), ACTIVATION=activation,
        B_N=images, B_H=lines, B_W=columns, WIDE=wide, NARROW=narrow, INNER=shape.terms, STAGES=shape.stages,
        num_warps=shape.warps,
    )  # fmt: skip
    return y


def _channels_last(tensor: Tensor) -> Tensor:
    """With channels that are neighbours in memory, any strides else."""
    is_so = tensor.shape[1] == 1 or tensor.stride(1) == 1
    return tensor if is_so else tensor.contiguous(memory_format=torch.channels_last)


def _strides(tensor: Tensor | None) -> tuple[int, int, int]:
    """Over images, lines and columns."""
    return (0, 0, 0) if tensor is None else (tensor.stride(0), tensor.stride(2), tensor.stride(3))


def _flops(
    x_shape: Sequence[int], weight_shape: Sequence[int], *args: object, out_shape: Sequence[int], **kwargs: object
) -> int:
    """What torch counts for the convolution; what follows it is not counted."""
    return conv_flop_count(list(x_shape), list(weight_shape), list(out_shape))


inference_only.register("fused_conv2d_triton")
register_flop_formula(torch.ops.mvc.fused_conv2d_triton)(_flops)
