"""Raises mamba.py's parallel scan, and others that are computed in place on copies of their sequences."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.memory import written_by
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call
from mvc.passes.raising import modular
from mvc.passes.raising.clusters import Cluster, States, erase, find_states, grow, put_states


@dataclasses.dataclass(frozen=True)
class RaisePscan(Pass):
    """Finds mamba.py's `pscan(a, b)` by what it computes, both as an autograd function and where that is inlined.

    Before, in training, where the backward is checked, too::

        apply = autograd_function_apply(forward_body, backward_body, a, b, ...)
        states = apply[0]

    and in inference::

        A, X = pad(a, (0, 0, 0, 0, 0, 3)).transpose(2, 1), pad(b, (0, 0, 0, 0, 0, 3)).transpose(2, 1)
        X.view(...)[:, :, :, 1].add_(A.view(...)[:, :, :, 1].mul(X.view(...)[:, :, :, 0]))
        ...
        states = X.transpose(2, 1)[:, :5]

    After::

        states = mvc.linear_recurrence(a, b, None, 1, False)
    """

    name: ClassVar[str] = "raise_pscan"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        surroundings = Surroundings(graph)
        for node in [*graph.find_nodes(op="call_function", target=torch.ops.higher_order.autograd_function_apply)]:
            try:
                states = _function_states(node)
                if states is not None:
                    put_states(surroundings, Cluster([], [node]), states)
            except Declined as reason:
                outcome.near_misses.append(NearMiss.at(node, f"no linear recurrence: {reason}"))
                continue
            if states is not None:
                graph.erase_node(states.node)
                graph.erase_node(node)
                outcome.matches += 1
        for cluster in grow(graph, _copied):
            writes = [node for node in cluster.nodes if written_by(node)]
            if not writes:
                continue
            try:
                states = find_states(cluster, range(len(shape(cluster.sources[0]))), any_length=False)
                put_states(surroundings, cluster, states)
            except Declined as reason:
                if len(cluster.sources) == 2:
                    outcome.near_misses.append(NearMiss.at(writes[0], f"no linear recurrence: {reason}"))
                continue
            erase(graph, cluster)
            outcome.matches += 1
        return outcome


def _copied(node: fx.Node) -> fx.Node | None:
    """The tensor of which the node is a copy of its own, padded or not."""
    known = call(node)
    if known is None or known.name not in ("pad", "clone") or shape(node) is None:
        return None
    return known.args["input"]


def _function_states(node: fx.Node) -> States | None:
    """The states that an autograd function of two tensors computes; None where it computes something else.

    Raises:
        Declined: they are those of a recurrence, but its gradients are not.
    """
    inputs = [each for each in node.args[2:] if isinstance(each, fx.Node) and shape(each) is not None]
    if len(inputs) != 2 or len(node.users) != 1 or node.kwargs.get("non_differentiable_idx"):
        return None
    forward, backward = (_Body.of(getattr(node.graph.owning_module, body.target)) for body in node.args[:2])
    rank = len(shape(inputs[0]))
    if len(forward.inputs) != 2 or len(shape(inputs[1])) != rank:
        return None
    for dim, reverse, (a, b) in itertools.product(range(rank), (False, True), ((0, 1), (1, 0))):
        given = [modular.sample(value(each), whole=[dim], seed=seed) for seed, each in enumerate(inputs)]
        (h, *_), saved = forward.run(given)
        if h is None or len({given[0].shape, given[1].shape, h.shape}) > 1:
            continue
        if not modular.is_recurrence(h, given[a], given[b], dim, reverse=reverse):
            continue
        if not isinstance(shape(inputs[a])[dim], int):
            raise Declined("the length of the sequence is a symbol", node)
        grad_h = modular.sample(value(inputs[b]), whole=[dim], seed=2)
        gradients = [each for each in backward.run([grad_h, *saved]) if each is not None]
        if len(gradients) != 2 or not _are_gradients(gradients[a], gradients[b], grad_h, given[a], h, dim, reverse):
            raise Declined("its backward is not that of the recurrence", node)
        return States(next(iter(node.users)), inputs[a], inputs[b], dim, reverse)
    return None


def _are_gradients(
    grad_a: Tensor, grad_b: Tensor, grad_h: Tensor, a: Tensor, h: Tensor, dim: int, reverse: bool
) -> bool:
    """Whether grad b_t = grad h_t + a_{t+1} grad b_{t+1} and grad a_t = grad b_t h_{t-1}."""
    following = modular.shifted(modular.multiply_add(a, grad_b, torch.zeros_like(a)), dim, reverse=not reverse)
    previous = modular.shifted(h, dim, reverse=reverse)
    ones, zeros = torch.ones_like(a), torch.zeros_like(a)
    return modular.same(grad_b, modular.multiply_add(ones, following, grad_h)) and modular.same(
        grad_a, modular.multiply_add(grad_b, previous, zeros)
    )


class _Body(NamedTuple):
    """The forward or backward graph of an autograd function."""

    inputs: list[fx.Node]  # tensors; what else it takes are sizes
    nodes: list[fx.Node]
    outputs: Any  # nodes, in nested sequences

    @classmethod
    def of(cls, module: fx.GraphModule) -> _Body:
        calls = [node for node in module.graph.nodes if node.target is not torch._C._set_grad_enabled]
        inputs = [node for node in calls if node.op == "placeholder"]
        (outputs,) = calls[-1].args
        return cls([each for each in inputs if shape(each) is not None], calls[len(inputs) : -1], outputs)

    def run(self, given: list[Tensor | None]) -> Any:
        """The outputs modulo a prime; None for those that cannot be followed, or are no tensors."""
        tensors = [each for each in given if each is not None]
        known = dict(zip(self.inputs, tensors, strict=False))
        return map_arg(self.outputs, modular.evaluate(self.nodes, known)[0].get)
