"""What the steps of a loop take of a tensor: one slice each, one place after the other, however they are spelled."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import fx

from mvc.passes.graph.fx_utils import insert, shape
from mvc.passes.graph.views import selection
from mvc.passes.raising.layouts import move


@dataclasses.dataclass(frozen=True)
class Slices:
    """One slice of a tensor for each step: `tensor[template]` has them all, along axis `dim` of that."""

    tensor: fx.Node
    template: tuple[Any, ...]
    dim: int
    keeps_axis: bool
    descending: bool

    def whole(self, graph: fx.Graph) -> fx.Node:
        """All slices in the order of their indices, time first."""
        full = all(each == slice(None) for each in self.template)
        whole = self.tensor if full else insert(graph, operator.getitem, self.tensor, self.template)
        whole = move(graph, whole, self.dim, 0)
        return insert(graph, torch.unsqueeze, whole, self.dim + 1) if self.keeps_axis else whole


def slices(column: Sequence[Any]) -> Slices | None:
    """The tensor of which the nodes of a column are the slices, one place after the other."""
    slices = [_slice_of(node) for node in column]
    if any(each is None for each in slices):
        return None
    first, second, *_ = slices
    step = second.start - first.start
    if step not in (1, -1):
        return None
    if any(each != first._replace(start=first.start + step * t) for t, each in enumerate(slices)):
        return None
    lowest, size = min(first.start, slices[-1].start), len(column)
    index, hole = list(first.template), first.hole
    index[hole] = slice(None) if (lowest, size) == (0, first.size) else slice(lowest, lowest + size)
    return Slices(first.tensor, tuple(index), first.dim, first.keeps_axis, step == -1)


class _Slice(NamedTuple):
    """One place along an axis of a tensor.

    Attributes:
        template: the index that selects it, with a hole for the place.
        size: of the axis.
        dim: the axis of what is taken, were it all of the places.
        keeps_axis: whether the axis stays, of size 1.
    """

    tensor: fx.Node
    template: tuple[Any, ...]
    hole: int
    size: int | torch.SymInt
    dim: int
    start: int
    keeps_axis: bool


def _slice_of(node: Any) -> _Slice | None:
    """The node as an index with one number, or one slice of width 1, whose other parts take whole axes or parts of
    them, or add new ones."""
    chosen = selection(node) if isinstance(node, fx.Node) else None
    if chosen is None:
        return None
    index = chosen.index
    holes = [place for place, each in enumerate(index) if isinstance(each, int)]
    keeps_axis = not holes
    if keeps_axis:
        holes = [place for place, each in enumerate(index) if isinstance(each, slice) and _width(each) == 1]
    if len(holes) != 1:
        return None
    (hole,) = holes
    start = index[hole].start if keeps_axis else index[hole]
    size = shape(chosen.input)[chosen.parts[hole].axis]
    start = start % size if start < 0 and isinstance(size, int) else start
    template = (*index[:hole], None, *index[hole + 1 :])
    return _Slice(chosen.input, template, hole, size, chosen.axis(hole), start, keeps_axis)


def _width(each: slice) -> int | None:
    ends = each.start, each.stop
    if each.step in (None, 1) and all(isinstance(end, int) for end in ends):
        return ends[1] - ends[0]
    return None
