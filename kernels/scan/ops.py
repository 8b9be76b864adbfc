"""Registers `torch.ops.mvc.selective_scan` and its backward: schema, and which implementation runs.

The schema takes every tensor positionally, because autograd and vmap registration take no keyword-only tensors, and
B and C always as (batch, length, groups, N) or constant (dim, N); `mvc.kernels.scan.selective_scan` is the function for
people. `mvc::selective_scan` runs on what is best for the device. `selective_scan_chunked`, `selective_scan_cpu` and
`selective_scan_triton` are the same op with one implementation each; loading `cpu_scan` and `triton_scan` defines the
last two.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mvc.kernels.scan import chunked
from mvc.kernels.scan.rules import (
    DIFFERENTIABLE,
    check,
    check_backward,
    op,
    refuse_tangents,
    register_fakes,
    register_rules,
    requires_gradient,
)
from mvc.kernels.torch_private import below_autograd

SCHEMA = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, Tensor? reset, bool delta_softplus, bool reverse"
)
# The kernels read any strides, so Inductor need not copy an input into the layout that it had in eager mode.
TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)


def _define(name: str) -> None:
    torch.library.define(f"mvc::{name}", f"({SCHEMA}) -> (Tensor, Tensor)", tags=TAGS)
    gradients = ", ".join(["Tensor"] * len(DIFFERENTIABLE))
    torch.library.define(
        f"mvc::{name}_backward", f"(Tensor grad_y, Tensor grad_last_state, {SCHEMA}) -> ({gradients})", tags=TAGS
    )


def _run_chunked(u: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    refuse_tangents("selective_scan", u, *inputs)
    check(u, *inputs[:-2])
    # Autocast stays switched on inside an op; it would round the states.
    with torch.autocast(u.device.type, enabled=False):
        return chunked.selective_scan(u, *inputs)


def run_chunked_backward(grad_y: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, ...]:
    """The backward ops in torch's own operations; an empty tensor for each input that is absent."""
    refuse_tangents("selective_scan_backward", grad_y, *inputs)
    check_backward(grad_y, *inputs[:-2])
    with torch.autocast(grad_y.device.type, enabled=False):
        gradients = chunked.selective_scan_backward(grad_y, *inputs)
    return tuple(grad_y.new_empty(0) if gradient is None else gradient for gradient in gradients)


def fastest(u: Tensor) -> str:
    """Name of the op with the implementation that suits u; loads it."""
    if u.dtype == torch.float64:
        return "selective_scan_chunked"
    if u.is_cpu:
        from mvc.kernels import cpu_scan

        return "selective_scan_cpu" if cpu_scan.available() else "selective_scan_chunked"
    return "selective_scan_triton" if triton_available() else "selective_scan_chunked"


@functools.cache
def triton_available() -> bool:
    """Whether `mvc::selective_scan_triton` could be registered; registers it."""
    try:
        from mvc.kernels.scan import triton_ops as triton_scan  # noqa: F401
    except ImportError:
        return False
    return True


def _run_fastest(u: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    check(u, *inputs[:-2])
    return op(fastest(u))(u, *inputs)


def _differentiate_fastest(u: Tensor, *inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    """With gradients the op of the device takes over, which may keep more for its backward than its inputs."""
    if requires_gradient(u, *inputs):
        check(u, *inputs[:-2])
        return op(fastest(u))(u, *inputs)
    with below_autograd():
        return op("selective_scan")(u, *inputs)


def _run_fastest_backward(grad_y: Tensor, grad_last_state: Tensor, u: Tensor, *inputs: Tensor | bool | None):
    return op(fastest(u), backward=True)(grad_y, grad_last_state, u, *inputs)


_define("selective_scan")
torch.library.impl("mvc::selective_scan", "default", _run_chunked)
torch.library.impl("mvc::selective_scan_backward", "default", run_chunked_backward)
torch.library.impl("mvc::selective_scan", ("cpu", "cuda"), _run_fastest)
torch.library.impl("mvc::selective_scan_backward", ("cpu", "cuda"), _run_fastest_backward)
register_fakes("selective_scan")
register_rules("selective_scan")
torch.library.impl("mvc::selective_scan", "AutogradCUDA", _differentiate_fastest)

_define("selective_scan_chunked")
torch.library.impl("mvc::selective_scan_chunked", "default", _run_chunked)
torch.library.impl("mvc::selective_scan_chunked_backward", "default", run_chunked_backward)
register_fakes("selective_scan_chunked")
register_rules("selective_scan_chunked")
