"""Convolutions with constant weights as oneDNN's with the weight in its own layout, where that is faster.

y = conv2d(x, weight, bias)        packed = pack_convolution(weight, …)         # computed once, see freeze.py
z = relu(y)                   ->   z = packed_convolution(x, packed, bias, …, "relu", "none")
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.passes.frozen.prepack import LibraryCall, Prepack, example_layout
from mvc.passes.graph.fx_utils import value


class Window(NamedTuple):
    """How a convolution's kernel moves, as its ops take it."""

    padding: list[int]
    stride: list[int]
    dilation: list[int]
    groups: int


@dataclasses.dataclass(frozen=True)
class PrepackConvolution(Prepack):
    """`conv2d` over channels_last images and the activation after it."""

    name: ClassVar[str] = "prepack_convolution"
    function: ClassVar[str] = "conv2d"

    def obstacle(self, arguments: dict[str, Any]) -> str | None:
        x = value(arguments["input"])
        if any(isinstance(size, torch.SymInt) for size in x.shape):
            return "its input's size is not known"
        if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
            return "its input is not channels_last"
        if isinstance(arguments.get("padding"), str):
            return f"its padding is {arguments['padding']!r}"
        return None

    def product(self, arguments: dict[str, Any]) -> LibraryCall:
        sizes, strides = example_layout(arguments["input"])
        window = _window(arguments)

        def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return F.conv2d(x, weight, bias, window.stride, window.padding, window.dilation, window.groups)

        return LibraryCall(
            key=f"convolution {window}",
            sizes=sizes,
            strides=strides,
            torch=convolve,
            dense=lambda x: x,
            pack=torch.ops.mvc.pack_convolution.default,
            options=(*window, list(sizes)),
            run=torch.ops.mvc.packed_convolution.default,
            window=tuple(window),
        )


def _window(convolution: dict[str, Any]) -> Window:
    def both(name: str, default: int) -> list[int]:
        given = convolution.get(name, default)
        return [given, given] if isinstance(given, int) else list(given) * (2 // len(given))

    return Window(both("padding", 0), both("stride", 1), both("dilation", 1), convolution.get("groups", 1))
