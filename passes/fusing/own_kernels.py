"""What the passes share that put a Triton kernel of mvc in the place of a library's call and of what surrounds it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import fx

from mvc.passes.graph.fx_utils import between, name_of, shape, value
from mvc.passes.graph.memory import is_view, storages, writers
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import Kind, call
from mvc.passes.torch_private import example_size

DEVICE = "cuda"
DTYPES = (torch.float16, torch.bfloat16)  # a library's product in float32 has no tensor cores to be level with


def obstacle(surroundings: Surroundings, calls: Sequence[fx.Node], operands: Sequence[fx.Node | None]) -> str | None:
    """Why the calls, in order, cannot become one of these operands; None if they can."""
    dtype = value(calls[-1]).dtype
    if dtype not in DTYPES:
        return f"it computes in {str(dtype).removeprefix('torch.')}, in which the library's product stays"
    if value(calls[-1]).requires_grad:
        return "gradients are needed, which the fused product does not have"
    if (reason := surroundings.contexts.obstacle(calls)) is not None:
        return reason
    read = set().union(*(storages(each) for each in operands if each is not None))
    writer = next(writers(between(calls[0], calls[-1]), read), None)
    return None if writer is None else f"{writer.name} writes to what it reads before all of it is computed"


def layout(node: fx.Node | None) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Sizes and strides, symbols as the numbers that they are in the example."""
    if node is None:
        return None
    return tuple(tuple(map(example_size, each)) for each in (shape(node), value(node).stride()))


def is_loop(node: fx.Node) -> bool:
    """Whether Inductor may make a loop of the call, which computes pointwise what it reads and what reads it."""
    known = call(node)
    if known is not None:
        return known.kind is not Kind.PRODUCT
    is_op = isinstance(node.target, torch._ops.OpOverload) or name_of(node) == "scaled_dot_product_attention"
    return node.op in ("call_function", "call_method") and not is_op


def readers(node: fx.Node) -> Iterator[fx.Node]:
    """What uses the node, through views."""
    for user in node.users:
        if user.op != "output" and is_view(user):
            yield from readers(user)
        else:
            yield user
