"""`mvc::linear_gelu_cublas`: GELU in the epilogue of the library's product; for inference."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mvc.kernels import inference_only
from mvc.kernels.checks import check_tensors
from mvc.kernels.torch_private import addmm_gelu, is_plain

DTYPES = (torch.float16, torch.bfloat16)


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
        _check(x, weight, bias)
    rows = x.reshape(-1, weight.shape[1])
    if x.is_cuda:
        y = addmm_gelu(bias, rows, weight.T)
    else:
        y = F.gelu(torch.addmm(bias.float(), rows.float(), weight.float().T), approximate="tanh").to(x.dtype)
    return y.reshape(*x.shape[:-1], weight.shape[0])


@linear_gelu.register_fake
def _fake(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    check_tensors({"x": x, "weight": weight, "bias": bias}, {})
    for name, tensor in {"x": x, "weight": weight, "bias": bias}.items():
        if tensor.dtype not in DTYPES or tensor.dtype != x.dtype:
            raise TypeError(f"{name} must be torch.float16 or torch.bfloat16 as x is, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name} must be on x's device {x.device}, got {tensor.device}")
    if x.dim() == 0 or weight.dim() != 2 or weight.shape[1] != x.shape[-1] or bias.shape != weight.shape[:1]:
        seen = ", ".join(str(tuple(tensor.shape)) for tensor in (x, weight, bias))
        raise ValueError(f"x, weight and bias must be (..., K), (N, K) and (N,), got shapes {seen}")


def _flops(x_shape: tuple[int, ...], weight_shape: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * math.prod(x_shape) * weight_shape[0]


inference_only.register("linear_gelu_cublas")
register_flop_formula(torch.ops.mvc.linear_gelu_cublas)(_flops)
