"""Depthwise convolutions of all parts of one tensor as one convolution of the tensor.

Before::                                            After::

    x, z = y.chunk(2, dim=1)                            w = cat((wx, wz))
    x = silu(conv1d(x, wx, groups=C))                   x, z = silu(conv1d(y, w, groups=2 * C)).split(C, dim=1)
    z = silu(conv1d(z, wz, groups=C))

What follows alike on all parts, activations and other orders of the axes, is done once as well. It is one loop over the
tensor instead of one for each part, and what puts the parts beside each other again finds them side by side.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import fx
from torch.fx.node import map_arg

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.fusing.fuse_depthwise import is_depthwise
from mvc.passes.graph.fx_utils import between, insert, only_user, shape, value
from mvc.passes.graph.memory import storages, writers
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import Call, Kind, call

OPTIONS = ("stride", "padding", "dilation")


class Convolution(NamedTuple):
    """A depthwise convolution over the last axis."""

    node: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    options: tuple[object, ...]

    @property
    def channels(self) -> int:
        return shape(self.weight)[0]


@dataclasses.dataclass(frozen=True)
class JoinDepthwise(Pass):
    """Depthwise conv1d of the parts of a tensor as one."""

    name: ClassVar[str] = "join_depthwise"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome, surroundings = Outcome(), Surroundings(graph)
        for node in list(graph.nodes):
            convolutions = _of_parts(node)
            if convolutions is None:
                continue
            try:
                _join(surroundings, call(node), convolutions)
            except Declined as reason:
                outcome.near_misses.append(NearMiss.at(convolutions[0].node, str(reason)))
            else:
                outcome.matches += 1
        return outcome


def _of_parts(node: fx.Node) -> list[Convolution] | None:
    """The convolutions of all parts of a tensor that is cut along its channels, where they differ in weights alone."""
    known = call(node)
    if known is None or known.name not in ("chunk", "split") or known.args.get("dim", 0) not in (1, -2):
        return None
    parts = {user.args[1]: user for user in node.users if (piece := call(user)) and piece.name == "getitem"}
    if len(parts) != len(node.users) or sorted(parts) != list(range(len(value(node)))) or len(parts) < 2:
        return None
    found = [_convolution(parts[index]) for index in range(len(parts))]
    if None in found or len({each.options for each in found}) > 1:
        return None
    alike = {(shape(each.weight)[1:], value(each.weight).dtype, each.bias is None) for each in found}
    return found if len(alike) == 1 else None


def _convolution(part: fx.Node) -> Convolution | None:
    """The depthwise convolution that alone reads the part of a tensor (batch, channels, length)."""
    node, sizes = only_user(part), shape(part)
    known = call(node)
    if known is None or known.name != "conv1d" or known.args["input"] is not part or len(sizes) != 3:
        return None
    args = known.args
    if not is_depthwise(node, args):
        return None
    return Convolution(node, args["weight"], args.get("bias"), tuple(map(args.get, OPTIONS)))


def _join(surroundings: Surroundings, cut: Call, convolutions: Sequence[Convolution]) -> None:
    """Raises:
    Declined: why the convolutions cannot be one.
    """
    whole, *sizes = (each for name, each in cut.args.items() if name != "dim")
    graph, nodes = whole.graph, sorted(each.node for each in convolutions)
    first, known = nodes[0], call(nodes[0]).args
    operands = [each for one in convolutions for each in (one.weight, one.bias) if each is not None]
    if (late := next((each for each in operands if each > first), None)) is not None:
        raise Declined(f"{late.name} is computed after the first convolution of a part")
    chains = [[each.node] for each in convolutions]
    while (following := _alike_after(chains)) is not None:
        chains = [[*chain, node] for chain, node in zip(chains, following, strict=True)]
    moved = [node for chain in chains for node in chain]
    if (reason := surroundings.contexts.obstacle(moved)) is not None:
        raise Declined(reason)
    read = storages(whole).union(*map(storages, operands))
    if (writer := next(writers(between(first, max(moved)), read), None)) is not None:
        raise Declined(f"{writer.name} writes to what the convolutions read")
    with surroundings.at(first):
        weight = insert(graph, torch.cat, [each.weight for each in convolutions])
        bias = None
        if convolutions[0].bias is not None:
            bias = insert(graph, torch.cat, [each.bias for each in convolutions])
        options = {name: known[name] for name in OPTIONS if name in known}
        groups = sum(each.channels for each in convolutions)
        joined = insert(graph, torch.conv1d, whole, weight, bias, groups=groups, **options)
        joined.meta["stack_trace"] = first.meta.get("stack_trace")
        for node in chains[0][1:]:
            args, kwargs = map_arg((node.args, node.kwargs), lambda _, joined=joined: joined)
            joined = insert(graph, node.target, *args, **kwargs)
        last = [chain[-1] for chain in chains]
        axis = next(a for a, (one, all_) in enumerate(zip(shape(last[0]), shape(joined), strict=True)) if one != all_)
        pieces = insert(graph, cut.name, joined, *sizes, axis - len(shape(joined)))
        parts = [insert(graph, operator.getitem, pieces, index) for index in range(len(last))]
        surroundings.replace(dict(zip(last, parts, strict=True)))


def _alike_after(chains: Sequence[Sequence[fx.Node]]) -> list[fx.Node] | None:
    """What alone uses each of the last nodes, where it is the same activation or the same order of the axes."""
    following = [only_user(chain[-1]) for chain in chains]
    kinds = {known.kind if (known := call(node)) else None for node in following}
    if len(kinds) > 1 or not kinds <= {Kind.POINTWISE, Kind.PERMUTATION}:
        return None
    if any(node.all_input_nodes != [chain[-1]] for node, chain in zip(following, chains, strict=True)):
        return None
    calls = [(node.op, node.target, *map_arg((node.args, node.kwargs), lambda _: None)) for node in following]
    return following if all(each == calls[0] for each in calls) else None
