"""Eager calls on plain tensors: the same bits as through the op, prepared once for each signature, and left to the op
wherever somebody watches or transforms."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from scan_cases import (
    DIFFERENTIABLE,
    Case,
    Inputs,
    assert_same,
    implementation,
    make_inputs,
    needs_triton,
    require_cpp,
    run,
)
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mvc.kernels import eager
from mvc.kernels.scan import api as scan, selective_scan

CASES = (
    Case(),
    Case(options=()),
    Case(groups=2).plus("reverse"),
    Case().plus("constant_B"),
    Case().plus("constant_B", "constant_C"),
    Case(batch=0),
    Case(length=0),
)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    monkeypatch.setattr(eager, "_prepared", {})


class Watching(TorchDispatchMode):
    """Changes nothing; while it is there, calls go through the op."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def ungrouped(inputs: Inputs) -> Inputs:
    """B and C without an axis of groups where there is one group."""
    one = {name: inputs[name].squeeze(2) for name in "BC" if inputs[name].dim() == 4 and inputs[name].shape[2] == 1}
    return inputs | one


def through_the_op(inputs: Inputs) -> dict[str, Tensor]:
    with Watching():
        return run(implementation("cpp"), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits_as_through_the_op(case, dtype):
    inputs = ungrouped(make_inputs(case, dtype))

    expected = through_the_op(inputs)
    assert not eager._prepared, "a mode was there, and the call did not go through the op"
    for _ in range(2):  # the first prepares
        actual = run(implementation("cpp"), inputs)
        assert len(eager._prepared) == 1
        assert_same(actual, expected)


def test_arguments_of_one_signature_are_checked_once(monkeypatch):
    require_cpp()
    checked = []
    monkeypatch.setattr(scan, "check_inputs", checked.append)
    inputs = make_inputs(Case())
    turned = inputs | {"u": inputs["u"].mT.contiguous().mT}
    for _ in range(3):
        selective_scan(**inputs)
    assert len(checked) == 1
    selective_scan(**turned)
    selective_scan(**inputs | {"reverse": True})
    assert len(checked) == 3


@pytest.mark.parametrize("impl", [None, "cpp"])
def test_a_wrong_argument_is_refused_after_right_ones(impl):
    require_cpp()
    inputs = make_inputs(Case())
    selective_scan(**inputs, impl=impl)
    with pytest.raises(ValueError, match="delta must have shape"):
        selective_scan(**inputs | {"delta": inputs["delta"][:, 1:]}, impl=impl)
    with pytest.raises(TypeError, match="A must be"):
        selective_scan(**inputs | {"A": inputs["A"].half()}, impl=impl)


def test_signatures_are_not_kept_without_end(monkeypatch):
    require_cpp()
    monkeypatch.setattr(eager, "MOST", 3)
    for length in range(1, 9):
        selective_scan(**make_inputs(Case(length=length)))
        assert len(eager._prepared) <= 3


class Subclass(Tensor):
    pass


CONTEXTS = {
    "dispatch mode": Watching,
    "function mode": lambda: torch.device("cpu"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "forward-mode tangents": forward_ad.dual_level,
    "profiler": torch.profiler.profile,
    "hooks of saved tensors": torch.autograd.graph.save_on_cpu,
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_whoever_watches_sees_the_op(context):
    tensors = (torch.ones(2),)
    assert eager.applies(tensors)
    with context():
        assert not eager.applies(tensors)
    assert eager.applies(tensors)


def test_transforms_tracing_and_subclasses_go_through_the_op():
    seen = []

    def note(x: Tensor) -> Tensor:
        seen.append(eager.applies((torch.ones(2),)))
        return x * 2

    torch.vmap(note)(torch.ones(2))
    torch.func.grad(lambda x: note(x).sum())(torch.ones(2))
    torch.jit.trace(note, torch.ones(2), check_trace=False)
    assert seen == [False] * 3
    assert not eager.applies((torch.ones(2).as_subclass(Subclass),))
    assert eager.applies((torch.nn.Parameter(torch.ones(2)), None))


NOT_PLAIN = {
    "to be negated": lambda t: torch.complex(t, t).conj().imag,
    "zero without memory": lambda t: torch._efficientzerotensor(t.shape),
    "sparse": Tensor.to_sparse,
}


@pytest.mark.parametrize("change", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_values_that_are_not_what_lies_in_memory_go_through_the_op(change):
    assert not eager.applies((change(torch.ones(2)),))


@pytest.mark.parametrize("options", [{"impl": []}, {"delta_softplus": []}, {"reverse": "yes"}], ids=str)
def test_options_of_a_wrong_type_are_refused(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        selective_scan(**make_inputs(Case(options=())) | options)


def test_checkpoint_saves_the_same_whoever_watches_the_backward():
    require_cpp()
    inputs = ungrouped(make_inputs(Case()))
    inputs["u"].requires_grad_()
    y = checkpoint(lambda: selective_scan(**inputs), use_reentrant=False)
    expected = torch.autograd.grad(y.sum(), inputs["u"], retain_graph=True)
    with Watching():
        assert torch.equal(*torch.autograd.grad(y.sum(), inputs["u"]), *expected)


def test_a_compiled_call_holds_the_op():
    calls = []

    def backend(graph_module, inputs):
        calls.extend(str(node.target) for node in graph_module.graph.nodes if node.op == "call_function")
        return graph_module.forward

    inputs = make_inputs(Case(options=()))
    torch.compile(selective_scan, backend=backend, fullgraph=True)(**inputs)
    assert "mvc.selective_scan.default" in calls


def gradients(inputs: Inputs, **options: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    leaves = [inputs[name].requires_grad_() for name in DIFFERENTIABLE]
    y, last_state = selective_scan(**inputs, return_last_state=True)
    return y, last_state, leaves


def test_second_derivative_is_refused():
    require_cpp()
    y, _, leaves = gradients(make_inputs(Case()))
    (first, *_) = torch.autograd.grad(y.sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="once, not twice"):
        first.sum().backward()


@pytest.mark.parametrize("output", [0, 1], ids=["y", "last_state"])
def test_gradient_through_one_output_alone(output):
    require_cpp()
    with_op, short = copy.deepcopy([make_inputs(Case())] * 2), []
    for inputs, context in zip(with_op, (Watching(), contextlib.nullcontext()), strict=True):
        with context:
            *outputs, leaves = gradients(inputs)
            short.append(torch.autograd.grad(outputs[output].square().sum(), leaves, allow_unused=True))
    for name, expected, actual in zip(DIFFERENTIABLE, *short, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, msg=name)


def test_an_input_changed_before_the_backward_is_noticed():
    require_cpp()
    inputs = make_inputs(Case())
    y, *_ = gradients(inputs)
    with torch.no_grad():
        inputs["B"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_inference_mode():
    require_cpp()
    with torch.inference_mode():
        inputs = make_inputs(Case())
        y = selective_scan(**inputs)
    assert y.is_inference()
    assert torch.equal(y, selective_scan(**make_inputs(Case())))


class FakeKernel:
    """Stands for a Triton kernel: notes what it and what it compiles to are launched with."""

    def __init__(self, kernel: Any) -> None:
        self.arg_names, self.first, self.repeated = kernel.arg_names, [], []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, num_warps: int, **constants: Any) -> Any:
            self.first.append((grid, arguments, constants))
            return {(*grid, 1, 1)[:3]: lambda *given: self.repeated.append(given)}

        return launch


PLANNED = {
    "one chunk": Case(),
    "chunks": Case(length=300, batch=1),
    "plain": Case(options=()),
    "constant B": Case().plus("constant_B", "reverse"),
}


@pytest.fixture
def fakes(monkeypatch) -> dict[str, FakeKernel]:
    """What stands for the scan's kernels, by name."""
    from mvc.kernels.scan import triton_plan

    names = ("forward_kernel", "summary_kernel", "combine_kernel", "backward_kernel")
    fakes = {name: FakeKernel(getattr(triton_plan, name)) for name in names}
    for name, fake in fakes.items():
        monkeypatch.setattr(triton_plan, name, fake)
    return fakes


@needs_triton
@pytest.mark.parametrize("turned", [False, True], ids=["", "states apart in memory"])
@pytest.mark.parametrize("case", PLANNED.values(), ids=PLANNED)
def test_a_repeated_launch_has_the_arguments_of_the_first_with_new_addresses(case, turned, fakes):
    from mvc.kernels.scan import triton_plan
    from mvc.kernels.scan.triton_launch import Meta, Repeated
    from mvc.kernels.schemas import TENSORS

    def given(seed: int) -> dict[str, Tensor | None]:
        inputs = make_inputs(case, seed=seed)
        if turned:
            inputs |= {name: inputs[name].transpose(1, -1).contiguous().transpose(1, -1) for name in "BC"}
        y = torch.randn_like(inputs["u"])
        state = torch.randn(case.batch, case.dim, case.states)
        others = {"grad_y": y, "grad_last_state": state, "states": torch.randn(3, *state.shape)}
        return {name: inputs.get(name) for name in TENSORS} | others

    metas = {name: t if t is None else Meta.of(t) for name, t in given(0).items()}
    plan = triton_plan.plan_backward(metas, softplus=True, reverse=False)
    assert len(plan.launches) == (1 if case.length < 300 else 3)
    repeated = Repeated(plan, torch.device("cpu"))
    repeated.by_name(given(0), like=torch.ones(1))
    assert sum(len(fake.first) for fake in fakes.values()) == len(plan.launches)
    tensors = repeated.by_name(given(1), like=torch.ones(1))
    assert sum(len(fake.first) for fake in fakes.values()) == len(plan.launches), "Triton bound arguments again"
    counts = dict.fromkeys(fakes, 0)
    for launch in plan.launches:
        name = next(name for name, fake in fakes.items() if fake is launch.kernel)
        arguments = dict(zip(launch.kernel.arg_names, launch.kernel.repeated[counts[name]], strict=True))
        counts[name] += 1
        pointers = [pointer and tensors[pointer].data_ptr() for pointer in launch.pointers]
        constants = {key: arguments.pop(key) for key in launch.constants}
        assert [*arguments.values()] == [*pointers, *launch.sizes]
        assert constants == launch.constants


@needs_triton
@pytest.mark.parametrize("name", ["grad_y", "grad_last_state", "u", "B", "states"])
@pytest.mark.parametrize("change", ["strides", "alignment"])
def test_a_backward_on_tensors_that_lie_otherwise_is_launched_anew(name, change, fakes):
    """Gradients lie anywhere, and hooks may have moved what autograd saved."""
    from mvc.kernels.scan.triton_ops import PreparedScan
    from mvc.kernels.schemas import TENSORS

    inputs = make_inputs(Case(options=()))
    given = {"grad_y": torch.ones(2, 7, 6), "grad_last_state": torch.ones(2, 6, 8), "states": torch.ones(2, 2, 6, 8)}
    given |= {key: inputs.get(key) for key in TENSORS}
    prepared, first = PreparedScan([given[key] for key in TENSORS], False, False), fakes["backward_kernel"].first

    def backward() -> None:
        tensors = [given[key] for key in TENSORS]
        prepared.backward(given["grad_y"], given["grad_last_state"], tensors, given["states"])

    backward()
    backward()
    assert len(first) == 1
    shape = given[name].shape
    if change == "strides":
        given[name] = given[name].transpose(0, 1).contiguous().transpose(0, 1)
    else:
        given[name] = torch.ones(shape.numel() + 1)[1:].view(shape)
    backward()
    contiguous_again = name == "grad_last_state" and change == "strides"
    assert len(first) == (1 if contiguous_again else 2)


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_repeated_launches_on_a_gpu_give_the_bits_of_the_op(case):
    def on_gpu(seed: int) -> Inputs:
        inputs = ungrouped(make_inputs(case, seed=seed))
        return {name: value.cuda() if isinstance(value, Tensor) else value for name, value in inputs.items()}

    triton_scan = implementation("triton")
    for seed in range(3):
        with Watching():
            expected = run(triton_scan, on_gpu(seed))
        assert_same(run(triton_scan, on_gpu(seed)), expected)
    assert len(eager._prepared) == 1
