"""Fusion: a linear layer with the operations around it as one Triton kernel, in inference on a GPU, where faster.

Before::                                            After::

    y = linear(layer_norm(x), w, b)                     z = mvc.fused_linear_triton(x, w, b, ..., residual, tile)
    z = residual + scale * gelu(y)

A library's product writes y, and a kernel of Inductor's reads it again. Where the sum z is itself read by a loop of
Inductor's, that loop computes it, and what is saved is less: see `Library`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from mvc.passes.fusing.linear_pattern import LinearPattern, insert_fused, insert_library_gelu, linear_pattern
from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.memory import is_view
from mvc.passes.graph.torch_ops import is_call
from mvc.passes.measured_choice import IN_PLACE, Runs, rotated
from mvc.passes.own_kernels import FuseKernel, contiguous, is_loop, layout, random_tensors, readers
from mvc.passes.torch_private import example_size

# Up to so many rows a kernel takes longer to launch than to run, and LayerNorm within the product saves one. With more,
# every block of columns would normalise the same rows again, which costs more than to write them once.
FEW_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class FuseLinear(FuseKernel[LinearPattern]):
    """`linear` with LayerNorm before it and activation, layer scale and residual after it."""

    name: ClassVar[str] = "fuse_linear"

    def pattern(self, node: fx.Node) -> LinearPattern | None:
        pattern = linear_pattern(node)
        if pattern is not None and pattern.norm is not None and _rows(pattern) > FEW_ROWS:
            pattern.norm, pattern.ahead = None, []
        return None if pattern is None or len(pattern.calls) == 1 else pattern

    def tiles(self, pattern: LinearPattern) -> tuple[int, ...]:
        from mvc.kernels.linear.triton_tiles import candidates

        return candidates(_rows(pattern), *shape(pattern.arguments["weight"]), value(pattern.product).dtype)

    def measurement(self, pattern: LinearPattern, tiles: tuple[int, ...]) -> tuple[str, Callable[[], Runs]]:
        library = _library(pattern)
        names = ("x", "weight", "bias", "norm_weight", "norm_bias", "scale", "residual")
        given = dict(zip(names, map(layout, pattern.operands), strict=True))
        dtype = value(pattern.product).dtype
        key = f"linear {dtype} {given} eps={pattern.eps} activation={pattern.activation} {library}"
        return key, partial(_runs, pattern, library, tiles)

    def insert(self, pattern: LinearPattern, choice: str) -> fx.Node:
        """ "cublas" is the library's product that computes GELU too."""
        return insert_library_gelu(pattern) if choice == "cublas" else insert_fused(pattern, int(choice))


def _rows(pattern: LinearPattern) -> int:
    return math.prod(example_size(size) for size in shape(pattern.product)[:-1])


# The measurement


class Library(NamedTuple):
    """What the library's product runs with, where it stays, that one kernel saves.

    It is less than what Inductor generates, so that in doubt the library stays.

    Attributes:
        norm: LayerNorm as a kernel of its own: no loop that computes its input computes it too.
        epilogue: "kernel" of its own; "bytes": a loop reads what was computed, which computes it too and reads one
            tensor more and writes one; "none" where it reads and writes nothing more.
    """

    norm: bool
    epilogue: Literal["kernel", "bytes", "none"]


def _library(pattern: LinearPattern) -> Library:
    few = _rows(pattern) <= FEW_ROWS
    norm = pattern.norm is not None and not is_loop(_producer(pattern.operands[0]))
    reader = min(readers(pattern.last), default=None)
    # Few rows let the product that follows take in the LayerNorm between them.
    followed = reader is not None and is_loop(reader) and not (few and is_call(reader, "layer_norm"))
    if pattern.activation == "none" and pattern.scale is None and pattern.residual is None:
        return Library(norm, "none")
    if not followed:
        return Library(norm, "kernel")
    return Library(norm, "none" if pattern.residual is None or few else "bytes")


def _producer(node: fx.Node) -> fx.Node:
    while is_view(node):
        node = node.all_input_nodes[0]
    return node


def _runs(pattern: LinearPattern, library: Library, tiles: tuple[int, ...]) -> Runs:
    """The library's calls and the kernel on each tile, on random numbers in place of the fakes."""
    dtype, device, eps = value(pattern.product).dtype, value(pattern.product).device, pattern.eps
    x, weight, *others, scale, residual = map(layout, pattern.operands)
    (*rows, _), (columns, _) = x[0], weight[0]
    scale, residual = scale and contiguous(columns), residual and contiguous(*rows, columns)
    layouts, generator = (x, weight, *others, scale, residual), torch.Generator(device)
    inputs = rotated(lambda: random_tensors(layouts, dtype, generator), device)

    def by_library(*, gelu: bool = False) -> Tensor:
        x, weight, bias, norm_weight, norm_bias, scale, residual = next(inputs)
        if library.norm:
            x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
        if gelu:
            return torch.ops.mvc.linear_gelu_cublas(x, weight, bias)
        y = F.linear(x, weight, bias)
        if library.epilogue == "none":
            return y
        if library.epilogue == "bytes":
            return y.clone()
        if residual is not None:
            return y.add_(residual)
        return y.mul_(scale) if pattern.activation == "none" else IN_PLACE[pattern.activation](y)

    def by_kernel(tile: int) -> Tensor:
        x, weight, bias, norm_weight, norm_bias, scale, residual = next(inputs)
        vectors = norm_weight, norm_bias, eps
        return torch.ops.mvc.fused_linear_triton(x, weight, bias, *vectors, pattern.activation, scale, residual, tile)

    gelu = {"cublas": partial(by_library, gelu=True)} if pattern.is_gelu else {}
    return {"library": by_library, **gelu, **{str(tile): partial(by_kernel, tile) for tile in tiles}}
