"""`mvc::fused_linear_triton`: a linear layer with the operations around it, as one Triton kernel; for inference.

Importing this module imports triton and registers the op.
"""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton
from torch.utils.flop_counter import register_flop_formula

from mvc.kernels import inference_only
from mvc.kernels.checks import refuse_tangents
from mvc.kernels.linear.checks import check, check_norm
from mvc.kernels.linear.cublas_ops import flops
from mvc.kernels.linear.triton_kernel import linear_kernel
from mvc.kernels.linear.triton_tiles import TILES
from mvc.kernels.torch_private import is_plain
from mvc.kernels.triton_arguments import check_options, common_factor

ALIGNED = 16  # elements: a greater distance between rows is known as a multiple of so many at most
GROUP = 8  # blocks of rows whose programs run at the same time


@triton_op("mvc::fused_linear_triton", mutates_args={})
def fused_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    norm_eps: float | None,
    activation: str,
    scale: Tensor | None,
    residual: Tensor | None,
    tile: int,
) -> Tensor:
    """residual + scale * activation(LN(x) @ weight.T + bias), contiguous, summed in float32 and rounded once.

    The normalised x is rounded to its dtype, as the result of a LayerNorm is.

    Args:
        x: (..., K) in any strides.
        weight: (N, K) in any strides, of x's dtype.
        bias: (N,) in any stride, as every vector here, or None.
        norm_weight, norm_bias: (K,) each, or None; of a LayerNorm over the last axis of x.
        norm_eps: of that LayerNorm; None where there is none.
        activation: "none", "relu", "silu", "gelu" or "gelu_tanh".
        scale: (N,), or None.
        residual: (..., N), or None.
        tile: an index of `mvc.kernels.linear.triton_tiles.TILES`.

    Raises:
        TypeError: an argument that is no dense tensor, or a dtype other than float32, float16 and bfloat16.
        ValueError: shapes or devices that do not fit together, a LayerNorm's parameters without `norm_eps`, or an
            activation or tile that is not there.
    """
    tensors = {"bias": bias, "norm_weight": norm_weight, "norm_bias": norm_bias, "scale": scale, "residual": residual}
    refuse_tangents("fused_linear_triton", x, weight, *tensors.values())
    check_options(activation, tile, TILES)
    check_norm(norm_eps, norm_weight=norm_weight, norm_bias=norm_bias)
    if is_plain(x):  # the sizes of tensors without values may be unknown: comparing them would make guards of them
        check(x, weight, tensors)
    columns, inner = weight.shape
    y = x.new_empty((*x.shape[:-1], columns))
    rows = math.prod(x.shape[:-1])
    x, residual = _in_rows(x), None if residual is None else _in_rows(residual)
    vectors = (bias, norm_weight, norm_bias, scale)
    bias, norm_weight, norm_bias, scale = (each if each is None else each.contiguous() for each in vectors)
    residual_strides = (0, 0) if residual is None else residual.stride()
    distances = (x.stride(0), weight.stride(0), residual_strides[0])
    BM, BN, BK, warps, stages = TILES[tile]
    wrap_triton(linear_kernel)[(triton.cdiv(rows, BM) * triton.cdiv(columns, BN),)](
        x, weight, bias, norm_weight, norm_bias, scale, residual, y,
        rows, columns, inner, *x.stride(), *weight.stride(), *residual_strides,
        BM=BM, BN=BN, BK=BK, GROUP=GROUP, STAGES=stages, SPLIT=TILES[tile].split,
        OF_N=common_factor(BN, columns), OF_K=common_factor(BK, inner), OF_ROWS=common_factor(ALIGNED, *distances),
        NORM_EPS=norm_eps, ACTIVATION=activation, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return y


def _in_rows(tensor: Tensor) -> Tensor:
    """As (rows, last axis), a view where its strides allow that."""
    return tensor[None] if tensor.dim() == 1 else tensor.flatten(0, -2)


inference_only.register("fused_linear_triton")
register_flop_formula(torch.ops.mvc.fused_linear_triton)(flops)
