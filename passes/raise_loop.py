"""Raises loops over time that Dynamo unrolled: the steps are rolled up into one, which is raised as that of a `scan`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from mvc.passes.affine import NotAffine
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.fx_utils import insert, shape, value
from mvc.passes.layouts import Layout, replace_moved
from mvc.passes.loop_steps import Collector, NotALoop, RolledLoop, Slices, collectors
from mvc.passes.raise_higher_order import NotARecurrence, _functional, _Scan as StepScan
from mvc.passes.vectorize import NotVectorized
from torch import fx


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
    """

    name: ClassVar[str] = "raise_loop"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        done: set[fx.Node] = set()
        for collector in collectors(graph):
            if collector.node in done:
                continue
            try:
                loop = RolledLoop(collector)
                if loop.carries:
                    done |= _raise(loop)
                    outcome.matches += 1
            except (NotALoop, NotARecurrence, NotAffine, NotVectorized) as reason:
                if collector.looks_recurrent():
                    outcome.near_misses.append(NearMiss.at(collector.steps[1], f"no linear recurrence: {reason}"))
        return outcome


def _raise(loop: RolledLoop) -> set[fx.Node]:
    """Write the loop's recurrence and outputs into the graph; the collectors that this replaces."""
    graph = loop.collector.node.graph
    body = loop.body()
    with graph.inserting_before(loop.place()):
        sequences = [_sequence(graph, each, descending=loop.descending) for each in loop.sequences]
        initials = loop.initials
        reverse = loop.backwards != loop.descending
        scan = StepScan(graph, body, initials, sequences, loop.additional, reverse)
        try:
            outputs = scan.results()[len(initials) :]
            moved = [_collected(graph, each, out) for each, out in zip(loop.collected, outputs, strict=False)]
            picked = _picked(graph, loop, outputs[len(loop.collected) :])
        except Exception:
            scan.steps.undo()
            raise
    for node, selected in picked.items():
        node.replace_all_uses_with(selected)
    for collector, (new, axis) in zip(loop.collected, moved, strict=True):
        identity = tuple(range(len(shape(new))))
        collector.replace_by(lambda old, new=new, axis=axis, order=identity: replace_moved(
            old, new, Layout(order, loop.descending), axis))  # fmt: skip
    return {each.node for each in loop.collected}


def _sequence(graph: fx.Graph, sequence: Slices, *, descending: bool) -> fx.Node:
    """All slices, time first."""
    whole = sequence.whole(graph)
    if sequence.descending != descending:
        whole = insert(graph, torch.flip, whole, [0])
    return whole


def _collected(graph: fx.Graph, collector: Collector, output: fx.Node) -> tuple[fx.Node, int]:
    """The output, time first, as the collector lays it out, and its axis of time."""
    axis = collector.dim
    if collector.keeps_axis:
        output = insert(graph, torch.squeeze, output, axis + 1)
    dtype = value(collector.node).dtype
    if value(output).dtype != dtype:
        output = insert(graph, "to", output, dtype)
    return (output if axis == 0 else insert(graph, torch.movedim, output, 0, axis)), axis


def _picked(graph: fx.Graph, loop: RolledLoop, outputs: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """For nodes of single steps that others use: where they are among all steps."""
    picked = {}
    for column, output in zip(loop.escaping, outputs, strict=True):
        for step, node in column.items():
            index = loop.length - 1 - step if loop.descending else step
            picked[node] = insert(graph, torch.select, output, 0, index)
    return picked
