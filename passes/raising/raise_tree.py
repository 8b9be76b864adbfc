"""Raises the tree of slices and combinations that a generic associative scan is traced to."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import fx

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.views import selection
from mvc.passes.raising.clusters import Cluster, States, erase, find_states, grow, put_states
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
        while again:  # a scan of another's states is one cluster with it until that one is raised
            again = False
            outcome.near_misses.clear()
            surroundings = Surroundings(graph)
            for cluster in grow(graph, _strided_source):
                try:
                    states = find_states(cluster, _strided_axes(cluster))
                    _specialize(cluster, states)
                    put_states(surroundings, cluster, states)
                except Declined as reason:
                    if any(vmap_call(node) for node in cluster.nodes):
                        _note(outcome, NearMiss.at(reason.node or cluster.nodes[-1], f"no linear recurrence: {reason}"))
                    continue
                erase(graph, cluster)
                outcome.matches += 1
                again = again or len(cluster.sources) > 2
        return outcome


def _note(outcome: Outcome, miss: NearMiss) -> None:
    """Once for each line of the user's: the levels of a tree that is not followed are clusters of their own."""
    if all(miss.source != known.source for known in outcome.near_misses):
        outcome.near_misses.append(miss)


def _specialize(cluster: Cluster, states: States) -> None:
    """A tree is that of one length, and Dynamo's guards admit no other."""
    for sequence in (states.a, states.b):
        specialize(shape(sequence)[states.dim])
    sizes = [user for node in cluster.nodes for user in node.users if user.target == "size"]
    for node in sizes:
        if node.args[1:] == (states.dim,):
            node.replace_all_uses_with(specialize(value(node)))
            node.graph.erase_node(node)


def _strided_source(node: fx.Node) -> fx.Node | None:
    """The tensor of which the node is every second element along an axis."""
    return selection(node).input if _stride_axis(node) is not None else None


def _strided_axes(cluster: Cluster) -> list[int]:
    return list(dict.fromkeys(axis for axis in map(_stride_axis, cluster.nodes) if axis is not None))


def _stride_axis(node: fx.Node) -> int | None:
    chosen = selection(node)
    if chosen is None or not all(isinstance(item, slice) for item in chosen.index):
        return None
    return next((axis for axis, item in chosen.parts if item.step == 2), None)
