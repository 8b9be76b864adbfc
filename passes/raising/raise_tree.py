"""Raises the tree of slices and combinations that a generic associative scan is traced to."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import fx

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call
from mvc.passes.raising.regions import Region, States, erase, find_states, grow, put_states
from mvc.passes.torch_private import specialize, vmap_call


@dataclasses.dataclass(frozen=True)
class RaiseTree(Pass):
    """Finds scans of (a₁, b₁), (a₂, b₂) → (a₁·a₂, a₂·b₁ + b₂) that are written as a tree, by what they compute.

    Before, with about log₂(length) levels of slices, combinations and interleavings::

        a, b = movedim(A, 2, 0), movedim(B, 2, 0)
        a_even, b_even, a_odd, b_odd = a[0:-1:2], b[0:-1:2], a[1::2], b[1::2]
        a_pairs, b_pairs = a_even * a_odd, a_odd * b_even + b_odd       # inside vmap, or not
        ...
        states = movedim(flatten(stack([b_evens, b_odds], 1), 0, 1), 0, 2)

    After::

        states = mvc.linear_recurrence(A, B, None, 2, False)
    """

    name: ClassVar[str] = "raise_tree"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        again = True
        while again:  # a scan of another's states is one region with it until that one is raised
            again = False
            outcome.near_misses.clear()
            surroundings = Surroundings(graph)
            for region in grow(graph, _strided_source):
                try:
                    states = find_states(region, _strided_axes(region))
                    _specialize(region, states)
                    put_states(surroundings, region, states)
                except Declined as reason:
                    if any(vmap_call(node) for node in region.nodes):
                        _note(outcome, NearMiss.at(reason.node or region.nodes[-1], f"no linear recurrence: {reason}"))
                    continue
                erase(graph, region)
                outcome.matches += 1
                again = again or len(region.sources) > 2
        return outcome


def _note(outcome: Outcome, miss: NearMiss) -> None:
    """Once for each line of the user's: the levels of a tree that is not followed are regions of their own."""
    if all(miss.source != known.source for known in outcome.near_misses):
        outcome.near_misses.append(miss)


def _specialize(region: Region, states: States) -> None:
    """A tree is that of one length, and Dynamo's guards admit no other."""
    for sequence in (states.a, states.b):
        specialize(shape(sequence)[states.dim])
    sizes = [user for node in region.nodes for user in node.users if user.target == "size"]
    for node in sizes:
        if node.args[1:] == (states.dim,):
            node.replace_all_uses_with(specialize(value(node)))
            node.graph.erase_node(node)


def _strided_source(node: fx.Node) -> fx.Node | None:
    """The tensor of which the node is every second element along an axis."""
    return call(node).args["input"] if _stride_axis(node) is not None else None


def _strided_axes(region: Region) -> list[int]:
    return list(dict.fromkeys(axis for axis in map(_stride_axis, region.nodes) if axis is not None))


def _stride_axis(node: fx.Node) -> int | None:
    known = call(node)
    if known is None or known.name not in ("slice", "getitem") or shape(node) is None:
        return None
    if known.name == "slice":
        return known.args.get("dim", 0) % len(shape(node)) if known.args.get("step", 1) == 2 else None
    index = known.args["index"] if isinstance(known.args["index"], tuple) else (known.args["index"],)
    if not all(isinstance(each, slice) for each in index):
        return None
    return next((axis for axis, each in enumerate(index) if each.step == 2), None)
