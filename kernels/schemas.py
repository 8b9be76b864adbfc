"""What the ops in `torch.ops.mvc` are called with: the names, order and types of their arguments, written down once.

Every tensor is positional, because the registration of autograd and of vmap accepts no keyword-only tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor


class ScanInputs(NamedTuple):
    """The arguments of every selective scan. `mvc.kernels.scan.selective_scan` says what they mean."""

    u: Tensor  # (batch, length, dim)
    delta: Tensor  # (batch, length, dim)
    A: Tensor  # (dim, N)
    B: Tensor  # (batch, length, groups, N), or constant (dim, N)
    C: Tensor  # as B
    D: Tensor | None  # (dim,)
    z: Tensor | None  # (batch, length, dim)
    delta_bias: Tensor | None  # (dim,)
    initial_state: Tensor | None  # (batch, dim, N)
    reset: Tensor | None  # (batch, length)
    delta_softplus: bool
    reverse: bool


class RecurrenceInputs(NamedTuple):
    """The arguments of every linear recurrence. `mvc.kernels.recurrence.linear_recurrence` says what they mean."""

    a: Tensor
    b: Tensor
    initial: Tensor | None
    dim: int  # not negative
    reverse: bool


class StepInputs(NamedTuple):
    """The arguments of `mvc::selective_state_update`. The axes "heads" and "groups" may be left out.

    `mvc.compat.mamba_ssm.selective_state_update` says what they mean.
    """

    state: Tensor  # (batch, heads, dim, N), written to
    x: Tensor  # (batch, heads, dim)
    dt: Tensor  # (batch, heads, dim)
    A: Tensor  # (heads, dim, N)
    B: Tensor  # (batch, groups, N)
    C: Tensor  # (batch, groups, N)
    D: Tensor | None  # (heads, dim)
    z: Tensor | None  # (batch, heads, dim)
    dt_bias: Tensor | None  # (heads, dim)
    dt_softplus: bool


TENSORS = ScanInputs._fields[:-2]
DIFFERENTIABLE = TENSORS[:-1]  # all but reset
GRADIENTS = ("grad_y", "grad_last_state")  # what a scan's backward accepts before its inputs
Gradients = tuple[(Tensor,) * len(DIFFERENTIABLE)]

KINDS = {Tensor: "Tensor", Tensor | None: "Tensor?", bool: "bool", int: "int"}  # in the language of schemas
# The kernels read any strides, so Inductor need not copy an input into the layout that it had in eager mode.
TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)


def op(name: str, *, backward: bool = False) -> torch._ops.OpOverload:
    """The op `mvc::{name}`, or its backward."""
    return getattr(torch.ops.mvc, f"{name}_backward" if backward else name).default


def define(name: str, inputs: type, *before: str, results: int) -> None:
    """Define the op `mvc::{name}`, which returns that many tensors.

    Args:
        inputs: a class of this module, whose fields are the arguments.
        before: the names of tensors that come before them.
    """
    arguments = ", ".join(f"{KINDS[kind]} {name}" for name, kind in _parameters(inputs, before).items())
    returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    torch.library.define(f"mvc::{name}", f"({arguments}) -> {returned}", tags=TAGS)


def signed(inputs: type, *before: str, **renamed: str) -> Callable[[Callable], Callable]:
    """Decorate a function of `*arguments`, so that torch infers a schema as if it spelled out its parameters.

    Args:
        inputs, before: as `define` accepts them.
        renamed: the names of parameters that are not called as their fields.
    """

    def sign(function: Callable) -> Callable:
        place = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = _parameters(inputs, before).items()
        function.__signature__ = inspect.Signature(
            [inspect.Parameter(renamed.get(name, name), place, annotation=kind) for name, kind in parameters],
            return_annotation=get_type_hints(function)["return"],
        )
        return function

    return sign


def _parameters(inputs: type, before: tuple[str, ...]) -> dict[str, Any]:
    """Their types by name, in order."""
    return dict.fromkeys(before, Tensor) | get_type_hints(inputs)
