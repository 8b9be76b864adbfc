"""Every op's shapes and its decomposition, exported for free batch, length and dim: right within the range, unguarded.

A guard that a decomposition adds holds for the sizes of the example alone, and AOTInductor checks none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from scan_cases import (
    DIFFERENTIABLE,
    TENSORS,
    Case,
    Inputs,
    assert_within_budget,
    gradients_of_outputs,
    make_inputs,
    map_tensors,
    reference,
    run,
    tensors_of,
)
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.export import Dim, ExportedProgram, export

from mvc.kernels.recurrence import linear_recurrence
from mvc.kernels.scan import chunked, selective_scan
from mvc.kernels.schemas import op
from mvc.passes.lowering.lower_scan import decompositions

LARGEST = {"batch": 8, "length": 32, "dim": 16}
SEQUENCE, STATE = ("batch", "length", "dim"), ("batch", "dim")
AXES = dict.fromkeys(("u", "delta", "z", "grad_y"), SEQUENCE) | dict.fromkeys(("A", "D", "delta_bias"), ("dim",))
AXES |= dict.fromkeys(("initial_state", "grad_last_state"), STATE) | {"reset": SEQUENCE[:2]}


class Recording(nn.Module):
    """A function of tensors by name as a module of tensors in order."""

    def __init__(self, function, names: Iterable[str]):
        super().__init__()
        self.function, self.names = function, tuple(names)

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(**dict(zip(self.names, tensors, strict=True)))


def shape_env(program: ExportedProgram) -> Any:
    return next(node.meta["val"] for node in program.graph.nodes if node.op == "placeholder").fake_mode.shape_env


def decomposed(function, tensors: dict[str, Tensor], free: dict[str, dict[int, Any]]) -> nn.Module:
    """The program in torch's own operations; the decomposition has guarded on nothing."""
    program = export(
        Recording(function, tensors), tuple(tensors.values()), dynamic_shapes=(tuple(free[name] for name in tensors),)
    )
    env = shape_env(program)
    before = (len(env.guards), dict(env.replacements), dict(env.var_to_range))
    plain = program.run_decompositions(decompositions())
    assert not any("mvc" in str(node.target) for node in plain.graph.nodes)
    added = [str(guard.expr) for guard in env.guards[before[0] :]]
    assert (len(env.guards), dict(env.replacements), dict(env.var_to_range)) == before, added
    assert plain.range_constraints == program.range_constraints
    return plain.module()


def scan_and_gradients(flags: tuple[bool, bool]):
    """Both ops of the portable scan, on tensors by name."""

    def function(grad_y: Tensor, grad_last_state: Tensor, **tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = [tensors.get(name) for name in TENSORS]
        results = op("selective_scan")(*inputs, *flags)
        return *results, *op("selective_scan", backward=True)(grad_y, grad_last_state, *inputs, *flags)

    return function


def with_gradients(inputs: Inputs) -> dict[str, Tensor]:
    gradients = gradients_of_outputs(*reference(**inputs))
    return dict(zip(("grad_y", "grad_last_state"), gradients, strict=True)) | tensors_of(inputs)


def free_axes(tensors: dict[str, Tensor], dims: dict[str, Any]) -> dict[str, dict[int, Any]]:
    weights = {2: ("dim",), 4: ("batch", "length")}
    axes = AXES | {name: weights[tensors[name].dim()] for name in "BC"}
    return {name: {i: dims[axis] for i, axis in enumerate(axes[name]) if axis in dims} for name in tensors}


def check_scan(program: nn.Module, inputs: Inputs) -> None:
    results = iter(program(*with_gradients(inputs).values()))
    actual = {"y": next(results), "last state": next(results)}
    actual |= {f"gradient of {name}": gradient for name, gradient in zip(DIFFERENTIABLE, results, strict=True)}
    oracle, baseline = (run(reference, each) for each in (map_tensors(Tensor.double, inputs), inputs))
    for name, wanted in oracle.items():
        assert_within_budget(actual[name], wanted, baseline[name], name)


FORMS = {
    "all-options": ("batch", "length", "dim", Case()),
    "batch": ("batch", Case()),
    "length": ("length", Case(options=())),
    "dim": ("dim", Case(options=("reset", "softplus"))),
    "groups-reverse": ("batch", "length", "dim", Case(groups=2).plus("reverse")),
    "constant-weights": ("batch", "length", "dim", Case(options=("constant_B", "constant_C", "D"))),
    "constant-B-reverse": ("batch", "length", Case(groups=3).plus("constant_B", "reverse")),
    "chunks-and-pieces": ("batch", Case(length=12, states=2)),
    "no-steps": ("batch", Case(length=0)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_scan(form, monkeypatch):
    *free, case = FORMS[form]
    if form == "chunks-and-pieces":
        monkeypatch.setitem(chunked.STATES_PER_PIECE, "cpu", 60)
    dims = {name: Dim(name, min=1, max=LARGEST[name]) for name in free}
    if case.groups > 1 and "dim" in free:
        dims["dim"] = case.groups * Dim("width", min=1, max=LARGEST["dim"] // case.groups)
    inputs = make_inputs(case)
    flags = (inputs["delta_softplus"], inputs["reverse"])
    tensors = with_gradients(inputs)
    program = decomposed(scan_and_gradients(flags), tensors, free_axes(tensors, dims))
    for size in (1, 5, None):  # a batch of one, an odd one, the largest
        sizes = {name: (size or LARGEST[name]) * (1 if size is None or name != "dim" else case.groups) for name in free}
        check_scan(program, make_inputs(case._replace(**sizes), seed=2))


RECURRENCES = {  # a, b and the initial state as axes of batch, length and dim; the axis along which it runs; reverse
    "initial": ("bld", "bld", "bd", 1, False),
    "reverse": ("bld", "bld", "bd", 1, True),
    "first-axis": ("lb", "lb", None, 0, False),
    "last-axis": ("bl", "bl", "1", 1, True),
    "broadcast": ("ld", "bld", "d", 1, False),
}


@pytest.mark.parametrize("form", RECURRENCES)
def test_recurrence(form):
    *axes, dim, reverse = RECURRENCES[form]
    dims = {name[0]: Dim(name, min=1, max=size) for name, size in LARGEST.items()}
    axes = {name: each for name, each in zip(("a", "b", "initial"), axes, strict=True) if each is not None}

    def inputs(**sizes: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            name: torch.rand([sizes.get(axis, 1) for axis in each], generator=generator) for name, each in axes.items()
        }

    def function(**tensors: Tensor) -> Tensor:
        return linear_recurrence(**tensors, dim=dim, reverse=reverse)

    free = {name: {i: dims[axis] for i, axis in enumerate(each) if axis in dims} for name, each in axes.items()}
    program = decomposed(function, inputs(b=2, l=7, d=6), free)
    for batch, length, width in ((1, 1, 1), (3, 5, 7), tuple(LARGEST.values())):
        tensors = inputs(b=batch, l=length, d=width)
        wanted = linear_recurrence(**tensors, dim=dim, reverse=reverse, impl="reference")
        torch.testing.assert_close(program(*tensors.values()), wanted)


@pytest.mark.parametrize("largest", [None, 2**21])
def test_a_length_without_a_bound_is_refused(largest):
    tensors = {"a": torch.rand(5, 2), "b": torch.rand(5, 2)}
    length = Dim("length", min=1, max=largest)

    def function(a: Tensor, b: Tensor) -> Tensor:
        return linear_recurrence(a, b, dim=0)

    with pytest.raises(ValueError, match=r"is free and may exceed 1048576 steps; .* need a bound, as torch.export.Dim"):
        decomposed(function, tensors, {"a": {0: length}, "b": {0: length}})


def test_compiled_for_many_sizes():
    """torch.compile makes one program for all batches; one for each length, if it has no bound."""

    def function(**tensors: Tensor) -> Tensor:
        return selective_scan(**tensors, impl="chunked")

    graphs = []

    def compiler(graph_module, inputs):
        graphs.append(graph_module)
        return make_boxed_func(graph_module.forward)

    backend = aot_autograd(fw_compiler=compiler, decompositions=decompositions())
    compiled = torch.compile(function, backend=backend, dynamic=True, fullgraph=True)
    for length, batch in itertools.product((4, 6), (2, 3, 5)):
        inputs = tensors_of(make_inputs(Case(batch=batch, length=length, options=())))
        torch.testing.assert_close(compiled(**inputs), function(**inputs))
    assert len(graphs) == 2
    assert not any("mvc" in str(node.target) for graph in graphs for node in graph.graph.nodes)
