"""What the passes share that put own kernels, Triton kernels of mvc, in the place of a library's call."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, fx

from mvc.kernels import implementations
from mvc.kernels.checks import HALF
from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import between, name_of, shape, value
from mvc.passes.graph.memory import is_view, storages, writers
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import Call, Kind, call
from mvc.passes.graph.views import is_tensor
from mvc.passes.measured_choice import Kernels, Runs, fastest
from mvc.passes.torch_private import example_size

DEVICE = "cuda"
AS_FAST = "measured: the library is as fast"  # why a place was left alone

Layout = tuple[tuple[int, ...], tuple[int, ...]]  # sizes and strides


def allowed(kernels: Kernels, node: fx.Node) -> bool:
    """Whether own kernels may stand in the node's place, and are there: on no other device are they loaded."""
    return value(node).device.type == DEVICE and kernels != "library" and implementations.triton_available()


def kind_obstacle(surroundings: Surroundings, node: fx.Node) -> str | None:
    """Why the library computes the node in any case: own kernels are for half precision; None if it need not."""
    if surroundings.contexts.of(node).transforms:
        return "it is inside a transform of torch.func, where the library stays"
    dtype = value(node).dtype
    return None if dtype in HALF else f"it computes in {str(dtype).removeprefix('torch.')}, in which the library stays"


def obstacle(surroundings: Surroundings, calls: Sequence[fx.Node], operands: Sequence[fx.Node | None]) -> str | None:
    """Why the calls, in order, cannot become one of these operands; None if they can."""
    if (reason := kind_obstacle(surroundings, calls[-1])) is not None:
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


def operand_beside(known: Call, node: fx.Node) -> fx.Node | None:
    """The other tensor of a sum or product of the node with one, which it may write over only in the node's place."""
    other = known.args["other"] if known.args["input"] is node else known.args["input"]
    is_written = known.kind is Kind.WRITE and known.args["input"] is not node
    return None if not is_tensor(other) or other is node or is_written else other


@dataclasses.dataclass
class Pattern(abc.ABC):
    """A library's call and what is computed from it alone.

    Attributes:
        nodes: the calls from the library's on, in order; the last one computes the result.
        arguments: the library's.
        activation: one of "none", "relu", "silu", "gelu", "gelu_tanh".
        residual: what is added, of the result's shape.
    """

    nodes: list[fx.Node]
    arguments: dict[str, Any]
    activation: str = "none"
    residual: fx.Node | None = None

    @property
    def product(self) -> fx.Node:
        return self.nodes[0]

    @property
    def last(self) -> fx.Node:
        return self.nodes[-1]

    @property
    def calls(self) -> list[fx.Node]:
        """All that one call stands for, in order."""
        return self.nodes

    @property
    @abc.abstractmethod
    def operands(self) -> tuple[fx.Node | None, ...]:
        """What the own kernel reads, in the order of its parameters."""


P = TypeVar("P", bound=Pattern)


@dataclasses.dataclass(frozen=True)
class FuseKernel(Pass, Generic[P]):
    """A library's call and what surrounds it as one own kernel, in inference on a GPU, where that is faster.

    Attributes:
        kernels: see `mvc.compile.backend.Options`.
    """

    inference_only: ClassVar[bool] = True

    kernels: Kernels = "measured"

    @abc.abstractmethod
    def pattern(self, node: fx.Node) -> P | None:
        """The pattern from a library's call on; None for any other node, and where there is nothing to fuse."""

    @abc.abstractmethod
    def tiles(self, pattern: P) -> tuple[int, ...]:
        """The tiles that are worth timing, best first.

        Raises:
            Declined: the kernel cannot compute the pattern, or need not.
        """

    @abc.abstractmethod
    def measurement(self, pattern: P, tiles: tuple[int, ...]) -> tuple[str, Callable[[], Runs]]:
        """What the choice depends on, and the calls that are timed: "library" first, a tile's by its number."""

    @abc.abstractmethod
    def insert(self, pattern: P, choice: str) -> fx.Node:
        """The chosen call at the insertion point."""

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome, surroundings = Outcome(), Surroundings(graph)
        for node in list(graph.nodes):
            pattern = self.pattern(node)
            if pattern is None or not allowed(self.kernels, node):
                continue
            try:
                self._fuse(surroundings, pattern)
            except Declined as reason:
                outcome.near_misses.append(NearMiss.at(node, str(reason)))
            else:
                outcome.matches += 1
        return outcome

    def _fuse(self, surroundings: Surroundings, pattern: P) -> None:
        if (reason := obstacle(surroundings, pattern.calls, pattern.operands)) is not None:
            raise Declined(reason)
        tiles = self.tiles(pattern)
        if self.kernels == "own":
            choice = str(tiles[0])
        else:
            choice = fastest(*self.measurement(pattern, tiles), value(pattern.product).device)
        if choice == "library":
            raise Declined(AS_FAST)
        with surroundings.at(pattern.last):
            surroundings.replace({pattern.last: self.insert(pattern, choice)})
        for node in reversed(pattern.nodes):  # those that work in place would stay
            node.graph.erase_node(node)
