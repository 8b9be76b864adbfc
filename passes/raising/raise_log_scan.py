"""Raises recurrences of positive numbers that are computed in log space by cumulative sums, as minGRU's are."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import torch
from torch import fx

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert, only_user, shape
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call, is_call
from mvc.passes.graph.views import is_tensor
from mvc.passes.raising.layouts import put_recurrence


@dataclasses.dataclass(frozen=True)
class RaiseLogScan(Pass):
    """Writes exp(cumsum(log a) + logcumsumexp(log b - cumsum(log a))) as the recurrence that it is (Heinsen, 2023).

    Before::

        sums = pad(cumsum(log_a, 1), (0, 0, 1, 0))                  # or without the padding
        h = exp(sums + logcumsumexp(log_b - sums, 1))

    After::

        h = mvc.linear_recurrence(exp(pad(log_a, (0, 0, 1, 0))), exp(log_b), None, 1, False)

    Where a decay is zero its logarithm is minus infinity, and the form in log space gives NaN from there on; the
    recurrence gives the state.
    """

    name: ClassVar[str] = "raise_log_scan"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        surroundings = Surroundings(graph)
        for node in [*graph.nodes]:
            if is_call(node, "logcumsumexp"):
                try:
                    _raise(surroundings, node)
                    outcome.matches += 1
                except Declined as reason:
                    outcome.near_misses.append(NearMiss.at(node, f"no linear recurrence: {reason}"))
        return outcome


class _Sums(NamedTuple):
    """Cumulative sums along an axis, of a sequence with zeros before it or not."""

    sequence: fx.Node
    dim: int
    padding: tuple[int, ...] = ()


def _raise(surroundings: Surroundings, node: fx.Node) -> None:
    source, dim = call(node).args["input"], call(node).args["dim"] % len(shape(node))
    difference = call(source)
    if difference is None or difference.name != "sub" or difference.args.get("alpha", 1) != 1:
        raise Declined("what it takes the logcumsumexp of is no difference from cumulative sums")
    log_b, sums = difference.args["input"], difference.args["other"]
    found = _sums(sums)
    if found is None or found.dim != dim or not is_tensor(log_b):
        raise Declined("what it takes the logcumsumexp of is no difference from cumulative sums along the same axis")
    total = only_user(node)
    added = call(total) if total is not None and is_call(total, "add") else None
    if added is None or {added.args["input"], added.args["other"]} != {sums, node} or "alpha" in added.args:
        raise Declined("the cumulative sums are not added again")
    states = only_user(total)
    if states is None or not is_call(states, "exp"):
        raise Declined("the logarithms of the states are used, not only the states")
    if (obstacle := surroundings.contexts.obstacle([source, node, total, states])) is not None:
        raise Declined(obstacle)
    with surroundings.at(states):
        log_a = found.sequence
        if found.padding:
            log_a = insert(node.graph, torch.nn.functional.pad, log_a, found.padding)
        a, b = (insert(node.graph, torch.exp, each) for each in (log_a, log_b))
        put_recurrence(surroundings, states, a, b, dim, reverse=False)


def _sums(node: object) -> _Sums | None:
    known = call(node)
    if known is None or not is_tensor(node):
        return None
    if known.name == "cumsum" and "dtype" not in known.args:
        return _Sums(known.args["input"], known.args["dim"] % len(shape(node)))
    if known.name != "pad" or known.args.get("mode", "constant") != "constant" or known.args.get("value"):
        return None
    inner, pad = _sums(known.args["input"]), tuple(known.args["pad"])
    if inner is None or inner.padding:
        return None
    place = 2 * (len(shape(node)) - 1 - inner.dim)
    only_before = all(size == 0 for at, size in enumerate(pad) if at != place)
    return inner._replace(padding=pad) if only_before else None
