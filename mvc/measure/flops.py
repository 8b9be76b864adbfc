"""Floating-point operations of convolutions, matrix products and attention, by torch's counter; a multiply-add is two.

What runs or can be traced is counted by torch's `FlopCounterMode`. A call of which only the shapes are known, as in an
execution trace, is counted by torch's formulas for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

Shapes = list[list[int]]

# What torch's counter leaves out: it knows attention on GPUs, and its parts where a device has no kernel for the whole.
ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v)
    ),
}


def count(run: Callable[[], object]) -> int:
    """Count the operations of one run.

    Those of scans are left out: the rest of a model is what is compared with the rate of a matrix product.
    """
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        run()
    counts = counter.get_flop_counts().get("Global", {})
    return sum(flops for op, flops in counts.items() if not str(op).startswith("mvc."))


def of_node(node: fx.Node) -> int:
    """The operations of an ATen op in a graph whose nodes have their fake tensors as "val"."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
    return count(lambda: node.target(*args, **kwargs))


def of_call(name: str, inputs: Shapes, outputs: Shapes) -> int | None:
    """The operations of an operator's call; None where it does none of the above, or only calls another that does.

    Args:
        name: as the profiler has it: "aten::mm".
        inputs, outputs: shapes of the tensors.
    """
    if not inputs or not outputs:
        return None
    return next((flops(inputs, outputs) for kind, flops in CALLS.items() if re.fullmatch(kind, name)), None)


def _product(inputs: Shapes, outputs: Shapes, *, left: int = 0) -> int:
    return 2 * math.prod(outputs[0]) * inputs[left][-1]


def _convolution(inputs: Shapes, outputs: Shapes) -> int:
    return conv_flop_count(inputs[0], inputs[1], outputs[0])


def _convolution_backward(inputs: Shapes, outputs: Shapes) -> int:
    """The operations for the gradients of input and weight. A gradient that was not asked for has no shape."""
    gradient, x, weight = inputs[:3]
    return sum(conv_flop_count(x, weight, gradient) for each in outputs[:2] if each)


def _attention(
    inputs: Shapes,
    outputs: Shapes,
    *,
    formula: Callable[..., int] = sdpa_flop_count,
    tensors: int = 3,
    swapped: bool = False,
) -> int | None:
    """Count attention by one of torch's formulas, whose shapes are (batch, heads, length, dim).

    Args:
        tensors: how many the formula accepts, the first ones of the call.
        swapped: whether the call's shapes are (batch, length, heads, dim).
    """
    shapes = inputs[:tensors]
    if any(len(shape) != 4 for shape in shapes):
        return None  # packed sequences: the shapes do not tell their lengths
    return formula(*([shape[i] for i in ((0, 2, 1, 3) if swapped else range(4))] for shape in shapes))


_attention_backward = partial(_attention, formula=sdpa_backward_flop_count, tensors=4)


# Operators that only call another are not here: on CUDA, _scaled_dot_product_flash_attention calls
# _flash_attention_forward, and so on.
CALLS: dict[str, Callable[[Shapes, Shapes], int | None]] = {
    r"aten::(mm|bmm)|mkldnn::_linear_pointwise": _product,
    r"aten::(addmm|baddbmm)": partial(_product, left=1),
    r"aten::(mkldnn|cudnn|miopen|thnn|slow)_conv\w*|mkldnn::_convolution_pointwise": _convolution,
    r"aten::convolution_backward": _convolution_backward,
    r"aten::(_scaled_dot_product_flash_attention_for_cpu|_cudnn_attention_forward)": _attention,
    r"aten::(_scaled_dot_product_flash_attention_for_cpu|_cudnn_attention)_backward": _attention_backward,
    r"aten::_(flash|efficient)_attention_forward": partial(_attention, swapped=True),
    r"aten::_(flash|efficient)_attention_backward": partial(_attention_backward, swapped=True),
}
