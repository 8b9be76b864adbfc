"""Fusion: a convolution with the operations after it as one Triton kernel, in inference on a GPU, where faster.

Before::                                                 After::

    y = gelu(conv2d(x, weight, bias, stride, padding))       y = mvc.fused_conv2d_triton(x, weight, bias, "gelu", rest,
    z = rest + y                                                                         stride, padding, tile)

A library's convolution writes its result, and a kernel of Inductor's reads it again, adds the bias and computes the
rest. A convolution of few channels is replaced for itself: libraries pad them to the eight of a matrix product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from mvc.kernels.convolution.checks import LARGEST
from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import cast, insert, only_user, shape, value
from mvc.passes.graph.torch_ops import call
from mvc.passes.measured_choice import IN_PLACE, Runs, rotated
from mvc.passes.own_kernels import FuseKernel, Pattern, is_loop, layout, operand_beside, random_tensors, readers
from mvc.passes.torch_private import example_size, surely_equal

FEW_CHANNELS = 4


@dataclasses.dataclass
class ConvolutionPattern(Pattern):
    """A convolution and what is computed from it alone."""

    @property
    def operands(self) -> tuple[fx.Node | None, ...]:
        """x, weight, bias and residual."""
        return self.arguments["input"], self.arguments["weight"], self.arguments.get("bias"), self.residual

    @property
    def has_epilogue(self) -> bool:
        """Whether anything is computed after the sums."""
        return len(self.nodes) > 1 or self.arguments.get("bias") is not None

    @property
    def has_few_channels(self) -> bool:
        return shape(self.arguments["weight"])[1] <= FEW_CHANNELS

    def window(self, name: str, default: int) -> list[int]:
        """An argument of the convolution along the height and along the width."""
        given = self.arguments.get(name, default)
        return [given, given] if isinstance(given, int) else list(given) * (2 // len(given))


@dataclasses.dataclass(frozen=True)
class FuseConvolution(FuseKernel[ConvolutionPattern]):
    """`conv2d` with the activation and the residual after it.

    Attributes:
        frozen: whether a weight is brought into channels_last memory once, not in every call.
    """

    name: ClassVar[str] = "fuse_convolution"

    frozen: bool = False

    def pattern(self, node: fx.Node) -> ConvolutionPattern | None:
        pattern = _pattern(node)
        return pattern if pattern is not None and (pattern.has_epilogue or pattern.has_few_channels) else None

    def tiles(self, pattern: ConvolutionPattern) -> tuple[int, ...]:
        from mvc.kernels.convolution.triton_tiles import candidates

        if (reason := _obstacle(pattern)) is not None:
            raise Declined(reason)
        batch, outputs, height, width = map(example_size, shape(pattern.product))
        _, channels, *kernel = shape(pattern.arguments["weight"])
        return candidates(batch, height, width, outputs, channels * kernel[0] * kernel[1])

    def measurement(self, pattern: ConvolutionPattern, tiles: tuple[int, ...]) -> tuple[str, Callable[[], Runs]]:
        after, dtype = _library_epilogue(pattern), value(pattern.product).dtype
        given = dict(zip(("x", "weight", "bias", "residual"), map(layout, pattern.operands), strict=True))
        window = f"stride={pattern.window('stride', 1)} padding={pattern.window('padding', 0)} frozen={self.frozen}"
        key = f"convolution {dtype} {given} {window} activation={pattern.activation} {after}"
        return key, partial(_runs, pattern, after, tiles, frozen=self.frozen)

    def insert(self, pattern: ConvolutionPattern, choice: str) -> fx.Node:
        return _insert_fused(pattern, int(choice))


def _pattern(node: fx.Node) -> ConvolutionPattern | None:
    """The pattern from a call of `conv2d` on; None for any other node."""
    known = call(node)
    if known is None or known.name != "conv2d" or len(shape(known.args["input"])) != 4:
        return None
    pattern = ConvolutionPattern([node], known.args)
    if (user := only_user(node)) is not None and (activation := _activation(user, node)) is not None:
        pattern.activation = activation
        pattern.nodes.append(user)
    last = pattern.last
    if (user := only_user(last)) is not None and (residual := _residual(user, last)) is not None:
        pattern.residual = residual
        pattern.nodes.append(user)
    return pattern


def _activation(user: fx.Node, node: fx.Node) -> str | None:
    known = call(user)
    if known is None or known.args.get("input") is not node or value(user).dtype != value(node).dtype:
        return None
    return known.activation if known.activation in IN_PLACE else None


def _residual(user: fx.Node, node: fx.Node) -> fx.Node | None:
    """What the call adds to the node, if a kernel can read it without a copy."""
    known = call(user)
    if known is None or known.name.removesuffix("_") != "add" or known.args.get("alpha", 1) != 1:
        return None
    if (other := operand_beside(known, node)) is None:
        return None
    alike = value(other).dtype == value(user).dtype == value(node).dtype and len(shape(other)) == 4
    fits = alike and all(map(surely_equal, shape(other), shape(node)))
    return other if fits and _is_channels_last(other) else None


def _is_channels_last(node: fx.Node) -> bool:
    """Whether channels are neighbours in memory, or there is one alone."""
    return surely_equal(value(node).stride(1), 1) or surely_equal(shape(node)[1], 1)


def _obstacle(pattern: ConvolutionPattern) -> str | None:
    """Why the kernel cannot run the convolution, or need not; None if it can."""
    padding = pattern.arguments.get("padding")
    if isinstance(padding, str):
        return f"its padding is {padding!r}"
    if pattern.arguments.get("groups", 1) != 1 or pattern.window("dilation", 1) != [1, 1]:
        return "it has groups or a dilation"
    if not _is_channels_last(pattern.arguments["input"]):
        return "its input is not channels_last"
    for node in (pattern.arguments["input"], pattern.last):
        _, channels, height, width = map(example_size, shape(node))
        if channels * height * width >= LARGEST:
            return f"an image has {channels * height * width} elements, which the kernel cannot number"
    if _library_epilogue(pattern) == "none" and not pattern.has_few_channels:
        return "the loop that reads the result computes what follows the convolution for nothing"
    return None


def _library_epilogue(pattern: ConvolutionPattern) -> Literal["kernel", "bytes", "none"]:
    """What is saved behind the library's call: a "kernel" of its own; "bytes", where a loop that reads the result reads
    the residual as well, and writes the sum for others; or "none", where such a loop reads and writes nothing more.
    """
    if not pattern.has_epilogue:
        return "none"
    users = sorted(readers(pattern.last))
    if not users or not is_loop(users[0]):
        return "kernel"
    return "bytes" if pattern.residual is not None and len(users) > 1 else "none"


def _insert_fused(pattern: ConvolutionPattern, tile: int) -> fx.Node:
    """The pattern as one call at the insertion point; a weight that is not channels_last is copied."""
    graph, first = pattern.product.graph, pattern.product
    x, weight, bias, residual = pattern.operands
    x, weight, bias = (cast(each, value(first).dtype) for each in (x, weight, bias))
    if not value(weight).is_contiguous(memory_format=torch.channels_last):
        weight = insert(graph, "contiguous", weight, memory_format=torch.channels_last)
    window = pattern.window("stride", 1), pattern.window("padding", 0)
    op = torch.ops.mvc.fused_conv2d_triton.default
    y = insert(graph, op, x, weight, bias, pattern.activation, residual, *window, tile)
    y.meta["stack_trace"] = first.meta.get("stack_trace")
    return y


def _runs(pattern: ConvolutionPattern, after: str, tiles: tuple[int, ...], *, frozen: bool) -> Runs:
    """The library's call with what follows it, and the kernel on each tile, on random numbers in place of the fakes."""
    dtype, device = value(pattern.product).dtype, value(pattern.product).device
    generator, layouts = torch.Generator(device), list(map(layout, pattern.operands))
    window = pattern.window("stride", 1), pattern.window("padding", 0)

    def make() -> tuple[Tensor | None, ...]:
        x, weight, bias, residual = random_tensors(layouts, dtype, generator)
        return x, weight.contiguous(memory_format=torch.channels_last) if frozen else weight, bias, residual

    inputs = rotated(make, device)

    def by_library() -> Tensor:
        x, weight, bias, residual = next(inputs)
        y = F.conv2d(x, weight, None, *window)  # Inductor adds the bias in the loop that follows
        if after != "kernel":
            return y.clone() if after == "bytes" else y
        if residual is not None:
            return y.add_(residual)
        return y.add_(bias[:, None, None]) if pattern.activation == "none" else IN_PLACE[pattern.activation](y)

    def by_kernel(tile: int) -> Tensor:
        x, weight, bias, residual = next(inputs)
        return torch.ops.mvc.fused_conv2d_triton(x, weight, bias, pattern.activation, residual, *window, tile)

    return {"library": by_library, **{str(tile): partial(by_kernel, tile) for tile in tiles}}
