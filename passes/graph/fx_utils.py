"""Questions about FX graphs, and how nodes are inserted into them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from mvc.kernels.scan import rules
from mvc.passes import torch_private
from mvc.passes.graph import torch_ops

KERNELS = Path(rules.__file__).parents[1]  # where a scan's public function lies, below the line that calls it
# What writes to an argument without saying so by a trailing underscore.
WRITERS = {"instance_norm", "embedding", "embedding_bag", "backward"} | {
    f"i{operator}" for operator in ("add", "and", "floordiv", "lshift", "matmul", "mod", "or", "pow", "rshift", "xor")
}
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n\s*(?P<code>.*)')


def op_counts(graph: fx.Graph) -> Counter[str]:
    """How often the graph calls each function, method or op, by name: "add", or "mvc.selective_scan" for an op."""
    return Counter(_op_name(node.target) for node in graph.nodes if node.op in ("call_function", "call_method"))


def _op_name(target: object) -> str:
    packet = getattr(target, "overloadpacket", target)
    if isinstance(packet, torch._ops.OpOverloadPacket):
        return str(packet)
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def source_line(node: fx.Node) -> str:
    """The line of the user's program that the node comes from, as "file.py:12: code", or "" where it is not known."""
    frames = list(FRAME.finditer(node.meta.get("stack_trace") or ""))
    theirs = [frame for frame in frames if KERNELS not in Path(frame["file"]).parents] or frames
    return "{file}:{line}: {code}".format(**theirs[-1].groupdict()) if theirs else ""


def value(node: fx.Node) -> Any:
    """The fake tensor (or tuple, number, ...) that Dynamo, or `insert`, computed for the node; None where unknown."""
    return node.meta.get("example_value")


def shape(node: fx.Node) -> torch.Size | None:
    """The shape of a node that is a tensor; None for others."""
    fake = value(node)
    return fake.shape if isinstance(fake, torch.Tensor) else None


def insert(graph: fx.Graph, target: Callable | str, *args: Any, **kwargs: Any) -> fx.Node:
    """A call at the graph's insertion point, its example value computed from those of its arguments.

    A string is the name of a tensor method. The source line is that of the first argument that has one.
    """
    op = "call_method" if isinstance(target, str) else "call_function"
    node = graph.create_node(op, target, args, kwargs)
    fakes = map_arg((args, kwargs), value)
    with torch_private.fake_mode(map(value, node.all_input_nodes)):
        node.meta["example_value"] = call_target(node, *fakes)
    traces = (n.meta.get("stack_trace") for n in node.all_input_nodes)
    node.meta["stack_trace"] = next((trace for trace in traces if trace), None)
    return node


def call_target(node: fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What the node's function or method gives for these arguments."""
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)


def written_by(node: fx.Node) -> list[fx.Node]:
    """The arguments whose memory the call writes to, or may write to for all that is known of it."""
    if node.op not in ("call_function", "call_method"):
        return []
    known = torch_ops.call(node)
    if known is not None:
        written = _written_by_known(known)
    elif isinstance(node.target, torch._ops.OpOverload):
        written = node.all_input_nodes if node.target._schema.is_mutable else []
    else:
        written = [] if _is_pure_by_name(node) else node.all_input_nodes
    return [each for each in written if isinstance(each, fx.Node)]


def _written_by_known(known: torch_ops.Call) -> list[object]:
    arguments = known.args
    if known.name.endswith("_") or known.name == "setitem" or arguments.get("inplace"):
        return [arguments.get("input")]
    if known.name == "batch_norm" and arguments.get("training"):
        return [arguments.get("running_mean"), arguments.get("running_var")]
    return [arguments.get("out")]


def _is_pure_by_name(node: fx.Node) -> bool:
    """torch's functions and methods say by their name or arguments that they write; of others nothing is known."""
    if isinstance(node.target, (torch._ops.HigherOrderOperator, torch._ops.OpOverloadPacket)):
        return False
    name = str(getattr(node.target, "__name__", node.target))
    module = (getattr(node.target, "__module__", None) or "").split(".")[0]
    known = node.op == "call_method" or module in ("torch", "math", "builtins", "_operator")
    in_place = name.endswith("_") or {"out", "inplace"} & node.kwargs.keys()
    return known and not in_place and name not in WRITERS
