"""Raises the nodes of torch's higher-order `scan` and `associative_scan`."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any, ClassVar

import torch
from mvc.passes import modular
from mvc.passes.affine import NotAffine, affine, needed
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.fx_utils import shape, value, written_by
from mvc.passes.layouts import Layout, put_recurrence, replace_moved
from mvc.passes.torch_ops import call
from mvc.passes.torch_private import copy_graph, surely_equal
from mvc.passes.vectorize import NotVectorized, Steps
from torch import fx

SCAN = torch.ops.higher_order.scan
ASSOCIATIVE_SCAN = torch.ops.higher_order.associative_scan


class NotARecurrence(Exception):
    """Why a node is left alone."""


@dataclasses.dataclass(frozen=True)
class RaiseHigherOrder(Pass):
    """Writes a scan of a linear recurrence as that, and what its step makes of the state as operations on all states.

    Before::

        last, ys = scan(step, [h0], [a, b, c], [])         # h = a * h + b; y = (h * c).sum(-1)
        _, states = associative_scan(combine, [a, b], ())  # (a₁, b₁), (a₂, b₂) → (a₁·a₂, a₂·b₁ + b₂)

    After::

        states = mvc.linear_recurrence(a, b, h0, 0, False)
        last, ys = states[-1].clone(), (states * c).sum(-1)
        states = mvc.linear_recurrence(a, b, None, 0, False)

    Sequences that were moved or flipped for the scan, and results that are moved back, are taken as they were.
    """

    name: ClassVar[str] = "raise_higher_order"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        for target, rewrite in ((SCAN, _raise_scan), (ASSOCIATIVE_SCAN, _raise_associative_scan)):
            for node in [*graph.find_nodes(op="call_function", target=target)]:
                try:
                    rewrite(node)
                except (NotARecurrence, NotAffine, NotVectorized) as reason:
                    outcome.near_misses.append(NearMiss.at(node, f"no linear recurrence: {reason}"))
                else:
                    outcome.matches += 1
        return outcome


def _raise_associative_scan(node: fx.Node) -> None:
    body, xs, *_ = node.args
    if len(xs) != 2:
        raise NotARecurrence(f"it combines {len(xs)} sequences; a linear recurrence has 2")
    which = _combined_as(getattr(node.graph.owning_module, body.target).graph)
    a, b = xs[which], xs[1 - which]
    results = {user.args[1]: user for user in node.users}
    if which in results and _is_used(results[which]):
        raise NotARecurrence("the products of its factors are used, not only the states")
    if 1 - which in results:
        put_recurrence(results[1 - which], a, b, 0, reverse=False)
    _erase_unused([*node.users, node, *_probes(xs)])


def _combined_as(body: fx.Graph) -> int:
    """Which of the two sequences holds the factors, where the combination is that of a linear recurrence."""
    nodes = [*body.nodes]
    placeholders = [each for each in nodes if each.op == "placeholder"]
    given = {each: modular.sample(value(each), whole=None, seed=i) for i, each in enumerate(placeholders[:4])}
    values, failure = modular.evaluate(nodes[len(placeholders) : -1], given)
    results = [values.get(each) for each in nodes[-1].args[0]]
    if any(each is None for each in results):
        raise NotARecurrence(str(failure))
    left, right = list(given.values())[:2], list(given.values())[2:]
    for which in (0, 1):
        product = modular.multiply_add(left[which], right[which], torch.zeros_like(left[which]))
        combined = modular.multiply_add(right[which], left[1 - which], right[1 - which])
        if modular.same(results[which], product) and modular.same(results[1 - which], combined):
            return which
    raise NotARecurrence("what it combines is not (a₁·a₂, a₂·b₁ + b₂)")


def _is_used(node: fx.Node) -> bool:
    """Whether anything but moves of it that nobody uses depends on the node."""
    return any(not modular.is_movement(user) or _is_used(user) for user in node.users)


def _probes(xs: list[fx.Node]) -> list[fx.Node]:
    """The first elements that torch takes to trace a scan's body, and then leaves behind."""
    return [user for each in xs for user in each.users if user.target is torch.select_copy]


def _erase_unused(nodes: list[fx.Node]) -> None:
    """Erase those without users, with the moves of them that have none."""
    for node in nodes:
        for user in [*node.users]:
            if modular.is_movement(user):
                _erase_unused([user])
        if not node.users:
            node.graph.erase_node(node)


def _raise_scan(node: fx.Node) -> None:
    body, initials, xs, additional = node.args
    body = _functional(copy_graph(getattr(node.graph.owning_module, body.target).graph))
    reverse = bool(xs) and all(_unflipped(each) is not None for each in xs)
    sequences = [_unflipped(each) for each in xs] if reverse else xs
    if not sequences or shape(sequences[0])[0] == 0:
        raise NotARecurrence("it has no steps")
    with node.graph.inserting_before(node):
        scan = _Scan(node.graph, body, initials, sequences, additional, reverse)
        try:
            results = scan.results()
        except Exception:
            scan.steps.undo()
            raise
    for user in list(node.users):
        index = user.args[1]
        layout = Layout(tuple(range(len(shape(user)))), reverse and index >= len(initials))
        replace_moved(user, results[index], layout, 0)
    _erase_unused([*node.users, node])


def _unflipped(sequence: fx.Node) -> fx.Node | None:
    """What was flipped along its first axis to be the sequence; None where nothing was."""
    known = call(sequence)
    if known is None or known.name != "flip" or known.args["dims"] not in ([0], (0,)):
        return None
    return known.args["input"]


def _functional(body: fx.Graph) -> fx.Graph:
    """The step with sums and products in place written as others, where nobody else sees the difference."""
    for node in body.nodes:
        if not written_by(node):
            continue
        known = call(node)
        target = known.args.get("input") if known else None
        fresh = isinstance(target, fx.Node) and modular.is_arithmetic(target) and len(target.users) == 1
        if not (fresh and modular.is_arithmetic(node)):
            raise NotARecurrence("its step writes in place")
        node.op, node.target = "call_function", getattr(torch, known.name.removesuffix("_"))
    return body


class _Scan:
    """Writes what a scan computes, recurrence after recurrence, ahead of its node."""

    def __init__(
        self, graph: fx.Graph, body: fx.Graph, initials: list, sequences: list, additional: list, reverse: bool
    ) -> None:
        self.body = body
        self.reverse = reverse
        placeholders = [each for each in body.nodes if each.op == "placeholder"]
        (outputs,) = next(reversed(body.nodes)).args
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
                raise NotARecurrence("its states depend on each other")
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
            raise NotARecurrence("its step is the same each time")
        if not all(surely_equal(*sizes) for sizes in zip(full[1:], shape(initial), strict=True)):
            b = self.steps.insert(operator.getitem, self.steps.insert(torch.broadcast_tensors, b, initial), 0)
        states = self.steps.insert(torch.ops.mvc.linear_recurrence.default, a, b, initial, 0, self.reverse)
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
        """The states ahead of each step."""
        states = self.steps.stacked[self.next[carry]]
        start = self.steps.insert("unsqueeze", self.carries[carry], 0)
        kept = self.steps.insert(operator.getitem, states, slice(1, None) if self.reverse else slice(None, -1))
        return self.steps.insert(torch.cat, [kept, start] if self.reverse else [start, kept], 0)

    def _end(self, states: fx.Node) -> fx.Node:
        return self.steps.insert("clone", self.steps.insert(operator.getitem, states, 0 if self.reverse else -1))

    def _output(self, node: fx.Node) -> fx.Node:
        self._compute(node)
        if node in self.steps.constant:
            raise NotARecurrence("an output is the same in each step")
        return self.steps.stacked[node]
