"""The scan called eagerly on plain tensors, without the detours that transforms, modes and tracing need.

On small inputs those take longer than the scan: Python under the dispatcher, an autograd formula in Python whether
there are gradients or not, the checks twice, a Triton launch bound anew. Here all that depends on the signature of the
arguments alone, the checks among it, is done at the first call with that signature.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mvc.kernels import torch_private
from mvc.kernels.scan import rules

Tensors = Sequence["Tensor | None"]
PREPARED = ("selective_scan_cpu", "selective_scan_triton")  # the ops that have a short way
DEVICES = ("cpu", "cuda")  # where they are what suits the device; on others the op decides
ALIGNMENT = 16  # bytes; Triton compiles a kernel anew for a pointer that is aligned to so many
MOST = 1024  # signatures that are kept; texts of every length have one each


class Prepared(Protocol):
    """The op `name` for arguments of one signature; B and C have an axis of groups or are constant."""

    name: str
    flags: tuple[bool, bool]  # delta_softplus and reverse

    def forward(self, tensors: Tensors) -> tuple[Tensor, Tensor]: ...

    def train(self, tensors: Tensors) -> tuple[Tensor, Tensor, Tensor | None]:
        """Also what `backward` takes of it."""

    def backward(
        self, grad_y: Tensor, grad_last_state: Tensor, tensors: Tensors, kept: Tensor | None
    ) -> list[Tensor | None]: ...


_prepared: dict[tuple, Any] = {}  # a `Prepared`, or what another op of these keeps for itself


def applies(tensors: Tensors) -> bool:
    """Whether these are plain tensors, and nobody watches or transforms what is done with them."""
    if not torch_private.plain_eager():
        return False
    return all(t is None or torch_private.is_plain(t) for t in tensors)


def signature(tensors: Tensors, *options: Hashable) -> tuple:
    """What decides how the scan runs: tensors of one signature differ in values and addresses alone."""
    layouts = [t if t is None else (t.shape, t.stride(), t.dtype, t.device, t.data_ptr() % ALIGNMENT) for t in tensors]
    return (*options, *layouts)


def find(key: tuple) -> Any:
    """What was prepared for arguments of that signature; None where nothing was."""
    return _prepared.get(key)


def prepare(key: tuple, name: str, tensors: Tensors, softplus: bool, reverse: bool) -> Prepared:
    """Prepare the op `name`, one of `PREPARED`, for arguments of that signature, which have been checked."""
    if name == "selective_scan_cpu":
        prepared = _Dispatched(name, softplus, reverse)
    else:
        from mvc.kernels.scan.triton_ops import PreparedScan

        with torch.no_grad():
            prepared = PreparedScan(grouped(tensors), softplus, reverse)
    return keep(key, prepared)


def keep(key: tuple, prepared: Any) -> Any:
    """Keep what was prepared for arguments of that signature, and give it back."""
    if len(_prepared) >= MOST:
        _prepared.clear()
    _prepared[key] = prepared
    return prepared


def selective_scan(prepared: Prepared, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """y and the last state, with gradients where a tensor requires one."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return _Scan.apply(prepared, *tensors)
    return prepared.forward(grouped(tensors))


def grouped(tensors: Tensors) -> list[Tensor | None]:
    """The same with an axis of groups in B and C."""
    tensors = [*tensors]
    for index in (3, 4):
        if tensors[index].dim() == 3:
            tensors[index] = tensors[index].unsqueeze(2)
    return tensors


class _Dispatched:
    """An op of C++, called below its autograd formula, which is in Python."""

    def __init__(self, name: str, softplus: bool, reverse: bool) -> None:
        self.name, self.flags = name, (softplus, reverse)
        self._forward, self._backward = rules.op(name), rules.op(name, backward=True)

    def forward(self, tensors: Tensors) -> tuple[Tensor, Tensor]:
        with torch_private.below_autograd():
            return self._forward(*tensors, *self.flags)

    def train(self, tensors: Tensors) -> tuple[Tensor, Tensor, Tensor | None]:
        return *self.forward(tensors), None

    def backward(
        self, grad_y: Tensor, grad_last_state: Tensor, tensors: Tensors, kept: Tensor | None
    ) -> list[Tensor | None]:
        with torch_private.below_autograd():
            gradients = self._backward(grad_y, grad_last_state, *tensors, *self.flags)
        return rules.present(tensors, gradients)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prepared: Prepared, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.prepared = prepared
        y, last_state, kept = prepared.train(grouped(tensors))
        ctx.save_for_backward(*tensors, kept)
        return y, last_state

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, grad_last_state: Tensor | None) -> tuple[Tensor | None, ...]:
        prepared, (*saved, kept) = ctx.prepared, ctx.saved_tensors
        tensors = grouped(saved)
        u, A = tensors[0], tensors[2]
        if grad_y is None:
            grad_y = u.new_zeros(u.shape)
        if grad_last_state is None:
            grad_last_state = A.new_zeros((u.shape[0], *A.shape))
        if applies((grad_y, grad_last_state, *tensors)) and not torch.is_grad_enabled():
            gradients = prepared.backward(grad_y, grad_last_state, tensors, kept)
        else:  # who watches sees the op, which refuses a second derivative
            inputs = (grad_y, grad_last_state, *tensors, *prepared.flags)
            gradients = rules.present(tensors, rules.backward(prepared.name, *inputs))
        for index in (3, 4):
            if saved[index].dim() == 3:
                gradients[index] = gradients[index].squeeze(2)
        return None, *gradients, None  # the last is reset
