"""Linear layers with constant weights as oneDNN's product with a weight in its own layout, where that is faster.

y = linear(x, weight)                packed = pack_linear(weight, rows)        # computed once, see freeze.py
z = gelu(y + bias)              ->   z = packed_linear(x, packed, bias, "gelu", "none")
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import torch
from mvc.passes import onednn_ops, torch_private
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.constants import constants
from mvc.passes.epilogues import Epilogue, epilogue_of
from mvc.passes.fx_utils import insert, shape, value
from mvc.passes.library_choice import Runs, fastest
from mvc.passes.onednn_ops import ACTIVATIONS
from mvc.passes.torch_ops import call
from torch import Tensor, fx
from torch.nn import functional as F

Choice = Literal["torch", "packed", "fused"]


@dataclasses.dataclass(frozen=True)
class PrepackLinear(Pass):
    """`linear`, a bias added after it and an activation as one call of oneDNN with a packed weight.

    Attributes:
        force: "packed" or "fused" (with the activation) takes that form unmeasured, "torch" none.
    """

    name: ClassVar[str] = "prepack_linear"
    needs_frozen: ClassVar[bool] = True

    force: Choice | None = None

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        found = constants(graph)
        packed: dict[tuple[fx.Node, int], fx.Node] = {}
        for node in list(graph.nodes):
            linear = call(node)
            if linear is None or linear.name != "linear":
                continue
            weight, bias = linear.args["weight"], linear.args.get("bias")
            reason = _obstacle(node, linear.args, found)
            if reason is None:
                epilogue = epilogue_of(node, bias, shape(weight)[0])
                choice = self.force or _choose(linear.args, epilogue)
                reason = "measured: torch's own call is as fast" if choice == "torch" else None
            if reason is not None:
                outcome.near_misses.append(NearMiss.at(node, reason))
                continue
            _rewrite(graph, linear.args, epilogue, choice == "fused", packed)
            outcome.matches += 1
        if outcome.matches:
            torch_private.register_onednn_lowerings()
        return outcome


def _obstacle(node: fx.Node, linear: dict[str, Any], found: set[fx.Node]) -> str | None:
    """Why a linear layer cannot be oneDNN's; None if it can."""
    x, weight, y = value(linear["input"]), value(linear["weight"]), value(node)
    if linear["weight"] not in found:
        return "its weight is not constant"
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device}"
    if weight.dim() != 2 or x.dim() < 2:
        return f"shapes {tuple(x.shape)} and {tuple(weight.shape)} are not those of a matrix product"
    if not x.dtype == weight.dtype == y.dtype or not torch_private.has_onednn(y.dtype):
        return f"oneDNN does not run {x.dtype} by {weight.dtype} to {y.dtype} here"
    return None


def _choose(linear: dict[str, Any], epilogue: Epilogue) -> Choice:
    x, weight = value(linear["input"]), value(linear["weight"])
    sizes, strides = (tuple(map(torch_private.example_size, each)) for each in (x.shape, x.stride()))
    bias = epilogue.bias is not None
    described = f"input={sizes} {strides} weight={tuple(weight.shape)} {weight.stride()}"
    key = f"linear {x.dtype} {described} bias={bias} activation={epilogue.activation}"
    return fastest(key, lambda: _runs(sizes, strides, weight, bias, epilogue.activation))


def _runs(sizes: tuple[int, ...], strides: tuple[int, ...], weight: Tensor, has_bias: bool, activation: str) -> Runs:
    """The forms on random numbers in place of the fakes. Inductor lets oneDNN's input be written contiguous by what
    computes it, and copies that of torch's call."""
    generator, dtype = torch.Generator(), weight.dtype
    x = torch.empty_strided(sizes, strides, dtype=dtype, device="cpu").normal_(generator=generator)
    weight = torch.empty_strided(weight.shape, weight.stride(), dtype=dtype, device="cpu").normal_(generator=generator)
    bias = weight[:, 0].contiguous() if has_bias else None
    dense = x.contiguous()
    packed = torch.ops.mvc.pack_linear(weight, math.prod(sizes[:-1]))
    after = onednn_ops.in_place(activation)
    run = torch.ops.mvc.packed_linear
    runs = {"torch": lambda: after(F.linear(x, weight, bias))}
    if activation != "none":
        runs["fused"] = lambda: run(dense, packed, bias, *ACTIVATIONS[activation])
    runs["packed"] = lambda: after(run(dense, packed, bias, *ACTIVATIONS["none"]))
    return runs


def _rewrite(
    graph: fx.Graph, linear: dict[str, Any], epilogue: Epilogue, fused: bool, packed: dict[tuple[fx.Node, int], fx.Node]
) -> None:
    x, weight = linear["input"], linear["weight"]
    last = epilogue.last if fused else epilogue.biased
    rows = math.prod(map(torch_private.example_size, shape(x)[:-1]))
    with graph.inserting_before(last):
        if (weight, rows) not in packed:
            packed[weight, rows] = insert(graph, torch.ops.mvc.pack_linear.default, weight, rows)
        attributes = ACTIVATIONS[epilogue.activation if fused else "none"]
        op = torch.ops.mvc.packed_linear.default
        y = insert(graph, op, x, packed[weight, rows], epilogue.bias, *attributes)
    y.meta["stack_trace"] = last.meta.get("stack_trace")
    last.replace_all_uses_with(y)
