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

Padding that is cut off again is not added: `pad(x, (0, 0, 0, 2))[:, :length]` is x.

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
from torch import fx

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.memory import storages
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import Kind, call, is_call, is_kind
from mvc.passes.graph.views import axis_order, is_tensor, regrouped, selection
from mvc.passes.torch_private import surely_equal

# What leaves each element one of the origin's, and in no other dtype.
FOLLOWED = (Kind.PERMUTATION, Kind.RESHAPE, Kind.COPY)
LONGEST = 32  # movements that are followed back


class Mode(NamedTuple):
    """Elements of the origin, `stride` of them from one to the next."""

    size: int | torch.SymInt
    stride: int | torch.SymInt


Modes = list[list[Mode]]  # of each axis


@dataclasses.dataclass(frozen=True)
class FuseMovement(Pass):
    """Chains of views, permutations and copies that leave all elements where they came from."""

    name: ClassVar[str] = "fuse_movement"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        surroundings = Surroundings(graph)
        for node in list(graph.nodes):
            outcome.matches += is_call(node, "cat") and _permute_parts(surroundings, node)
        for node in list(graph.nodes):
            if not _is_movement(node) or all(map(_is_movement, node.users)):
                continue
            chain = _chain(node)
            start = _start(chain)
            reason = _near_miss(chain) if start is None else _replace(surroundings, chain[start:])
            outcome.matches += start is not None and reason is None
            if reason is not None:
                outcome.near_misses.append(NearMiss.at(node, reason))
        for node in list(graph.nodes):
            chain = _padded(node)
            outcome.matches += chain is not None and _replace(surroundings, chain) is None
        return outcome


def _permute_parts(surroundings: Surroundings, node: fx.Node) -> bool:
    """Whether the node was a concatenation that all users permute alike: its parts now are permuted instead."""
    args = call(node).args
    moves = [user for user in node.users if is_kind(user, Kind.PERMUTATION)]
    if not moves or len(moves) < len(node.users) or not {"tensors", "dim"}.issuperset(args):
        return False
    if surroundings.contexts.obstacle([node, *moves]) is not None:
        return False
    order = axis_order(moves[0])
    parts = args["tensors"]
    if not isinstance(parts, (tuple, list)) or any(len(shape(part)) != len(order) for part in parts):
        return False
    if any(axis_order(move) != order for move in moves):
        return False
    try:
        with surroundings.at(node):
            parts = [insert(node.graph, torch.permute, part, order) for part in parts]
            new = insert(node.graph, torch.cat, parts, order.index(args.get("dim", 0) % len(order)))
            if any(surroundings.strides_matter(move, value(new)) for move in moves):
                raise Declined("it would have to be copied")
            surroundings.replace(dict.fromkeys(moves, new))
    except Declined:
        return False
    return True


def _padded(node: fx.Node) -> list[fx.Node] | None:
    """What the node has left of a padded tensor, if that is all but the padding; the padded tensor, and the node."""
    cut = selection(node)
    padding = call(cut.input) if cut is not None else None
    if padding is None or padding.name != "pad" or padding.args.get("mode", "constant") != "constant":
        return None
    origin, pad, widths = padding.args["input"], cut.input, padding.args["pad"]
    if not all(isinstance(width, int) and width >= 0 for width in widths):
        return None
    if not all(isinstance(item, slice) and item.step in (None, 1) for item in cut.index):
        return None
    starts = [item.start or 0 for item in cut.index]
    before = [0] * (len(starts) - len(widths) // 2) + list(widths[::2])[::-1]
    return [origin, pad, node] if starts == before and _equal(shape(origin), shape(node)) else None


def _is_movement(node: fx.Node) -> bool:
    known = call(node)
    if known is None or not is_kind(node, *FOLLOWED) or "memory_format" in known.args:
        return False
    source = known.args["input"]
    return is_tensor(source) and is_tensor(node) and value(node).dtype == value(source).dtype


def _chain(node: fx.Node) -> list[fx.Node]:
    """What the node moves, through all the movements before it: the first is none, the last is the node."""
    chain = [node]
    while _is_movement(chain[0]) and len(chain) <= LONGEST:
        chain.insert(0, call(chain[0]).args["input"])
    return chain


def _start(chain: Sequence[fx.Node]) -> int | None:
    """The first place in the chain whose elements the last has in the same order, after others between had not."""
    for start in range(len(chain) - 2):
        axes, scattered = _plain(shape(chain[start])), False
        for node in chain[start + 1 :]:
            axes = _moved(axes, node)
            if axes is None:
                break
            scattered |= not _is_in_order(axes)
        if axes is not None and scattered and _is_in_order(axes):
            return start
    return None


def _near_miss(chain: Sequence[fx.Node]) -> str | None:
    """Why a chain that looks as if it moved back what it had moved away does not."""
    if is_call(chain[0], "roll") and _start([*_chain(call(chain[0]).args["input"]), *chain[1:]]) is not None:
        return f"{chain[0].name} moves elements in between"
    permutations = [node for node in chain[1:] if is_kind(node, Kind.PERMUTATION)]
    if len(permutations) < 2:
        return None
    there, back = axis_order(permutations[0]), axis_order(permutations[-1])
    if len(there) == len(back) > 4 and all(there[axis] == at for at, axis in enumerate(back)):
        return f"{permutations[-1].name} does not undo {permutations[0].name}: the sizes differ"
    return None


def _plain(sizes: torch.Size) -> Modes | None:
    """The axes of the origin; None where it has no elements."""
    if any(surely_equal(size, 0) for size in sizes):
        return None
    return [[Mode(size, math.prod(sizes[axis + 1 :]))] for axis, size in enumerate(sizes)]


def _moved(axes: Modes | None, node: fx.Node) -> Modes | None:
    """The axes of the node, a movement of a tensor with those axes; None where a reshape splits none of their modes."""
    if axes is None or is_kind(node, Kind.COPY):
        return axes
    if is_kind(node, Kind.PERMUTATION):
        return [axes[axis] for axis in axis_order(node)]
    modes = _joined(axes)
    made_of = regrouped([mode.size for mode in modes], shape(node))
    if made_of is None:
        return None
    return [[Mode(piece.size, modes[piece.axis].stride * piece.stride) for piece in pieces] for pieces in made_of]


def _joined(axes: Modes) -> list[Mode]:
    """All modes in order, neighbours joined where the outer continues the inner one."""
    modes: list[Mode] = []
    for mode in (mode for axis in axes for mode in axis if not surely_equal(mode.size, 1)):
        if modes and surely_equal(modes[-1].stride, mode.size * mode.stride):
            modes[-1] = Mode(modes[-1].size * mode.size, mode.stride)
        else:
            modes.append(mode)
    return modes


def _is_in_order(axes: Modes) -> bool:
    return len(_joined(axes)) < 2


def _replace(surroundings: Surroundings, chain: Sequence[fx.Node]) -> str | None:
    """Put the first node of the chain, or a view of it, in the place of the last; or say what forbids it."""
    origin, node = chain[0], chain[-1]
    if (reason := _obstacle(surroundings, chain)) is not None:
        return reason
    sizes = [-1 if isinstance(size, torch.SymInt) else size for size in shape(node)]
    new = origin
    try:
        with surroundings.at(node):
            if not _equal(shape(origin), shape(node)):
                if sizes.count(-1) > 1:
                    raise Declined("more than one of its sizes is unknown")
                new = insert(node.graph, "reshape", origin, sizes)
            if not value(node).is_contiguous() and surroundings.strides_matter(node, value(new)):
                raise Declined("what follows it depends on its strides")
            surroundings.replace({node: new})
    except Declined as declined:
        return str(declined)
    return None


def _obstacle(surroundings: Surroundings, chain: Sequence[fx.Node]) -> str | None:
    """What could tell the last node's memory, or its history, from the first one's."""
    origin, node = chain[0], chain[-1]
    if (reason := surroundings.contexts.obstacle(chain, but_for_autocast=True)) is not None:
        return reason
    if storages(node) == storages(origin):
        return None
    writer = surroundings.writer(node) or surroundings.writer(origin)
    if writer is not None:
        return f"{writer.name} writes to its memory"
    if not surroundings.is_seen(node):
        return None
    between = [each for each in chain[1:-1] if storages(each) == storages(node)]
    if any(user not in chain for each in between for user in each.users):
        return "others share its memory"
    return "it is returned as a copy" if surroundings.is_seen(origin) else None


def _equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(map(surely_equal, first, second))
