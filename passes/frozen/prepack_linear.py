"""Linear layers with constant weights as oneDNN's product with a weight in its own layout, where that is faster.

y = linear(x, weight, bias)          packed = pack_linear(weight, rows)        # computed once, see freeze.py
z = gelu(y)                     ->   z = packed_linear(x, packed, bias, "gelu", "none")
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.passes.frozen.prepack import LibraryCall, Prepack, example_layout
from mvc.passes.graph.fx_utils import shape


@dataclasses.dataclass(frozen=True)
class PrepackLinear(Prepack):
    """`linear` and an activation."""

    name: ClassVar[str] = "prepack_linear"
    function: ClassVar[str] = "linear"

    def obstacle(self, arguments: dict[str, Any]) -> str | None:
        x, weight = shape(arguments["input"]), shape(arguments["weight"])
        if len(weight) != 2 or len(x) < 2:
            return f"shapes {tuple(x)} and {tuple(weight)} are not those of a matrix product"
        return None

    def product(self, arguments: dict[str, Any]) -> LibraryCall:
        sizes, strides = example_layout(arguments["input"])
        return LibraryCall(
            key="linear",
            sizes=sizes,
            strides=strides,
            torch=F.linear,
            dense=Tensor.contiguous,
            pack=torch.ops.mvc.pack_linear.default,
            options=(math.prod(sizes[:-1]),),
            run=torch.ops.mvc.packed_linear.default,
            window=(),
        )
