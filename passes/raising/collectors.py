"""Where the results of a loop's steps come together: a stack, a concatenation, a tensor that is filled step by step."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from torch import fx

from mvc.passes.graph.fx_utils import shape
from mvc.passes.graph.memory import written_by
from mvc.passes.graph.torch_ops import Kind, call
from mvc.passes.graph.views import Part, index_parts
from mvc.passes.raising.layouts import erase_unused

LEAST_STEPS = 2

Column = tuple[Any, ...]  # what stands in one place of each step


@dataclasses.dataclass
class Collector:
    """Where the outputs of all steps come together, in their order along `dim`.

    `node` is a stack, a concatenation of outputs with an axis of size 1 (`keeps_axis`), or a new tensor that `writes`
    fill one by one.
    """

    node: fx.Node
    steps: Column
    dim: int
    keeps_axis: bool = False
    writes: tuple[fx.Node, ...] = ()

    @property
    def ends(self) -> tuple[fx.Node, ...]:
        """The calls that collect."""
        return self.writes or (self.node,)

    @property
    def readers(self) -> list[fx.Node]:
        """The calls that need what is collected: where it is filled step by step, those after that."""
        if not self.writes:
            return [self.node]
        return [user for user in self.node.users if user not in self.writes and (user.users or user.op == "output")]

    def erase(self) -> None:
        """Erase what collects, once something else stands in its place."""
        erase_unused([*reversed(self.writes), self.node])


def collectors(graph: fx.Graph) -> Iterator[Collector]:
    """Every place where results may come together that the same step computes over and over."""
    for node in graph.nodes:  # a loop that is raised meanwhile takes nodes with it
        known = call(node)
        name = known.name if known else ""
        if name in ("stack", "cat") and len(known.args["tensors"]) >= LEAST_STEPS:
            steps = tuple(known.args["tensors"])
            dim = known.args.get("dim", 0) % len(shape(node))
            if name == "stack" or all(shape(step)[dim] == 1 for step in steps):
                yield Collector(node, steps, dim, keeps_axis=name == "cat")
        elif known and known.kind is Kind.CONSTRUCTION and node.users:
            yield from _filled(node)


def _filled(node: fx.Node) -> Iterator[Collector]:
    """A new tensor that is filled along one axis, index by index, before anything reads it that is used."""
    users = sorted(user for user in node.users if user.users or written_by(user) or user.op == "output")
    writes = [user for user in users if user.target is operator.setitem and user.args[0] is node]
    if len(writes) < LEAST_STEPS or any(user.target is operator.setitem for user in users[len(writes) :]):
        return
    places = [only_place(index_parts(write.args[1], len(shape(node)))) for write in writes]
    if None in places or len({place.axis for place in places}) != 1:
        return
    dim = places[0].axis
    order = [place.item % len(writes) for place in places]
    if sorted(order) != list(range(len(writes))) or shape(node)[dim] != len(writes):
        return
    rest = [size for axis, size in enumerate(shape(node)) if axis != dim]
    if all(isinstance(write.args[2], fx.Node) and list(shape(write.args[2])) == rest for write in writes):
        steps = dict(zip(order, (write.args[2] for write in writes), strict=True))
        yield Collector(node, tuple(steps[t] for t in range(len(writes))), dim, writes=tuple(writes))


def only_place(parts: Sequence[Part] | None) -> Part | None:
    """The part of an index that takes one place of its axis, where the others take all of theirs."""
    numbers = [part for part in parts or () if isinstance(part.item, int)]
    others = [part for part in parts or () if not isinstance(part.item, int)]
    return numbers[0] if len(numbers) == 1 and all(part.item == slice(None) for part in others) else None
