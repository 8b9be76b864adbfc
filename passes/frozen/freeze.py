"""Inference with frozen weights: what depends on parameters alone is computed once, before the compiled graph.

Inductor's own `freezing` makes constants of the parameters, and graphs with constants are not cached. Here they stay
inputs:

    def graph(x, weight, A):                    def constants(weight, A, old_packed, old_exp):
        packed = pack_linear(weight, 196)           packed = renew(pack_linear(weight, 196), old_packed)
        return packed_linear(x, packed) * exp(A)    return packed, renew(exp(A), old_exp)

                                                def main(x, packed, exp):
                                                    return packed_linear(x, packed) * exp

CUDA graphs read static inputs where they lay when the graph was recorded, and copy all others before each replay. So
constants are declared static, as parameters are, and computed again into the memory that they have.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from mvc.passes import torch_private
from mvc.passes.frozen.constants import constants
from mvc.passes.graph.fx_utils import value
from mvc.passes.graph.memory import shares

Compile = Callable[[fx.GraphModule, list[Any]], Callable[..., Any]]


class Split(NamedTuple):
    """A graph in two: `main(*(inputs[i] for i in kept), *constants(*(inputs[i] for i in parameters), *old))`.

    `old` are the constants computed before, whose memory is used again; None for each where there are none.
    """

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
    return Frozen(main, split.constants, split.parameters, split.kept, len(split.fakes))


def split_constants(graph_module: fx.GraphModule) -> Split | None:
    """Take apart, in copies, what depends on parameters alone; None where the graph computes nothing of the kind.

    Views of parameters cost nothing and stay.
    """
    graph = graph_module.graph
    taken = _boundary(graph, constants(graph))
    if not taken:
        return None
    ahead = _ahead_of(taken)
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
        constants=fx.GraphModule(graph_module, _constants_graph(graph, taken, ahead)),
        main=torch_private.with_graph(graph_module, after),
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
            if isinstance(value(node), Tensor) and not shares(value(node), map(value, node.all_input_nodes)):
                taken.add(node)
            else:
                needed.update(node.all_input_nodes)
    return [node for node in graph.nodes if node in taken]


def _ahead_of(nodes: list[fx.Node]) -> set[fx.Node]:
    """The nodes and everything that they are computed from."""
    ahead = set(nodes)
    for node in reversed(nodes[0].graph.nodes):
        if node in ahead:
            ahead.update(node.all_input_nodes)
    return ahead


def _constants_graph(graph: fx.Graph, taken: list[fx.Node], ahead: set[fx.Node]) -> fx.Graph:
    """What computes the nodes `taken`; after the parameters its inputs are the values that they had before."""
    before = fx.Graph()
    copies = _copy(before, [node for node in graph.find_nodes(op="placeholder") if node in ahead])
    old = {node: before.placeholder(f"old_{node.name}", default_value=None) for node in taken}
    for node in graph.nodes:
        if node in ahead and node not in copies:
            _copy(before, [node], copies)
        if node in old:  # at once, so that one constant at a time exists twice
            copies[node] = before.call_function(renew, (copies[node], old[node]))
    before.output(tuple(copies[node] for node in taken))
    return before


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


def renew(new: Tensor, old: Tensor | None) -> Tensor:
    """The value of `new`, in the memory of `old` where that has the same layout; oneDNN's opaque tensors have none."""
    if old is None or _layout(old) != _layout(new) or old.is_mkldnn or 0 in old.stride():
        return new
    return old.copy_(new)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.layout, tensor.shape, tensor.stride(), tensor.dtype, tensor.device


class Held(NamedTuple):
    """The constants of one set of parameters; `state` is what the parameters were then, None while it is not known."""

    state: list[int] | None
    values: tuple[Tensor | None, ...]
    parameters: list[weakref.ref]


class Frozen:
    """The compiled main graph with its constants, computed at the first call and again after a parameter changed.

    A change is other memory (`parameter.data = ...`) or a write that torch counts: `load_state_dict`, `copy_`, an
    optimizer's step. A write through `parameter.data` is not counted: `mvc.refresh` makes up for it. Parameters made
    under `torch.inference_mode` count no writes at all; constants of theirs are computed at every call.

    One graph may serve several modules, and another tensor may take a parameter's place: each set of parameters has
    constants of its own, which are freed with the first of them.

    Calls may run in several threads and CUDA streams, as long as nobody changes a weight while one runs. Whoever
    captures calls in a CUDA graph of their own makes one after each change of a weight, before the capture.
    """

    def __init__(
        self,
        main: Callable[..., Any],
        constants: Callable[..., tuple[Tensor, ...]],
        parameter_inputs: tuple[int, ...],
        kept_inputs: tuple[int, ...],
        count: int,
    ) -> None:
        """All as `Split` has them, but for `main`, which is compiled, and the count of the constants."""
        self.main = main
        self.constants = constants
        self.parameter_inputs = parameter_inputs
        self.kept_inputs = kept_inputs
        self.count = count
        self._parameters = _getter(parameter_inputs)
        self._kept = _getter(kept_inputs)
        self._lock = threading.Lock()
        self._held: dict[tuple[int, ...], Held] = {}  # by the ids of the parameters

    def __call__(self, *inputs: Any) -> Any:
        parameters = self._parameters(inputs)
        held = self._held.get(tuple(map(id, parameters)))
        if held is None or held.state is None or held.state != _state(parameters):
            held = self._update(parameters)
        return self.main(*self._kept(inputs), *held.values)

    def parameters(self) -> list[Tensor]:
        """The parameters and buffers whose constants are held."""
        references = (reference for held in list(self._held.values()) for reference in held.parameters)
        return [parameter for reference in references if (parameter := reference()) is not None]

    def _update(self, parameters: tuple[Tensor, ...]) -> Held:
        key = tuple(map(id, parameters))
        # Constants are no inference tensors, which could not be written to later outside of inference mode.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            state = _state(parameters)
            held = self._held.get(key) or self._empty(key, parameters)
            if state is not None and state == held.state:
                return held  # another thread was faster
            self._held[key] = held._replace(state=None)  # whatever happens: some may be new, some old
            values = self.constants(*parameters, *held.values)
            if state is not None:
                wait_for(values)
            held = self._held[key] = held._replace(state=state, values=values)
        return held

    def _empty(self, key: tuple[int, ...], parameters: tuple[Tensor, ...]) -> Held:
        """To be forgotten with any of the parameters: another tensor may get its place, and with it its id."""
        references = [weakref.ref(parameter, lambda _: self._held.pop(key, None)) for parameter in parameters]
        return Held(None, (None,) * self.count, references)


def wait_for(values: Iterable[Tensor]) -> None:
    """Wait until tensors on CUDA are computed: calls on other streams may read them from now on."""
    for device in {each.device for each in values if each.is_cuda}:
        torch.cuda.current_stream(device).synchronize()


def _getter(indices: tuple[int, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(indices) > 1:
        return operator.itemgetter(*indices)
    return lambda inputs: tuple(inputs[index] for index in indices)


def _state(parameters: tuple[Tensor, ...]) -> list[int] | None:
    """What differs after a change of the tensors' values; None where changes cannot be seen."""
    try:
        return [*map(Tensor.data_ptr, parameters), *map(_version, parameters)]
    except RuntimeError:  # an inference tensor
        return None


_version = operator.attrgetter("_version")
