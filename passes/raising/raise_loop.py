"""Raises loops over time that Dynamo unrolled: their steps are rolled up into one, which is raised as a `scan` is."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import fx

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.raising import profitability
from mvc.passes.raising.layouts import Layout, move, moved_pairs
from mvc.passes.raising.loop_steps import Collector, Initial, RolledLoop, collectors
from mvc.passes.raising.slices import Slices
from mvc.passes.raising.step_scan import StepScan, functional


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

    The outputs may be stacked, concatenated, or written into a tensor one by one.

    Attributes:
        always: raise where Inductor's own code is expected to be as fast, too (see `mvc.passes.raising.profitability`).
    """

    name: ClassVar[str] = "raise_loop"
    always: bool = False

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        surroundings = Surroundings(graph)
        for collector in collectors(graph):
            miss = None
            try:
                loop = RolledLoop(collector)
                if (obstacle := loop.obstacle()) is not None:
                    miss = f"no linear recurrence: {obstacle}"
                elif loop.carries:
                    miss = _raise(loop, surroundings, always=self.always)
                    outcome.matches += miss is None
            except Declined as reason:
                miss = f"no linear recurrence: {reason}" if collector.looks_recurrent() else None
            if miss is not None:
                outcome.near_misses.append(NearMiss.at(collector.steps[1], miss))
        return outcome


def _raise(loop: RolledLoop, surroundings: Surroundings, *, always: bool) -> str | None:
    """Put the loop's recurrence, and what its steps compute from it, in the loop's place, or say why not to."""
    collector, body, site = loop.collector, functional(loop.body()), loop.site()
    if (obstacle := surroundings.contexts.obstacle({site, *loop.nodes, *loop.leaving})) is not None:
        raise Declined(obstacle)
    with surroundings.at(site) as undo:
        new, picked = _results(site.graph, loop, body)
        if not always and (cost := profitability.cost(loop, [new, *picked.values()])) is not None:
            undo()
            return f"left alone: {cost}"
        layout = Layout(tuple(range(len(shape(new)))), loop.descending)
        pairs = {**moved_pairs(collector.node, new, layout, collector.dim), **picked}
        surroundings.replace(pairs, leaving=loop.leaving)
    collector.erase()
    loop.erase()
    return None


def _results(graph: fx.Graph, loop: RolledLoop, body: fx.Graph) -> tuple[fx.Node, dict[fx.Node, fx.Node]]:
    """What is collected, and what takes the place of nodes of single steps that others use; time as the slices run."""
    sequences = [_sequence(graph, each, descending=loop.descending) for each in loop.sequences]
    initials = [_initial(graph, loop, each, sequences) for each in loop.initials]
    reverse = loop.backwards != loop.descending
    axis = 0 if loop.is_read_by_step else loop.collector.dim
    results = StepScan(graph, body, initials, sequences, loop.additional, reverse=reverse, axis=axis).results()
    output, *escaping = results[len(initials) :]
    picked = {}
    for used, result in zip(loop.escaping.values(), escaping, strict=True):
        for step, node in used.items():
            index = loop.length - 1 - step if loop.descending else step
            picked[node] = insert(graph, torch.select, result, 0, index)
    return _collected(graph, loop.collector, output), picked


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
