"""Whether a recurrence with its producers and its read-out may be computed at one place of the graph."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, fx

from mvc.passes.base import Declined
from mvc.passes.graph.contexts import Contexts
from mvc.passes.graph.fx_utils import value
from mvc.passes.graph.memory import storages, written_by
from mvc.passes.graph.torch_ops import filled_with
from mvc.passes.raising.scan_match import Scan


class Effects:
    """The calls of a graph that write to memory, and its contexts."""

    def __init__(self, graph: fx.Graph, contexts: Contexts) -> None:
        self.contexts = contexts
        self.writes: list[tuple[fx.Node, set[int]]] = []
        for node in graph.nodes:
            written = set().union(*map(storages, written_by(node)))
            if written:
                self.writes.append((node, written))

    def check(self, node: fx.Node, scan: Scan) -> None:
        """Raise Declined where the scan, run at its place, would not compute what the graph computes."""
        leaves = {term.node for term in scan.terms}
        late = [leaf for leaf in leaves if not leaf < scan.site]
        if late:
            raise Declined(f"the last state is read before {late[0].name} is computed")
        passed = absorbed([node, scan.y.node, *(term.node for term in scan.last_states)], leaves)
        if (obstacle := self.contexts.obstacle(passed | {scan.site}, but_for_autocast=True)) is not None:
            raise Declined(obstacle)
        for writer, written in self.writes:
            if writer < scan.y.node and writer not in passed:
                spoiled = _spoiled(writer, written, scan.site, leaves, passed)
                if spoiled is not None:
                    raise Declined(f"{writer.name} writes to {spoiled.name}, which is read at another time by the scan")


def _spoiled(
    writer: fx.Node, written: set[int], site: fx.Node, leaves: set[fx.Node], absorbed: set[fx.Node]
) -> fx.Node | None:
    """What would be read before the call that writes to it and now is read after it, or the other way round."""
    if writer < site:
        read = (node for node in leaves | absorbed if node < writer)
    else:
        read = (node for reader in absorbed if writer < reader for node in reader.all_input_nodes)
    return next((node for node in read if storages(node) & written), None)


def absorbed(results: Collection[fx.Node], leaves: Collection[fx.Node]) -> set[fx.Node]:
    """What lies between the leaves and the results."""
    found: set[fx.Node] = set()
    pending = list(results)
    while pending:
        node = pending.pop()
        if node in found or node in leaves or node.op == "placeholder" or not isinstance(value(node), Tensor):
            continue
        found.add(node)
        pending += [] if filled_with(node) == 0 else node.all_input_nodes
    return found
