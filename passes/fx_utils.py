"""Questions about FX graphs."""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx


def op_counts(graph: fx.Graph) -> Counter[str]:
    """How often the graph calls each function or op, by name: `mvc.selective_scan` for every overload of that op."""
    return Counter(_op_name(node.target) for node in graph.nodes if node.op == "call_function")


def _op_name(target: object) -> str:
    packet = getattr(target, "overloadpacket", target)
    if isinstance(packet, torch._ops.OpOverloadPacket):
        return str(packet)
    return f"{getattr(target, '__module__', None)}.{getattr(target, '__qualname__', target)}"
