"""Whether a recurrence with its surroundings may be computed at one place of the graph, and laid out anew."""

from __future__ import annotations

import torch
from mvc.passes.constants import storages
from mvc.passes.fx_utils import value, written_by
from mvc.passes.index_notation import is_call
from mvc.passes.scan_match import ZEROS, NotAScan, Scan
from mvc.passes.torch_ops import name_of
from mvc.passes.torch_private import surely_equal
from torch import Tensor, fx

# What reads its inputs in any layout and gives a layout of its own.
NEW_LAYOUT = (
    "linear",
    "matmul",
    "bmm",
    "einsum",
    "layer_norm",
    "conv1d",
    "conv2d",
    "contiguous",
    "sum",
    "stack",
    "cat",
)
NEEDS_LAYOUT = ("view", "view_as")


class Effects:
    """The calls of a graph that write to memory, or switch gradients or autocast on or off."""

    def __init__(self, graph: fx.Graph) -> None:
        self.writes: list[tuple[fx.Node, set[int]]] = []
        self.switches: list[fx.Node] = []
        self.autocasts: list[fx.Node] = []
        for node in graph.nodes:
            written = set().union(*map(storages, written_by(node)))
            if written:
                self.writes.append((node, written))
            name = getattr(node.target, "__name__", "")
            if name == "_set_grad_enabled":
                self.switches.append(node)
            elif name in ("_enter_autocast", "_exit_autocast"):
                self.autocasts.append(node)

    def has_autocast(self, place: fx.Node, device: str) -> bool:
        """Whether autocast is on at a place, by the graph or around it."""
        regions = []
        for node in self.autocasts:
            if node < place and node.target.__name__ == "_exit_autocast":
                regions = [region for region in regions if region is not node.args[0]]
            elif node < place and node.args[0] == device:
                regions.append(node)
        if regions:
            return regions[-1].args[2]
        return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)

    def check(self, node: fx.Node, scan: Scan) -> None:
        """Raise NotAScan where the scan, run at its place, would not compute what the graph computes."""
        leaves = {term.node for term in scan.terms}
        late = [leaf for leaf in leaves if not leaf < scan.place]
        if late:
            raise NotAScan(f"the last state is read before {late[0].name} is computed")
        absorbed = _absorbed([node, scan.y.node, *(term.node for term in scan.last_states)], leaves)
        if len({self._has_gradients(each) for each in (*absorbed, scan.place)}) > 1:
            raise NotAScan("gradients are switched on or off inside it")
        for writer, written in self.writes:
            if writer < scan.y.node and writer not in absorbed:
                spoiled = _spoiled(writer, written, scan.place, leaves, absorbed)
                if spoiled is not None:
                    raise NotAScan(f"{writer.name} writes to {spoiled.name}, which is read at another time by the scan")

    def _has_gradients(self, node: fx.Node) -> bool:
        switches = [switch.args[0] for switch in self.switches if switch < node]
        return switches[-1] if switches else torch.is_grad_enabled()


def _spoiled(
    writer: fx.Node, written: set[int], place: fx.Node, leaves: set[fx.Node], absorbed: set[fx.Node]
) -> fx.Node | None:
    """What would be read before the call that writes to it and now is read after it, or the other way round."""
    if writer < place:
        read = (node for node in leaves | absorbed if node < writer)
    else:
        read = (node for reader in absorbed if writer < reader for node in reader.all_input_nodes)
    return next((node for node in read if storages(node) & written), None)


def _absorbed(results: list[fx.Node], leaves: set[fx.Node]) -> set[fx.Node]:
    """What lies between the leaves and the results."""
    found: set[fx.Node] = set()
    pending = list(results)
    while pending:
        node = pending.pop()
        if node in found or node in leaves or node.op == "placeholder" or not isinstance(value(node), Tensor):
            continue
        found.add(node)
        pending += [] if is_call(node, *ZEROS) else node.all_input_nodes
    return found


def needs_layout(old: fx.Node, new: fx.Node) -> bool:
    """Whether what follows the old node may fail, or differ, where the new one has other strides."""
    before, after = value(old), value(new)
    if all(map(surely_equal, before.stride(), after.stride())) or after.is_contiguous():
        return False
    seen: set[fx.Node] = set()
    pending = list(old.users)
    while pending:
        node = pending.pop()
        name = name_of(node)
        if node.op == "output" or name in NEEDS_LAYOUT:
            return True
        if node not in seen and name not in NEW_LAYOUT:
            seen.add(node)
            pending += node.users
    return False
