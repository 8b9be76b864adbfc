"""Where the axes of a tensor lie, seen from another tensor: a walk through views, copies and casts.

The axes of one tensor (the states of a recurrence) get numbers, and every node that the walk meets gets, for each of
its own axes, the numbered axis that it lies along::

    deltaA = exp(delta.unsqueeze(-1) * A)              deltaA (0, 1, 2, 3)
                                                       A      (2, 3)
                                                       delta  (0, 1, 2)

A broadcast axis, of size 1, has no number. Where a tensor is repeated along an axis, as grouped weights are along the
channels, `stride` neighbours of that axis share each of its entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import fx

from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.torch_ops import call
from mvc.passes.torch_private import surely_equal

CASTS = ("to", "float", "double", "half", "bfloat16", "type_as", "type")
COPIES = ("contiguous", "clone")
RESHAPES = ("view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "squeeze")
BROADCASTS = ("expand", "expand_as", "broadcast_to")


class Axis(NamedTuple):
    """A numbered axis; `stride` neighbours along it share one entry."""

    number: int
    stride: int = 1


Axes = tuple["Axis | None", ...]


class Term(NamedTuple):
    """A node and where its axes lie; None for an axis that is broadcast."""

    node: fx.Node
    axes: Axes

    @property
    def numbers(self) -> set[int]:
        return {axis.number for axis in self.axes if axis is not None}

    def has(self, number: int) -> bool:
        return number in self.numbers


class Indexing(NamedTuple):
    """How the axes of a view come from those of its input: `sources` for each axis of the view, None for a new one;
    `picked`, by axis of the input, the index whose entry alone is left."""

    input: fx.Node
    sources: tuple[int | None, ...]
    picked: dict[int, int]


def is_one(size: int | torch.SymInt) -> bool:
    return isinstance(size, int) and size == 1


def is_tensor(node: object) -> bool:
    return isinstance(node, fx.Node) and shape(node) is not None


def indexing(node: fx.Node) -> Indexing | None:
    """The node as a view or copy that moves, adds, drops or broadcasts axes, or picks an entry; None for others."""
    known = call(node)
    source = known.args.get("input") if known else None
    if not (is_tensor(node) and is_tensor(source)) or value(node).dtype != value(source).dtype:
        return None
    if known.name in COPIES and set(known.args) <= {"input"}:
        return Indexing(source, tuple(range(len(shape(source)))), {})
    if known.name == "squeeze" and isinstance(known.args.get("dim"), int):
        axis = known.args["dim"] % len(shape(source))
        kept = [each for each in range(len(shape(source))) if each != axis or not is_one(shape(source)[axis])]
        return Indexing(source, tuple(kept), {})
    if known.name in RESHAPES:
        return _reshaped(source, node)
    if known.name in BROADCASTS:
        return Indexing(source, _broadcast(shape(source), shape(node)), {})
    if known.name in ("getitem", "select", "narrow"):
        return _indexed(source, known.name, known.args)
    order = _order(known.name, known.args, len(shape(source)))
    return None if order is None else Indexing(source, order, {})


def _order(name: str, args: dict, rank: int) -> tuple[int | None, ...] | None:
    """Where the axes of a transposition, or of what adds an axis, come from."""
    order: list[int | None] = list(range(rank))
    if name == "unsqueeze":
        order.insert(args["dim"] % (rank + 1), None)
    elif name == "transpose":
        first, second = args["dim0"], args["dim1"]
        order[first], order[second] = order[second], order[first]
    elif name == "mT" or (name == "t" and rank == 2):
        order[-1], order[-2] = order[-2], order[-1]
    elif name == "numpy_T":
        order.reverse()
    elif name == "permute":
        order = [axis % rank for axis in args["dims"]]
    elif name == "movedim" and isinstance(args["source"], int):
        order.insert(args["destination"] % rank, order.pop(args["source"] % rank))
    elif name != "t":
        return None
    return tuple(order)


def _reshaped(source: fx.Node, node: fx.Node) -> Indexing | None:
    """A reshape that does no more than add and drop axes of size 1."""
    old, new = list(enumerate(shape(source))), list(shape(node))
    sources: list[int | None] = []
    while old or new:
        if old and new and surely_equal(old[0][1], new[0]):
            sources.append(old.pop(0)[0])
            new.pop(0)
        elif new and is_one(new[0]):
            sources.append(None)
            new.pop(0)
        elif old and is_one(old[0][1]):
            old.pop(0)
        else:
            return None
    return Indexing(source, tuple(sources), {})


def _broadcast(old: torch.Size, new: torch.Size) -> tuple[int | None, ...]:
    ahead = len(new) - len(old)
    return tuple(
        axis - ahead if axis >= ahead and (is_one(size) or not is_one(old[axis - ahead])) else None
        for axis, size in enumerate(new)
    )


def _indexed(source: fx.Node, name: str, args: dict) -> Indexing | None:
    sizes = shape(source)
    if name == "getitem":
        index = args["index"] if isinstance(args["index"], tuple) else (args["index"],)
    else:
        axis = args["dim"] % len(sizes)
        start = args["index"] if name == "select" else args["start"]
        stop = None if name == "select" else args["length"]
        if not all(isinstance(number, int) for number in (start, stop or 0)):
            return None
        item = start if stop is None else slice(start, start + stop)
        index = (slice(None),) * axis + (item,)
    if index.count(Ellipsis) > 1:
        return None
    items = iter(_without_ellipsis(index, len(sizes)))
    sources: list[int | None] = []
    picked: dict[int, int] = {}
    axis = 0
    for item in items:
        if item is None:
            sources.append(None)
            continue
        if isinstance(item, bool) or not isinstance(item, (int, slice)):
            return None
        entry = item if isinstance(item, int) else _entries(item, sizes[axis])
        if entry is None:
            return None
        if isinstance(entry, int):
            picked[axis] = entry
            if isinstance(item, slice):
                sources.append(None)
        else:
            sources.append(axis)
        axis += 1
    return Indexing(source, tuple(sources), picked)


def _without_ellipsis(index: tuple, rank: int) -> tuple:
    """The index with a slice for every axis that it does not name."""
    named = sum(item is not None and item is not Ellipsis for item in index)
    rest = (slice(None),) * (rank - named)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        return index[:at] + rest + index[at + 1 :]
    return index + rest


def _entries(part: slice, size: int | torch.SymInt) -> int | slice | None:
    """The one entry that the slice keeps of an axis, the slice itself if it keeps all, None for others."""
    if part == slice(None) or (part.start in (None, 0) and part.step in (None, 1) and surely_equal(part.stop, size)):
        return part
    bounds = (part.start, part.stop, part.step)
    if not isinstance(size, int) or not all(bound is None or isinstance(bound, int) for bound in bounds):
        return None
    kept = range(*part.indices(size))
    if kept == range(size):
        return part
    return kept[0] if len(kept) == 1 else None


def is_cast(node: fx.Node) -> bool:
    """Whether the node is its input in another floating-point type, on the same device."""
    known = call(node)
    source = known.args.get("input") if known and known.name in CASTS else None
    if not (is_tensor(node) and is_tensor(source)):
        return False
    old, new = value(source), value(node)
    return old.is_floating_point() and new.is_floating_point() and old.device == new.device


def is_exact_cast(node: fx.Node) -> bool:
    """Whether it is a cast that loses nothing, be it because an earlier cast was the other way."""
    if not is_cast(node):
        return False
    source, dtype = call(node).args["input"], value(node).dtype
    while not _holds(dtype, value(source).dtype) and is_exact_cast(source):
        source = call(source).args["input"]
    return _holds(dtype, value(source).dtype)


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    return torch.promote_types(wide, narrow) == wide


def steps_back(term: Term, *, rounding: bool = False) -> Iterator[Term]:
    """The term, then what its node is a view, a copy, a repetition or an exact cast of, and so on.

    Args:
        rounding: look through casts that round, too.
    """
    while term is not None:
        yield term
        term = _step_back(term, rounding)


def _step_back(term: Term, rounding: bool) -> Term | None:
    node = term.node
    if is_cast(node) and (rounding or is_exact_cast(node)):
        return Term(call(node).args["input"], term.axes)
    found = indexing(node)
    if found is None:
        return _ungrouped(term)
    sizes = shape(found.input)
    if not all(is_one(sizes[axis]) for axis in found.picked):
        return None
    axes: list[Axis | None] = [None] * len(sizes)
    for axis, source in zip(term.axes, found.sources, strict=True):
        if source is not None:
            axes[source] = axis
    return Term(found.input, tuple(axes))


def _ungrouped(term: Term) -> Term | None:
    """What a `repeat_interleave`, or a reshape that joins axes, was made from."""
    known = call(term.node)
    source = known.args.get("input") if known else None
    if not is_tensor(source) or value(source).dtype != value(term.node).dtype:
        return None
    if known.name in RESHAPES:
        axes = _split(term, shape(source))
        return None if axes is None else Term(source, axes)
    repeats, dim = known.args.get("repeats"), known.args.get("dim")
    if known.name != "repeat_interleave" or not isinstance(repeats, int) or not isinstance(dim, int):
        return None
    axes = list(term.axes)
    if axes[dim] is not None:
        axes[dim] = Axis(axes[dim].number, axes[dim].stride * repeats)
    return Term(source, tuple(axes))


def _split(term: Term, old: torch.Size) -> Axes | None:
    """The axes ahead of a reshape that joins neighbouring axes, each of a known size."""
    rest = list(old)
    axes: list[Axis | None] = []
    for size, axis in zip(shape(term.node), term.axes, strict=True):
        part = [rest.pop(0)] if rest else []
        while rest and not surely_equal(math.prod(part), size):
            part.append(rest.pop(0))
        if not part or not surely_equal(math.prod(part), size):
            return None
        if len(part) > 1 and not all(isinstance(each, int) for each in part):
            return None
        for at, each in enumerate(part):
            stride = math.prod(part[at + 1 :])
            axes.append(None if axis is None or is_one(each) else Axis(axis.number, axis.stride * stride))
    return tuple(axes) if all(map(is_one, rest)) else None


def forward(term: Term, user: fx.Node) -> Term | None:
    """A view, copy or cast of the term, with its axes; None for any other user."""
    if is_cast(user) and call(user).args["input"] is term.node:
        return Term(user, term.axes)
    found = indexing(user)
    if found is None or found.input is not term.node or found.picked.keys() & _labelled_axes(term):
        return None
    return Term(user, tuple(None if source is None else term.axes[source] for source in found.sources))


def _labelled_axes(term: Term) -> set[int]:
    return {axis for axis, label in enumerate(term.axes) if label is not None}


def pick(term: Term, user: fx.Node, number: int) -> tuple[Term, int] | None:
    """The user as one entry of the numbered axis: what is left, and which entry; None for any other user."""
    found = indexing(user)
    if found is None or found.input is not term.node:
        return None
    picked = [axis for axis in found.picked if term.axes[axis] is not None]
    if len(picked) != 1 or term.axes[picked[0]].number != number:
        return None
    axes = tuple(None if source is None else term.axes[source] for source in found.sources)
    return Term(user, axes), found.picked[picked[0]]


def is_labelled(term: Term) -> bool:
    """Whether every axis that is more than a broadcast lies along a numbered one, none along the same."""
    sizes = shape(term.node)
    known = all(axis is not None or is_one(size) for axis, size in zip(term.axes, sizes, strict=True))
    numbers = [axis.number for axis in term.axes if axis is not None]
    return known and len(set(numbers)) == len(numbers)


def aligned(node: fx.Node, axes: Axes) -> Term:
    """A node that is broadcast to axes, the last to the last."""
    return Term(node, axes[len(axes) - len(shape(node)) :])
