"""Rolls an unrolled loop up: what collects the outputs of its steps, and the one step that they all repeat."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import fx
from torch.utils._pytree import tree_flatten

from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import between, shape
from mvc.passes.graph.memory import is_view, storages, writers
from mvc.passes.graph.torch_ops import Kind, call
from mvc.passes.graph.views import Part, index_parts
from mvc.passes.raising.layouts import erase_unused
from mvc.passes.raising.slices import Slices, slices

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

    def erase(self) -> None:
        """Erase what collects, once something else stands in its place."""
        erase_unused([*reversed(self.writes), self.node])

    def looks_recurrent(self) -> bool:
        """Whether a later step depends on something of an earlier one that the first does not: on its state."""
        if len(self.steps) < 3:
            return False
        first, second, third = (_sources(step) for step in self.steps[:3])
        alike = self.steps[1].target == self.steps[2].target  # the first may start in its own way
        return alike and any(node.op != "placeholder" for node in (second & third) - first)


def _sources(node: fx.Node, most: int = 64) -> set[fx.Node]:
    """The nodes nearest to this one that it is computed from, itself included."""
    seen, pending = {node}, [node]
    while pending and len(seen) < most:
        new = [each for each in pending.pop(0).all_input_nodes if each not in seen]
        seen.update(new)
        pending += new
    return seen


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
    """A new tensor that is filled along one axis, index by index, before anything reads it."""
    users = list(node.users)
    writes = [user for user in users if user.target is operator.setitem and user.args[0] is node]
    if len(writes) < LEAST_STEPS or any(user.target is operator.setitem for user in users[len(writes) :]):
        return
    places = [_only_place(index_parts(write.args[1], len(shape(node)))) for write in writes]
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


def _only_place(parts: Sequence[Part] | None) -> Part | None:
    """The part of an index that takes one place of its axis, where the others take all of theirs."""
    numbers = [part for part in parts or () if isinstance(part.item, int)]
    others = [part for part in parts or () if not isinstance(part.item, int)]
    return numbers[0] if len(numbers) == 1 and all(part.item == slice(None) for part in others) else None


class Initial(NamedTuple):
    """The state before the first step, a node or a number, and a node like the states before the others."""

    first: fx.Node | float
    like: fx.Node


class RolledLoop:
    """The step that all outputs of a collector repeat.

    Attributes:
        carries: for the state before each step, the column of the states after it.
        initials: the states before the first step.
        backwards: whether the steps run against the order in which they are collected.
        descending: whether every slice goes down as that order goes up.
        sequences, additional: what differs from step to step, and what does not.
        escaping: for columns of which others use single steps, those steps and their nodes.
        leaving: what goes once the recurrence stands in its place.

    Raises:
        Declined: the steps do not repeat one step.
    """

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.length = len(collector.steps)
        self._operations: dict[Column, None] = {}  # in an order to compute them in
        self._open: dict[Any, Column] = {}  # by the first and by the last of their nodes
        self._slices: dict[Column, Slices] = {}
        self._carried: dict[Column, Column] = {}
        self._constants: dict[fx.Node, None] = {}
        self._directions: set[bool] = set()
        self._visit(collector.steps)
        self.backwards = True in self._directions
        if not self._carried:
            return
        if len(self._directions) > 1:
            raise Declined("states run in both directions")
        self.descending = all(each.descending for each in self._slices.values()) and bool(self._slices)
        self.leaving = {*self.nodes, collector.node, *collector.writes}
        self.escaping = self._escaping()

    @property
    def carries(self) -> dict[Column, Column]:
        return self._carried

    @property
    def sequences(self) -> list[Slices]:
        return list(self._slices.values())

    @property
    def additional(self) -> list[fx.Node]:
        return list(self._constants)

    @property
    def nodes(self) -> Iterator[fx.Node]:
        """All nodes of all steps."""
        return itertools.chain.from_iterable(self._operations)

    @property
    def is_read_by_step(self) -> bool:
        """Whether most steps have something that others use by itself."""
        return any(2 * len(used) > self.length for used in self.escaping.values())

    @property
    def initials(self) -> list[Initial]:
        return [Initial(column[-1 if self.backwards else 0], column[self._second]) for column in self._carried]

    def _visit(self, column: Column) -> None:
        if column in self._operations or column in self._slices or column in self._carried:
            return
        first = column[0]
        if all(each is first for each in column):
            self._constants[first] = None
            return
        if (sequence := slices(column)) is not None:
            self._slices[column] = sequence
            return
        if (later := self._carry_of(column)) is not None:
            self._carried[column] = later
            return
        if not all(isinstance(each, fx.Node) for each in column):
            raise Declined(f"a number differs from step to step ({column[0]}, {column[1]}, ...)")
        self._open[column[0]] = self._open[column[-1]] = column
        for argument in _arguments(column):
            self._visit(argument)
        self._operations[column] = None

    def _carry_of(self, column: Column) -> Column | None:
        """The column of the states after each step, where this is that of the states before it."""
        for backwards in (False, True):
            later = self._open.get(column[-2] if backwards else column[1])
            ahead, behind = (column[:-1], later and later[1:]) if backwards else (column[1:], later and later[:-1])
            if later is not None and ahead == behind:
                self._directions.add(backwards)
                return later
        return None

    def obstacle(self) -> str | None:
        """What writes to something that the steps read, or to their results until these are collected."""
        members, ends = set(self.nodes), self.collector.writes or (self.collector.node,)
        read = set().union(*map(storages, self._needed))
        if self.collector.writes and storages(self.collector.node) & read:
            return f"{self.collector.writes[0].name} writes to what its steps read"
        steps = {*members, *ends}
        others = (node for node in between(min(steps), max(steps)) if node not in steps) if members else ()
        writer = next(writers(others, read.union(*map(storages, members))), None)
        return None if writer is None else f"{writer.name} writes in place between its steps"

    def _escaping(self) -> dict[Column, dict[int, fx.Node]]:
        """Views of a step's results that others use stay, and are views of what is used then."""
        found = {}
        for column in reversed(self._operations):
            used = {step: node for step, node in enumerate(column) if not self.leaving.issuperset(node.users)}
            if any(map(is_view, used.values())):
                self.leaving.difference_update(used.values())
            elif used:
                found[column] = used
        return found

    @property
    def _second(self) -> int:
        """The index of the second step in time. That of the first may have a number for a state."""
        return self.length - 2 if self.backwards else 1

    def body(self) -> fx.Graph:
        """One step as a graph of (states, slices, constants) that returns the next states, what is collected, and what
        escapes."""
        body, nodes = fx.Graph(), {}
        columns = [*self._carried, *self._slices, *((node,) * self.length for node in self._constants)]
        for column in columns:
            source = column[self._second]
            if source in nodes:
                raise Declined("one tensor stands in two places of a step")
            nodes[source] = body.placeholder(f"{source.name}_in")
            nodes[source].meta = dict(source.meta)
        for column in self._operations:
            nodes[column[self._second]] = body.node_copy(column[self._second], nodes.__getitem__)
        states = [nodes[later[self._second]] for later in self._carried.values()]
        body.output((*states, *(nodes[column[self._second]] for column in (self.collector.steps, *self.escaping))))
        return body

    def erase(self) -> None:
        """Erase the steps, the last one first, but for what others still use."""
        steps = range(self.length) if self.backwards else reversed(range(self.length))
        for step in steps:
            for column in reversed(self._operations):
                if not column[step].users:
                    column[step].graph.erase_node(column[step])

    @property
    def _needed(self) -> list[fx.Node]:
        """What the steps are computed from."""
        firsts = [each.first for each in self.initials if isinstance(each.first, fx.Node)]
        return [*firsts, *self._constants, *(each.tensor for each in self._slices.values())]

    def site(self) -> fx.Node:
        """Where all steps can be computed: at the first of them, or as soon as what they need is there."""
        first = min(node for column in self._operations for node in (column[0], column[-1]))
        site = max(first, *(node.next for node in self._needed))
        users = [user for used in self.escaping.values() for node in used.values() for user in node.users]
        outside = set(users).difference(self.nodes)
        if any(user < site for user in (*outside, *(self.collector.writes or (self.collector.node,)))):
            raise Declined("something is computed between its steps that they need")
        return site


def _arguments(column: Column) -> Iterator[Column]:
    """The columns of what the nodes of a column are called with.

    Raises:
        Declined: they do not call the same.
    """
    first = column[0]
    leaves, structure = tree_flatten((first.args, first.kwargs))
    rows = [leaves]
    for node in column[1:]:
        if (node.op, node.target) != (first.op, first.target) or first.op not in ("call_function", "call_method"):
            raise Declined(f"a step differs: {first.name} and {node.name}")
        leaves, its = tree_flatten((node.args, node.kwargs))
        if its != structure:
            raise Declined(f"a step differs: {first.name} and {node.name}")
        rows.append(leaves)
    for argument in zip(*rows, strict=True):
        if any(isinstance(each, fx.Node) for each in argument):
            yield argument
        elif any(each != argument[0] for each in argument):
            raise Declined(f"a step differs: {first.name} is called with {argument[0]}, then with {argument[1]}")
