"""The scans for the published arithmetic: each accepts (batch, dim, length) u and delta, A (dim, N), B and C
(batch, N, length), D and delta_bias (dim,) in float32, and applies softplus to delta + delta_bias."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from bench.other_scans import mamba_ssm_reference
from mvc import selective_scan

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
SCANS = {
    "mamba-ssm": "mamba-ssm's CUDA kernels; forward and backward",
    "naive": "one plain Triton kernel; forward alone",
    "mvc": "mvc's Triton kernels, called as mamba-ssm's are; forward and backward",
    "reference": "the recurrence in torch's own operations, step by step, on any device",
}
EXTENSION = "selective_scan_cuda"  # mamba-ssm's


def best(device: torch.device) -> str:
    """The one of `SCANS` that stands for the published model on a device."""
    if device.type != "cuda":
        return "reference"
    return "mamba-ssm" if importlib.util.find_spec(EXTENSION) else "naive"


def find(name: str) -> Scan:
    """A scan by its name in `SCANS`."""
    if name == "naive":
        return importlib.import_module("bench.naive_scan").naive_scan
    if name == "mamba-ssm":
        register()
        return mamba_ssm
    return mvc_triton if name == "mvc" else reference


def mvc_triton(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """What stands for mamba-ssm's kernels where these are not installed and gradients are needed."""
    u, delta, B, C = (each.transpose(1, 2) for each in (u, delta, B, C))
    return selective_scan(u, delta, A, B, C, D=D, delta_bias=bias, delta_softplus=True, impl="triton").transpose(1, 2)


def reference(u: Tensor, delta: Tensor, *others: Tensor) -> Tensor:
    """mamba-ssm's reference, its sums in float32, or in float64 where u is."""
    wide = torch.promote_types(u.dtype, torch.float32)
    return mamba_ssm_reference(*(each.to(wide) for each in (u, delta, *others))).to(u.dtype)


def mamba_ssm(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """mamba-ssm's kernels as an op, so that torch.compile captures one graph. Call `register` first. The kernels do not
    accept float64."""
    if u.dtype == torch.float64:
        return reference(u, delta, A, B, C, D, bias)
    u, delta, B, C = (each if each.stride(-1) == 1 else each.contiguous() for each in (u, delta, B, C))
    return torch.ops.mvc_bench.mamba_ssm_scan(u, delta, A, B.unsqueeze(1), C.unsqueeze(1), D, bias)[0]


@functools.cache
def register() -> None:
    """Define `mvc_bench::mamba_ssm_scan`, which returns y and the states that its backward starts from."""
    library = importlib.import_module(EXTENSION)

    @torch.library.custom_op("mvc_bench::mamba_ssm_scan", mutates_args=())
    def scan(
        u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, states, *_ = library.fwd(u, delta, A, B, C, D, None, bias, True)
        return y, states

    @torch.library.custom_op("mvc_bench::mamba_ssm_scan_backward", mutates_args=())
    def backward(
        grad: Tensor, states: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        grad = grad.contiguous() if grad.stride(-1) != 1 else grad
        return tuple(library.bwd(u, delta, A, B, C, D, None, bias, grad, states, None, None, True, False)[:7])

    @scan.register_fake
    def _(u, delta, A, B, C, D, bias):
        chunks = -(-u.shape[2] // 2048)
        return torch.empty_like(delta), u.new_empty(
            (u.shape[0], u.shape[1], chunks, 2 * A.shape[1]), dtype=torch.float32
        )

    @backward.register_fake
    def _(grad, states, *inputs):
        return tuple(torch.empty_like(each) for each in inputs)

    def keep(ctx, inputs, output):
        ctx.save_for_backward(output[1], *inputs)

    def differentiate(ctx, grad, _):
        return backward(grad, *ctx.saved_tensors)

    scan.register_autograd(differentiate, setup_context=keep)
