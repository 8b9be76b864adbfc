"""Rolls an unrolled loop up: finds the one step that all of its steps repeat."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import fx

from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import between, name_of
from mvc.passes.graph.memory import is_view, storages, writers
from mvc.passes.raising.chains import States
from mvc.passes.raising.collectors import Collector, Column
from mvc.passes.raising.slices import Slices, breaks_of, slices

NO_STATES = States([])


class Uneven(Declined):
    """The steps do not repeat one step.

    Attributes:
        breaks: the steps that do not do what the one before them does.
    """

    def __init__(self, reason: str, node: Any, breaks: Sequence[int]) -> None:
        super().__init__(reason, node if isinstance(node, fx.Node) else None)
        self.breaks = tuple(breaks)


class Initial(NamedTuple):
    """The state before the first step, a node or a number, and a node like the states before the others."""

    first: fx.Node | float
    like: fx.Node


class RolledLoop:
    """The step that all steps of a loop repeat.

    Args:
        outputs: what each step gives: what a collector collects, or its state.
        collector: what collects them, if anything.
        states: of all loops of the graph, where they are known: a step may read the state of another.

    Attributes:
        carries: for the state before each step, the column of the states after it.
        initials: the states before the first step.
        backwards: whether the steps run against the order in which they are collected.
        descending: whether every slice goes down as that order goes up.
        sequences, additional: what differs from step to step, and what does not.
        escaping: for columns of which others use single steps, those steps and their nodes.
        leaving: what goes once the recurrence stands in its place.
    """

    def __init__(self, outputs: Column, collector: Collector | None = None, states: States = NO_STATES) -> None:
        self.outputs = outputs
        self.collector = collector
        self.states = states
        self.length = len(outputs)
        self._operations: dict[Column, None] = {}  # in an order to compute them in
        self._open: dict[Any, Column] = {}  # by the first and by the last of their nodes
        self._slices: dict[Column, Slices] = {}
        self._carried: dict[Column, Column] = {}
        self._read_ahead: list[Column] = []  # the states of others, which a step reads before it updates them
        self._constants: dict[fx.Node, None] = {}
        self._directions: set[bool] = set()

    def roll(self) -> None:
        """Find the step.

        Raises:
            Declined: there is no one step that they all repeat; `Uneven` where they differ.
        """
        self._visit(self.outputs)
        while self._read_ahead:
            self._visit(self._read_ahead.pop())
        self.backwards = True in self._directions
        if len(self._directions) > 1:
            raise Declined("states run in both directions")
        self.descending = all(each.descending for each in self._slices.values()) and bool(self._slices)
        if not set(self._needed).isdisjoint(self.nodes):
            raise Declined("the loop starts from a result of one of its steps")
        self.leaving = {*self.nodes, *self.ends}
        if self.collector is not None:
            self.leaving.add(self.collector.node)
        self.escaping = self._escaping()

    @property
    def ends(self) -> tuple[fx.Node, ...]:
        """The calls that collect the outputs."""
        return () if self.collector is None else self.collector.ends

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
        if 2 * len(breaks := breaks_of(column)) >= self.length:
            raise Declined("its steps take entries of a tensor at uneven distances", column[breaks[0]])
        if breaks:
            reason = f"step {breaks[0] + 1} does not take what follows on what step {breaks[0]} takes"
            raise Uneven(reason, column[breaks[0]], breaks)
        if not any(isinstance(each, fx.Node) for each in column):
            raise Declined(f"a number differs from step to step ({column[0]}, {column[1]}, ...)")
        self._open[column[0]] = self._open[column[-1]] = column
        for argument in _arguments(column):
            self._visit(argument)
        self._operations[column] = None

    def _carry_of(self, column: Column) -> Column | None:
        """The column of the states after each step, where this is that of the states before it."""
        for backwards in (False, True):
            later = self._open.get(column[-2] if backwards else column[1])
            if later is None:
                continue
            ahead, behind = (column[:-1], later[1:]) if backwards else (column[1:], later[:-1])
            breaks = [t for t, pair in enumerate(zip(ahead, behind, strict=True), 1) if pair[0] is not pair[1]]
            if not breaks:
                self._directions.add(backwards)
                return later
            if 2 * len(breaks) < self.length and not backwards:
                reason = f"step {breaks[0] + 1} starts from another state than the one after step {breaks[0]}"
                raise Uneven(reason, column[breaks[0]], breaks)
        if (later := self.states.after(column)) is not None:
            self._directions.add(False)
            self._read_ahead.append(later)
        elif (delay := self.states.delay(column, self.outputs)) > 1:
            raise Declined(
                f"each step reads the state of {delay} steps before; a linear recurrence reads that of the last alone"
            )
        return later

    def obstacle(self) -> str | None:
        """What writes to something that the steps read, or to their results until these are collected."""
        members, writes = set(self.nodes), self.collector.writes if self.collector else ()
        read = set().union(*map(storages, self._needed))
        if writes and storages(self.collector.node) & read:
            return f"{writes[0].name} writes to what its steps read"
        steps = {*members, *self.ends}
        others = (node for node in between(min(steps), max(steps)) if node not in steps)
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
        body.output((*states, *(nodes[column[self._second]] for column in (self.outputs, *self.escaping))))
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
        return [*firsts, *self._constants, *(node for each in self._slices.values() for node in each.nodes)]

    def site(self) -> fx.Node:
        """Where all steps can be computed: at the first of them, or as soon as what they need is there."""
        first = min([node for column in self._operations for node in (column[0], column[-1])] or self.ends)
        site = max(first, *(node.next for node in self._needed))
        users = [user for used in self.escaping.values() for node in used.values() for user in node.users]
        outside = set(users).difference(self.nodes)
        if any(user < site for user in (*outside, *(self.collector.readers if self.collector else ()))):
            raise Declined("something is computed between its steps that they need")
        return site


def _arguments(column: Column) -> Iterator[Column]:
    """The columns of what the nodes of a column are called with.

    Raises:
        Uneven: they do not call the same.
    """
    rows = [[*_flat(_called(node))] for node in column]
    breaks = [
        step
        for step, (one, other) in enumerate(itertools.pairwise(rows), 1)
        if len(one) != len(other) or any(map(_differ, one, other))
    ]
    if breaks:
        raise Uneven(_difference(column, breaks[0]), column[breaks[0]], breaks)
    for argument in zip(*rows, strict=True):
        if any(isinstance(each, fx.Node) for each in argument):
            yield argument


def _called(node: fx.Node | float) -> Any:
    """What a call is, with its arguments; anything but a call is like itself alone."""
    if not isinstance(node, fx.Node):
        return node
    if node.op not in ("call_function", "call_method"):
        return node.name
    return node.op, node.target, node.args, node.kwargs


def _flat(argument: Any) -> Iterator[Any]:
    """The leaves of nested arguments, with what holds them, which are equal where the nesting is."""
    if isinstance(argument, (tuple, list)):
        yield type(argument), len(argument)
        for each in argument:
            yield from _flat(each)
    elif isinstance(argument, dict):
        yield tuple(argument)
        yield from _flat(tuple(argument.values()))
    elif isinstance(argument, slice):
        yield slice
        yield from _flat((argument.start, argument.stop, argument.step))
    else:
        yield argument


def _differ(one: Any, other: Any) -> bool:
    """Whether two arguments cannot stand in one place of a step: tensors and numbers may, as the first state may be a
    number."""
    nodes = isinstance(one, fx.Node), isinstance(other, fx.Node)
    if any(nodes):
        return not all(each or type(leaf) in (int, float) for each, leaf in zip(nodes, (one, other), strict=True))
    return type(one) is not type(other) or one != other


def _difference(column: Column, step: int) -> str:
    """In words what a step does that the one before does not."""
    before, after = column[step - 1 : step + 1]
    names = [name_of(each) if isinstance(each, fx.Node) else repr(each) for each in (before, after)]
    if names[0] != names[1]:
        return f"step {step + 1} has {names[1]} where step {step} has {names[0]}"
    return f"step {step + 1} calls {names[1]} with other arguments than step {step}"
