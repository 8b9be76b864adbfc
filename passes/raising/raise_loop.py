"""Raises loops over time that Dynamo unrolled: their steps are rolled up into one, which is raised as a `scan` is."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import fx

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.views import selection
from mvc.passes.raising import buffers, in_place, profitability
from mvc.passes.raising.chains import LEAST_STEPS, States, chains
from mvc.passes.raising.collectors import Collector, Column, collectors
from mvc.passes.raising.layouts import Layout, move, moved_pairs
from mvc.passes.raising.loop_steps import NO_STATES, Initial, RolledLoop, Uneven
from mvc.passes.raising.slices import Slices
from mvc.passes.raising.step_scan import StepScan, functional

MOST_CUTS = 2  # of a chain: two loops of the same lines, and a first step that is written apart


@dataclasses.dataclass(frozen=True)
class RaiseLoop(Pass):
    """Writes an unrolled linear recurrence as that, and what each step makes of its state as operations on all states.

    Before::

        h0 = a[:, 0] * zeros + b[:, 0];  y0 = einsum("bdn,bn->bd", h0, c[:, 0])
        h1 = a[:, 1] * h0 + b[:, 1];     y1 = einsum("bdn,bn->bd", h1, c[:, 1])
        ...
        y = stack([y0, y1, ...], 1)

    After::

        states = mvc.linear_recurrence(a, b, None, 1, False)
        y = einsum("tbdn,tbn->tbd", states.movedim(1, 0), c.movedim(1, 0)).movedim(0, 1)

    The outputs may be stacked, concatenated, or written into a tensor one by one; or only some states are used, the
    last one say. Where the first or the last step is written apart, the steps between are raised.

    Attributes:
        always: raise where Inductor's own code is expected to be as fast, too (see `mvc.passes.raising.profitability`).
    """

    name: ClassVar[str] = "raise_loop"
    always: bool = False

    def __call__(self, graph: fx.Graph) -> Outcome:
        renamed = in_place.name_states(graph) + buffers.forward_writes(graph)
        run = _Run(graph, always=self.always)
        run.raise_collected()
        run.raise_chains()
        if run.raised:
            run.raise_collected()  # what others compute from single states
        run.outcome.near_misses += buffers.read_back(graph)
        in_place.undo(graph, renamed)
        return run.outcome


def always(passes: Iterable[Pass]) -> list[Pass]:
    """The passes with loops raised however few steps and elements they have."""
    return [dataclasses.replace(each, always=True) if isinstance(each, RaiseLoop) else each for each in passes]


class _Run:
    """One run of the pass over a graph."""

    def __init__(self, graph: fx.Graph, *, always: bool) -> None:
        self.graph = graph
        self.always = always
        self.outcome = Outcome()
        self.surroundings = Surroundings(graph)
        self.there = set(graph.nodes)
        self.left: set[fx.Node] = set()  # of loops that are not worth raising
        self.raised: set[fx.Node] = set()  # results of raised loops of which others use single steps
        self.chains: list[Column] = []
        self.states = NO_STATES

    def raise_collected(self) -> None:
        """Raise loops whose outputs come together. Why one is left alone is said of its chain of states."""
        for collector in collectors(self.graph):
            loop = RolledLoop(collector.steps, collector)
            try:
                loop.roll()
                if loop.carries or not self.raised.isdisjoint(each.tensor for each in loop.sequences):
                    self._raise(loop)
            except profitability.Costly as reason:
                self._leave(loop, NearMiss.at(collector.steps[1], str(reason)))
            except Declined:
                continue

    def raise_chains(self) -> None:
        """Raise the loops that are left by their states alone, or note why not; those that read another's states once
        that one is raised."""
        pending, misses = chains(self.graph), {}
        self.chains, self.states = pending, States(pending)
        while pending:
            matches, misses = self.outcome.matches, {}
            for chain in filter(self._is_there, pending):
                if (miss := self._raise_chain(chain, cuts=MOST_CUTS)) is not None:
                    misses[chain] = miss
            pending = [*filter(self._is_there, misses)]
            if matches == self.outcome.matches:
                break
        self.outcome.near_misses += [misses[chain] for chain in pending]

    def _is_there(self, chain: Column) -> bool:
        """Whether the chain is neither raised with another nor known not to be worth it."""
        return self.left.isdisjoint(chain) and self.there.issuperset(chain)

    def _raise_chain(self, chain: Column, *, cuts: int) -> NearMiss | None:
        """Why the chain is left alone; None where it is raised, at least in part, or no loop.

        Args:
            cuts: how often it may be cut where its steps differ.
        """
        loop = RolledLoop(chain, states=self.states)
        try:
            loop.roll()
            self._raise(loop)
        except Uneven as uneven:
            if 2 * len(uneven.breaks) >= loop.length:  # layers with weights of their own, say
                return None
            parts = _parts(chain, uneven.breaks) if cuts else []
            misses = {part: self._raise_chain(part, cuts=cuts - 1) for part in parts}
            if None in misses.values():
                return None
            longest = max(parts, key=len, default=None)
            return misses.get(longest) or NearMiss.at(uneven.node or chain[1], f"no linear recurrence: {uneven}")
        except profitability.Costly as reason:
            return NearMiss.at(chain[1], str(reason))
        except Declined as reason:
            return NearMiss.at(reason.node or chain[1], f"no linear recurrence: {reason}")
        return None

    def _leave(self, loop: RolledLoop, miss: NearMiss) -> None:
        if self.left.isdisjoint(loop.nodes):
            self.outcome.near_misses.append(miss)
        self.left.update(loop.nodes)

    def _raise(self, loop: RolledLoop) -> None:
        """Put the loop's recurrence, and what its steps compute from it, in the loop's place.

        Raises:
            Declined: it is no linear recurrence, or the program would see it, or it would be slower.
        """
        if (obstacle := loop.obstacle()) is not None:
            raise Declined(obstacle)
        in_place.check(loop.nodes, self.surroundings.contexts)
        body, site = loop.body(), loop.site()
        body = functional(body, [*body.nodes][: len(loop.carries)])
        if (obstacle := self.surroundings.contexts.obstacle({site, *loop.nodes, *loop.leaving})) is not None:
            raise Declined(obstacle)
        with self.surroundings.at(site):
            new, picked = _results(site.graph, loop, body, functools.partial(self._kept, loop, site))
            if not self.always and loop.carries:
                profitability.check(loop, new, picked)
            pairs = dict(picked)
            if (collector := loop.collector) is not None:
                new = _collected(site.graph, collector, new)
                layout = Layout(tuple(range(len(shape(new)))), loop.descending)
                pairs = {**moved_pairs(collector.node, new, layout, collector.dim), **picked}
            self.surroundings.replace(pairs, leaving=loop.leaving)
        if collector is not None:
            collector.erase()
        loop.erase()
        self.there = set(self.graph.nodes)
        self.states = States(filter(self._is_there, self.chains))
        self.raised.update(selection(pick).input for pick in picked.values())
        self.outcome.matches += bool(loop.carries)

    def _kept(self, loop: RolledLoop, site: fx.Node, node: fx.Node) -> fx.Node:
        """The node as a backward can keep it, if there will be one: it may read what that of the steps does not."""
        learns = any(value(each).requires_grad for each in (loop.outputs[0], loop.outputs[-1]))
        return self.surroundings.kept(node, after=site, leaving=loop.leaving) if learns else node


def _parts(chain: Column, breaks: tuple[int, ...]) -> list[Column]:
    """The chain cut before those steps, as far as what is left is as long as a loop."""
    ends = (0, *breaks, len(chain))
    parts = [chain[start:stop] for start, stop in itertools.pairwise(ends)]
    return [part for part in parts if LEAST_STEPS <= len(part) < len(chain)]


def _results(
    graph: fx.Graph, loop: RolledLoop, body: fx.Graph, kept: Callable[[fx.Node], fx.Node]
) -> tuple[fx.Node, dict[fx.Node, fx.Node]]:
    """The outputs of all steps, and what takes the place of nodes of single steps that others use; time first, as the
    slices run.

    Args:
        kept: makes of what the steps read what a backward can keep.
    """
    sequences = [kept(_sequence(graph, each, descending=loop.descending)) for each in loop.sequences]
    initials = [kept(_initial(graph, loop, each, sequences)) for each in loop.initials]
    additional, reverse = [*map(kept, loop.additional)], loop.backwards != loop.descending
    axis = _axis_of_time(loop)
    results = StepScan(graph, body, initials, sequences, additional, reverse=reverse, axis=axis).results()
    output, *escaping = results[len(initials) :]
    picked = {}
    for used, result in zip(loop.escaping.values(), escaping, strict=True):
        picked.update(_pick(graph, result, loop, used))
    return output, picked


def _pick(graph: fx.Graph, result: fx.Node, loop: RolledLoop, used: dict[int, fx.Node]) -> dict[fx.Node, fx.Node]:
    """What takes the place of single steps' nodes, of the result of all steps; where they are many, it is taken apart
    at once."""
    indices = {node: loop.length - 1 - step if loop.descending else step for step, node in used.items()}
    if 2 * len(used) < loop.length:
        return {node: insert(graph, torch.select, result, 0, index) for node, index in indices.items()}
    pieces = insert(graph, torch.unbind, result, 0)
    return {node: insert(graph, operator.getitem, pieces, index) for node, index in indices.items()}


def _axis_of_time(loop: RolledLoop) -> int:
    """Where time lies in the memory of the states: where they are collected, or as in what the steps read."""
    if loop.is_read_by_step:
        return 0
    if loop.collector is not None:
        return loop.collector.dim
    return max((each.dim for each in loop.sequences), default=0)


def _sequence(graph: fx.Graph, sequence: Slices, *, descending: bool) -> fx.Node:
    """All slices, time first."""
    whole = sequence.whole(graph)
    if sequence.descending != descending:
        whole = insert(graph, torch.flip, whole, [0])
    return whole


def _initial(graph: fx.Graph, loop: RolledLoop, initial: Initial, sequences: list[fx.Node]) -> fx.Node:
    """The state before the first step, a tensor where the program has a number."""
    if isinstance(initial.first, fx.Node):
        return initial.first
    if not sequences or not all(isinstance(size, int) for size in shape(initial.like)):
        raise Declined("the state before the first step is a number, and its later size is not known")
    fake = value(initial.like)
    return insert(graph, "new_full", sequences[0], tuple(fake.shape), initial.first, dtype=fake.dtype)


def _collected(graph: fx.Graph, collector: Collector, output: fx.Node) -> fx.Node:
    """The output of all steps as the collector lays it out."""
    if collector.keeps_axis:
        output = insert(graph, torch.squeeze, output, collector.dim + 1)
    dtype = value(collector.node).dtype
    if value(output).dtype != dtype:
        output = insert(graph, "to", output, dtype)
    return move(graph, output, 0, collector.dim)
