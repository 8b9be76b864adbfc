"""Folds BatchNorm of inference into the convolution before it.

y = conv2d(x, weight, bias)                      scale = rsqrt(var + eps) * gamma
z = batch_norm(y, mean, var, gamma, beta)   ->   z = conv2d(x, weight * scale, (bias - mean) * scale + beta)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import fx
from torch.nn import functional as F

from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call

CONVOLUTIONS = {"conv1d": F.conv1d, "conv2d": F.conv2d, "conv3d": F.conv3d}


@dataclasses.dataclass(frozen=True)
class FuseBatchNorm(Pass):
    """Inference BatchNorm into the convolution whose only user it is.

    Attributes:
        frozen: whether weight and bias are folded once, not in every call.
    """

    name: ClassVar[str] = "fuse_batch_norm"
    frozen: bool = False

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        surroundings = Surroundings(graph)
        for node in list(graph.nodes):
            norm = call(node)
            if norm is None or norm.name != "batch_norm" or node.target is not F.batch_norm:
                continue
            convolution = norm.args["input"]
            if not isinstance(convolution, fx.Node) or (conv := call(convolution)) is None:
                continue
            if conv.name not in CONVOLUTIONS:
                continue
            reason = self._cost(node) or _obstacle(convolution, node, norm.args)
            if reason := reason or surroundings.contexts.obstacle([convolution, node]):
                outcome.near_misses.append(NearMiss.at(node, reason))
                continue
            with surroundings.at(node):
                folded = _fused(graph, CONVOLUTIONS[conv.name], dict(conv.args), norm.args)
                folded.meta["stack_trace"] = convolution.meta.get("stack_trace")
                surroundings.replace({node: folded})
            outcome.matches += 1
        return outcome

    def _cost(self, node: fx.Node) -> str | None:
        """Why folding would not pay; None if it does. What follows a convolution on a GPU is one kernel in any case."""
        if self.frozen or value(node).device.type == "cpu":
            return None
        return "weights are not frozen: on a GPU, folding them in each call adds launches and saves none"


def _obstacle(convolution: fx.Node, node: fx.Node, norm: dict[str, Any]) -> str | None:
    """Why BatchNorm at `node` cannot be folded; None if it can."""
    if norm.get("training"):
        return "BatchNorm in training mode takes its statistics from the convolution's output"
    if norm["running_mean"] is None or norm["running_var"] is None:
        return "BatchNorm without running statistics"
    if len(convolution.users) > 1:
        return f"the convolution's output has {len(convolution.users)} users"
    if value(convolution).dtype != value(node).dtype:
        return f"the convolution returns {value(convolution).dtype}, BatchNorm {value(node).dtype}"
    if len(shape(convolution)) != len(shape(call(convolution).args["weight"])):
        return "the convolution's input has no batch axis, so that BatchNorm's channels are not the convolution's"
    return None


def _fused(graph: fx.Graph, function: Callable, conv: dict[str, Any], norm: dict[str, Any]) -> fx.Node:
    """The convolution with BatchNorm in its weight and bias, at the graph's insertion point."""
    conv["weight"], conv["bias"] = _fold(graph, conv["weight"], conv.get("bias"), norm)
    return insert(graph, function, conv.pop("input"), **conv)


def _fold(graph: fx.Graph, weight: fx.Node, bias: fx.Node | None, norm: dict[str, Any]) -> tuple[fx.Node, fx.Node]:
    """Weight and bias of the convolution that does what convolution and BatchNorm did, in the weight's dtype and memory
    order. They are computed in float32, for float64 in float64; torch.nn.utils.fuse_conv_bn_weights, which returns
    parameters and not nodes, computes halves in halves."""
    add = functools.partial(insert, graph)
    dtype, rank = value(weight).dtype, len(shape(weight))
    wide = torch.promote_types(dtype, torch.float32)
    tensors = (weight, bias, norm["running_mean"], norm["running_var"], norm.get("weight"), norm.get("bias"))
    weight, bias, mean, var, gamma, beta = (None if x is None else add("to", x, wide) for x in tensors)
    scale = add(torch.rsqrt, add(torch.add, var, norm.get("eps", 1e-5)))
    if gamma is not None:
        scale = add(torch.mul, scale, gamma)
    shift = add(torch.neg, mean) if bias is None else add(torch.sub, bias, mean)
    shift = add(torch.mul, shift, scale)
    if beta is not None:
        shift = add(torch.add, shift, beta)
    weight = add(torch.mul, weight, add("view", scale, (-1,) + (1,) * (rank - 1)))
    return add("to", weight, dtype), add("to", shift, dtype)
