"""Launches of Triton kernels as plain data, so that what one call needs is worked out once for all calls like it.

A plan says which kernels run on which tensors, by name, in terms of shapes and strides alone. Traced code runs it through
`wrap_triton`, where Inductor sees it. An eager call keeps the compiled kernels with every argument but the addresses in
place: binding some fifty arguments anew takes Triton longer than small kernels run.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import wrap_triton

ALIGNMENT = 16  # bytes; Triton compiles a kernel anew for a pointer that is aligned to so many


class Meta(NamedTuple):
    """What a plan may know of a tensor.

    Attributes:
        offset: of the first element from an aligned address, in elements; right modulo `ALIGNMENT` bytes.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    offset: int = 0

    @classmethod
    def of(cls, tensor: Tensor) -> Meta:
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.storage_offset())

    @property
    def rank(self) -> int:
        return len(self.shape)


class Pointer(NamedTuple):
    """A tensor of the call by its name, from element `first` of its last axis on."""

    name: str
    first: int = 0


class Launch(NamedTuple):
    """One kernel: its pointers, then its integers, then its `tl.constexpr` arguments, in the kernel's order."""

    kernel: triton.JITFunction
    grid: tuple[int, ...]
    pointers: tuple[Pointer | None, ...]
    sizes: tuple[int, ...]
    constants: dict[str, Any]
    num_warps: int


@dataclasses.dataclass
class Plan:
    """Attributes:
    given: the tensors of the call, None where one is absent.
    new: what has to be allocated, contiguous.
    """

    given: Mapping[str, Meta | None]
    new: dict[str, tuple[tuple[int, ...], torch.dtype]] = dataclasses.field(default_factory=dict)
    launches: list[Launch] = dataclasses.field(default_factory=list)

    def add(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> str:
        self.new[name] = (tuple(shape), dtype)
        return name

    def launch(
        self,
        kernel: triton.JITFunction,
        grid: tuple[int, ...],
        pointers: Sequence[Pointer | None],
        sizes: Sequence[int],
        *,
        num_warps: int = 1,
        **constants: Any,
    ) -> None:
        self.launches.append(Launch(kernel, grid, tuple(pointers), tuple(sizes), constants, num_warps))

    def pointer(self, name: str | None, first: int = 0) -> Pointer | None:
        """None where the tensor is absent."""
        present = name in self.new or (name is not None and self.given.get(name) is not None)
        return Pointer(name, first) if present else None


def run(plan: Plan, given: Mapping[str, Tensor | None], like: Tensor, *, traced: bool) -> dict[str, Tensor | None]:
    """Allocate what is new, on the device of `like`, and launch; all tensors by name."""
    tensors = {**given, **{name: like.new_empty(shape, dtype=dtype) for name, (shape, dtype) in plan.new.items()}}
    for launch in plan.launches:
        arguments = [pointer and _from_element(tensors[pointer.name], pointer.first) for pointer in launch.pointers]
        kernel = wrap_triton(launch.kernel) if traced else launch.kernel
        kernel[launch.grid](*arguments, *launch.sizes, **launch.constants, num_warps=launch.num_warps)
    return tensors


def _from_element(tensor: Tensor, first: int) -> Tensor:
    return tensor if first == 0 else tensor[..., first:]


class _Bound(NamedTuple):
    """A compiled kernel with its arguments; `addresses` has (argument, tensor, bytes beyond its start)."""

    run: Any
    arguments: list[Any]
    addresses: list[tuple[int, int, int]]


class Repeated:
    """A plan for one signature of tensors on one device: the first call compiles, further ones only fill in addresses.

    Its tensors must have the shapes, strides, dtypes and alignment that the plan was made for.
    """

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan = plan
        self._device = device
        self._names = [*plan.given, *plan.new]
        self._new = [(shape, _contiguous_strides(shape), dtype) for shape, dtype in plan.new.values()]
        self._bound: list[_Bound] | None = None

    def __call__(self, given: Sequence[Tensor | None], like: Tensor) -> list[Tensor | None]:
        """Launch on the tensors of the call, in the plan's order; those and the new ones, in order."""
        with self._on_device():
            tensors = [*given]
            for shape, strides, dtype in self._new:
                tensors.append(like.new_empty_strided(shape, strides, dtype=dtype))
            if self._bound is None:
                self._bound = self._bind(tensors)
                return tensors
            addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
            for bound in self._bound:
                arguments = bound.arguments.copy()
                for index, tensor, beyond in bound.addresses:
                    arguments[index] = addresses[tensor] + beyond
                bound.run(*arguments)
            return tensors

    def _on_device(self) -> contextlib.AbstractContextManager:
        """Triton launches on the current device, which need not be that of the tensors."""
        if self._device.type != "cuda" or self._device.index == torch.cuda.current_device():
            return contextlib.nullcontext()
        return torch.cuda.device(self._device)

    def _bind(self, tensors: list[Tensor | None]) -> list[_Bound] | None:
        """Launch as Triton does, and keep what it compiled; None where it compiles nothing but interprets."""
        bound = []
        places = {name: index for index, name in enumerate(self._names)}
        for launch in self.plan.launches:
            shown = [p and _from_element(tensors[places[p.name]], p.first) for p in launch.pointers]
            compiled = launch.kernel[launch.grid](
                *shown, *launch.sizes, **launch.constants, num_warps=launch.num_warps
            )
            if compiled is None:
                bound = None
            if bound is not None:
                addresses = [
                    (index, places[p.name], p.first * tensors[places[p.name]].element_size())
                    for index, p in enumerate(launch.pointers)
                    if p is not None
                ]
                arguments = [*[None] * len(launch.pointers), *launch.sizes, *launch.constants.values()]
                grid = (*launch.grid, 1, 1)[:3]
                bound.append(_Bound(compiled[grid], arguments, addresses))
        return bound


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
