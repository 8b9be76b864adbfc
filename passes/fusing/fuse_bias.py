"""Adds a linear layer's bias in the loop that computes what follows the layer, on a CPU.

Before::                                            After::

    y = gelu(linear(x, weight, bias))                   y = gelu(linear(x, weight) + bias)

On a CPU the library's product with a bias writes the bias over the whole output, then reads it again. Inductor has a
loop for what follows in any case. On a GPU the library adds the bias while it writes the product.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import fx
from torch.nn import functional as F

from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.constants import storages
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call, name_of

COPIES = ("contiguous", "reshape", "flatten", "roll")  # loops of Inductor's, where they are no views


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
            if value(node).device.type != "cpu":
                continue
            if (reason := _obstacle(node, linear.args["input"])) is not None:
                outcome.near_misses.append(NearMiss.at(node, reason))
                continue
            with surroundings.at(node):
                product = insert(graph, F.linear, linear.args["input"], linear.args["weight"])
                bias, dtype = linear.args["bias"], value(node).dtype
                bias = bias if value(bias).dtype == dtype else insert(graph, "to", bias, dtype)  # under autocast
                y = insert(graph, torch.add, product, bias)
                y.meta["stack_trace"] = node.meta.get("stack_trace")
                surroundings.replace({node: y})
            outcome.matches += 1
        return outcome


def _obstacle(node: fx.Node, x: fx.Node) -> str | None:
    """Why the bias should stay in the product; None if it need not."""
    if len(shape(x)) < 3:
        return "its input is a matrix, and Inductor would put the bias back into the product"
    user = _apart(node)
    return None if user is None else f"{user.name} uses it, with whose loop an addition would not fuse"


def _apart(node: fx.Node) -> fx.Node | None:
    """A user of the node, or of a view of it, that is no loop of Inductor's; None where all are."""
    for user in node.users:
        name = name_of(user) or str(getattr(user.target, "__name__", user.target))
        if _is_pointwise(name):
            continue
        if name == "dropout" or not storages(user).isdisjoint(storages(node)):
            if (apart := _apart(user)) is not None:
                return apart
        elif name not in COPIES:
            return user
    return None


def _is_pointwise(name: str) -> bool:
    """Whether torch says so of its operator of that name."""
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and any(torch.Tag.pointwise in getattr(packet, each).tags for each in packet.overloads())
