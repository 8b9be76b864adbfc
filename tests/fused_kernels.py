"""Stands for kernels that run on a GPU alone: torch's own operations behind their ops, on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.kernels.implementations import triton_available

# Activations by the name that own kernels give them.
IN_TORCH = {
    "none": lambda y: y,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
}


def fused_linear(x, weight, bias, norm_weight, norm_bias, norm_eps, activation, scale, residual, tile) -> Tensor:
    """`mvc::fused_linear_triton` in float32, rounded once."""
    dtype = x.dtype
    x, weight, bias, norm_weight, norm_bias, scale, residual = (
        each if each is None else each.float() for each in (x, weight, bias, norm_weight, norm_bias, scale, residual)
    )
    if norm_eps is not None:
        x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, norm_eps).to(dtype).float()
    y = IN_TORCH[activation](F.linear(x, weight, bias))
    y = y if scale is None else scale * y
    y = y if residual is None else residual + y
    return y.to(dtype).contiguous()


def fused_conv2d(x, weight, bias, activation, residual, stride, padding, tile) -> Tensor:
    """`mvc::fused_conv2d_triton` in float32, rounded once."""
    given = (each if each is None else each.float() for each in (x, weight, bias, residual))
    x32, weight, bias, residual = given
    y = IN_TORCH[activation](F.conv2d(x32, weight, bias, stride, padding))
    y = y if residual is None else residual + y
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last)


def window_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`mvc::window_attention_triton` in float32, rounded once."""
    scores = q.float() @ k.float().mT * scale
    out = (scores.softmax(-1) @ v.float()).to(q.dtype)
    return out.transpose(1, 2).contiguous().transpose(1, 2), scores.logsumexp(-1)


def window_attention_backward(grad_out, q, k, v, out, logsumexp, scale) -> tuple[Tensor, ...]:
    dtype = q.dtype
    grad_out, q, k, v, out = (each.float() for each in (grad_out, q, k, v, out))
    weights = (q @ k.mT * scale - logsumexp[..., None]).exp()
    grad_scores = weights * (grad_out @ v.mT - (grad_out * out).sum(-1, keepdim=True)) * scale
    gradients = grad_scores @ k, grad_scores.mT @ q, weights.mT @ grad_out
    return tuple(each.to(dtype).transpose(1, 2).contiguous().transpose(1, 2) for each in gradients)


OPS = {
    "fused_linear_triton": fused_linear,
    "fused_conv2d_triton": fused_conv2d,
    "window_attention_triton": window_attention,
    "window_attention_triton_backward": window_attention_backward,
}


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """In this block the ops run on a CPU."""
    assert triton_available(), "the ops are there where triton is"
    library = torch.library.Library("mvc", "IMPL")
    for name, function in OPS.items():
        if hasattr(torch.ops.mvc, name):
            library.impl(name, function, "CPU")
    try:
        yield
    finally:
        library._destroy()
