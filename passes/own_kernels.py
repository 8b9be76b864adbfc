"""What the passes share that put own kernels, Triton kernels of mvc, in the place of a library's call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx

from mvc.kernels import implementations
from mvc.kernels.checks import HALF
from mvc.passes.graph.fx_utils import between, name_of, shape, value
from mvc.passes.graph.memory import is_view, storages, writers
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import Kind, call
from mvc.passes.measured_choice import Kernels
from mvc.passes.torch_private import example_size, is_transformed

DEVICE = "cuda"
AS_FAST = "measured: the library is as fast"  # why a place was left alone

Layout = tuple[tuple[int, ...], tuple[int, ...]]  # sizes and strides


def allowed(kernels: Kernels) -> bool:
    """Whether own kernels may be put in, and are there."""
    return kernels != "library" and implementations.triton_available()


def kind_obstacle(node: fx.Node) -> str | None:
    """Why the library computes the node in any case: own kernels are for half precision; None if it need not."""
    if is_transformed(value(node)):
        return "it is inside a transform of torch.func, where the library stays"
    dtype = value(node).dtype
    return None if dtype in HALF else f"it computes in {str(dtype).removeprefix('torch.')}, in which the library stays"


def obstacle(surroundings: Surroundings, calls: Sequence[fx.Node], operands: Sequence[fx.Node | None]) -> str | None:
    """Why the calls, in order, cannot become one of these operands; None if they can."""
    if (reason := kind_obstacle(calls[-1])) is not None:
        return reason
    if value(calls[-1]).requires_grad:
        return "gradients are needed, which the fused product does not have"
    if (reason := surroundings.contexts.obstacle(calls)) is not None:
        return reason
    read = set().union(*(storages(each) for each in operands if each is not None))
    writer = next(writers(between(calls[0], calls[-1]), read), None)
    return None if writer is None else f"{writer.name} writes to what it reads before all of it is computed"


def layout(node: fx.Node | None) -> Layout | None:
    """Sizes and strides, symbols as the numbers that they are in the example."""
    if node is None:
        return None
    return tuple(tuple(map(example_size, each)) for each in (shape(node), value(node).stride()))


def contiguous(*sizes: int) -> Layout:
    """The layout of a tensor without gaps whose last axis is innermost."""
    return sizes, torch.empty(sizes, device="meta").stride()


def random_tensors(
    layouts: Sequence[Layout | None], dtype: torch.dtype, generator: torch.Generator
) -> list[Tensor | None]:
    """For each layout a tensor on the generator's device, to time calls with in place of the fakes; None for None."""

    def random(sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        places = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        memory = torch.empty(max(places, 0), dtype=dtype, device=generator.device).normal_(generator=generator)
        return memory.as_strided(sizes, strides)  # elements of an expanded tensor share a place

    return [None if each is None else random(*each) for each in layouts]


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
