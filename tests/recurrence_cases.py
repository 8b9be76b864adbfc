"""Cases of the linear recurrence, and how an implementation is compared with the oracle on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scan_cases import assert_within_budget
from torch import Tensor

from mvc.kernels.recurrence import linear_recurrence
from mvc.kernels.schemas import op

FAMILIES = ("linear_recurrence", "linear_recurrence_chunked", "linear_recurrence_cpu")
HALVES = (torch.float16, torch.bfloat16)

Inputs = dict[str, "Tensor | int | bool | None"]


class Case(NamedTuple):
    a: tuple[int, ...]
    b: tuple[int, ...]
    dim: int
    initial: tuple[int, ...] | None = None
    reverse: bool = False
    dtypes: tuple[torch.dtype, ...] = (torch.float32,) * 3
    layout: str = "contiguous"
    decays: tuple[float, float] = (-1.0, 1.0)

    def __str__(self) -> str:
        shapes = "-".join("x".join(map(str, shape)) for shape in (self.a, self.b, self.initial or ()))
        dtypes = "-".join(str(dtype)[6:] for dtype in dict.fromkeys(self.dtypes))
        return f"{shapes}-dim{self.dim}-{dtypes}-{self.layout}{'-reverse' * self.reverse}-below{self.decays[1]:g}"


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same numbers in other memory; "expanded" repeats the first index of every axis, and "lazy" is memory that is
    still to be conjugated, or to be negated where it is real."""
    if layout == "permuted":
        axes = tuple(reversed(range(tensor.dim())))
        return tensor.permute(axes).contiguous().permute(axes)
    if layout == "expanded":
        return tensor[(slice(1),) * tensor.dim()].expand(tensor.shape)
    if layout == "strided":
        return tensor.repeat_interleave(2, -1)[..., ::2] if tensor.dim() else tensor
    if layout == "lazy":
        return tensor.conj_physical().conj() if tensor.is_complex() else torch.complex(tensor, -tensor).conj().imag
    return tensor


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """A fifth of the decays is zero; complex numbers have random phases."""
    generator = torch.Generator().manual_seed(seed)
    low, high = case.decays
    a = torch.rand(case.a, generator=generator) * (high - low) + low
    a = a.masked_fill(torch.rand(case.a, generator=generator) < 0.2, 0.0)
    b = torch.randn(case.b, generator=generator)
    tensors = {"a": a, "b": b}
    if case.initial is not None:
        tensors["initial"] = torch.randn(case.initial, generator=generator)
    for name, dtype in zip(tensors, case.dtypes, strict=False):
        if dtype.is_complex:
            phase = 2 * math.pi * torch.rand(tensors[name].shape, generator=generator)
            tensors[name] = torch.polar(tensors[name], phase)
        tensors[name] = laid_out(tensors[name].to(dtype), case.layout)
    return {"initial": None, **tensors, "dim": case.dim, "reverse": case.reverse}


def tensors_of(inputs: Inputs) -> dict[str, Tensor]:
    return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}


def arguments(inputs: Inputs) -> tuple[Tensor | int | bool | None, ...]:
    return tuple(inputs[name] for name in ("a", "b", "initial", "dim", "reverse"))


def through(family: str) -> Callable[..., Tensor]:
    return lambda **inputs: op(family)(*arguments(inputs))


def reference(**inputs: Tensor | int | bool | None) -> Tensor:
    return linear_recurrence(**inputs, impl="reference")


def run(recurrence: Callable, inputs: Inputs) -> dict[str, Tensor]:
    """The states and the gradient of each tensor, for a fixed random gradient of the states."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors_of(inputs).items()}
    h = recurrence(**(inputs | leaves))
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(h.shape, generator=generator).bfloat16().to(h)
    if h.is_complex():
        given = given + 1j * torch.randn(h.shape, generator=generator).bfloat16().to(h)
    gradients = torch.autograd.grad(h, leaves.values(), given, allow_unused=True, materialize_grads=True)
    return {"h": h.detach()} | {f"gradient of {n}": g for n, g in zip(leaves, gradients, strict=True)}


def assert_recurrence_within_budget(inputs: Inputs, recurrence: Callable) -> None:
    """As `assert_within_budget` says; what half precision loses by keeping h in it is within the rounding term."""

    def in_dtype(dtype: torch.dtype) -> Inputs:
        tensors = tensors_of(inputs).items()
        return inputs | {name: t.to(dtype.to_complex() if t.is_complex() else dtype) for name, t in tensors}

    is_double = any(t.dtype in (torch.float64, torch.complex128) for t in tensors_of(inputs).values())
    actual, oracle = run(recurrence, inputs), run(reference, in_dtype(torch.float64))
    baseline = run(reference, in_dtype(torch.float32) if is_double else inputs)
    for name in oracle:
        assert_within_budget(actual[name], oracle[name], baseline[name], name)


def same_dtypes(dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    return (dtype,) * 3


CUBE = Case((3, 37, 19), (3, 37, 19), 1, (3, 19))
