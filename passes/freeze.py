"""Inference with frozen weights: what depends on parameters alone is computed once, ahead of the compiled graph.

Inductor's own `freezing` makes constants of the parameters, and graphs with constants are not cached. Here they stay
inputs:

    def graph(x, weight, A):                    def constants(weight, A):
        packed = pack_linear(weight, 196)           return pack_linear(weight, 196), exp(A)
        return packed_linear(x, packed) * exp(A)
                                                def main(x, packed, exp):
                                                    return packed_linear(x, packed) * exp
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from mvc.passes.constants import constants, storages
from mvc.passes.fx_utils import value
from torch import Tensor, fx

Compile = Callable[[fx.GraphModule, list[Any]], Callable[..., Any]]


class Split(NamedTuple):
    """A graph in two: `main(*(inputs[i] for i in kept), *constants(*(inputs[i] for i in parameters)))`."""

    constants: fx.GraphModule
    main: fx.GraphModule
    parameters: tuple[int, ...]
    kept: tuple[int, ...]
    fakes: list[Tensor]  # of the constants


def freeze(graph_module: fx.GraphModule, inputs: Sequence[Any], compile: Compile) -> Callable[..., Any]:
    """Compile the graph without what depends on parameters alone; the function computes that when it must.

    For graphs without gradients.

    Args:
        compile: makes a function of a graph and its example inputs, fakes where they are constants.
    """
    split = split_constants(graph_module)
    if split is None:
        return compile(graph_module, list(inputs))
    main = compile(split.main, [*(inputs[index] for index in split.kept), *split.fakes])
    return Frozen(main, split)


def split_constants(graph_module: fx.GraphModule) -> Split | None:
    """Take apart, in copies, what depends on parameters alone; None where the graph computes nothing of the kind.

    Views of parameters cost nothing and stay.
    """
    graph = graph_module.graph
    taken = _boundary(graph, constants(graph))
    if not taken:
        return None
    ahead = _ahead_of(taken)
    before = fx.Graph()
    copies = _copy(before, [node for node in graph.nodes if node in ahead])
    before.output(tuple(copies[node] for node in taken))

    inputs = graph.find_nodes(op="placeholder")
    after = fx.Graph()
    copies = _copy(after, inputs)
    copies.update((node, _input_for(after, node)) for node in taken)
    _copy(after, [node for node in graph.nodes if node not in copies], copies)
    for node in reversed(graph.nodes):
        if node in ahead and node not in taken and not copies[node].users:
            after.erase_node(copies[node])
            del copies[node]
    return Split(
        constants=fx.GraphModule(graph_module, before),
        main=fx.GraphModule(graph_module, after),
        parameters=tuple(index for index, node in enumerate(inputs) if node in ahead),
        kept=tuple(index for index, node in enumerate(inputs) if node in copies),
        fakes=[value(node) for node in taken],
    )


def _boundary(graph: fx.Graph, found: set[fx.Node]) -> list[fx.Node]:
    """The constants with memory of their own that the rest of the graph uses, itself or through views, in order."""
    needed = {used for node in graph.nodes if node not in found for used in node.all_input_nodes if used in found}
    taken = set()
    for node in reversed(graph.nodes):
        if node in needed and node.op != "placeholder":
            if _has_own_memory(node):
                taken.add(node)
            else:
                needed.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in taken]


def _has_own_memory(node: fx.Node) -> bool:
    inputs = set().union(*map(storages, node.all_input_nodes))
    return isinstance(value(node), Tensor) and not storages(node) & inputs


def _ahead_of(nodes: list[fx.Node]) -> set[fx.Node]:
    """The nodes and everything that they are computed from."""
    ahead = set(nodes)
    for node in reversed(nodes[0].graph.nodes):
        if node in ahead:
            ahead.update(node.all_input_nodes)
    return ahead


def _copy(
    graph: fx.Graph, nodes: list[fx.Node], copies: dict[fx.Node, fx.Node] | None = None
) -> dict[fx.Node, fx.Node]:
    """Append copies of the nodes; `copies` knows those made before."""
    copies = {} if copies is None else copies
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op == "placeholder":
            copies[node]._dynamo_source = getattr(node, "_dynamo_source", None)
    return copies


def _input_for(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A new input in place of a node of another graph."""
    new = graph.placeholder(f"constant_{node.name}")
    new._dynamo_source = None  # AOTAutograd asks where every input is from
    new.meta = {"example_value": value(node), "tensor_dict": {"_dynamo_static_input_type": "unguarded"}}
    return new


class Frozen:
    """The compiled main graph with its constants, computed at the first call and again after a parameter changed.

    A change is another tensor in a parameter's place, other memory (`parameter.data = ...`), or a write that torch
    counts: `load_state_dict`, `copy_`, an optimizer's step. A write through `parameter.data` is not counted: call
    `torch.autograd.graph.increment_version(parameter)` after it. Parameters made under `torch.inference_mode` count
    no writes at all; constants of theirs are computed at every call.
    """

    def __init__(self, main: Callable[..., Any], split: Split) -> None:
        self.split = split
        self._main = main
        self._compute = split.constants
        self._parameters = _getter(split.parameters)
        self._kept = _getter(split.kept)
        self._lock = threading.Lock()
        self._current: tuple[list[int] | None, tuple[Tensor, ...], list[weakref.ref]] = (None, (), [])

    def __call__(self, *inputs: Any) -> Any:
        state = _state(self._parameters(inputs))
        seen, values, _ = self._current
        if state is None or state != seen:
            values = self._update(inputs, state)
        return self._main(*self._kept(inputs), *values)

    def _update(self, inputs: tuple[Any, ...], state: list[int] | None) -> tuple[Tensor, ...]:
        parameters = self._parameters(inputs)
        with self._lock, torch.no_grad():
            self._current = (None, (), [])  # frees the old values first
            values = self._compute(*parameters)
            # Another tensor may get the place of one that was freed, and with it its id.
            alive = [weakref.ref(parameter, self._forget) for parameter in parameters]
            self._current = (state, values, alive)
        return values

    def _forget(self, _: weakref.ref) -> None:
        self._current = (None, (), [])


def _getter(indices: tuple[int, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(indices) > 1:
        return operator.itemgetter(*indices)
    return lambda inputs: tuple(inputs[index] for index in indices)


def _state(parameters: tuple[Tensor, ...]) -> list[int] | None:
    """What differs after a change; None where changes cannot be seen."""
    try:
        versions = map(_version, parameters)
        return [*map(id, parameters), *map(Tensor.data_ptr, parameters), *versions]
    except RuntimeError:  # an inference tensor
        return None


_version = operator.attrgetter("_version")
