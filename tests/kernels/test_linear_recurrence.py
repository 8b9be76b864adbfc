"""The linear recurrence: every implementation but Triton against the float64 oracle, its ops' rules, torch.compile
and torch.func."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from places import ROOT
from recurrence_cases import (
    CUBE,
    HALVES,
    Case,
    Inputs,
    arguments,
    assert_recurrence_within_budget,
    make_inputs,
    reference,
    run,
    same_dtypes,
    tensors_of,
    through,
)
from scan_cases import require_cpp
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.func import grad, jacrev, vmap
from torch.utils.flop_counter import FlopCounterMode

from mvc.kernels.recurrence import linear_recurrence
from mvc.kernels.schemas import op

REORDERED = {"rtol": 1e-11, "atol": 1e-11}  # the sums of the same numbers in another order, in float64

LENGTHS = (0, 1, 2, 31, 32, 33, 70)
LAST = Case((5, 3, 70), (5, 3, 70), 2, (5, 3))
CASES = [
    *(Case((2, length, 19), (2, length, 19), 1, (2, 19), reverse) for length in LENGTHS for reverse in (False, True)),
    *(Case((19, length), (19, length), 1, (19,), reverse) for length in LENGTHS for reverse in (False, True)),
    *(Case((3, 9, size), (3, 9, size), 1) for size in (0, 1, 15, 16, 17, 48, 16 * 256 + 20)),
    *(Case((2, 3, 4, 5), (2, 3, 4, 5), dim, None, reverse) for dim in range(4) for reverse in (False, True)),
    Case((7,), (7,), 0, ()),
    Case((300,), (300,), 0, (), True),
    Case((0, 4, 3), (0, 4, 3), 1, (0, 3)),
    # Broadcast: each of the three alone has an axis, and the recurrence's own axis is missing or has size 1.
    Case((5, 1), (3, 1, 9), 1, (1, 1)),
    Case((3, 1, 4), (3, 6, 4), 1, (4,)),
    Case((4,), (3, 6, 4), 1, ()),
    Case((3, 6, 4), (1,), 1, (3, 1)),
    Case((3, 6, 1), (3, 6, 20), 1, (20,), True),
    Case((1, 6), (2, 3, 6), 2, (3,), True),
    *(case._replace(layout=layout, reverse=reverse) for case in (CUBE, LAST) for reverse in (False, True)
      for layout in ("permuted", "expanded", "strided")),
    *(case._replace(dtypes=same_dtypes(dtype), layout=layout) for case in (CUBE, LAST)
      for dtype in (*HALVES, torch.float64) for layout in ("contiguous", "permuted")),
    CUBE._replace(dtypes=(torch.float32, torch.bfloat16, torch.float16)),
    CUBE._replace(dtypes=(torch.bfloat16, torch.bfloat16, torch.float32)),
    CUBE._replace(dtypes=(torch.float16, torch.bfloat16, torch.float16), reverse=True),
    CUBE._replace(decays=(0.99, 1.01)),
    Case((2, 9, 20), (2, 9, 20), 1, (2, 20), decays=(1.0, 3.0)),
    Case((20, 9), (20, 9), 1, (20,), decays=(-3.0, -1.0)),
]  # fmt: skip


@pytest.fixture
def nan_in_fresh_memory():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_the_oracle(case, family, nan_in_fresh_memory):
    if torch.float64 in case.dtypes and family == "linear_recurrence_cpu":
        pytest.skip("the C++ recurrence takes no float64")
    inputs = make_inputs(case)
    before = {name: tensor.clone() for name, tensor in tensors_of(inputs).items()}
    assert_recurrence_within_budget(inputs, through(family))
    assert all(torch.equal(inputs[name], tensor) for name, tensor in before.items()), "an input was written to"


@pytest.mark.parametrize("impl", [None, "chunked", "cpp"])
@pytest.mark.parametrize("dim", [0, 1, -1, -3])
def test_public_function(dim, impl):
    require_cpp(impl == "cpp")
    inputs = make_inputs(Case((4, 5, 6), (5, 1), dim))
    h = linear_recurrence(inputs["a"], inputs["b"], dim=dim, impl=impl)
    assert h.is_contiguous()
    torch.testing.assert_close(h, reference(**inputs), rtol=1e-5, atol=1e-5)
    assert_recurrence_within_budget(inputs, lambda **given: linear_recurrence(**given, impl=impl))


def test_reference_is_the_recurrence():
    """By hand: 1, 2·1 + 10, 3·12 + 100; and from the other end, from 1000."""
    a, b, initial = torch.tensor([5.0, 2.0, 3.0]), torch.tensor([1.0, 10.0, 100.0]), torch.tensor(1000.0)
    assert linear_recurrence(a, b, dim=0, impl="reference").tolist() == [1.0, 12.0, 136.0]
    backward = linear_recurrence(a, b, initial, dim=0, reverse=True, impl="reference")
    assert backward.tolist() == [5 * 6210.0 + 1, 2 * 3100.0 + 10, 3 * 1000.0 + 100]


@pytest.mark.parametrize("cut", [0, 1, 32, 36, 37])
@pytest.mark.parametrize("reverse", [False, True])
def test_carried_state(cut, reverse, family):
    """Two pieces, the second from the last state of the first, are the whole."""
    inputs = make_inputs(CUBE._replace(reverse=reverse))
    pieces = [inputs | {name: inputs[name].split([cut, 37 - cut], 1)[part] for name in ("a", "b")} for part in (0, 1)]
    results, state = [], inputs["initial"]
    for piece in reversed(pieces) if reverse else pieces:
        h = through(family)(**(piece | {"initial": state}))
        state = h.select(1, 0 if reverse else -1) if h.shape[1] else state
        results.append(h)
    joined = torch.cat(results[::-1] if reverse else results, 1)
    exact = {"rtol": 0, "atol": 0} if family != "linear_recurrence_chunked" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(joined, through(family)(**inputs), **exact)


@pytest.mark.parametrize("case", [CUBE, LAST, Case((1, 600), (1, 600), 1)], ids=str)
def test_same_bits_in_every_run_and_for_any_threads(case):
    require_cpp()
    inputs, threads = make_inputs(case), torch.get_num_threads()
    results = []
    try:
        for count in (threads, threads, 1, 3):
            torch.set_num_threads(count)
            results.append(run(through("linear_recurrence_cpu"), inputs))
    finally:
        torch.set_num_threads(threads)
    for name, expected in results[0].items():
        assert all(torch.equal(result[name], expected) for result in results), name


def test_large_enough_for_several_threads():
    require_cpp()
    for shape, dim in (((300, 40, 40), 1), ((40, 300, 40), 0), ((300, 40, 40), 2)):
        inputs = make_inputs(Case(shape, shape, dim))
        assert_recurrence_within_budget(inputs, through("linear_recurrence_cpu"))


def test_nan_and_infinity_stay_where_they_are(family):
    a, b = torch.full((9, 20), 0.5), torch.ones(9, 20)
    b[3, 1], b[4, 2] = float("nan"), float("inf")
    h = op(family)(a, b, None, 0, False)
    assert h.isnan().nonzero().tolist() == [[t, 1] for t in range(3, 9)]
    assert h.isinf().nonzero().tolist() == [[t, 2] for t in range(4, 9)]


OPCHECK_CASES = [
    Case((2, 5, 3), (2, 5, 3), 1, (2, 3)),
    Case((2, 5, 3), (2, 5, 3), 1, (2, 3), True, layout="permuted"),
    Case((5, 1), (2, 1, 3), 1, (1, 3)),
    Case((2, 5), (2, 5), 1, dtypes=same_dtypes(torch.bfloat16)),
    Case((2, 5), (2, 5), 0, (5,), dtypes=(torch.bfloat16, torch.float32, torch.float16)),
    Case((2, 5), (2, 5), 0, (5,), dtypes=same_dtypes(torch.float64)),
    Case((2, 0, 3), (2, 0, 3), 1, (2, 3)),
    Case((2, 1, 3), (2, 1, 3), 1, (2, 3)),
    Case((4,), (4,), 0, ()),
]


@pytest.mark.parametrize("case", OPCHECK_CASES, ids=str)
def test_opcheck(case, family):
    if torch.float64 in case.dtypes and family == "linear_recurrence_cpu":
        pytest.skip("the C++ recurrence takes no float64")
    inputs = make_inputs(case)
    inputs |= {name: tensor.detach().requires_grad_() for name, tensor in tensors_of(inputs).items()}
    torch.library.opcheck(op(family), arguments(inputs))


@pytest.mark.parametrize("case", OPCHECK_CASES, ids=str)
def test_fakes_have_the_real_layout(case, family):
    if torch.float64 in case.dtypes and family == "linear_recurrence_cpu":
        pytest.skip("the C++ recurrence takes no float64")
    inputs = make_inputs(case)
    on_meta = inputs | {name: tensor.to("meta") for name, tensor in tensors_of(inputs).items()}
    real, fake = (through(family)(**given) for given in (inputs, on_meta))
    assert (real.shape, real.dtype, real.stride()) == (fake.shape, fake.dtype, fake.stride())


@pytest.mark.versions
def test_every_family_has_one_schema(family):
    schema = str(op(family)._schema).replace("SymInt dim", "int dim")  # the first is what torch infers for Triton's op
    assert schema.split("(", 1)[1] == "Tensor a, Tensor b, Tensor? initial, int dim, bool reverse) -> Tensor"


A, B = torch.ones(2, 5, 3), torch.ones(2, 5, 3)
NONSENSE = {
    "dim": [(A, B, None, 3, False), (A, B, None, -1, False), (torch.ones(()), torch.ones(()), None, 0, False)],
    "initial": [
        (A, B, torch.ones(2, 5), 1, False),
        (A, B, torch.ones(1, 2, 3), 1, False),
        (A, B, torch.ones(0, 3), 1, False),
        (A, B, torch.ones(2, 3, dtype=torch.int64), 1, False),
    ],
    "b": [(A, torch.ones(2, 4, 3), None, 1, False), (A, B.to(torch.complex32), None, 1, False)],
    "a": [(torch.ones(4), B, None, 1, False), (A.bool(), B, None, 1, False)],
}


@pytest.mark.parametrize(
    ("name", "index"), [(name, index) for name in NONSENSE for index in range(len(NONSENSE[name]))]
)
def test_nonsense_is_refused_by_the_bare_op(name, index, family):
    """Neither a crash nor a broadcast."""
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        op(family)(*NONSENSE[name][index])


@pytest.mark.parametrize(
    "given",
    [
        (A.long(), B, None, 1, False),
        (A, B.bool(), None, 1, False),
        (A, B, torch.ones(2, 3, dtype=torch.int64), 1, False),
        (A, B.to("meta"), None, 1, False),
        (A, B, None, 3, False),
        (A, B, torch.ones(1, 2, 3), 1, False),
        (A.double(), B, None, 1, False),
    ],
    ids=["int64", "bool", "initial int64", "device", "dim", "axes", "float64"],
)
def test_tracing_refuses_what_the_call_does(given, family):
    """In the same words, so that an op that cannot run enters no graph."""
    if given[0].dtype == torch.float64 and family != "linear_recurrence_cpu":
        pytest.skip(f"{family} takes float64")
    with pytest.raises((ValueError, TypeError)) as call:
        op(family)(*given)
    mode = FakeTensorMode()
    fakes = (mode.from_tensor(each) if isinstance(each, Tensor) else each for each in given)
    with pytest.raises(call.type) as traced, mode:
        op(family)(*fakes)
    assert str(traced.value) == str(call.value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": 0.5}, TypeError, "a must be a tensor, got float"),
        ({"b": None}, TypeError, "b must be a tensor, got NoneType"),
        ({"a": A.long()}, TypeError, "a must be torch.float32 or .*, got torch.int64"),
        ({"b": B.to(torch.complex32)}, TypeError, "b must be .* or torch.complex128, got torch.complex32"),
        ({"b": B.to("meta")}, ValueError, "b must be on a's device cpu, got meta"),
        ({"dim": 3}, ValueError, "dim is 3; it must be an axis of a and b broadcast, from -3 to 2"),
        ({"initial": torch.ones(2, 5)}, ValueError, r"initial must broadcast to \(2, 3\).*got shape \(2, 5\)"),
        ({"b": torch.ones(4)}, ValueError, r"a and b must broadcast.*\(2, 5, 3\) and \(4,\)"),
        ({"impl": "fast"}, ValueError, "impl is 'fast'; it must be None or one of 'reference', 'chunked'"),
        ({"impl": "cpp", "a": A.double()}, TypeError, "does not accept; use 'chunked'"),
        ({"impl": "triton"}, ValueError, "impl='triton' runs on cuda, an input is on cpu"),
    ],
)
def test_errors_of_the_public_function(changes, error, message):
    with pytest.raises(error, match=message):
        linear_recurrence(**({"a": A, "b": B, "dim": 1} | changes))


@pytest.mark.versions
@pytest.mark.parametrize("impl", ["reference", "chunked", None])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck_twice(impl, reverse):
    inputs = make_inputs(Case((3, 1, 2), (4, 2), -2, (3, 1), reverse, dtypes=same_dtypes(torch.float64)))
    leaves = tuple(tensor.requires_grad_() for tensor in tensors_of(inputs).values())

    def states(initial, a, b):
        return linear_recurrence(a, b, initial, dim=-2, reverse=reverse, impl=impl)

    ordered = (inputs["initial"], inputs["a"], inputs["b"])
    assert len(leaves) == len(ordered)
    assert torch.autograd.gradcheck(states, ordered)
    assert torch.autograd.gradgradcheck(states, ordered)


@pytest.mark.parametrize("name", ["a", "b", "initial"])
def test_gradient_of_one_input_alone(name, family):
    """Nothing else is computed, and h is kept for a alone."""
    inputs = make_inputs(CUBE)
    expected = run(through(family), inputs)[f"gradient of {name}"]
    leaf = inputs[name].clone().requires_grad_()
    h = through(family)(**(inputs | {name: leaf}))
    assert (h.grad_fn.saved_tensors[2] is not None) == (name == "a")
    given = torch.randn(h.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(h)
    assert torch.equal(torch.autograd.grad(h, leaf, given)[0], expected)


@pytest.mark.parametrize("impl", [None, "reference", "chunked", "cpp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(impl, dtype):
    require_cpp(impl == "cpp")
    inputs = make_inputs(CUBE._replace(dtypes=same_dtypes(dtype)))

    def recurrence(**given):
        return linear_recurrence(**given, impl=impl)

    expected = run(recurrence, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(recurrence, inputs)
    for name in expected:
        assert actual[name].dtype == expected[name].dtype, name
        assert torch.equal(actual[name], expected[name]), name


def test_flops(family):
    """Two for each state, counted once however the op is routed; the backward runs the same recurrence."""
    inputs = make_inputs(CUBE)
    with FlopCounterMode(display=False) as counter:
        h = through(family)(**(inputs | {"a": inputs["a"].requires_grad_()}))
    assert counter.get_total_flops() == 2 * h.numel()
    with FlopCounterMode(display=False) as counter:
        h.sum().backward()
    assert counter.get_total_flops() == 2 * h.numel()


DOUBLE = Case((5, 1), (2, 1, 4), 1, (1, 4), dtypes=same_dtypes(torch.float64))
MAPPED = [("a",), ("b",), ("initial",), ("a", "b"), ("a", "b", "initial")]


def mapped(names: tuple[str, ...], position: int) -> tuple[dict[str, Tensor], dict[str, int | None], list[Inputs]]:
    """Three versions of each tensor in `names` along an axis at `position`; the axes; the versions."""
    versions = [make_inputs(DOUBLE, seed) for seed in range(3)]
    versions = [versions[0] | {name: version[name] for name in names} for version in versions]
    stacked = {name: torch.stack([version[name] for version in versions], position) for name in names}
    tensors = tensors_of(versions[0]) | stacked
    return tensors, dict.fromkeys(tensors) | dict.fromkeys(names, position), versions


def states_of(tensors: dict[str, Tensor]) -> Tensor:
    return linear_recurrence(**tensors, dim=-2, reverse=True)


def loss(tensors: dict[str, Tensor]) -> Tensor:
    return states_of(tensors).sin().sum()


@pytest.mark.parametrize("position", [0, 1, -1])
@pytest.mark.parametrize("names", MAPPED, ids="+".join)
def test_vmap(names, position):
    tensors, axes, versions = mapped(names, position)
    actual = vmap(states_of, in_dims=(axes,))(tensors)
    torch.testing.assert_close(actual, torch.stack([states_of(tensors_of(v)) for v in versions]), **REORDERED)


@pytest.mark.parametrize("names", MAPPED, ids="+".join)
def test_vmap_of_grad(names):
    """Gradients for each sample, also of tensors that the samples share."""
    tensors, axes, versions = mapped(names, 0)
    actual = vmap(grad(loss), in_dims=(axes,))(tensors)
    for index, version in enumerate(versions):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors_of(version).items()}
        expected = torch.autograd.grad(loss(leaves), leaves.values())
        for name, gradient in zip(leaves, expected, strict=True):
            torch.testing.assert_close(actual[name][index], gradient, **REORDERED)


@pytest.mark.versions
def test_torch_func_twice():
    tensors = tensors_of(make_inputs(DOUBLE))

    def penalty(tensors):
        return sum(gradient.square().sum() for gradient in grad(loss)(tensors).values())

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    first = torch.autograd.grad(loss(leaves), leaves.values(), create_graph=True)
    expected = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves.values())
    for gradient, of_autograd in zip(grad(penalty)(tensors).values(), expected, strict=True):
        torch.testing.assert_close(gradient, of_autograd, **REORDERED)
    jacobian = jacrev(states_of)(tensors)["a"]
    by_autograd = torch.autograd.functional.jacobian(lambda a: states_of(tensors | {"a": a}), tensors["a"])
    torch.testing.assert_close(jacobian, by_autograd, **REORDERED)


def compiled_run(compiled: Callable, inputs: Inputs) -> None:
    actual, expected = (run(function, inputs) for function in (compiled, linear_recurrence))
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.versions
@pytest.mark.parametrize("reverse", [False, True])
def test_compiled_for_every_size(reverse, fresh_dynamo):
    compiled = torch.compile(linear_recurrence, fullgraph=True, backend="aot_eager", dynamic=True)
    compiled_run(compiled, make_inputs(Case((3, 7, 4), (3, 7, 4), 1, (3, 4), reverse)))
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch, length in ((2, 9), (5, 40), (9, 3)):
            compiled_run(compiled, make_inputs(Case((batch, length, 6), (batch, length, 6), 1, (batch, 6), reverse)))


@pytest.mark.parametrize("axis", [0, 1])
def test_traced_for_an_unknown_size(axis, fresh_dynamo):
    inputs = make_inputs(Case((3, 7, 4), (3, 7, 4), 1, (3, 4)))
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors_of(inputs).items()}
    for name in ("a", "b", "initial")[: 3 - axis]:
        torch._dynamo.decorators.mark_unbacked(leaves[name], axis)
    compiled = torch.compile(lambda **given: linear_recurrence(**given).sum(), fullgraph=True, backend="aot_eager")
    gradients = torch.autograd.grad(compiled(**inputs), leaves.values())
    for gradient, expected in zip(
        gradients, torch.autograd.grad(reference(**inputs).sum(), leaves.values()), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.versions
@pytest.mark.slow
def test_compiled_by_inductor(fresh_dynamo):
    def fused(a, b, initial, dim, reverse):
        return linear_recurrence(a.sigmoid(), b * 2, initial, dim=dim, reverse=reverse).relu()

    compiled = torch.compile(fused, fullgraph=True)
    for case in (CUBE, CUBE._replace(layout="permuted", reverse=True)):
        actual, expected = (run(function, make_inputs(case)) for function in (compiled, fused))
        for name in expected:
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-5, atol=1e-5)


def test_registered_without_a_backend():
    """Importing the function's module registers the op, and loads neither triton's kernels nor a compiler."""
    code = """
import sys
backends = ("triton", "torch.utils.cpp_extension", "mvc.kernels.cpu_scan", "mvc.kernels.recurrence.triton_ops")
sys.modules |= dict.fromkeys(backends)
import torch, mvc.kernels.recurrence
a = torch.ones(3, dtype=torch.float64)
assert torch.ops.mvc.linear_recurrence(a, a, None, 0, False).tolist() == [1, 2, 3]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
