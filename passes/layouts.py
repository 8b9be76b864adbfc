"""Puts a linear recurrence into a graph in the layout that its sequences had before they were moved for the scan.

Before::                                    After::

    a1 = flip(movedim(a, 1, 0), [0])
    b1 = flip(movedim(b, 1, 0), [0])
    states = <scan of a1, b1 along 0>
    h = movedim(states.flip([0]), 0, 1)         h = mvc.linear_recurrence(a, b, None, 1, True)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from mvc.kernels import recurrence  # noqa: F401  registers mvc::linear_recurrence
from mvc.passes.axes import indexing
from mvc.passes.fx_utils import insert, shape, value
from mvc.passes.modular import is_movement
from mvc.passes.torch_ops import call
from torch import fx


class Layout(NamedTuple):
    """How a tensor lies, seen from another: the other's axis for each of its own, and whether time is reversed."""

    order: tuple[int, ...]
    flipped: bool = False

    def then(self, move: Layout) -> Layout:
        """The layout of what is moved once more."""
        return Layout(tuple(self.order[axis] for axis in move.order), self.flipped != move.flipped)


def put_recurrence(old: fx.Node, a: fx.Node, b: fx.Node, dim: int, *, reverse: bool) -> None:
    """Replace `old`, the states h_t = a_t h_{t-1} + b_t along `dim`, by one op ahead of it."""
    graph = old.graph
    a, b, layout = _unmoved(a, b, dim)
    axis = layout.order[dim]
    with graph.inserting_before(old):
        states = insert(graph, torch.ops.mvc.linear_recurrence.default, a, b, None, axis, reverse != layout.flipped)
        states.meta["stack_trace"] = old.meta.get("stack_trace")
        if value(states).dtype != value(old).dtype:
            states = insert(graph, "to", states, value(old).dtype)
    replace_moved(old, states, layout, axis)


def replace_moved(old: fx.Node, new: fx.Node, layout: Layout, dim: int) -> None:
    """Replace `old`, which is `new` in that layout, where `dim` is the axis of time in `new`.

    Users that only move it are replaced with it, as far as the moves cancel out.
    """
    plain = Layout(tuple(range(len(layout.order))))
    pending = [(old, layout)]
    while pending:
        node, layout = pending.pop()
        if layout == plain:
            _replace(node, new)
            continue
        for user in list(node.users):
            move = _move(user, layout.order.index(dim))
            if move is not None:
                pending.append((user, layout.then(move)))
        if any(_move(user, layout.order.index(dim)) is None for user in node.users):
            with node.graph.inserting_before(node):
                moved = insert(node.graph, torch.permute, new, layout.order) if layout.order != plain.order else new
                moved = insert(node.graph, torch.flip, moved, [layout.order.index(dim)]) if layout.flipped else moved
            for user in list(node.users):
                if _move(user, layout.order.index(dim)) is None:
                    _reshape_views([user])
                    user.replace_input_with(node, moved)


def _replace(node: fx.Node, new: fx.Node) -> None:
    _reshape_views(node.users)
    node.replace_all_uses_with(new)


def _reshape_views(users: Iterable[fx.Node]) -> None:
    """Views of what is moved: its strides are no longer those that a view was possible with."""
    pending = list(users)
    while pending:
        user = pending.pop()
        if user.op == "call_method" and user.target == "view":
            user.target = "reshape"
        if is_movement(user):
            pending += user.users


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
    if known is None or known.name not in ("transpose", "permute", "movedim"):
        return None
    found = indexing(node)
    return None if found is None else Layout(found.sources)
