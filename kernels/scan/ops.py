"""Registers `torch.ops.mvc.selective_scan` and `selective_scan_chunked`, each with its backward.

`mvc::selective_scan` is the portable op: it runs on the fastest implementation for its tensors. `mvc.kernels.scan
.selective_scan` is the function for people.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mvc.kernels import implementations
from mvc.kernels.checks import refuse_tangents, requires_gradient
from mvc.kernels.scan import chunked, fast_path
from mvc.kernels.scan.checks import check_backward, check_op
from mvc.kernels.scan.rules import define_scan
from mvc.kernels.schemas import op
from mvc.kernels.torch_private import below_autograd


def _run_chunked(*inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    refuse_tangents("selective_scan_chunked", *inputs)
    check_op(inputs[:-2])
    # Autocast stays switched on inside an op; it would round the states.
    with torch.autocast(inputs[0].device.type, enabled=False):
        return chunked.selective_scan(*inputs)


def run_chunked_backward(grad_y: Tensor, grad_last_state: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, ...]:
    """The backward op in torch's own operations; an empty tensor for each input that is absent."""
    refuse_tangents("selective_scan_chunked_backward", grad_y, grad_last_state, *inputs)
    check_backward(grad_y, grad_last_state, inputs[:-2])
    with torch.autocast(grad_y.device.type, enabled=False):
        gradients = chunked.selective_scan_backward(grad_y, grad_last_state, *inputs)
    return tuple(grad_y.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _fastest(u: Tensor) -> str:
    return implementations.op_name("selective_scan", implementations.fastest(u.device, u.dtype))


def _run_fastest(u: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    return op(_fastest(u))(u, *inputs)


def _run_fastest_backward(grad_y: Tensor, grad_last_state: Tensor, u: Tensor, *inputs: Tensor | bool | None):
    return op(_fastest(u), backward=True)(grad_y, grad_last_state, u, *inputs)


def _differentiate_fastest(u: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    """With gradients the op of the device takes over, which may keep more for its backward than its inputs."""
    if requires_gradient(u, *inputs):
        return op(_fastest(u))(u, *inputs)
    with below_autograd():
        return op("selective_scan")(u, *inputs)


define_scan("selective_scan", _run_fastest, _run_fastest_backward)
torch.library.impl("mvc::selective_scan", "AutogradCUDA", _differentiate_fastest)
define_scan("selective_scan_chunked", _run_chunked, run_chunked_backward)
fast_path.register("selective_scan_chunked", chunked.selective_scan, chunked.selective_scan_backward)
