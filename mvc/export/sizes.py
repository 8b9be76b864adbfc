"""Which sizes of a program's inputs are free, and within which range."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mvc.arguments import is_whole, require
from mvc.errors import UserError

Range = tuple[int, int]

# By name, the axis that may be free and the number of axes of the inputs that have it; None where any does.
AXES: dict[str, tuple[int, int | None]] = {"batch": (0, None), "length": (1, 3), "height": (2, 4), "width": (3, 4)}
_DYNAMO_SIZE = re.compile(r"L\['\w+'\](\[\d+\])?\.size\(\)\[(?P<axis>\d+)\]")
USUAL = {"batch": (1, 64)}  # what "batch" stands for


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The free sizes of a program.

    Attributes:
        ranges: by name of the axis, the least and the largest size; axes that are missing have the example's size.
    """

    ranges: Mapping[str, Range]

    @classmethod
    def parse(cls, dynamic: object) -> Sizes:
        """What the argument `dynamic` of `mvc.export_model` asks for.

        Raises:
            UserError: a value that names no axis, or no range.
        """
        wanted = f'None, "batch", or ranges as {{"batch": (1, 64)}} for {", ".join(AXES)}'
        if dynamic is None:
            return cls({})
        if dynamic == "batch":
            return cls(USUAL)
        require(isinstance(dynamic, Mapping), "dynamic", dynamic, wanted)
        for name, limits in dynamic.items():
            require(isinstance(name, str) and name in AXES, "an axis of dynamic", name, f"one of {', '.join(AXES)}")
            fits = isinstance(limits, Sequence) and len(limits) == 2 and all(is_whole(each, 1) for each in limits)
            require(fits, f"dynamic[{name!r}]", limits, "the least and the largest size, each at least 1")
            require(limits[0] <= limits[1], f"dynamic[{name!r}]", limits, "a range whose first size is not the larger")
        return cls({name: (limits[0], limits[1]) for name, limits in dynamic.items()})

    def free(self, tensor: Tensor) -> Iterator[tuple[str, int, Range]]:
        """The name, the axis and the range of each free size of an input."""
        for name, limits in self.ranges.items():
            axis, rank = AXES[name]
            if limits[0] < limits[1] and axis < tensor.dim() and rank in (None, tensor.dim()):
                yield name, axis, limits

    def check(self, example: Sequence[Tensor]) -> None:
        """Raise UserError where an input's size is out of its range, or where no input has an axis."""
        for name, (low, high) in self.ranges.items():
            axis, rank = AXES[name]
            sizes = [x.shape[axis] for x in example if axis < x.dim() and rank in (None, x.dim())]
            if not sizes:
                raise UserError(f"dynamic names {name!r}, and no input of example has such an axis; leave it out")
            if not all(low <= size <= high for size in sizes):
                seen = next(size for size in sizes if not low <= size <= high)
                raise UserError(f"the {name} of example is {seen}, outside of the range {low}:{high} in dynamic")

    def traceable(self, example: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The example, with a free batch of 1 doubled: torch takes a size of 1 for one that never varies."""
        return tuple(self._traceable(x) for x in example)

    def _traceable(self, x: Tensor) -> Tensor:
        for _, axis, _ in self.free(x):
            if x.shape[axis] == 1:
                x = torch.cat((x, x), dim=axis)
        return x

    def ones(self, example: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """The example with all free sizes that may be 1 at 1, and then with each of them alone."""
        names = [name for name, (low, high) in self.ranges.items() if low == 1 < high]
        for chosen in dict.fromkeys([tuple(names), *((name,) for name in names)]):
            if chosen:
                yield tuple(self._first(x, chosen) for x in example)

    def _first(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """x, its first index along the axes of these names."""
        for name, axis, _ in self.free(x):
            x = x.narrow(axis, 0, 1) if name in names else x
        return x

    def dims(self, example: Sequence[Tensor]) -> tuple[dict[int, Any], ...]:
        """The `dynamic_shapes` of `torch.export.export`, one entry for each input."""
        free = {name: limits for x in example for name, _, limits in self.free(x)}
        named = {name: torch.export.Dim(name, min=low, max=high) for name, (low, high) in free.items()}
        return tuple({axis: named[name] for name, axis, _ in self.free(x)} for x in example)

    def described(self, example: Sequence[Tensor]) -> str:
        """The sizes of the inputs as a package records them, such as "1:64 3 224 224", with "; " between inputs."""
        return "; ".join(" ".join(self._shape(x)) for x in example)

    def _shape(self, x: Tensor) -> list[str]:
        shape = [str(size) for size in x.shape]
        for _, axis, (low, high) in self.free(x):
            shape[axis] = f"{low}:{high}"
        return shape


class OutOfRange(UserError):
    """A model that does not serve its range by one program."""


def outside(reason: str, sizes: Sizes) -> OutOfRange:
    """The error of a program that does not serve its range."""
    asked = ", ".join(f"{name} {low}:{high}" for name, (low, high) in sizes.ranges.items())
    axes = {str(AXES[name][0]): name for name in sizes.ranges}
    named = _DYNAMO_SIZE.sub(lambda found: axes.get(found["axis"], found[0]), reason).rstrip(".")
    said = f"the model cannot serve {asked} by one program: {named}"
    return OutOfRange(f"{said}; narrow dynamic, or set it to None")
