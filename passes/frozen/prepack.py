"""What the passes share that put oneDNN's calls with packed weights in the place of torch's."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, fx

from mvc.passes import torch_private
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.frozen.constants import constants
from mvc.passes.frozen.onednn_ops import ACTIVATIONS
from mvc.passes.graph.fx_utils import insert, only_user, shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call
from mvc.passes.measured_choice import IN_PLACE, Runs, fastest

Choice = Literal["torch", "packed", "fused"]


class LibraryCall(NamedTuple):
    """One call of torch's, and how oneDNN is called for it.

    Attributes:
        key: what the choice depends on, beside dtype, sizes, bias and activation.
        sizes, strides: of the input; symbolic sizes as in the example.
        torch: torch's call of input, weight and bias.
        dense: the input as oneDNN's call gets it: Inductor lets whatever computes it write it so.
        pack, options: the op that packs the weight, and its further arguments.
        run, window: the op that accepts the packed weight, and its arguments between bias and activation.
    """

    key: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    torch: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    dense: Callable[[Tensor], Tensor]
    pack: torch._ops.OpOverload
    options: tuple[Any, ...]
    run: torch._ops.OpOverload
    window: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Prepack(Pass):
    """A product with a constant weight, its bias and an activation as one call of oneDNN, where that is faster.

    Attributes:
        force: "packed" or "fused" (with the activation) chooses that form unmeasured, "torch" none.
    """

    function: ClassVar[str]  # torch's name of the product
    needs_frozen: ClassVar[bool] = True

    force: Choice | None = None

    @abc.abstractmethod
    def obstacle(self, arguments: dict[str, Any]) -> str | None:
        """Why a call with these arguments cannot be oneDNN's; None if it can."""

    @abc.abstractmethod
    def product(self, arguments: dict[str, Any]) -> LibraryCall: ...

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        found, surroundings = constants(graph), Surroundings(graph)
        packed: dict[Any, fx.Node] = {}
        for node in list(graph.nodes):
            known = call(node)
            if known is None or known.name != self.function:
                continue
            reason = _obstacle(node, known.args, found) or self.obstacle(known.args)
            if reason is None:
                product = self.product(known.args)
                activation, last = _activation_of(node)
                reason = surroundings.contexts.obstacle([node, last])
            if reason is None:
                choice = self.force or _choose(product, known.args, activation)
                reason = "measured: torch's own call is as fast" if choice == "torch" else None
            if reason is not None:
                outcome.near_misses.append(NearMiss.at(node, reason))
                continue
            if choice == "packed":
                activation, last = "none", node
            _rewrite(surroundings, product, known.args, activation, last, packed)
            outcome.matches += 1
        if outcome.matches:
            torch_private.register_onednn_lowerings()
        return outcome


def _obstacle(node: fx.Node, arguments: dict[str, Any], found: set[fx.Node]) -> str | None:
    x, weight, y = value(arguments["input"]), value(arguments["weight"]), value(node)
    if arguments["weight"] not in found:
        return "its weight is not constant"
    if weight.device.type != "cpu":
        return f"its weight is on {weight.device}"
    if not x.dtype == weight.dtype == y.dtype or not torch_private.has_onednn(y.dtype):
        return f"oneDNN does not run {x.dtype} by {weight.dtype} to {y.dtype} here"
    return None


def _activation_of(node: fx.Node) -> tuple[str, fx.Node]:
    """The activation that is all that uses the node, and its call; "none" and the node itself where there is none."""
    user = only_user(node)
    known = call(user) if user is not None else None
    if known is None or known.args.get("input") is not node:
        return "none", node
    return (known.activation, user) if known.activation in ACTIVATIONS else ("none", node)


def _choose(product: LibraryCall, arguments: dict[str, Any], activation: str) -> Choice:
    weight, bias = value(arguments["weight"]), arguments.get("bias") is not None
    layouts = f"input={product.sizes} {product.strides} weight={tuple(weight.shape)} {weight.stride()}"
    key = f"{product.key} {weight.dtype} {layouts} bias={bias} activation={activation}"
    return fastest(key, lambda: _runs(product, weight, activation, has_bias=bias))


def _runs(product: LibraryCall, weight: Tensor, activation: str, *, has_bias: bool) -> Runs:
    """The forms on random numbers in place of the fakes."""
    generator, dtype = torch.Generator(), weight.dtype
    x = torch.empty_strided(product.sizes, product.strides, dtype=dtype, device="cpu").normal_(generator=generator)
    weight = torch.empty_strided(weight.shape, weight.stride(), dtype=dtype, device="cpu").normal_(generator=generator)
    bias = weight.flatten(1)[:, 0].contiguous() if has_bias else None
    dense = product.dense(x)
    packed = product.pack(weight, *product.options)
    after = IN_PLACE[activation]

    def run(activation: str) -> Tensor:
        return product.run(dense, packed, bias, *product.window, *ACTIVATIONS[activation])

    runs = {"torch": lambda: after(product.torch(x, weight, bias))}
    if activation != "none":
        runs["fused"] = lambda: run(activation)
    runs["packed"] = lambda: after(run("none"))
    return runs


def _rewrite(
    surroundings: Surroundings,
    product: LibraryCall,
    arguments: dict[str, Any],
    activation: str,
    last: fx.Node,
    packed: dict[Any, fx.Node],
) -> None:
    weight, bias = arguments["weight"], arguments.get("bias")
    key = weight, repr(product.options)
    graph = last.graph
    with surroundings.at(last):
        if key not in packed:
            packed[key] = insert(graph, product.pack, weight, *product.options)
        attributes = ACTIVATIONS[activation]
        y = insert(graph, product.run, arguments["input"], packed[key], bias, *product.window, *attributes)
        y.meta["stack_trace"] = last.meta.get("stack_trace")
        surroundings.replace({last: y})


def example_layout(x: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and strides of a tensor, symbols as the numbers that they are in the example."""
    sizes, strides = (map(torch_private.example_size, each) for each in (shape(x), value(x).stride()))
    return tuple(sizes), tuple(strides)
