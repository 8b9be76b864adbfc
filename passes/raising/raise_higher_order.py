"""Raises the nodes of torch's higher-order `scan` and `associative_scan`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import fx

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.contexts import Contexts
from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import MOVEMENTS, call, is_kind
from mvc.passes.raising import modular
from mvc.passes.raising.layouts import Layout, erase_unused, moved_pairs, put_recurrence
from mvc.passes.raising.step_scan import StepScan, functional
from mvc.passes.torch_private import copy_graph

SCAN = torch.ops.higher_order.scan
ASSOCIATIVE_SCAN = torch.ops.higher_order.associative_scan


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
        surroundings = Surroundings(graph)
        for target, rewrite in ((SCAN, _raise_scan), (ASSOCIATIVE_SCAN, _raise_associative_scan)):
            for node in [*graph.find_nodes(op="call_function", target=target)]:
                try:
                    rewrite(node, surroundings)
                except Declined as reason:
                    outcome.near_misses.append(NearMiss.at(node, f"no linear recurrence: {reason}"))
                else:
                    outcome.matches += 1
        return outcome


def _raise_associative_scan(node: fx.Node, surroundings: Surroundings) -> None:
    body, xs, *_ = node.args
    if len(xs) != 2:
        raise Declined(f"it combines {len(xs)} sequences; a linear recurrence has 2")
    which = _combined_as(getattr(node.graph.owning_module, body.target).graph)
    a, b = xs[which], xs[1 - which]
    results = {user.args[1]: user for user in node.users}
    if which in results and _is_used(results[which]):
        raise Declined("the products of its factors are used, not only the states")
    if 1 - which in results:
        put_recurrence(surroundings, results[1 - which], a, b, 0, reverse=False)
    erase_unused([*node.users, node, *_probes(xs)])


def _combined_as(body: fx.Graph) -> int:
    """Which of the two sequences holds the factors, where the combination is that of a linear recurrence."""
    nodes = [*body.nodes]
    placeholders = [each for each in nodes if each.op == "placeholder"]
    given = {each: modular.sample(value(each), seed=i) for i, each in enumerate(placeholders[:4])}
    values, failure = modular.evaluate(nodes[len(placeholders) : -1], given)
    results = [values.get(each) for each in nodes[-1].args[0]]
    if any(each is None for each in results):
        raise Declined(str(failure))
    left, right = list(given.values())[:2], list(given.values())[2:]
    for which in (0, 1):
        product = modular.multiply_add(left[which], right[which], torch.zeros_like(left[which]))
        combined = modular.multiply_add(right[which], left[1 - which], right[1 - which])
        if modular.same(results[which], product) and modular.same(results[1 - which], combined):
            return which
    raise Declined("what it combines is not (a₁·a₂, a₂·b₁ + b₂)")


def _is_used(node: fx.Node) -> bool:
    """Whether anything but moves of it that nobody uses depends on the node."""
    return any(not is_kind(user, *MOVEMENTS) or _is_used(user) for user in node.users)


def _probes(xs: list[fx.Node]) -> list[fx.Node]:
    """The first elements that torch takes to trace a scan's body, and then leaves behind."""
    return [user for each in xs for user in each.users if user.target is torch.select_copy]


def _raise_scan(node: fx.Node, surroundings: Surroundings) -> None:
    body, initials, xs, additional = node.args
    body = copy_graph(getattr(node.graph.owning_module, body.target).graph)
    if (obstacle := Contexts(body).obstacle(body.nodes)) is not None:
        raise Declined(obstacle)
    body = functional(body)
    reverse = bool(xs) and all(_unflipped(each) is not None for each in xs)
    sequences = [_unflipped(each) for each in xs] if reverse else xs
    if not sequences or shape(sequences[0])[0] == 0:
        raise Declined("it has no steps")
    learned = any(value(user).requires_grad for user in node.users)
    with surroundings.at(node):
        if learned:
            initials, sequences, additional = (
                [surroundings.kept(each) for each in group] for group in (initials, sequences, additional)
            )
        results = StepScan(node.graph, body, initials, sequences, additional, reverse=reverse).results()
        pairs = {}
        for user in node.users:
            index = user.args[1]
            layout = Layout(tuple(range(len(shape(user)))), reverse and index >= len(initials))
            pairs |= moved_pairs(user, results[index], layout, 0)
        surroundings.replace(pairs)
    erase_unused([*node.users, node])


def _unflipped(sequence: fx.Node) -> fx.Node | None:
    """What was flipped along its first axis to be the sequence; None where nothing was."""
    known = call(sequence)
    if known is None or known.name != "flip" or known.args["dims"] not in ([0], (0,)):
        return None
    return known.args["input"]
