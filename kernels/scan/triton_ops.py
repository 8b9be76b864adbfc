"""The selective scan on NVIDIA GPUs: `mvc::selective_scan_triton`, its backward, and its form that writes in place.

Importing this module imports triton and registers the ops. `PreparedScan` is the same for eager calls.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.library import triton_op

from mvc.kernels.checks import refuse_tangents
from mvc.kernels.eager import signature
from mvc.kernels.scan import fast_path
from mvc.kernels.scan.checks import check_backward, check_op
from mvc.kernels.scan.rules import register_kept_rules, register_rules
from mvc.kernels.scan.triton_launch import Repeated, metas_of, run
from mvc.kernels.scan.triton_plan import plan_backward, plan_forward, plan_states, sum_axes
from mvc.kernels.schemas import DIFFERENTIABLE, GRADIENTS, TENSORS, Gradients, ScanInputs, signed
from mvc.kernels.torch_private import is_plain

Given = dict[str, "Tensor | None"]

DENSE = ("A", "D", "delta_bias", "initial_state", "grad_last_state")  # read as if they were contiguous


def _given(tensors: Sequence[Tensor | None], **others: Tensor) -> Given:
    """By name, as the kernels take them."""
    given = {**dict(zip(TENSORS, tensors, strict=True)), **others}
    for name in DENSE:
        if given.get(name) is not None:
            given[name] = given[name].contiguous()
    if given["reset"] is not None:
        given["reset"] = given["reset"].view(torch.uint8)
    return given


def _check(inputs: ScanInputs, *gradients: Tensor) -> None:
    """What an op that is called as such must check. Tensors without values are left alone: comparing their sizes, which
    may be unknown, would make guards of them."""
    *tensors, _, _ = inputs
    refuse_tangents("selective_scan_triton", *gradients, *tensors)
    if inputs.u.dtype == torch.float64:
        raise TypeError("the Triton scan accepts no float64; use impl='chunked'")
    if not is_plain(inputs.u):
        return
    if gradients:
        check_backward(*gradients, tensors)
    else:
        check_op(tensors)


@triton_op("mvc::selective_scan_triton", mutates_args={})
@signed(ScanInputs)
def selective_scan(*inputs: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    y, last_state, _ = _forward(ScanInputs(*inputs), keep=False)
    return y, last_state


@triton_op("mvc::selective_scan_triton_training", mutates_args={})
@signed(ScanInputs)
def selective_scan_training(*inputs: Tensor | bool | None) -> tuple[Tensor, Tensor, Tensor]:
    """Also the states, (tiles, batch, dim, N), that `selective_scan_triton_gradients` starts from."""
    return _forward(ScanInputs(*inputs), keep=True)


def _forward(inputs: ScanInputs, *, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    _check(inputs)
    *tensors, softplus, reverse = inputs
    given, u = _given(tensors), inputs.u
    if u.numel() == 0:
        return *_without_steps(given), u.new_empty(0, dtype=torch.float32)
    made = run(plan_forward(metas_of(given), softplus=softplus, reverse=reverse, keep=keep), given, like=u)
    return made["y"], made["last_state"], made.get("states")


def _without_steps(given: Given) -> tuple[Tensor, Tensor]:
    u, A, initial_state = given["u"], given["A"], given["initial_state"]
    y = u.new_empty(u.shape)
    if initial_state is None:
        return y, u.new_zeros((u.shape[0], *A.shape), dtype=torch.float32)
    return y, initial_state.clone(memory_format=torch.contiguous_format)


@triton_op("mvc::selective_scan_triton_cat", mutates_args={})
@signed(ScanInputs, u="x")
def selective_scan_cat(x: Tensor, *others: Tensor | bool | None) -> Tensor:
    """x (batch, length, channels) with the scan's y in place of its first dim channels, u; for inference.

    Compiled, the copy of x goes where nothing uses x later, and y is written over u.
    """
    u = x[..., : others[1].shape[0]]  # of A
    inputs = ScanInputs(u, *others)
    _check(inputs)
    *tensors, softplus, reverse = inputs
    given = _given(tensors)
    result = x.clone(memory_format=torch.contiguous_format)
    if u.numel() > 0:
        given["y"] = result
        run(plan_forward(metas_of(given), softplus=softplus, reverse=reverse), given, like=u)
    return result


@triton_op("mvc::selective_scan_triton_gradients", mutates_args={})
@signed(ScanInputs, *GRADIENTS, "states")
def selective_scan_gradients(
    grad_y: Tensor, grad_last_state: Tensor, states: Tensor, *inputs: Tensor | bool | None
) -> Gradients:
    """An empty tensor for each input that is absent."""
    _check(ScanInputs(*inputs), grad_y, grad_last_state)
    return _all_gradients(inputs, grad_y, grad_last_state, states)


@triton_op("mvc::selective_scan_triton_backward", mutates_args={})
@signed(ScanInputs, *GRADIENTS)
def selective_scan_backward(grad_y: Tensor, grad_last_state: Tensor, *inputs: Tensor | bool | None) -> Gradients:
    """The same without states that the forward has kept: they are computed again."""
    _check(ScanInputs(*inputs), grad_y, grad_last_state)
    *tensors, softplus, reverse = inputs
    given, u = _given(tensors), inputs[0]
    states = u.new_empty(0, dtype=torch.float32)
    if u.numel() > 0:
        states = run(plan_states(metas_of(given), softplus=softplus, reverse=reverse), given, like=u)["states"]
    return _all_gradients(inputs, grad_y, grad_last_state, states)


def _all_gradients(
    inputs: Sequence[Tensor | bool | None], grad_y: Tensor, grad_last_state: Tensor, states: Tensor
) -> tuple[Tensor, ...]:
    *tensors, softplus, reverse = inputs
    given = _given(tensors, grad_y=grad_y, grad_last_state=grad_last_state, states=states)
    if given["u"].numel() == 0:
        gradients = _gradients_without_steps(given)
    else:
        plan = plan_backward(metas_of(given), softplus=softplus, reverse=reverse)
        gradients = _gradients(run(plan, given, like=grad_y))
    return tuple(grad_y.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _gradients(made: Given) -> list[Tensor | None]:
    """Those of `DIFFERENTIABLE`, from the tensors that the kernels have filled; None for what is absent."""
    gradients = []
    for name in DIFFERENTIABLE:
        tensor = made[name]
        if tensor is None:
            gradients.append(None)
        elif name == "initial_state":
            gradients.append(made["flow"][0])
        elif name in ("A", "B", "C", "D", "delta_bias"):
            gradients.append(_summed(made[f"grad_{name}"], sum_axes(name, tensor.dim())).to(tensor.dtype))
        else:
            gradients.append(made[f"grad_{name}"])
    return gradients


def _summed(partial: Tensor, axes: tuple[int, ...]) -> Tensor:
    return partial.squeeze(axes) if all(partial.shape[axis] == 1 for axis in axes) else partial.sum(axes)


def _gradients_without_steps(given: Given) -> list[Tensor | None]:
    """Zeros, but for what passes from the last state to the initial one."""
    tensors = (given[name] for name in DIFFERENTIABLE[:-1])
    zeros = [None if t is None else torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in tensors]
    last = given["grad_last_state"].clone(memory_format=torch.contiguous_format)
    return [*zeros, None if given["initial_state"] is None else last]


class PreparedScan:
    """The scan and its backward for eager calls on tensors of one signature, as `fast_path` prepares them."""

    name = "selective_scan_triton"

    def __init__(self, tensors: Sequence[Tensor | None], softplus: bool, reverse: bool) -> None:
        self.flags = softplus, reverse
        given = _given(tensors)
        self._empty, self._device = given["u"].numel() == 0, given["u"].device
        self._plans: dict[Hashable, Repeated] = {}
        self._metas = metas_of(given)
        self._as_they_are = all(given[name] is tensor for name, tensor in zip(TENSORS, tensors, strict=True))

    def forward(self, tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        made = self._forward(tensors, keep=False)
        return made[0], made[1]

    def train(self, tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Also what `backward` accepts."""
        made = self._forward(tensors, keep=True)
        return made[0], made[1], made[2]

    def _forward(self, tensors: Sequence[Tensor | None], *, keep: bool) -> Sequence[Tensor | None]:
        if self._empty:
            return *_without_steps(_given(tensors)), None
        if not self._as_they_are:
            tensors = [*_given(tensors).values()]
        if keep not in self._plans:
            softplus, reverse = self.flags
            plan = plan_forward(self._metas, softplus=softplus, reverse=reverse, keep=keep)
            self._plans[keep] = Repeated(plan, self._device)
        return self._plans[keep](tensors, like=tensors[0])[len(TENSORS) :]  # "y", "last_state", and "states"

    def backward(
        self, grad_y: Tensor, grad_last_state: Tensor, tensors: Sequence[Tensor | None], states: Tensor | None
    ) -> list[Tensor | None]:
        given = _given(tensors, grad_y=grad_y, grad_last_state=grad_last_state, states=states)
        if self._empty:
            return _gradients_without_steps(given)
        # Of all tensors: hooks may have moved what autograd saved, and gradients may lie anywhere.
        key = signature(given.values())
        if key not in self._plans:
            softplus, reverse = self.flags
            plan = plan_backward(metas_of(given), softplus=softplus, reverse=reverse)
            self._plans[key] = Repeated(plan, self._device)
        return _gradients(self._plans[key].by_name(given, like=given["u"]))


fast_path.register_prepared("selective_scan_triton", PreparedScan)
register_rules("selective_scan_triton")
register_kept_rules("selective_scan_triton")
