"""Finds what a loop carries from step to step: chains of nodes that the same line computes, each from the one before.

A step of h = a * h + b leaves two nodes in a graph, and each of them depends on its own forerunner in the step before.
One search in the midst of a loop finds the cycle that these make; the node whose result is used outside of it stands
for the loop's state.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import NamedTuple

from torch import fx

from mvc.passes.graph.fx_utils import shape
from mvc.passes.raising.collectors import Column

LEAST_STEPS = 3  # of two nodes nobody can tell whether they are a loop
MOST_SEARCHED = 512  # nodes between a node and its forerunner; no step of a recurrence has more


def chains(graph: fx.Graph) -> list[Column]:
    """The states after each step of every loop in the graph, as far as their calls and lines look alike."""
    return [chain for chain in _candidates(graph) if len(chain) >= LEAST_STEPS]


def _candidates(graph: fx.Graph) -> Iterator[Column]:
    groups: dict[Hashable, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and shape(node) is not None:
            groups[_line(node)].append(node)
    groups = {line: nodes for line, nodes in groups.items() if len(nodes) >= LEAST_STEPS}
    seen: set[Hashable] = set()
    for line, nodes in groups.items():
        if line in seen:
            continue
        cycle = _cycle(nodes[len(nodes) // 2 + 1])  # of a loop that runs twice, the one in the middle starts anew
        if cycle is None:
            continue
        lines = dict.fromkeys(map(_line, cycle.nodes))
        seen.update(lines)
        apart = nodes.index(cycle.nodes[-1]) - nodes.index(cycle.forerunner)
        state = next((each for each in reversed(lines) if _is_used(groups.get(each, ()), lines)), line)
        for first in range(apart):  # loops that run side by side
            yield tuple(groups[state][first::apart])


def _line(node: fx.Node) -> Hashable:
    """Equal for nodes that the same call on the same line of a program gave."""
    return node.op, node.target, node.meta.get("stack_trace")


def _is_used(nodes: Sequence[fx.Node], lines: Collection[Hashable]) -> bool:
    """Whether anything but the lines of the loop itself uses one of the nodes."""
    return any(_line(user) not in lines for node in nodes for user in node.users)


class _Cycle(NamedTuple):
    """A node's nearest forerunner of its own line, and what leads from there to the node, itself last."""

    forerunner: fx.Node
    nodes: list[fx.Node]


def _cycle(node: fx.Node) -> _Cycle | None:
    line, searched = _line(node), []
    pending, known = [_Latest(each) for each in node.all_input_nodes], {node}
    heapq.heapify(pending)
    while pending and len(searched) < MOST_SEARCHED:
        latest = heapq.heappop(pending).node
        if latest in known:
            continue
        known.add(latest)
        if _line(latest) == line:
            reached = {latest}
            for each in (*reversed(searched), node):
                if not reached.isdisjoint(each.all_input_nodes):
                    reached.add(each)
            return _Cycle(latest, [each for each in (*reversed(searched), node) if each in reached])
        searched.append(latest)
        for each in latest.all_input_nodes:
            heapq.heappush(pending, _Latest(each))
    return None


class _Latest(NamedTuple):
    """Orders nodes from the last of the graph to the first."""

    node: fx.Node

    def __lt__(self, other: _Latest) -> bool:
        return other.node < self.node
