"""Questions about FX graphs."""

from __future__ import annotations

from collections import Counter

from torch import fx


def op_counts(graph: fx.Graph) -> Counter[str]:
    """How often the graph calls each function or op, by name: `mvc.selective_scan` for every overload of that op."""
    return Counter(_op_name(node.target) for node in graph.nodes if node.op == "call_function")


def _op_name(target: object) -> str:
    packet = getattr(target, "overloadpacket", target)
    name = getattr(packet, "_qualified_op_name", None)
    if name is not None:
        return name.replace("::", ".")
    return f"{getattr(target, '__module__', None)}.{getattr(target, '__qualname__', target)}"
