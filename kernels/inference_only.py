"""Ops that have no derivative: called where gradients are needed, they say so."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mvc.kernels.checks import requires_gradient
from mvc.kernels.schemas import op
from mvc.kernels.torch_private import below_autograd

MESSAGE = (
    "mvc::{name} has no derivative, and an argument requires gradients; call it under torch.no_grad() or "
    "torch.inference_mode(), or compute the same by torch's own operations"
)


def register(name: str) -> None:
    """Let the defined op `mvc::{name}` raise RuntimeError where gradients are needed."""
    for key in ("AutogradCPU", "AutogradCUDA"):  # go before "Autograd", which `triton_op` has filled
        torch.library.impl(f"mvc::{name}", key, functools.partial(_without_gradients, name))


def _without_gradients(name: str, *inputs: object) -> Tensor:
    if requires_gradient(*inputs):
        raise RuntimeError(MESSAGE.format(name=name))
    with below_autograd():
        return op(name)(*inputs)
