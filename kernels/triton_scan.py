"""The selective scan on NVIDIA GPUs: `mvc::selective_scan_triton`, its backward, and its form that writes in place.

Importing this module imports triton and registers the ops, whose schemas torch infers from the annotations (torch 2.11
takes no others). `PreparedScan` is the same for eager calls.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mvc.kernels.eager import signature
from mvc.kernels.rules import DIFFERENTIABLE, TENSORS, refuse_tangents, register_rules
from mvc.kernels.triton_launch import Meta, Repeated, run
from mvc.kernels.triton_plan import plan_backward, plan_forward, sum_axes
from torch import Tensor
from torch.library import triton_op

Given = dict[str, "Tensor | None"]

DENSE = ("A", "D", "delta_bias", "initial_state", "grad_last_state")  # read as if they were contiguous


def _given(tensors: Sequence[Tensor | None], **gradients: Tensor) -> Given:
    """By name, as the kernels take them."""
    given = {**dict(zip(TENSORS, tensors, strict=True)), **gradients}
    refuse_tangents("selective_scan_triton", *given.values())
    if given["u"].dtype == torch.float64:
        raise TypeError("the Triton scan takes no float64; use impl='chunked'")
    for name in DENSE:
        if given.get(name) is not None:
            given[name] = given[name].contiguous()
    if given["reset"] is not None:
        given["reset"] = given["reset"].view(torch.uint8)
    return given


def _metas(given: Given) -> dict[str, Meta | None]:
    return {name: None if tensor is None else Meta.of(tensor) for name, tensor in given.items()}


@triton_op("mvc::selective_scan_triton", mutates_args={})
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    given = _given((u, delta, A, B, C, D, z, delta_bias, initial_state, reset))
    if u.numel() == 0:
        return _without_steps(given)
    made = run(plan_forward(_metas(given), softplus=delta_softplus, reverse=reverse), given, like=u)
    return made["y"], made["last_state"]


def _without_steps(given: Given) -> tuple[Tensor, Tensor]:
    u, A, initial_state = given["u"], given["A"], given["initial_state"]
    y = u.new_empty(u.shape)
    if initial_state is None:
        return y, u.new_zeros((u.shape[0], *A.shape), dtype=torch.float32)
    return y, initial_state.clone(memory_format=torch.contiguous_format)


@triton_op("mvc::selective_scan_triton_cat", mutates_args={})
def selective_scan_cat(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    """x (batch, length, channels) with the scan's y in place of its first dim channels, u; for inference.

    Compiled, the copy of x goes where nothing uses x later, and y is written over u.
    """
    u = x[..., : A.shape[0]]
    given = _given((u, delta, A, B, C, D, z, delta_bias, initial_state, reset))
    result = x.clone(memory_format=torch.contiguous_format)
    if u.numel() > 0:
        given["y"] = result
        run(plan_forward(_metas(given), softplus=delta_softplus, reverse=reverse), given, like=u)
    return result


@triton_op("mvc::selective_scan_triton_backward", mutates_args={})
def selective_scan_backward(
    grad_y: Tensor,
    grad_last_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state, reset)
    given = _given(tensors, grad_y=grad_y, grad_last_state=grad_last_state)
    if u.numel() == 0:
        gradients = _gradients_without_steps(given)
    else:
        plan = plan_backward(_metas(given), softplus=delta_softplus, reverse=reverse)
        gradients = _gradients(run(plan, given, like=u))
    return tuple(grad_y.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _gradients(made: Given) -> list[Tensor | None]:
    """Those of `DIFFERENTIABLE`, from the tensors that the kernels have filled; None for what is absent."""
    gradients = []
    for name in DIFFERENTIABLE:
        tensor, gradient = made[name], made.get(f"grad_{name}")
        if tensor is not None and name in ("A", "B", "C", "D", "delta_bias"):
            gradient = gradient.sum(sum_axes(name, tensor.dim())).to(tensor.dtype)
        gradients.append(None if tensor is None else gradient)
    return gradients


def _gradients_without_steps(given: Given) -> list[Tensor | None]:
    """Zeros, but for what passes from the last state to the initial one."""
    tensors = (given[name] for name in DIFFERENTIABLE[:-1])
    zeros = [None if t is None else torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in tensors]
    last = given["grad_last_state"].clone(memory_format=torch.contiguous_format)
    return [*zeros, None if given["initial_state"] is None else last]


class PreparedScan:
    """The scan and its backward for eager calls on tensors of one signature, as `mvc.kernels.eager` prepares them."""

    name = "selective_scan_triton"

    def __init__(self, tensors: Sequence[Tensor | None], softplus: bool, reverse: bool) -> None:
        self.flags = softplus, reverse
        given = _given(tensors)
        self._forward = None
        if given["u"].numel() > 0:
            plan = plan_forward(_metas(given), softplus=softplus, reverse=reverse)
            self._forward = Repeated(plan, given["u"].device)
        self._backward: dict[tuple, Repeated] = {}
        self._as_they_are = all(given[name] is tensor for name, tensor in zip(TENSORS, tensors, strict=True))

    def forward(self, tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        if self._forward is None:
            return _without_steps(_given(tensors))
        if not self._as_they_are:
            tensors = [*_given(tensors).values()]
        made = self._forward(tensors, like=tensors[0])
        return made[len(TENSORS)], made[len(TENSORS) + 1]  # "y" and "last_state" are the first new ones

    def backward(
        self, grad_y: Tensor, grad_last_state: Tensor, tensors: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        given = _given(tensors, grad_y=grad_y, grad_last_state=grad_last_state)
        if self._forward is None:
            return _gradients_without_steps(given)
        # Of all tensors: hooks may have moved what autograd saved, and gradients may lie anywhere.
        key = signature(given.values())
        if key not in self._backward:
            softplus, reverse = self.flags
            plan = plan_backward(_metas(given), softplus=softplus, reverse=reverse)
            self._backward[key] = Repeated(plan, grad_y.device)
        return _gradients(self._backward[key].by_name(given, like=given["u"]))


register_rules("selective_scan_triton")
