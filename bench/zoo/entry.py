"""One recurrence of others: where it is published, how it is built, and what the passes should make of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

HEADS = 2


class Size(NamedTuple):
    """How large an entry is built; the width is a multiple of `HEADS`, the length of four."""

    batch: int
    length: int
    width: int
    states: int


SMALL = Size(2, 8, 4, 3)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A small layer or model with a recurrence, spelled as its public code spells it, with random weights.

    Attributes:
        source: the paper and the repository of the formula and of its spelling.
        build: a module, or a function, of a size.
        inputs: its arguments; those in floating point get gradients.
        recurrences: how many of them the passes should raise at least; None where leaving them is as right.
        cause: what a reason must match where nothing is raised, as a regular expression; "" where there is no loop.
        learns: whether autograd can go through it, which not every write in place allows.
        needs: the package that it is imported from; "" for what is written here.
    """

    name: str
    source: str
    build: Callable[[Size], Callable[..., Any]]
    inputs: Callable[[Size], tuple[Tensor, ...]]
    recurrences: int | None = 1
    cause: str = ""
    learns: bool = True
    needs: str = ""

    @property
    def has_loop(self) -> bool:
        """Whether it has what a pass should raise, or say why not."""
        return bool(self.recurrences or self.cause)

    def example(self, size: Size, device: torch.device | None = None) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
        """The callable and its arguments, the same in every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            run, inputs = self.build(size), self.inputs(size)
        if isinstance(run, torch.nn.Module):
            run = run.to(device)
        return run, tuple(each.to(device) for each in inputs)


def published(name: str, source: str, inputs: Callable[[Size], tuple[Tensor, ...]], **expected: Any) -> Callable:
    """Make an entry of the function or the module's class below; a class is called with the size."""

    def entry(spelling: Callable) -> Entry:
        build = spelling if isinstance(spelling, type) else lambda size: spelling
        return Entry(name, source, build, inputs, **expected)

    return entry


def sequence(size: Size) -> tuple[Tensor]:
    """(batch, length, width)."""
    return (torch.randn(size.batch, size.length, size.width),)


def sequences(count: int) -> Callable[[Size], tuple[Tensor, ...]]:
    return lambda size: tuple(torch.randn(count, *size[:3]).unbind())


def decays(*shape: int) -> Tensor:
    """Factors from 0.5 to 1."""
    return 1 - torch.rand(shape) / 2
