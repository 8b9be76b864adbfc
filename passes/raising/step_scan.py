"""A loop's step as a graph: its states written as recurrences, and what it makes of them on all steps at once."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.memory import same_kind, written_by
from mvc.passes.graph.torch_ops import call
from mvc.passes.graph.views import is_tensor
from mvc.passes.raising import modular
from mvc.passes.raising.affine import affine, needed
from mvc.passes.raising.layouts import insert_recurrence, move
from mvc.passes.raising.vectorize import Steps
from mvc.passes.torch_private import surely_equal


def functional(body: fx.Graph, states: Collection[fx.Node] = ()) -> fx.Graph:
    """The step with sums and products in place written as others, where nobody else sees the difference.

    Args:
        states: placeholders that nobody reads any more once the step has written to them.
    """
    for node in body.nodes:
        if not written_by(node):
            continue
        known = call(node)
        target = known.args.get("input") if known else None
        fresh = isinstance(target, fx.Node) and modular.is_arithmetic(target) and (states or len(target.users) == 1)
        ours = fresh or target in states
        if (
            ours
            and known.name == "copy_"
            and is_tensor(known.args["src"])
            and same_kind(value(known.args["src"]), value(target))
        ):
            node.replace_all_uses_with(known.args["src"])
            body.erase_node(node)
            continue
        if not (ours and modular.is_arithmetic(node)):
            raise Declined("its step writes in place", node)
        node.op, node.target = "call_function", getattr(torch, known.name.removesuffix("_"))
    return body


class StepScan:
    """Writes what a scan computes, recurrence after recurrence, at the graph's insertion point.

    Args:
        axis: where time lies among the axes of the states in memory, if they have so many; what is computed of them
            follows. In the graph time is their first axis.
    """

    def __init__(
        self,
        graph: fx.Graph,
        body: fx.Graph,
        initials: list,
        sequences: list,
        additional: list,
        *,
        reverse: bool,
        axis: int = 0,
    ) -> None:
        self.body = body
        self.reverse = reverse
        self.axis = axis
        placeholders = [each for each in body.nodes if each.op == "placeholder"]
        (outputs,) = body.output_node().args
        self.carries = dict(zip(placeholders, initials, strict=False))
        self.next = dict(zip(self.carries, outputs, strict=False))
        self.outputs = outputs[len(initials) :]
        count = len(initials) + len(sequences)
        stacked = dict(zip(placeholders[len(initials) : count], sequences, strict=True))
        self.steps = Steps(graph, stacked, dict(zip(placeholders[count:], additional, strict=True)))

    def results(self) -> list[fx.Node]:
        """The last state of each carry, then all outputs over all steps."""
        waiting = list(self.carries)
        while waiting:
            ready = [carry for carry in waiting if not self._reads(self.next[carry], {*waiting} - {carry})]
            if not ready:
                raise Declined(
                    "two states of a step depend on each other; in a linear recurrence each has factors of its own"
                )
            for carry in ready:
                self._solve(carry)
                waiting.remove(carry)
        ends = [self._end(self.steps.stacked[self.next[carry]]) for carry in self.carries]
        return [*ends, *(self._output(each) for each in self.outputs)]

    def _reads(self, node: fx.Node, carries: set[fx.Node]) -> bool:
        return not carries.isdisjoint(needed(node, self._solved()))

    def _solved(self) -> set[fx.Node]:
        return {node for carry, node in self.next.items() if node in self.steps.stacked}

    def _solve(self, carry: fx.Node) -> None:
        """Write the recurrence of a carry that depends on none but itself and those that are known."""
        factor, offset = affine(self.body, carry, self.next[carry])
        initial, rank = self.carries[carry], len(shape(carry))
        a, b = (self._over_all_steps(term, initial, rank) for term in (factor, offset))
        full = (*torch.broadcast_shapes(shape(a), shape(b)),)
        if not any(each in self.steps.stacked for each in (factor, offset)):
            raise Declined("each step has the same factor and offset; nothing is taken from a sequence")
        if not all(surely_equal(*sizes) for sizes in zip(full[1:], shape(initial), strict=True)):
            b = self.steps.insert(operator.getitem, self.steps.insert(torch.broadcast_tensors, b, initial), 0)
        axis = min(self.axis, rank)
        a, b = (move(self.steps.graph, term, 0, axis) for term in (a, b))
        states = insert_recurrence(self.steps.graph, a, b, initial, axis, reverse=self.reverse)
        states = move(self.steps.graph, states, axis, 0)
        if value(states).dtype != value(carry).dtype:
            states = self.steps.insert("to", states, value(carry).dtype)
        self.steps.stacked[self.next[carry]] = states

    def _over_all_steps(self, term: Any, initial: fx.Node, rank: int) -> fx.Node:
        if not isinstance(term, fx.Node):
            return self.steps.insert("new_full", initial, (1,) * (rank + 1), term)
        self._compute(term)
        return self.steps.stack(term, rank=rank)

    def _compute(self, result: fx.Node) -> None:
        for node in needed(result, self.steps.stacked.keys() | self.steps.constant.keys()):
            if node in self.carries:
                self.steps.stacked[node] = self._before(node)
            else:
                self.steps.compute(node)

    def _before(self, carry: fx.Node) -> fx.Node:
        """The states before each step."""
        states = self.steps.stacked[self.next[carry]]
        start = self.steps.insert("unsqueeze", self.carries[carry], 0)
        kept = self.steps.insert(operator.getitem, states, slice(1, None) if self.reverse else slice(None, -1))
        return self.steps.insert(torch.cat, [kept, start] if self.reverse else [start, kept], 0)

    def _end(self, states: fx.Node) -> fx.Node:
        return self.steps.insert(operator.getitem, states, 0 if self.reverse else -1)

    def _output(self, node: fx.Node) -> fx.Node:
        self._compute(node)
        if node in self.steps.constant:
            raise Declined("an output is the same in each step")
        return self.steps.stacked[node]
