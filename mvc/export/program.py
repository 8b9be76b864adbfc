"""From a model to a `torch.export.ExportedProgram`: captured by Dynamo, rewritten by the passes, exported.

    model ── Dynamo ── graph of torch calls ── passes ── frozen constants computed ── torch.export ── ExportedProgram

The passes are written for Dynamo's graph, before autograd; `torch.export` then makes a graph of ATen of what they left,
over the same free sizes.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from mvc.compile.torch_private import fewer_shape_guards, raised_in_trace
from mvc.errors import UserError
from mvc.export import guards, torch_private
from mvc.export.sizes import Sizes, outside
from mvc.passes import pipeline
from mvc.passes.base import Pass
from mvc.passes.frozen.freeze import split_constants
from mvc.passes.frozen.prepack import Prepack
from mvc.passes.graph.fx_utils import value
from mvc.passes.lowering.lower_scan import decompositions

TOLERANCE = 0.05  # a difference that no rounding makes

_serial = itertools.count()
Evaluate = Callable[[fx.GraphModule, Sequence[Tensor]], Sequence[Tensor]]


@dataclasses.dataclass(frozen=True)
class Captured:
    """Dynamo's graph of a model.

    Attributes:
        graph_module: over the model's tensors and its inputs.
        inputs: what the graph's placeholders stand for: tensors, and sizes as symbols.
        example: the model's inputs.
        structure: of the model's output, whose leaves the graph returns.
    """

    graph_module: fx.GraphModule
    inputs: list[Any]
    example: tuple[Tensor, ...]
    structure: TreeSpec

    def axes(self, sizes: Sizes) -> guards.Axes:
        """Of the example's free sizes."""
        found = {}
        for node, given in zip(self.graph_module.graph.find_nodes(op="placeholder"), self.inputs, strict=True):
            if _position(given, self.example) is not None:
                for name, axis, limits in sizes.free(given):
                    found[torch_private.symbol(value(node).shape[axis])] = (name, limits)
        return found


def export(
    model: nn.Module,
    example: Sequence[Tensor],
    sizes: Sizes,
    *,
    passes: Sequence[Pass],
    frozen: bool,
    evaluate: Evaluate | None = None,
) -> torch.export.ExportedProgram:
    """The model's program, for inference.

    Args:
        example: the model's inputs, within `sizes`.
        passes: what rewrites Dynamo's graph, in order.
        frozen: compute what depends on parameters alone now; the program holds the results in place of the parameters.
        evaluate: what a graph computes from tensors, for a device on which nothing can run.

    Raises:
        UserError: the model cannot be captured, or does not serve the sizes.
        guards.Unserved: it serves a part of them.
    """
    with torch.no_grad():
        captured = _capture(model, sizes.traceable(example), sizes)
        with guards.kept(captured.graph_module.graph, captured.axes(sizes)), fewer_shape_guards():
            module = _rewritten(captured, _names(model), passes, frozen=frozen, evaluate=evaluate)
        return as_it_is(module, captured.example, sizes)


def as_it_is(model: nn.Module, example: Sequence[Tensor], sizes: Sizes) -> torch.export.ExportedProgram:
    """The model's program without any pass; arguments and errors are those of `export`."""
    example = sizes.traceable(example)
    try:
        with torch.no_grad():
            made = torch.export.export(model, example, dynamic_shapes=sizes.dims(example))
    except Exception as error:
        if (reason := torch_private.range_violation(error)) is not None:
            raise outside(reason, sizes) from error
        raise
    guards.check(made.graph)
    return made


def check_at_one(run: Callable[..., Any], model: nn.Module, example: Sequence[Tensor], sizes: Sizes) -> None:
    """Raise UserError where what was made of the model computes something else for sizes of 1.

    torch takes free sizes for larger ones, so that a `squeeze`, say, is decided without a guard.
    """
    for inputs in sizes.ones(example):
        check_for(run, model, inputs, sizes)


def check_for(run: Callable[..., Any], model: nn.Module, inputs: Sequence[Tensor], sizes: Sizes) -> None:
    """Raise UserError where what was made of the model fails, or computes something else, for these inputs."""
    with torch.no_grad():
        expected = tree_flatten(model(*inputs))[0]
        try:
            leaves = tree_flatten(run(*inputs))[0]
        except Exception as error:  # whatever a runtime raises
            raise outside(f"it fails for {_shapes(inputs)} ({str(error).partition(chr(10))[0]})", sizes) from error
    if any(_differ(y, wanted) for y, wanted in zip(leaves, expected, strict=True)):
        raise outside(f"it computes something else for {_shapes(inputs)}", sizes)


def check_ranks_at_one(
    program: torch.export.ExportedProgram, model: nn.Module, example: Sequence[Tensor], sizes: Sizes
) -> None:
    """The part of `check_at_one` that needs no code to run: whether results have as many axes. The program itself would
    decide a `squeeze` anew for each size, and code that is compiled of it does not."""
    results = [node.meta["val"].dim() for node in program.graph.output_node().args[0]]
    for inputs in sizes.ones(example):
        with torch.no_grad():
            expected = tree_flatten(model(*inputs))[0]
        if results != [y.dim() for y in expected]:
            raise outside(f"it computes something else for {_shapes(inputs)}", sizes)


def _shapes(inputs: Sequence[Tensor]) -> str:
    return " and ".join("x".join(map(str, x.shape)) for x in inputs)


def _differ(y: Tensor, wanted: Tensor) -> bool:
    if y.shape != wanted.shape or y.numel() == 0:
        return y.shape != wanted.shape
    y, wanted = y.double(), wanted.double()
    limit = TOLERANCE * float(wanted.abs().max())
    return not torch.allclose(y, wanted, rtol=TOLERANCE, atol=limit, equal_nan=True)


def without_custom_ops(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program with mvc's portable ops as torch's own operations.

    Raises:
        guards.Unserved: they hold for a part of the program's range alone.
    """
    with guards.kept(program.graph):
        return program.run_decompositions(decompositions())


def _capture(model: nn.Module, example: tuple[Tensor, ...], sizes: Sizes) -> Captured:
    found: list[tuple[fx.GraphModule, list[Any]]] = []
    structure: list[TreeSpec] = []

    def keep(graph_module: fx.GraphModule, inputs: list[Any]) -> Any:
        found.append((graph_module, inputs))
        results = graph_module.graph.output_node().args[0]
        return lambda *_: [_placeholder(result) for result in results]

    def forward(*tensors: Tensor) -> tuple[Any, ...]:
        leaves, spec = tree_flatten(model(*tensors))
        structure.append(spec)
        return tuple(leaves)

    forward.__code__ = forward.__code__.replace(co_name=f"export_{next(_serial)}")  # Dynamo counts graphs by it
    inputs = tuple(x.detach().clone() for x in example)
    for x in inputs:
        for _, axis, limits in sizes.free(x):
            torch_private.mark_free(x, axis, *limits)
    try:
        with fewer_shape_guards(), torch_private.guards_unlogged():
            outputs = torch.compile(forward, backend=keep, fullgraph=True, dynamic=False)(*inputs)
    except Exception as error:
        if (reason := torch_private.range_violation(error)) is not None:
            raise outside(reason, sizes) from error
        if raised_in_trace(error.__cause__):
            raise UserError(f"example is not accepted by the model: {error}") from error
        raise
    if len(found) != 1:
        raise UserError(f"the model makes {len(found)} graphs; one that calls torch can be exported")
    graph_module, arguments = found[0]
    returned = graph_module.graph.output_node().args[0]
    if not all(isinstance(each, Tensor) for each in outputs) or len(returned) != len(outputs):
        raise UserError(
            "the model returns more than tensors that it computes, each once; wrap it in a module that returns these"
        )
    return Captured(graph_module, arguments, inputs, structure[-1])


def _placeholder(result: Any) -> Any:
    """What Dynamo's code gets in place of a result, so that the graph need not run."""
    is_tensor = isinstance(result, fx.Node) and isinstance(value(result), Tensor)
    return torch.empty(0) if is_tensor else result


def _names(model: nn.Module) -> dict[int, str]:
    """The names of the model's tensors by their ids."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    return {id(tensor): name for name, tensor in named}


def _rewritten(
    captured: Captured, names: dict[int, str], passes: Sequence[Pass], *, frozen: bool, evaluate: Evaluate | None
) -> nn.Module:
    """The captured graph after the passes, as a module that holds the tensors which it needs."""
    graph_module, inputs = captured.graph_module, captured.inputs
    first, last = _around_packing(passes) if frozen else (passes, ())
    pipeline.run(first, graph_module)
    split = split_constants(graph_module) if frozen else None
    if split is not None:
        tensors = [inputs[index] for index in split.parameters]
        constants = split.constants(*tensors) if evaluate is None else evaluate(split.constants, tensors)
        graph_module, inputs = split.main, [*(inputs[index] for index in split.kept), *constants]
    pipeline.run(last, graph_module)
    return _bound(graph_module, inputs, captured, names)


def _around_packing(passes: Sequence[Pass]) -> tuple[Sequence[Pass], Sequence[Pass]]:
    """The passes before weights are packed, and the others: packed weights are of one processor, and no file's."""
    start = next((index for index, each in enumerate(passes) if isinstance(each, Prepack)), len(passes))
    return passes[:start], passes[start:]


def _bound(graph_module: fx.GraphModule, inputs: list[Any], captured: Captured, names: dict[int, str]) -> nn.Module:
    """The graph over the model's inputs alone, its other inputs as attributes of the module."""
    graph, tensors = fx.Graph(), {}
    images = [graph.placeholder(f"x{index}" if index else "x") for index in range(len(captured.example))]
    copies: dict[fx.Node, fx.Node] = {}
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    for node, given in zip(placeholders, inputs, strict=True):
        if isinstance(given, torch.SymInt):
            source, axis = _place_of(given, zip(placeholders, inputs, strict=True), captured.example)
            copies[node] = graph.call_function(torch.ops.aten.sym_size.int, (images[source], axis))
        elif (index := _position(given, captured.example)) is not None:
            copies[node] = images[index]
        else:
            name = names.get(id(given), f"constants.{len(tensors)}")
            tensors[name] = _alone(given)
            copies[node] = graph.get_attr(name)
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            tensors[node.target] = operator.attrgetter(node.target)(graph_module)
        if node.op == "output":
            results = fx.node.map_arg(tuple(node.args[0]), copies.__getitem__)
            graph.output(tree_unflatten(list(results), captured.structure))
        elif node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(tensors, graph)


def _alone(tensor: Tensor) -> Tensor:
    """The tensor, copied where its memory holds more: files hold memory, not views."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _position(given: Any, example: Sequence[Tensor]) -> int | None:
    return next((index for index, x in enumerate(example) if x is given), None)


def _place_of(size: torch.SymInt, inputs: Iterable[tuple[fx.Node, Any]], example: Sequence[Tensor]) -> tuple[int, int]:
    """The input and the axis that has a symbolic size."""
    for node, given in inputs:
        if (index := _position(given, example)) is not None:
            for axis, each in enumerate(value(node).shape):
                if isinstance(each, torch.SymInt) and each.node.expr == size.node.expr:
                    return index, axis
    raise UserError(f"the model computes with a size {size} that no input has; export it with dynamic=None")
