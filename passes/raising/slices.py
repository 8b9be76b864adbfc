"""What the steps of a loop take of a tensor: one slice each, at even distances, however they are spelled.

The first and the last step may take something else: the state before each step is one of those after the steps, or the
one that the loop starts from.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import fx

from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.memory import same_kind
from mvc.passes.graph.views import is_tensor, selection
from mvc.passes.raising.layouts import move

MOST_APART = 2  # steps at either end that take something else


@dataclasses.dataclass(frozen=True)
class Slices:
    """One slice of a tensor for each step: `tensor[template]` has them all, along axis `dim` of that.

    `before` and `after` are what the first and the last steps take instead, in the order of the steps.
    """

    tensor: fx.Node
    template: tuple[Any, ...]
    dim: int
    keeps_axis: bool
    descending: bool
    before: tuple[fx.Node, ...] = ()
    after: tuple[fx.Node, ...] = ()

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """What it is made of."""
        return (self.tensor, *self.before, *self.after)

    def whole(self, graph: fx.Graph) -> fx.Node:
        """All slices in the order of their indices, time first."""
        full = all(each == slice(None) for each in self.template)
        whole = self.tensor if full else insert(graph, operator.getitem, self.tensor, self.template)
        whole = move(graph, whole, self.dim, 0)
        whole = insert(graph, torch.unsqueeze, whole, self.dim + 1) if self.keeps_axis else whole
        if not (self.before or self.after):
            return whole
        ahead, behind = (self.after[::-1], self.before[::-1]) if self.descending else (self.before, self.after)
        ahead, behind = ([insert(graph, torch.unsqueeze, each, 0) for each in ends] for ends in (ahead, behind))
        return insert(graph, torch.cat, [*ahead, whole, *behind], 0)


def slices(column: Sequence[Any]) -> Slices | None:
    """The tensor of which the nodes of a column are the slices, at even distances."""
    start, stop, step = _even_part(column)
    before, after = tuple(column[:start]), tuple(column[stop:])
    if step == 0 or max(len(before), len(after)) > MOST_APART:
        return None
    if not all(_is_like(each, column[start]) for each in (*before, *after)):
        return None
    first, last = _slice_of(column[start]), _slice_of(column[stop - 1])
    lowest, highest = sorted((first.start, last.start))
    if lowest < 0 <= highest:
        return None
    index, hole = list(first.template), first.hole
    whole = (lowest, highest + 1, abs(step)) == (0, first.size, 1)
    end = None if highest == -1 else highest + 1
    index[hole] = slice(None) if whole else slice(lowest, end, None if abs(step) == 1 else abs(step))
    return Slices(first.tensor, tuple(index), first.dim, first.keeps_axis, step < 0, before, after)


def breaks_of(column: Sequence[Any]) -> list[int]:
    """Where slices of tensors do not go on as they go in the midst of the column; none where some are no slices."""
    places = []
    for node in column:
        if (place := _slice_of(node)) is None:
            return []
        places.append(place)
    step = _even_part(column)[2]
    return [t for t, pair in enumerate(itertools.pairwise(places), 1) if _step(*pair) != step]


def _even_part(column: Sequence[Any]) -> tuple[int, int, int]:
    """From where to where slices in the midst are at even distances, and those; 0 where they are at none."""
    start = (len(column) - 1) // 2
    first, last = map(_slice_of, column[start : start + 2])
    stop, step = start + 2, _step(first, last)
    if step == 0:
        return start, stop, step
    while start > 0 and _step(earlier := _slice_of(column[start - 1]), first) == step:
        start, first = start - 1, earlier
    while stop < len(column) and _step(last, later := _slice_of(column[stop])) == step:
        stop, last = stop + 1, later
    return start, stop, step


def _step(one: _Slice | None, other: _Slice | None) -> int:
    """By how many places the next slice is further along; 0 where it is of something else, or at the same place."""
    if one is None or other is None or other._replace(start=one.start) != one:
        return 0
    return other.start - one.start


def _is_like(node: Any, piece: fx.Node) -> bool:
    """Whether a node could be one more of the slices."""
    return is_tensor(node) and same_kind(value(node), value(piece))


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
