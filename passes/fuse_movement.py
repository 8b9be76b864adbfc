"""Drops data movement that undoes itself.

Before::                                                    After::

    maps = windows.view(-1, 4, 4, 7, 7, C)                      y = linear(windows.reshape(-1, 49, C), w)
    maps = maps.permute(0, 1, 3, 2, 4, 5).contiguous()
    maps = maps.view(-1, 28, 28, C)
    again = maps.view(-1, 4, 7, 4, 7, C)
    again = again.permute(0, 1, 3, 2, 4, 5).contiguous()
    y = linear(again.view(-1, 49, C), w)

A concatenation whose users all permute it alike is made of permuted parts instead, where that may undo a movement of
theirs, and what computes the parts may write them where they are to lie::

    y = linear(cat((u.transpose(1, 2), z), 1).transpose(1, 2), w)
    y = linear(cat((u, z.transpose(1, 2)), -1), w)

Every node that only moves data is followed back through what it moves. Each axis of it is kept as (size, stride) modes
over the elements of an earlier node in their order: a permutation moves axes, a reshape splits and joins modes. Where
all modes join into one of stride 1, the node holds the earlier one's elements in their order, and is replaced by it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.constants import storages
from mvc.passes.fx_utils import insert, shape, value, written_by
from mvc.passes.scan_safety import NEEDS_LAYOUT, NEW_LAYOUT
from mvc.passes.torch_ops import call, name_of
from mvc.passes.torch_private import surely_equal
from torch import fx
from torch.fx.node import map_arg

PERMUTATIONS = ("permute", "transpose", "movedim", "t", "mT", "numpy_T")
RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as")
COPIES = ("contiguous", "clone")
SCANS = ("mvc.selective_scan", "mvc.linear_recurrence")  # they read any strides, and give strides of their own
LONGEST = 32  # movements that are followed back


class Mode(NamedTuple):
    """Elements of the origin, `stride` of them from one to the next."""

    size: int | torch.SymInt
    stride: int | torch.SymInt


Axes = list[list[Mode]]


@dataclasses.dataclass(frozen=True)
class FuseMovement(Pass):
    """Chains of views, permutations and copies that leave all elements where they came from."""

    name: ClassVar[str] = "fuse_movement"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        for node in list(graph.nodes):
            outcome.matches += name_of(node) == "cat" and _permute_parts(node)
        for node in list(graph.nodes):
            if not _is_movement(node) or all(map(_is_movement, node.users)):
                continue
            chain = _chain(node)
            origin = _origin(chain)
            if origin is None:
                reason = _near_miss(chain)
            else:
                reason = _memory_obstacle(origin, node) or _replace(node, origin)
                outcome.matches += reason is None
            if reason is not None:
                outcome.near_misses.append(NearMiss.at(node, reason))
        return outcome


def _permute_parts(node: fx.Node) -> bool:
    """Whether the node was a concatenation that all users permute alike: its parts now are permuted instead."""
    args = call(node).args
    moves = [user for user in node.users if name_of(user) in PERMUTATIONS and call(user).args["input"] is node]
    if not moves or len(moves) < len(node.users) or any(map(_strides_matter, moves)):
        return False
    order = _order(moves[0])
    if any(_order(move) != order for move in moves) or any(len(shape(part)) != len(order) for part in args["tensors"]):
        return False
    with node.graph.inserting_before(node):
        parts = [insert(node.graph, torch.permute, part, order) for part in args["tensors"]]
        new = insert(node.graph, torch.cat, parts, order.index(args.get("dim", 0) % len(order)))
    for move in moves:
        move.replace_all_uses_with(new)
    return True


def _is_movement(node: fx.Node) -> bool:
    known = call(node)
    if known is None or known.name not in (*PERMUTATIONS, *RESHAPES, *COPIES) or "memory_format" in known.args:
        return False
    source = known.args["input"]
    tensors = isinstance(source, fx.Node) and shape(source) is not None and shape(node) is not None
    return tensors and value(node).dtype == value(source).dtype


def _chain(node: fx.Node) -> list[fx.Node]:
    """What the node moves, through all the movements ahead of it: the first is none, the last is the node."""
    chain = [node]
    while _is_movement(chain[0]) and len(chain) <= LONGEST:
        chain.insert(0, call(chain[0]).args["input"])
    return chain


def _origin(chain: Sequence[fx.Node]) -> fx.Node | None:
    """The first node of the chain whose elements the last has in the same order, after others between them had not."""
    for start in range(len(chain) - 2):
        axes, scattered = _plain(shape(chain[start])), False
        for node in chain[start + 1 :]:
            axes = _moved(axes, node)
            if axes is None:
                break
            scattered |= not _is_in_order(axes)
        if axes is not None and scattered and _is_in_order(axes):
            return chain[start]
    return None


def _near_miss(chain: Sequence[fx.Node]) -> str | None:
    """Why a chain that looks as if it moved back what it had moved away does not."""
    if name_of(chain[0]) == "roll" and _origin([*_chain(call(chain[0]).args["input"]), *chain[1:]]):
        return f"{chain[0].name} moves elements in between"
    permutations = [node for node in chain[1:] if name_of(node) in PERMUTATIONS]
    if len(permutations) < 2:
        return None
    there, back = _order(permutations[0]), _order(permutations[-1])
    if len(there) == len(back) > 4 and all(there[axis] == at for at, axis in enumerate(back)):
        return f"{permutations[-1].name} does not undo {permutations[0].name}: the sizes differ"
    return None


def _plain(sizes: torch.Size) -> Axes | None:
    """The axes of the origin; None where it has no elements."""
    if any(surely_equal(size, 0) for size in sizes):
        return None
    return [[Mode(size, math.prod(sizes[axis + 1 :]))] for axis, size in enumerate(sizes)]


def _moved(axes: Axes | None, node: fx.Node) -> Axes | None:
    """The axes of the node, a movement of a tensor with those axes; None where a reshape splits none of their modes."""
    name = name_of(node)
    if axes is None or name in COPIES:
        return axes
    if name in PERMUTATIONS:
        return [axes[axis] for axis in _order(node)]
    return _reshaped(_joined(axes), shape(node))


def _order(node: fx.Node) -> list[int]:
    """For each axis of a permutation that of its input, read off a tensor whose sizes say which is which."""
    source = call(node).args["input"]
    names = torch.empty(tuple(range(1, len(shape(source)) + 1)), device="meta")
    args, kwargs = map_arg((node.args, node.kwargs), lambda each: names if each is source else value(each))
    permute = getattr(torch.Tensor, node.target) if node.op == "call_method" else node.target
    return [size - 1 for size in permute(*args, **kwargs).shape]


def _reshaped(rest: list[Mode], sizes: Sequence[Any]) -> Axes | None:
    """The modes dealt out to axes of those sizes, from the last to the first."""
    axes: Axes = []
    for size in reversed(sizes):
        axis: list[Mode] = []
        while not surely_equal(size, 1):
            if not rest:
                return None
            mode = rest.pop()
            if surely_equal(size % mode.size, 0):
                axis.insert(0, mode)
                size = size // mode.size
            elif surely_equal(mode.size % size, 0):
                axis.insert(0, Mode(size, mode.stride))
                rest.append(Mode(mode.size // size, mode.stride * size))
                size = 1
            else:
                return None
        axes.insert(0, axis)
    return None if rest else axes


def _joined(axes: Axes) -> list[Mode]:
    """All modes in order, neighbours joined where the outer continues the inner one."""
    modes: list[Mode] = []
    for mode in (mode for axis in axes for mode in axis if not surely_equal(mode.size, 1)):
        if modes and surely_equal(modes[-1].stride, mode.size * mode.stride):
            modes[-1] = Mode(modes[-1].size * mode.size, mode.stride)
        else:
            modes.append(mode)
    return modes


def _is_in_order(axes: Axes) -> bool:
    return len(_joined(axes)) < 2


def _memory_obstacle(origin: fx.Node, node: fx.Node) -> str | None:
    """What could tell the node's memory, or its history, from the origin's."""
    if value(origin).requires_grad != value(node).requires_grad:
        return "gradients are switched on or off inside it"
    copy, original = storages(node), storages(origin)
    if copy == original:
        return None
    for writer in node.graph.nodes:
        if any(storages(each) & (copy | original) for each in written_by(writer)):
            return f"{writer.name} writes to its memory"
    returned = set().union(*map(storages, node.graph.output_node().all_input_nodes))
    kept = returned.union(*map(storages, (each for each in node.graph.nodes if each.op in ("placeholder", "get_attr"))))
    if returned & copy and kept & original:
        return "it is returned as a copy"
    return None


def _replace(node: fx.Node, origin: fx.Node) -> str | None:
    """Put the origin, or a view of it in the node's shape, in the node's place; or say why its strides forbid it."""
    sizes = [-1 if isinstance(size, torch.SymInt) else size for size in shape(node)]
    with node.graph.inserting_before(node):
        new = origin
        if not _equal(shape(origin), shape(node)):
            if sizes.count(-1) > 1:
                return "more than one of its sizes is unknown"
            new = insert(node.graph, "reshape", origin, sizes)
        if not _equal(value(new).stride(), value(node).stride()) and _strides_matter(node):
            if not value(node).is_contiguous():
                return "what follows it depends on its strides"
            new = insert(node.graph, "contiguous", new)
    node.replace_all_uses_with(new)
    return None


def _equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(map(surely_equal, first, second))


def _strides_matter(node: fx.Node) -> bool:
    """Whether what follows the node may fail, differ or be returned in another layout where its strides change."""
    seen: set[fx.Node] = set()
    pending = list(node.users)
    while pending:
        user = pending.pop()
        name = name_of(user)
        if user in seen or name in NEW_LAYOUT or str(getattr(user.target, "overloadpacket", "")) in SCANS:
            continue
        if name is None or name in NEEDS_LAYOUT:
            return True
        seen.add(user)
        pending += user.users
    return False
