"""Computes GELU's tanh form by an exponential.

Before::                                            After::

    y = gelu(x, approximate="tanh")                     y = x * sigmoid(1.5958 * (x + 0.044715 * x * x * x))

That is the same function, since (1 + tanh p) / 2 is the sigmoid of 2p. Inductor's vectorised tanh takes three times as
long as its exponential on a CPU.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import fx

from mvc.passes.base import Outcome, Pass
from mvc.passes.graph.fx_utils import insert, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call


@dataclasses.dataclass(frozen=True)
class LowerGelu(Pass):
    """GELU's tanh form as x·σ(2√(2/π)(x + 0.044715x³)), computed in float32 at least."""

    name: ClassVar[str] = "lower_gelu"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        surroundings = Surroundings(graph)
        for node in list(graph.nodes):
            gelu = call(node)
            if gelu is None or gelu.name != "gelu" or gelu.args.get("approximate") != "tanh":
                continue
            with surroundings.at(node):
                y = _with_sigmoid(gelu.args["input"])
                y.meta["stack_trace"] = node.meta.get("stack_trace")
                surroundings.replace({node: y})
            outcome.matches += 1
        return outcome


def _with_sigmoid(x: fx.Node) -> fx.Node:
    graph, dtype = x.graph, value(x).dtype
    wide = torch.promote_types(dtype, torch.float32)
    x = x if wide == dtype else insert(graph, "to", x, wide)
    cubic = insert(graph, torch.mul, insert(graph, torch.mul, insert(graph, torch.mul, x, 0.044715), x), x)
    inner = insert(graph, torch.mul, insert(graph, torch.add, x, cubic), 2 * math.sqrt(2 / math.pi))
    y = insert(graph, torch.mul, x, insert(graph, torch.sigmoid, inner))
    return y if wide == dtype else insert(graph, "to", y, dtype)
