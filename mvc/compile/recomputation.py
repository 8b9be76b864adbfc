"""What a training graph keeps for its backward: values that cost the backward little more than one write are not kept
but computed again.

Torch's partition of forward and backward keeps each value that a library call of the backward reads, since such a value
has to be in memory. Where a convolution, attention or a scan reads it, computing it again is a kernel of its own. A
matrix product reads it for the gradient of its weight alone, and the kernel that computes the gradient of what made the
value reads the same inputs and can write the value as well. So the results of activations and normalisations in front
of linear layers are computed again, and those of ReLU, whose own gradient needs its result and nothing else. So is a
padded tensor that only generated kernels read: what it was made from is kept in its place, often for another reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from mvc.compile import torch_private

aten = torch.ops.aten

PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)
PADS = (aten.constant_pad_nd.default,)


def mark(graph: fx.Graph, parameters: Sequence[int]) -> None:
    """Mark in a joint graph of forward and backward what is kept and what is not, for a partition that may compute
    again whatever a kernel can fuse. Marks that are there already, from `torch.utils.checkpoint`, stay as they are.

    Args:
        parameters: which of the graph's inputs are parameters. What these alone decide, such as their casts, is small,
            and its kernels are launches: it is kept.
    """
    inputs = graph.find_nodes(op="placeholder")
    backward = _reached(graph, {each for each in inputs if "tangents" in each.name})
    varying = _reached(graph, set(inputs) - {inputs[index] for index in parameters})
    for node in graph.nodes:
        if node.op != "call_function" or node in backward or "recompute" in node.meta:
            continue
        readers = list(_readers(node))
        if node.target in PADS and all(map(torch_private.is_fusible, readers)):
            node.meta["recompute"] = CheckpointPolicy.PREFER_RECOMPUTE
            continue
        calls = [each for each in readers if each in backward and not torch_private.is_fusible(each)]
        cheap = node.target is aten.relu.default or all(each.target in PRODUCTS for each in calls)
        if calls and not (cheap and node in varying):
            node.meta["recompute"] = CheckpointPolicy.MUST_SAVE


def _reached(graph: fx.Graph, start: set[fx.Node]) -> set[fx.Node]:
    """The nodes that depend on those of `start`, and these."""
    reached = set(start)
    for node in graph.nodes:
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    return reached


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """What reads a node, through views."""
    for user in node.users:
        if torch_private.is_view(user):
            yield from _readers(user)
        elif user.op != "output":
            yield user
