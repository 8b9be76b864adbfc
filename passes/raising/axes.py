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

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import fx

from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.torch_ops import Kind, call
from mvc.passes.graph.views import is_cast, is_exact_cast, is_one, is_tensor, is_whole, regrouped, view_of


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
    found = view_of(node)
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
    if known.kind is Kind.RESHAPE:
        axes = _parted(term, shape(source))
        return None if axes is None else Term(source, axes)
    repeats, dim = known.args.get("repeats"), known.args.get("dim")
    if known.name != "repeat_interleave" or not isinstance(repeats, int) or not isinstance(dim, int):
        return None
    axes = list(term.axes)
    if axes[dim] is not None:
        axes[dim] = Axis(axes[dim].number, axes[dim].stride * repeats)
    return Term(source, tuple(axes))


def _parted(term: Term, sizes: torch.Size) -> Axes | None:
    """The axes before a reshape that joins neighbouring axes, each of a known size."""
    made_of = regrouped(sizes, shape(term.node))
    if made_of is None or not all(is_whole(pieces, sizes) for pieces in made_of):
        return None
    axes: list[Axis | None] = [None] * len(sizes)
    for axis, pieces in zip(term.axes, made_of, strict=True):
        if len(pieces) > 1 and not all(isinstance(piece.size, int) for piece in pieces):
            return None
        stride = 1
        for piece in reversed(pieces):
            if axis is not None and not is_one(piece.size):
                axes[piece.axis] = Axis(axis.number, axis.stride * stride)
            stride *= piece.size
    return tuple(axes)


def forward(term: Term, user: fx.Node) -> Term | None:
    """A view, copy or cast of the term, with its axes; None for any other user."""
    if is_cast(user) and call(user).args["input"] is term.node:
        return Term(user, term.axes)
    found = view_of(user)
    if found is None or found.input is not term.node or found.picked.keys() & _labelled_axes(term):
        return None
    return Term(user, tuple(None if source is None else term.axes[source] for source in found.sources))


def _labelled_axes(term: Term) -> set[int]:
    return {axis for axis, label in enumerate(term.axes) if label is not None}


def pick(term: Term, user: fx.Node, number: int) -> tuple[Term, int] | None:
    """The user as one entry of the numbered axis: what is left, and which entry; None for any other user."""
    found = view_of(user)
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
