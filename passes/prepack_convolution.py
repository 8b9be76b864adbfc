"""Convolutions with constant weights as oneDNN's with the weight in its own layout, where that is faster.

y = conv2d(x, weight, bias)        packed = pack_convolution(weight, …)         # computed once, see freeze.py
z = relu(y)                   ->   z = packed_convolution(x, packed, bias, …, "relu", "none")
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import torch
from mvc.passes import onednn_ops, torch_private
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.constants import constants
from mvc.passes.epilogues import Epilogue, epilogue_of
from mvc.passes.fx_utils import insert, shape, value
from mvc.passes.library_choice import Runs, fastest
from mvc.passes.onednn_ops import ACTIVATIONS
from mvc.passes.prepack_linear import Choice
from mvc.passes.torch_ops import call
from torch import fx
from torch.nn import functional as F


class Window(NamedTuple):
    """How a convolution's kernel moves, as its ops take it."""

    padding: list[int]
    stride: list[int]
    dilation: list[int]
    groups: int


@dataclasses.dataclass(frozen=True)
class PrepackConvolution(Pass):
    """`conv2d` over channels_last images and the activation after it as one call of oneDNN with a packed weight.

    Attributes:
        force: "packed" or "fused" (with the activation) takes that form unmeasured, "torch" none.
    """

    name: ClassVar[str] = "prepack_convolution"
    needs_frozen: ClassVar[bool] = True

    force: Choice | None = None

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        found = constants(graph)
        for node in list(graph.nodes):
            convolution = call(node)
            if convolution is None or convolution.name != "conv2d":
                continue
            reason = _obstacle(node, convolution.args, found)
            if reason is None:
                window = _window(convolution.args)
                epilogue = epilogue_of(node, convolution.args.get("bias"))
                choice = self.force or _choose(convolution.args, window, epilogue)
                reason = "measured: torch's own call is as fast" if choice == "torch" else None
            if reason is not None:
                outcome.near_misses.append(NearMiss.at(node, reason))
                continue
            _rewrite(graph, convolution.args, window, epilogue, choice == "fused")
            outcome.matches += 1
        if outcome.matches:
            torch_private.register_onednn_lowerings()
        return outcome


def _obstacle(node: fx.Node, convolution: dict[str, Any], found: set[fx.Node]) -> str | None:
    """Why a convolution cannot be oneDNN's with a packed weight; None if it can."""
    x, weight, y = value(convolution["input"]), value(convolution["weight"]), value(node)
    if convolution["weight"] not in found:
        return "its weight is not constant"
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device}"
    if not x.dtype == weight.dtype == y.dtype or not torch_private.has_onednn(y.dtype):
        return f"oneDNN does not run {x.dtype} by {weight.dtype} to {y.dtype} here"
    if any(isinstance(size, torch.SymInt) for size in x.shape):
        return "its input's size is not known"
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return "its input is not channels_last"
    if isinstance(convolution.get("padding"), str):
        return f"its padding is {convolution['padding']!r}"
    return None


def _window(convolution: dict[str, Any]) -> Window:
    def both(name: str, default: int) -> list[int]:
        given = convolution.get(name, default)
        return [given, given] if isinstance(given, int) else list(given) * (2 // len(given))

    return Window(both("padding", 0), both("stride", 1), both("dilation", 1), convolution.get("groups", 1))


def _choose(convolution: dict[str, Any], window: Window, epilogue: Epilogue) -> Choice:
    x, weight = value(convolution["input"]), value(convolution["weight"])
    bias = epilogue.bias is not None
    described = f"image={list(x.shape)} weight={list(weight.shape)} {weight.stride()} {window}"
    key = f"convolution {x.dtype} {described} bias={bias} activation={epilogue.activation}"
    return fastest(key, lambda: _runs(x, weight, window, bias, epilogue.activation))


def _runs(x: torch.Tensor, weight: torch.Tensor, window: Window, has_bias: bool, activation: str) -> Runs:
    """The forms on random numbers in place of the fakes."""
    x, weight, bias = (
        torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cpu").normal_(generator=torch.Generator())
        for t in (x, weight, weight[:, 0, 0, 0])
    )
    bias = bias.contiguous() if has_bias else None
    padding, stride, dilation, groups = window
    packed = torch.ops.mvc.pack_convolution(weight, *window, x.shape)
    after = onednn_ops.in_place(activation)
    run = torch.ops.mvc.packed_convolution
    runs = {"torch": lambda: after(F.conv2d(x, weight, bias, stride, padding, dilation, groups))}
    if activation != "none":
        runs["fused"] = lambda: run(x, packed, bias, *window, *ACTIVATIONS[activation])
    runs["packed"] = lambda: after(run(x, packed, bias, *window, *ACTIVATIONS["none"]))
    return runs


def _rewrite(graph: fx.Graph, convolution: dict[str, Any], window: Window, epilogue: Epilogue, fused: bool) -> None:
    x, weight = convolution["input"], convolution["weight"]
    last = epilogue.last if fused else epilogue.biased
    with graph.inserting_before(last):
        packed = insert(graph, torch.ops.mvc.pack_convolution.default, weight, *window, list(shape(x)))
        attributes = ACTIVATIONS[epilogue.activation if fused else "none"]
        op = torch.ops.mvc.packed_convolution.default
        y = insert(graph, op, x, packed, epilogue.bias, *window, *attributes)
    y.meta["stack_trace"] = last.meta.get("stack_trace")
    last.replace_all_uses_with(y)
