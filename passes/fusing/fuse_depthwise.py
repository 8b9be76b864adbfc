"""Turns depthwise convolutions with few taps into pointwise operations, which fuse with what surrounds them.

Before::                                            After::

    y = conv1d(x, w, b, padding=1, groups=C)            p = pad(x, (1, 1))
                                                        y = p[..., :-2] * w[:, 0, 0, None]
                                                          + p[..., 1:-1] * w[:, 0, 1, None]
                                                          + p[..., 2:] * w[:, 0, 2, None] + b[:, None]

The same is done along (batch, length, channels) where memory has that order, as after a projection, and nothing that
follows depends on strides: then neither input nor result is transposed. The activation after it and a causal form's
cut `[..., :length]` become part of the same loop; a library call needs its input copied to (batch, channels, length)
and a pass over memory for each of the others.
On a CPU the taps are stacked: Inductor would gather each vector of them from the weight, at every step of the length.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any, ClassVar

import torch
from torch import fx
from torch.fx.node import map_arg
from torch.nn import functional as F

from mvc.passes import torch_private
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import Kind, call, is_kind
from mvc.passes.graph.views import selection

MAX_TAPS = 4


@dataclasses.dataclass(frozen=True)
class FuseDepthwise(Pass):
    """Depthwise conv1d as shifted multiply-adds."""

    name: ClassVar[str] = "fuse_depthwise"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        surroundings = Surroundings(graph)
        for node in list(graph.nodes):
            convolution = call(node)
            if convolution is None or convolution.name != "conv1d" or not is_depthwise(node, convolution.args):
                continue
            if reason := _obstacle(node, convolution.args):
                outcome.near_misses.append(NearMiss.at(node, reason))
                continue
            _rewrite(surroundings, node, convolution.args)
            outcome.matches += 1
        return outcome


def is_depthwise(node: fx.Node, args: dict[str, Any]) -> bool:
    known = isinstance(value(node), torch.Tensor) and value(node).is_floating_point() and shape(args["input"])
    return bool(known) and shape(args["weight"])[0] == args.get("groups", 1) == shape(args["input"])[-2] > 1


def _obstacle(node: fx.Node, args: dict[str, Any]) -> str | None:
    """Why the depthwise convolution should stay one; None if it need not."""
    x, taps = value(args["input"]), shape(args["weight"])[-1]
    on_cpu = value(node).device.type == "cpu"
    if value(node).requires_grad and not _is_channels_last(args["input"]):
        return "gradients are needed, which the library computes faster with the length innermost"
    if on_cpu and value(node).dtype.itemsize == 2 and x.stride(-1) == 1:
        return f"{value(node).dtype} with the length innermost, for which the library is faster on a CPU"
    if taps > MAX_TAPS:
        return f"{taps} taps; up to {MAX_TAPS} pay as pointwise operations"
    for option in ("stride", "dilation"):
        if (number := _single(args.get(option, 1))) != 1:
            return f"{option} {number}"
    return None


def _single(number: int | tuple[int, ...] | list[int]) -> int:
    return number[0] if isinstance(number, (tuple, list)) else number


def _padding(padding: Any, taps: int) -> tuple[int, int]:
    """Zeros before the sequence and after it."""
    if padding == "same":
        return (taps - 1) // 2, taps // 2
    both = 0 if padding == "valid" else _single(padding)
    return both, both


def _rewrite(surroundings: Surroundings, node: fx.Node, args: dict[str, Any]) -> None:
    graph, weight, bias = node.graph, args["weight"], args.get("bias")
    taps, dtype = shape(weight)[-1], value(node).dtype
    # The sum is rounded once, as the convolution's; but what a backward keeps would be twice as large.
    wide = dtype if value(node).requires_grad else torch.promote_types(dtype, torch.float32)
    channels_last = _is_channels_last(args["input"]) and not surroundings.strides_matter(node, _transposed(value(node)))
    after = () if channels_last else (None,)  # what brings the axis of channels to its place
    rest = (slice(None),) if channels_last else ()

    def widened(operand: fx.Node) -> fx.Node:
        for target in (dtype, wide):  # autocast rounds a convolution's inputs, and leaves pointwise ones alone
            operand = operand if value(operand).dtype == target else insert(graph, "to", operand, target)
        return operand

    def part(operand: fx.Node, *index: Any) -> fx.Node:
        return insert(graph, operator.getitem, operand, index)

    with surroundings.at(node):
        x = insert(graph, "transpose", args["input"], -2, -1) if channels_last else args["input"]
        x, weight = widened(x), widened(weight)
        padding = (*((0, 0) if channels_last else ()), *_padding(args.get("padding", 0), taps))
        x = insert(graph, F.pad, x, padding) if any(padding) else x
        rows = [part(weight, slice(None), 0, tap) for tap in range(taps)]
        if value(node).device.type == "cpu":
            stacked = insert(graph, torch.stack, rows)
            rows = [part(stacked, tap) for tap in range(taps)]
        y = None
        for tap in range(taps):
            shifted = part(x, ..., slice(tap, tap + 1 - taps or None), *rest) if taps > 1 else x
            product = insert(graph, torch.mul, shifted, part(rows[tap], slice(None), *after))
            y = product if y is None else insert(graph, torch.add, y, product)
        if bias is not None:
            y = insert(graph, torch.add, y, part(widened(bias), slice(None), *after))
        y = y if wide == dtype else insert(graph, "to", y, dtype)
        y.meta["stack_trace"] = node.meta.get("stack_trace")
        if channels_last:
            _replace_transposed(surroundings, node, y)
        else:
            surroundings.replace({node: y})


def _replace_transposed(surroundings: Surroundings, old: fx.Node, new: fx.Node) -> None:
    """Replace `old` by `new`, which is it transposed, with the activations and cuts that follow: Inductor writes the
    result of a pointwise operation in the order of its axes."""
    for user in list(old.users):
        moved = _on_transposed(user, old, new)
        if moved is not None:
            _replace_transposed(surroundings, user, moved)
    with surroundings.at(old):
        surroundings.replace({old: insert(old.graph, "transpose", new, -2, -1)})


def _on_transposed(user: fx.Node, old: fx.Node, new: fx.Node) -> fx.Node | None:
    """The same activation of the transposed tensor, or cut of its length; None for any other user."""
    cut = selection(user)
    with user.graph.inserting_before(user):
        if is_kind(user, Kind.POINTWISE) and user.all_input_nodes == [old]:
            args, kwargs = map_arg((user.args, user.kwargs), lambda _: new)
            return insert(user.graph, user.target, *args, **kwargs)
        if cut is not None and isinstance(cut.index[-1], slice) and all(item == slice(None) for item in cut.index[:-1]):
            return insert(user.graph, operator.getitem, new, (..., cut.index[-1], slice(None)))
    return None


def _transposed(y: torch.Tensor) -> torch.Tensor:
    """A tensor like y whose memory has the last two axes in the other order."""
    with torch_private.fake_mode([y]):
        return y.mT.contiguous().mT


def _is_channels_last(x: fx.Node) -> bool:
    """Whether neighbouring channels are neighbours in memory, as a projection's output has them."""
    return value(x).stride(-2) == 1 != value(x).stride(-1)
