"""The fast paths of the scan's ops, for eager calls on plain tensors: see `mvc.kernels.eager`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from mvc.kernels import eager, torch_private
from mvc.kernels.eager import Tensors
from mvc.kernels.scan import rules


class Prepared(Protocol):
    """The op `name` for arguments of one signature; B and C have an axis of groups or are constant."""

    name: str
    flags: tuple[bool, bool]  # delta_softplus and reverse

    def forward(self, tensors: Tensors) -> tuple[Tensor, Tensor]: ...

    def train(self, tensors: Tensors) -> tuple[Tensor, Tensor, Tensor | None]:
        """Also what `backward` starts from."""

    def backward(
        self, grad_y: Tensor, grad_last_state: Tensor, tensors: Tensors, kept: Tensor | None
    ) -> list[Tensor | None]: ...


Prepare = Callable[[Tensors, bool, bool], Prepared]

_paths: dict[str, Prepare] = {}


def register(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
    """Let eager calls of the op `mvc::{name}` run these functions, of its arguments and of its backward's."""
    register_prepared(name, lambda tensors, *flags: _Direct(name, forward, backward, flags))


def register_prepared(name: str, prepare: Prepare) -> None:
    """Let eager calls of the op `mvc::{name}` run what `prepare(tensors, softplus, reverse)` returns."""
    _paths[name] = prepare


def prepare(key: tuple, name: str, tensors: Tensors, softplus: bool, reverse: bool) -> Prepared | None:
    """Prepare the op `mvc::{name}` for arguments of a signature, which have been checked; None without a fast path."""
    if name not in _paths or tensors[0].is_meta:
        return None
    with torch.no_grad():
        return eager.keep(key, _paths[name](grouped(tensors), softplus, reverse))


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


class _Direct:
    """Functions that are called below the autograd formula of an op, which is in Python."""

    def __init__(
        self, name: str, forward: Callable[..., Any], backward: Callable[..., Any], flags: tuple[bool, bool]
    ) -> None:
        self.name, self.flags = name, flags
        self._forward, self._backward = forward, backward

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
        if eager.applies((grad_y, grad_last_state, *tensors)) and not torch.is_grad_enabled():
            gradients = prepared.backward(grad_y, grad_last_state, tensors, kept)
        else:  # a mode or a hook sees the op, which refuses a second derivative
            inputs = (grad_y, grad_last_state, *tensors, *prepared.flags)
            gradients = rules.present(tensors, rules.backward(prepared.name, *inputs))
        for index in (3, 4):
            if saved[index].dim() == 3:
                gradients[index] = gradients[index].squeeze(2)
        return None, *gradients, None  # the last is reset
