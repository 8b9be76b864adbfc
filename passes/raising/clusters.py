"""Pieces of a graph that may compute a linear recurrence: where they are, and whether they do."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import fx

from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import between, shape, value
from mvc.passes.graph.memory import written_by
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.raising import modular
from mvc.passes.raising.layouts import put_recurrence
from mvc.passes.torch_private import vmap_call

MOST_SOURCES = 4  # two recurrences, one of the other's states, are one cluster until the first is raised


@dataclasses.dataclass(eq=False)
class Cluster:
    """Nodes that move, multiply and add parts of the sources, in the graph's order."""

    sources: list[fx.Node]
    nodes: list[fx.Node]

    def absorb(self, other: Cluster) -> None:
        self.sources += other.sources
        self.nodes += other.nodes


class States(NamedTuple):
    """Where a cluster computes h_t = a_t h_{t-1} + b_t along `dim`; no state before the first step."""

    node: fx.Node
    a: fx.Node
    b: fx.Node
    dim: int
    reverse: bool


def grow(graph: fx.Graph, start: Callable[[fx.Node], fx.Node | None]) -> list[Cluster]:
    """The clusters that begin at nodes for which `start` names the source; clusters that meet are one.

    Besides the nodes that it can follow, a cluster takes in all that happens to its parts inside vmap.
    """
    clusters: dict[fx.Node, Cluster] = {}  # by node and by source
    members: set[fx.Node] = set()
    mapped: set[fx.Node] = set()
    for node in graph.nodes:
        source = start(node)
        if source is not None and source not in clusters:
            clusters[source] = Cluster([source], [])
        inputs = [each for each in node.all_input_nodes if shape(each) is not None]
        if not inputs or not (mapped.intersection(inputs) or _joins(node, inputs, clusters, members)):
            continue
        if vmap_call(node) == "add" or (mapped.intersection(inputs) and vmap_call(node) != "remove"):
            mapped.add(node)
        whole = _united([clusters[each] for each in inputs if each in clusters], clusters)
        whole.nodes.append(node)
        clusters[node] = whole
        members.add(node)
    order = {node: index for index, node in enumerate(graph.nodes)}
    found = list(dict.fromkeys(clusters.values()))
    for cluster in found:
        cluster.nodes.sort(key=order.__getitem__)
        cluster.sources.sort(key=order.__getitem__)
    return found


def _joins(node: fx.Node, inputs: Sequence[fx.Node], clusters: dict, members: set[fx.Node]) -> bool:
    if any(each not in clusters for each in inputs):
        return False
    if modular.is_followed_movement(node) or vmap_call(node) in ("add", "remove"):
        return True
    return modular.is_arithmetic(node) and not members.isdisjoint(inputs)


def _united(parts: list[Cluster], clusters: dict[fx.Node, Cluster]) -> Cluster:
    parts = list(dict.fromkeys(parts))
    whole = max(parts, key=lambda cluster: len(cluster.nodes))
    for part in parts:
        if part is not whole:
            whole.absorb(part)
            clusters.update(dict.fromkeys([*part.sources, *part.nodes], whole))
    return whole


def find_states(cluster: Cluster, dims: Sequence[int], *, any_length: bool = True) -> States:
    """The first node of the cluster that is a linear recurrence of two sources, along one of the axes.

    Args:
        any_length: accept what is one for the length of the example alone, where the length is a symbol.

    Raises:
        Declined: there is none, or the cluster's other results are used, too.
    """
    count = len(cluster.sources)
    if not 2 <= count <= MOST_SOURCES:
        raise Declined(f"it combines {count} sequences; a linear recurrence has 2", cluster.nodes[0])
    failure = None
    for dim in dims:
        try:
            states = _states_along(cluster, dim, any_length)
        except Declined as declined:
            failure = failure or declined
            continue
        if states is not None:
            _check_alone(cluster, states)
            return states
    raise failure or Declined("what it combines is not (a₁·a₂, a₂·b₁ + b₂)", cluster.nodes[0])


def _states_along(cluster: Cluster, dim: int, any_length: bool) -> States | None:
    if not any_length and not all(isinstance(shape(source)[dim], int) for source in cluster.sources):
        raise Declined("the length of the sequence is a symbol", cluster.nodes[0])
    given = {source: modular.sample(value(source), whole=[dim], seed=i) for i, source in enumerate(cluster.sources)}
    values, failure = modular.evaluate(cluster.nodes, {source: each.clone() for source, each in given.items()})
    if any(not modular.same(values[source], given[source]) for source in given):
        raise Declined("it writes to the sequences themselves", cluster.nodes[0])
    last_write = max((i for i, node in enumerate(cluster.nodes) if written_by(node)), default=-1)
    roles = [
        (a, b, torch.broadcast_shapes(given[a].shape, given[b].shape))
        for a, b in itertools.permutations(cluster.sources, 2)
        if len(shape(a)) == len(shape(b)) and given[a].shape[dim] == given[b].shape[dim]
    ]
    for node in cluster.nodes[last_write + 1 :]:
        for (a, b, full), reverse in itertools.product(roles, (False, True)):
            h = values.get(node)
            if h is None or h.shape != full:
                continue
            if modular.is_recurrence(h, given[a], given[b], dim, reverse=reverse):
                return States(node, a, b, dim, reverse)
    if failure is not None:
        raise failure
    return None


def _check_alone(cluster: Cluster, states: States) -> None:
    """Raise if something is written meanwhile, or if what the cluster computes is used beside the states."""
    nodes = set(cluster.nodes)
    for node in between(cluster.nodes[0], states.node):
        if written_by(node) and node not in nodes:
            raise Declined("something is written to while it runs", node)
    later = {states.node, *cluster.sources} - {states.a, states.b}  # and what depends on them
    computed = _written(cluster)
    for node in cluster.nodes:
        if not later.isdisjoint(node.all_input_nodes):
            later.add(node)
        elif modular.is_arithmetic(node) or not computed.isdisjoint(node.all_input_nodes):
            computed.add(node)
    removable = {states.node}
    for node in reversed(cluster.nodes):
        if node in later:
            continue
        if all(user in removable or isinstance(value(user), torch.SymInt) for user in node.users):
            removable.add(node)
        elif node in computed:
            raise Declined("the products of its factors are used, not only the states", node)


def _written(cluster: Cluster) -> set[fx.Node]:
    """Nodes of the cluster that share memory with one that is written to."""
    written = {target for node in cluster.nodes for target in written_by(node)}
    for node in reversed(cluster.nodes):
        if node in written and modular.is_followed_movement(node):
            written.update(node.all_input_nodes)
    return written


def put_states(surroundings: Surroundings, cluster: Cluster, states: States) -> None:
    """Put one op in the place of the states that the cluster computes.

    Raises:
        Declined: the program would see it.
    """
    computed = (node for node in cluster.nodes if node < states.node)
    if (obstacle := surroundings.contexts.obstacle([states.node, *computed])) is not None:
        raise Declined(obstacle, states.node)
    put_recurrence(surroundings, *states[:4], reverse=states.reverse)


def erase(graph: fx.Graph, cluster: Cluster) -> None:
    """Remove what the cluster computed and nobody uses, with the vmap calls that then surround nothing."""
    _erase_unused(graph, cluster.nodes)
    entered: list[fx.Node] = []
    for node in list(graph.nodes):
        marker = vmap_call(node)
        if marker == "enter":
            entered.append(node)
        elif marker == "leave" and entered:
            enter = entered.pop()
            if all(isinstance(value(each), torch.SymInt) for each in between(enter, node)):
                graph.erase_node(node)
                graph.erase_node(enter)
    markers = [(vmap_call(node), node) for node in graph.nodes]
    if not any(marker == "enter" for marker, _ in markers):
        _erase_unused(graph, [node for marker, node in markers if marker == "load"])
    sizes = [node for node in graph.nodes if node.op != "placeholder" and isinstance(value(node), torch.SymInt)]
    _erase_unused(graph, sizes)
    left = set(graph.nodes)
    _erase_unused(graph, [node for node in cluster.nodes if node in left])


def _erase_unused(graph: fx.Graph, nodes: Sequence[fx.Node]) -> None:
    for node in reversed(nodes):
        if not node.users:
            graph.erase_node(node)
