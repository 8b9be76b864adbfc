"""Puts a linear recurrence into a graph in the layout that its sequences had before they were moved for the scan.

Before::                                    After::

    a1 = flip(movedim(a, 1, 0), [0])
    b1 = flip(movedim(b, 1, 0), [0])
    states = <scan of a1, b1 along 0>
    h = movedim(states.flip([0]), 0, 1)         h = mvc.linear_recurrence(a, b, None, 1, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import fx

from mvc.kernels.recurrence import api as recurrence  # noqa: F401  registers mvc::linear_recurrence
from mvc.kernels.recurrence.checks import check_kinds
from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.memory import memory_order
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import MOVEMENTS, Kind, call, is_kind
from mvc.passes.graph.views import axis_order


class Layout(NamedTuple):
    """How a tensor lies, seen from another: the other's axis for each of its own, and whether time is reversed."""

    order: tuple[int, ...]
    flipped: bool = False

    def then(self, move: Layout) -> Layout:
        """The layout of what is moved once more."""
        return Layout(tuple(self.order[axis] for axis in move.order), self.flipped != move.flipped)


def put_recurrence(
    surroundings: Surroundings, old: fx.Node, a: fx.Node, b: fx.Node, dim: int, *, reverse: bool
) -> None:
    """Replace `old`, the states h_t = a_t h_{t-1} + b_t along `dim`, by one op before it.

    Raises:
        Declined: the program would see it.
    """
    a, b, layout = _unmoved(a, b, dim)
    axis = layout.order[dim]
    reverse = reverse != layout.flipped
    with surroundings.at(old):
        a = surroundings.kept(a) if value(old).requires_grad else a
        pairs = moved_pairs(old, _recurrence(old, a, b, axis, reverse), layout, axis)
        if any(surroundings.strides_matter(each, value(new)) for each, new in pairs.items()):
            order = [layout.order[axis] for axis in memory_order(value(old))]
            pairs = moved_pairs(old, _recurrence(old, a, b, axis, reverse, order), layout, axis)
        surroundings.replace(pairs)


def _recurrence(
    old: fx.Node, a: fx.Node, b: fx.Node, dim: int, reverse: bool, order: Sequence[int] | None = None
) -> fx.Node:
    """The states in the dtype of `old`; in memory their axes lie in that order."""
    graph, plain = old.graph, list(range(len(shape(a))))
    order = plain if order is None else order
    if order != plain:
        a, b = (insert(graph, torch.permute, each, order) for each in (a, b))
    states = insert_recurrence(graph, a, b, None, order.index(dim), reverse=reverse)
    states.meta["stack_trace"] = old.meta.get("stack_trace")
    if value(states).dtype != value(old).dtype:
        states = insert(graph, "to", states, value(old).dtype)
    return states if order == plain else insert(graph, torch.permute, states, [order.index(axis) for axis in plain])


def insert_recurrence(
    graph: fx.Graph, a: fx.Node, b: fx.Node, initial: fx.Node | None, dim: int, *, reverse: bool
) -> fx.Node:
    """All states of h_t = a_t h_{t-1} + b_t along an axis.

    Raises:
        Declined: they are of a kind that the op does not compute, whole numbers say.
    """
    try:
        check_kinds(value(a), value(b), None if initial is None else value(initial), dim)
    except (TypeError, ValueError) as error:
        raise Declined(f"the op for it does not take its tensors: {error}") from error
    return insert(graph, torch.ops.mvc.linear_recurrence.default, a, b, initial, dim, reverse)


def moved_pairs(old: fx.Node, new: fx.Node, layout: Layout, dim: int) -> dict[fx.Node, fx.Node]:
    """What takes the place of `old`, which is `new` in that layout, where `dim` is the axis of time in `new`; new nodes
    are inserted at the graph's insertion point.

    Users that only move it are replaced with it, as far as the moves cancel out.
    """
    plain = Layout(tuple(range(len(layout.order))))
    pairs: dict[fx.Node, fx.Node] = {}
    pending = [(old, layout)]
    while pending:
        node, layout = pending.pop()
        moves = {} if layout == plain else {user: _move(user, layout.order.index(dim)) for user in node.users}
        pending += [(user, layout.then(move)) for user, move in moves.items() if move is not None]
        if layout == plain:
            pairs[node] = new
        elif None in moves.values():
            moved = insert(node.graph, torch.permute, new, layout.order) if layout.order != plain.order else new
            moved = insert(node.graph, torch.flip, moved, [layout.order.index(dim)]) if layout.flipped else moved
            pairs[node] = moved
    return pairs


def erase_unused(nodes: list[fx.Node]) -> None:
    """Erase those without users, with the moves of them that have none."""
    for node in nodes:
        for user in [*node.users]:
            if is_kind(user, *MOVEMENTS):
                erase_unused([user])
        if not node.users:
            node.graph.erase_node(node)


def move(graph: fx.Graph, tensor: fx.Node, source: int, destination: int) -> fx.Node:
    """The tensor with one axis moved, for which nothing is inserted where that undoes the last move."""
    known = call(tensor)
    if source == destination:
        return tensor
    if known is not None and known.name == "movedim" and tensor.args[1:] == (destination, source):
        return known.args["input"]
    return insert(graph, torch.movedim, tensor, source, destination)


def _unmoved(a: fx.Node, b: fx.Node, dim: int) -> tuple[fx.Node, fx.Node, Layout]:
    """What both were before the moves that they share, and their layout seen from there."""
    layout = Layout(tuple(range(len(shape(a)))))
    while True:
        moves = _move(a, dim), _move(b, dim)
        if moves[0] is None or moves[0] != moves[1]:
            return a, b, layout
        layout = moves[0].then(layout)
        dim = moves[0].order[dim]
        a, b = call(a).args["input"], call(b).args["input"]


def _move(node: fx.Node, dim: int) -> Layout | None:
    """A transposition of any kind, or a flip along `dim`."""
    known = call(node)
    if known is not None and known.name == "flip":
        dims = known.args.get("dims")
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        rank = len(shape(node))
        return Layout(tuple(range(rank)), True) if [each % rank for each in dims] == [dim] else None
    return Layout(axis_order(node)) if known is not None and known.kind is Kind.PERMUTATION else None
