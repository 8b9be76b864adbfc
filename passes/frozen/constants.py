"""Which values of a graph depend on parameters and buffers alone."""

from __future__ import annotations

from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from mvc.passes import torch_private
from mvc.passes.graph.fx_utils import call_target, value
from mvc.passes.graph.memory import storages, written_by


def is_parameter(node: fx.Node) -> bool:
    """Whether the node is an input that Dynamo took from a module: a parameter or a buffer."""
    return node.op == "placeholder" and bool(node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type"))


def constants(graph: fx.Graph) -> set[fx.Node]:
    """Parameters, buffers, and every call that depends on nothing else, has the same result each time and no effect.

    Left out is what the graph writes to in place or returns, views of it included. Meant for graphs without gradients.
    """
    outputs = (storages(node) for node in graph.output_node().all_input_nodes)
    written = (storages(each) for node in graph.nodes for each in written_by(node))
    unstable = set().union(*outputs, *written)
    found: set[fx.Node] = set()
    depth = 0  # of autocast blocks: what is computed inside would have another dtype outside
    for node in graph.nodes:
        name = getattr(node.target, "__name__", "")
        depth += (name == "_enter_autocast") - (name == "_exit_autocast")
        if name == "_set_grad_enabled" and node.args[0]:
            return set()
        if storages(node) & unstable:
            continue
        if is_parameter(node) or (not depth and _is_call_of(node, found) and _is_repeatable(node)):
            found.add(node)
    return found


def _is_call_of(node: fx.Node, found: set[fx.Node]) -> bool:
    inputs = node.all_input_nodes
    return node.op in ("call_function", "call_method") and bool(inputs) and found.issuperset(inputs)


def _is_repeatable(node: fx.Node) -> bool:
    """Whether the call returns the same tensors each time, of sizes that are known, and writes to none."""
    recorder = torch_private.EffectRecorder()
    fakes = map_arg((node.args, node.kwargs), value)
    try:
        with torch_private.fake_mode(map(value, node.all_input_nodes)), recorder:
            call_target(node, *fakes)
    except Exception:  # what cannot be run on fakes alone is left where it is
        return False
    leaves = tree_leaves(value(node))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    known = all(isinstance(size, int) for tensor in tensors for size in tensor.shape)
    return bool(tensors) and known and not (recorder.writes or recorder.random)
