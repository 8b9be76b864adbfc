"""`mvc::linear_gelu_cublas`: GELU in the epilogue of the library's product; for inference."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mvc.kernels import inference_only
from mvc.kernels.checks import HALF, check_one_dtype
from mvc.kernels.linear.checks import check
from mvc.kernels.torch_private import addmm_gelu, is_plain


@torch.library.custom_op("mvc::linear_gelu_cublas", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU of x @ weight.T + bias in its tanh form, which the library's epilogue has on CUDA.

    The tanh form differs from the exact one by up to 4.7e-4, whatever the size of x. On other devices torch's own
    operations compute the same form, so that a run on a CPU sees that difference.

    Args:
        x: (..., K), float16 or bfloat16.
        weight: (N, K) and bias: (N,), of x's dtype.

    Raises:
        TypeError: an argument that is no dense tensor, or another dtype.
        ValueError: shapes or devices that do not fit together.
    """
    if is_plain(x):
        check(x, weight, {"bias": bias})
        check_one_dtype({"x": x, "weight": weight, "bias": bias}, HALF)
    rows = x.reshape(-1, weight.shape[1])
    if x.is_cuda:
        y = addmm_gelu(bias, rows, weight.T)
    else:
        y = F.gelu(torch.addmm(bias.float(), rows.float(), weight.float().T), approximate="tanh").to(x.dtype)
    return y.reshape(*x.shape[:-1], weight.shape[0])


@linear_gelu.register_fake
def _fake(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def flops(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], *args: object, **kwargs: object) -> int:
    """A multiplication and an addition for each row, column and term; what surrounds the product is not counted."""
    return 2 * math.prod(x_shape) * weight_shape[0]


inference_only.register("linear_gelu_cublas")
register_flop_formula(torch.ops.mvc.linear_gelu_cublas)(flops)
