"""Launches of Triton kernels as plain data, so that what one call needs is worked out once for all calls like it.

A plan says which kernels run on which tensors, by name, in terms of shapes and strides alone. Traced code runs it
through `wrap_triton`, where Inductor sees it. An eager call keeps the compiled kernels with every argument but the
addresses in place: binding some fifty arguments anew takes Triton longer than small kernels run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import wrap_triton


class Meta(NamedTuple):
    """What a plan may know of a tensor.

    Attributes:
        offset: of the first element from an aligned address, in elements; right modulo `eager.ALIGNMENT` bytes.
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


def metas_of(tensors: Mapping[str, Tensor | None]) -> dict[str, Meta | None]:
    return {name: None if tensor is None else Meta.of(tensor) for name, tensor in tensors.items()}


class Launch(NamedTuple):
    """One kernel: the names of its tensors, None for one that is absent, then its integers, then its `tl.constexpr`
    arguments, in the kernel's order."""

    kernel: triton.JITFunction
    grid: tuple[int, ...]
    pointers: tuple[str | None, ...]
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
        pointers: Sequence[str | None],
        sizes: Sequence[int],
        *,
        num_warps: int = 1,
        **constants: Any,
    ) -> None:
        self.launches.append(Launch(kernel, grid, tuple(pointers), tuple(sizes), constants, num_warps))

    def pointer(self, name: str | None) -> str | None:
        """The name, or None where there is no such tensor."""
        return name if name in self.new or self.given.get(name) is not None else None


def run(plan: Plan, given: Mapping[str, Tensor | None], *, like: Tensor) -> dict[str, Tensor | None]:
    """Allocate what is new, on the device of `like`, and launch so that tracing sees it; all tensors by name."""
    tensors = {**given, **{name: like.new_empty(shape, dtype=dtype) for name, (shape, dtype) in plan.new.items()}}
    for launch in plan.launches:
        _call(wrap_triton(launch.kernel), launch, tensors)
    return tensors


def _call(kernel: Any, launch: Launch, tensors: Mapping[str, Tensor | None]) -> Any:
    """Launch on the tensors; what Triton compiled for that, if it did."""
    arguments = [pointer and tensors[pointer] for pointer in launch.pointers]
    return kernel[launch.grid](*arguments, *launch.sizes, **launch.constants, num_warps=launch.num_warps)


class _Bound(NamedTuple):
    """A compiled kernel on its grid, its arguments without addresses, and (argument, tensor) of each address."""

    run_kernel: Callable[..., None]
    template: list[Any]
    pointers: list[tuple[int, int]]


class Repeated:
    """A plan for tensors of one signature on one device: the first call compiles, further ones only fill in addresses.

    Signature: as `mvc.kernels.eager.signature` has it.
    """

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self._plan, self._device = plan, device
        self._names = (*plan.given, *plan.new)
        self._new = [(shape, _contiguous_strides(shape), dtype) for shape, dtype in plan.new.values()]
        self._bound: list[_Bound] = []

    def __call__(self, given: Iterable[Tensor | None], *, like: Tensor) -> list[Tensor | None]:
        """Launch on the call's tensors, in the plan's order; gives those and then the new ones, on `like`'s device."""
        tensors = [*given]
        for shape, strides, dtype in self._new:
            tensors.append(like.new_empty_strided(shape, strides, dtype=dtype))
        if self._device.type == "cuda" and self._device.index != torch.cuda.current_device():
            with torch.cuda.device(self._device):  # Triton launches on the current one
                self._launch(tensors)
        else:
            self._launch(tensors)
        return tensors

    def by_name(self, given: Mapping[str, Tensor | None], *, like: Tensor) -> dict[str, Tensor | None]:
        """The same for tensors by name."""
        return dict(zip(self._names, self([given[name] for name in self._plan.given], like=like), strict=True))

    def _launch(self, tensors: list[Tensor | None]) -> None:
        if not self._bound:
            self._bound = self._launch_first(dict(zip(self._names, tensors, strict=True)))
            return
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        for run_kernel, template, pointers in self._bound:
            arguments = template.copy()
            for index, tensor in pointers:
                arguments[index] = addresses[tensor]
            run_kernel(*arguments)

    def _launch_first(self, tensors: dict[str, Tensor | None]) -> list[_Bound]:
        """Launch as Triton does, and keep what it compiled; nothing where it interprets."""
        bound = []
        for launch in self._plan.launches:
            compiled = _call(launch.kernel, launch, tensors)
            if compiled is not None:
                bound.append(self._bind(launch, compiled))
        return bound

    def _bind(self, launch: Launch, compiled: Any) -> _Bound:
        pointers = [
            (index, self._names.index(pointer)) for index, pointer in enumerate(launch.pointers) if pointer is not None
        ]
        constants = [launch.constants[name] for name in launch.kernel.arg_names if name in launch.constants]
        template = [*[None] * len(launch.pointers), *launch.sizes, *constants]
        return _Bound(compiled[(*launch.grid, 1, 1)[:3]], template, pointers)


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
