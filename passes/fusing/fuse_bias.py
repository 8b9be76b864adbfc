"""Adds a linear layer's bias in the loop that computes what follows the layer.

Before::                                            After::

    y = gelu(linear(x, weight, bias))                   y = gelu(linear(x, weight) + bias)

On a CPU the library's product with a bias writes the bias over the whole output first, and then reads it again; a loop
of Inductor's that reads the product anyway adds it for nothing. On a GPU it is the library that adds it for nothing,
while it writes the product, and a kernel of Inductor's that reads nothing but the product is slower by the addition.
Where other tensors are added, it pays there too: of a chain of residual sums Inductor stores one as soon as it reads
so many tensors, the bias among them, and the kernels that follow read that instead of all that it was added up from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import fx
from torch.nn import functional as F

from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import cast, insert, name_of, shape, value
from mvc.passes.graph.memory import is_view
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import Kind, call

COPIES = ("setitem", "copy_")  # all calls that passes know but these and products are loops of Inductor's, or views


@dataclasses.dataclass(frozen=True)
class FuseBias(Pass):
    """The bias of `linear` as an addition that Inductor fuses with every user."""

    name: ClassVar[str] = "fuse_bias"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        surroundings = Surroundings(graph)
        for node in list(graph.nodes):
            linear = call(node)
            if linear is None or linear.name != "linear" or linear.args.get("bias") is None:
                continue
            if (reason := _obstacle(node, linear.args["input"])) is not None:
                outcome.near_misses.append(NearMiss.at(node, reason))
                continue
            with surroundings.at(node):
                product = insert(graph, F.linear, linear.args["input"], linear.args["weight"])
                bias = cast(linear.args["bias"], value(node).dtype)  # under autocast it has another
                y = insert(graph, torch.add, product, bias)
                product.meta["stack_trace"] = y.meta["stack_trace"] = node.meta.get("stack_trace")
                surroundings.replace({node: y})
            outcome.matches += 1
        return outcome


def _obstacle(node: fx.Node, x: fx.Node) -> str | None:
    """Why the bias should stay in the product; None if it need not."""
    if len(shape(x)) < 3:
        return "its input is a matrix, and Inductor would put the bias back into the product"
    on_cpu = value(node).device.type == "cpu"
    for user in _readers(node):
        known = call(user)
        if known is None or known.kind is Kind.PRODUCT or known.name in COPIES:
            return f"{name_of(user)} uses it, with which an addition does not fuse"
        if not on_cpu and len(user.all_input_nodes) < 2:
            return f"{known.name} reads nothing else, and the library of a GPU adds the bias for nothing"
    return None


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """What uses the node, through views and dropout."""
    for user in node.users:
        if user.op != "output" and (is_view(user) or name_of(user) == "dropout"):
            yield from _readers(user)
        else:
            yield user
