"""Finds what a loop carries from step to step: chains of nodes that the same line computes, each from the one before.

A step of h = a * h + b leaves two nodes in a graph, and each of them depends on its own forerunner in the step before.
One search in the midst of a loop finds the cycle that these make; the node whose result is used outside of it stands
for the loop's state.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import fx

from mvc.passes.graph.fx_utils import shape
from mvc.passes.raising.collectors import Column

LEAST_STEPS = 3  # of two nodes nobody can tell whether they are a loop
MOST_ALIKE = 4  # nodes in a step that look alike, of which one may be carried on
MOST_SEARCHED = 512  # nodes between a node and its forerunner; no step of a recurrence has more


def chains(graph: fx.Graph) -> list[Column]:
    """The states after each step of every loop in the graph, in the order of the steps.

    They look alike, but for that the first or last may be none, and two loops of the same lines may be one chain.
    """
    found = dict.fromkeys(_candidates(graph))
    return _longest(
        chain for chain in found if len(chain) >= LEAST_STEPS and len({len(shape(node)) for node in chain}) == 1
    )


def _longest(chains: Iterable[Column]) -> list[Column]:
    """Those that are no part of another: a cycle through two states may take two steps."""
    chains, holders = list(chains), defaultdict(set)
    for number, chain in enumerate(chains):
        for node in chain:
            holders[node].add(number)
    return [chain for chain in chains if len(set.intersection(*(holders[node] for node in chain))) == 1]


class States:
    """Where nodes stand in chains."""

    def __init__(self, chains: Iterable[Column]) -> None:
        self._places: dict[fx.Node, tuple[Column, int]] = {}
        for chain in chains:
            for step, node in enumerate(chain):
                self._places.setdefault(node, (chain, step))

    def after(self, column: Column) -> Column | None:
        """The states after each step, where the column is of the states before it from a chain's first one on."""
        chain, _ = self._places.get(column[1], ((), 0))
        later = chain[: len(column)]
        return later if len(later) == len(column) and later[:-1] == column[1:] else None

    def delay(self, column: Column, states: Column) -> int:
        """By how many steps the column follows those states of its own chain; 0 where it does not."""
        (chain, step), (own, last) = (self._places.get(each[-1], (None, 0)) for each in (column, states))
        delay = last - step
        return delay if chain is own and 0 < delay < len(column) and column[delay:] == states[:-delay] else 0


def _candidates(graph: fx.Graph) -> Iterator[Column]:
    groups: dict[Hashable, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op in ("call_function", "call_method") and shape(node) is not None:
            groups[line_of(node)].append(node)
    groups = {line: nodes for line, nodes in groups.items() if len(nodes) >= LEAST_STEPS}
    seen: set[Hashable] = set()
    for line, nodes in groups.items():
        if line in seen:
            continue
        found: set[fx.Node] = set()
        middle = len(nodes) // 2 + 1  # of a loop that runs twice, the one in the middle starts anew
        for node in nodes[middle : middle + MOST_ALIKE]:
            cycle = None if node in found else _cycle(node)
            if cycle is not None:
                found.update(_alike(node, cycle, nodes))
                seen.update(map(line_of, cycle.nodes))
                yield _state(cycle, groups)


def _state(cycle: _Cycle, groups: Mapping[Hashable, list[fx.Node]]) -> Column:
    """What of the cycle is used outside of it, or its last node."""
    lines = set(map(line_of, cycle.nodes))
    columns = [_alike(node, cycle, groups.get(line_of(node), ())) for node in reversed(cycle.nodes)]
    used = (column for column in columns if any(line_of(user) not in lines for node in column for user in node.users))
    return next(used, columns[0])


def _alike(node: fx.Node, cycle: _Cycle, nodes: Sequence[fx.Node]) -> Column:
    """Those in the node's place in all steps, among the nodes of its line, which may have several in each step."""
    first, last = cycle.forerunner, cycle.nodes[-1]
    distance = sum(first < each and not last < each for each in nodes)
    return tuple(nodes[nodes.index(node) % distance :: distance]) if distance else ()


def line_of(node: fx.Node) -> Hashable:
    """Equal for nodes that the same call on the same line of a program gave."""
    return node.op, node.target, node.meta.get("stack_trace")


class _Cycle(NamedTuple):
    """A node's nearest forerunner of its own line, and what leads from there to the node, itself last."""

    forerunner: fx.Node
    nodes: list[fx.Node]


def _cycle(node: fx.Node) -> _Cycle | None:
    line, searched = line_of(node), []
    pending, known = [_Latest(each) for each in node.all_input_nodes], {node}
    heapq.heapify(pending)
    while pending and len(searched) < MOST_SEARCHED:
        latest = heapq.heappop(pending).node
        if latest in known:
            continue
        known.add(latest)
        if line_of(latest) == line and _targets(latest) == _targets(node):
            reached = {latest}
            for each in (*reversed(searched), node):
                if not reached.isdisjoint(each.all_input_nodes):
                    reached.add(each)
            return _Cycle(latest, [each for each in (*reversed(searched), node) if each in reached])
        searched.append(latest)
        for each in latest.all_input_nodes:
            heapq.heappush(pending, _Latest(each))
    return None


def _targets(node: fx.Node) -> list[Any]:
    """What its inputs are: tells nodes of one line apart, but for those of a loop's first step."""
    return [each.target for each in node.all_input_nodes if each.op != "placeholder"]


class _Latest(NamedTuple):
    """Orders nodes from the last of the graph to the first."""

    node: fx.Node

    def __lt__(self, other: _Latest) -> bool:
        return other.node < self.node
