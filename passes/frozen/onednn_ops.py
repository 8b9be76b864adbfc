"""Products of oneDNN with weights in its own layout, as ops that a graph can hold.

`mvc::pack_linear` and `mvc::pack_convolution` return an opaque tensor, whose fake is a plain one of the same shape;
`mvc::packed_linear` and `mvc::packed_convolution` take it, and an activation to apply to each result. For inference:
they have no derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.passes import torch_private

TAGS = (torch.Tag.pt2_compliant_tag,)

# What follows a product, as oneDNN's attribute and algorithm.
ACTIVATIONS = {
    "none": ("none", "none"),
    "relu": ("relu", "none"),
    "silu": ("swish", "none"),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
}

_WINDOW = "int[] padding, int[] stride, int[] dilation, int groups"
torch.library.define("mvc::pack_linear", "(Tensor weight, SymInt rows) -> Tensor", tags=TAGS)
torch.library.define("mvc::pack_convolution", f"(Tensor weight, {_WINDOW}, SymInt[] input_size) -> Tensor", tags=TAGS)
_PRODUCT = "Tensor x, Tensor weight, Tensor? bias"
_ATTRIBUTES = "str attribute, str algorithm"
torch.library.define("mvc::packed_linear", f"({_PRODUCT}, {_ATTRIBUTES}) -> Tensor", tags=TAGS)
torch.library.define("mvc::packed_convolution", f"({_PRODUCT}, {_WINDOW}, {_ATTRIBUTES}) -> Tensor", tags=TAGS)

torch.library.impl("mvc::pack_linear", "cpu", torch_private.pack_linear)
torch.library.impl("mvc::pack_convolution", "cpu", torch_private.pack_convolution)
torch.library.impl("mvc::packed_linear", "MkldnnCPU", torch_private.linear_pointwise)
torch.library.impl("mvc::packed_convolution", "MkldnnCPU", torch_private.convolution_pointwise)


@torch.library.register_fake("mvc::pack_linear")
def _(weight: Tensor, rows: int) -> Tensor:
    return weight.new_empty_strided(weight.shape, torch_private.opaque_strides(weight.dim()))


@torch.library.register_fake("mvc::pack_convolution")
def _(weight: Tensor, *options: object) -> Tensor:
    return weight.new_empty_strided(weight.shape, torch_private.opaque_strides(weight.dim()))


@torch.library.register_fake("mvc::packed_linear")
def _(x: Tensor, weight: Tensor, *options: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.register_fake("mvc::packed_convolution")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, padding, stride, dilation, groups, *attributes: str) -> Tensor:
    y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    return torch.empty_like(y, memory_format=torch.channels_last)
