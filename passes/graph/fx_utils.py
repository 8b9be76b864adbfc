"""Questions about FX graphs, and how nodes are inserted into them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from mvc.kernels.scan import rules
from mvc.passes import torch_private

# Where functions lie that a program calls: below its own line, which says more.
LIBRARIES = (Path(rules.__file__).parents[1], Path(torch.__file__).parent)
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n\s*(?P<code>.*)')


def op_counts(graph: fx.Graph) -> Counter[str]:
    """How often the graph calls each function, method or op, by name: "add", or "mvc.selective_scan" for an op."""
    return Counter(op_name(node) for node in graph.nodes if node.op in ("call_function", "call_method"))


def op_calls(graph: fx.Graph, packet: torch._ops.OpOverloadPacket) -> list[fx.Node]:
    """The graph's calls of the op, by its packet and by its default overload."""
    found = (graph.find_nodes(op="call_function", target=each) for each in (packet, packet.default))
    return list(itertools.chain(*found))


def op_name(node: fx.Node) -> str:
    """What the node calls by its own name, or "mvc.selective_scan" for an op and what stands for it."""
    target = getattr(node.target, "stands_for", node.target)
    packet = getattr(target, "overloadpacket", target)
    return str(packet) if isinstance(packet, torch._ops.OpOverloadPacket) else name_of(node)


def name_of(node: fx.Node) -> str:
    """What the node calls, by its own name: that of a function, or of a tensor's method."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def source_line(node: fx.Node) -> str:
    """The line of the user's program that the node comes from, as "file.py:12: code", or "" where it is not known."""
    frames = list(FRAME.finditer(node.meta.get("stack_trace") or ""))
    theirs = [frame for frame in frames if not any(map(Path(frame["file"]).is_relative_to, LIBRARIES))] or frames
    return "{file}:{line}: {code}".format(**theirs[-1].groupdict()) if theirs else ""


def value(node: fx.Node) -> Any:
    """The fake tensor (or tuple, number, ...) that Dynamo, or `insert`, computed for the node; None where unknown."""
    return node.meta.get("example_value")


def shape(node: fx.Node) -> torch.Size | None:
    """The shape of a node that is a tensor; None for others."""
    fake = value(node)
    return fake.shape if isinstance(fake, torch.Tensor) else None


def between(first: fx.Node, last: fx.Node) -> Iterator[fx.Node]:
    """The nodes of the graph after the one and before the other, which may be the same."""
    node = first
    while node is not last and (node := node.next) is not last:
        yield node


def only_user(node: fx.Node) -> fx.Node | None:
    """The node's user where it has one; None where it has none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


class Unfit(Exception):
    """A call does not take the arguments that it was to be inserted with."""


def insert(graph: fx.Graph, target: Callable | str, *args: Any, **kwargs: Any) -> fx.Node:
    """A call at the graph's insertion point, its example value computed from those of its arguments.

    A string is the name of a tensor method. The source line is that of the first argument that has one.

    Raises:
        Unfit: the call does not take these arguments; nothing is inserted.
    """
    op = "call_method" if isinstance(target, str) else "call_function"
    node = graph.create_node(op, target, args, kwargs)
    fakes = map_arg((args, kwargs), value)
    try:
        with torch_private.fake_mode(map(value, node.all_input_nodes)):
            node.meta["example_value"] = call_target(node, *fakes)
    except (TypeError, ValueError, RuntimeError) as error:
        graph.erase_node(node)
        raise Unfit(f"{op_name(node)} does not take what it would be given: {error}") from error
    traces = (n.meta.get("stack_trace") for n in node.all_input_nodes)
    node.meta["stack_trace"] = next((trace for trace in traces if trace), None)
    return node


def cast(node: fx.Node | None, dtype: torch.dtype) -> fx.Node | None:
    """The node in that dtype, converted at the insertion point where it has another; None stays None."""
    return node if node is None or value(node).dtype == dtype else insert(node.graph, "to", node, dtype)


def call_target(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What the node's function or method returns for these arguments."""
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)
