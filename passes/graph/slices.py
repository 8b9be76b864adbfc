"""What the steps of a loop take of a tensor: one slice each, one place after the other, however they are spelled."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from mvc.passes.graph.fx_utils import insert, shape
from mvc.passes.graph.torch_ops import call
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
        full = all(each == slice(None) for each in self.template if each is not Ellipsis)
        whole = self.tensor if full else insert(graph, operator.getitem, self.tensor, self.template)
        whole = move(graph, whole, self.dim, 0)
        return insert(graph, torch.unsqueeze, whole, self.dim + 1) if self.keeps_axis else whole


def slices(column: Sequence[Any]) -> Slices | None:
    """The tensor of which the nodes of a column are the slices, one place after the other."""
    slices = [_slice_of(node) for node in column]
    if any(each is None for each in slices):
        return None
    (tensor, template, place, first, width), *others = slices
    step = others[0][3] - first
    for t, other in enumerate(others, start=1):
        if other != (tensor, template, place, first + step * t, width):
            return None
    if step not in (1, -1):
        return None
    lowest, size = min(first, slices[-1][3]), len(column)
    index = list(template)
    axis = _axis_of(template, place, len(shape(tensor)))
    index[place] = slice(None) if (lowest, size) == (0, shape(tensor)[axis]) else slice(lowest, lowest + size)
    return Slices(tensor, tuple(index), _result_axis(index, place, tensor), width, step == -1)


def _slice_of(node: Any) -> tuple[fx.Node, tuple[Any, ...], int, int, bool] | None:
    """(tensor, index with a hole, place of the hole, what stands there, whether the axis stays) of a slice."""
    known = call(node) if isinstance(node, fx.Node) else None
    if known is None:
        return None
    tensor = known.args.get("input")
    if known.name == "select":
        return _slice_along(tensor, known.args["dim"], known.args["index"], keeps_axis=False)
    if known.name != "getitem" or not isinstance(tensor, fx.Node):
        return None
    index = known.args["index"]
    if shape(tensor) is None:  # a piece of an unbind, or of a split into single places
        pieces = call(tensor)
        if pieces is None or pieces.name not in ("unbind", "split", "chunk") or not isinstance(index, int):
            return None
        dim = pieces.args.get("dim", 0)
        keeps_axis = pieces.name != "unbind"
        if keeps_axis and shape(node)[dim] != 1:
            return None
        return _slice_along(pieces.args["input"], dim, index, keeps_axis=keeps_axis)
    return _slice_at(tensor, index if isinstance(index, tuple) else (index,))


def _slice_along(tensor: fx.Node, dim: int, index: Any, *, keeps_axis: bool):
    dim %= len(shape(tensor))
    if not isinstance(index, int):
        return None
    size = shape(tensor)[dim]
    return tensor, (*(slice(None),) * dim, None), dim, index % size if index < 0 else index, keeps_axis


def _slice_at(tensor: fx.Node, index: tuple[Any, ...]):
    """The one number, or slice of width 1, in the index; the other places take whole axes or add new ones."""
    if not all(each is None or each is Ellipsis or isinstance(each, (int, slice)) for each in index):
        return None
    holes = [place for place, each in enumerate(index) if isinstance(each, int)]
    keeps_axis = not holes
    if keeps_axis:
        holes = [place for place, each in enumerate(index) if isinstance(each, slice) and _width(each) == 1]
    if len(holes) != 1:
        return None
    (place,) = holes
    start = index[place].start if keeps_axis else index[place]
    size = shape(tensor)[_axis_of(index, place, len(shape(tensor)))]
    start = start % size if start < 0 and isinstance(size, int) else start
    return tensor, (*index[:place], None, *index[place + 1 :]), place, start, keeps_axis


def _width(each: slice) -> int | None:
    ends = each.start, each.stop
    if each.step in (None, 1) and all(isinstance(end, int) for end in ends):
        return ends[1] - ends[0]
    return None


def _axis_of(index: Sequence[Any], place: int, rank: int) -> int:
    """The axis of the tensor that a place of an index selects from."""
    taking = [each is not None or at == place for at, each in enumerate(index)]
    if any(each is Ellipsis for each in index[:place]):
        return rank - sum(taking[place:])
    return sum(taking[:place])


def _result_axis(index: Sequence[Any], place: int, tensor: fx.Node) -> int:
    """The axis of `tensor[index]` that a place of the index, a slice there, gives."""
    if any(each is Ellipsis for each in index[:place]):
        rank = len(shape(tensor)) + sum(each is None for each in index)
        return rank - len(index[place:])
    return place
