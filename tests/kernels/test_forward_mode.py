"""Forward-mode AD: the tangents of both public functions, beside the reference's and beside differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from scan_cases import ALL_OPTIONS, DIFFERENTIABLE, FORMS, Case, Inputs, make_inputs, op_arguments, require_cpp, run
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jacfwd, jacrev, jvp

from mvc.kernels.recurrence import linear_recurrence
from mvc.kernels.scan import selective_scan
from mvc.kernels.schemas import op

IMPLEMENTATIONS = (None, "chunked", "cpp")
CASES = [
    Case(2, 17, 4, 3, 2),
    Case(2, 17, 4, 3, 2).plus(*FORMS),
    Case(1, 70, 3, 2, options=("reset",)),
    Case(2, 0, 4, 3),
    Case(2, 9, 4, 3, options=()),
]
Function = Callable[..., "Tensor | tuple[Tensor, ...]"]

pytestmark = pytest.mark.versions


def of_scan(inputs: Inputs, impl: str | None) -> tuple[Function, tuple[Tensor, ...]]:
    """The scan as a function of the tensors that it can be differentiated by, and those."""
    names = [name for name in DIFFERENTIABLE if name in inputs]

    def scan(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = inputs | dict(zip(names, tensors, strict=True))
        return selective_scan(**given, impl=impl, return_last_state=True)

    return scan, tuple(inputs[name] for name in names)


def of_recurrence(
    impl: str | None, dtype: torch.dtype = torch.float64, *, reverse: bool = False
) -> tuple[Function, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 40, 1), (40, 3), (2, 3)
    tensors = tuple(torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes)
    return lambda a, b, h: linear_recurrence(a, b, h, dim=1, reverse=reverse, impl=impl), tensors


def tangents_for(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in tensors)


def by_dual_level(function: Function, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, tensors, tangents_for(tensors))
        outputs = function(*duals)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        tangents = [forward_ad.unpack_dual(output).tangent for output in outputs]
    assert all(tangent is not None for tangent in tangents)
    return tuple(tangents)


def assert_close(actual: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Up to rounding: of float64, or of some hundred sums in float32."""
    for each, other in zip(actual, wanted, strict=True):
        assert each.dtype == other.dtype
        largest = other.abs().max() if other.numel() else 0.0
        limit = (1e-11 if other.dtype == torch.float64 else 3e-5) * float(largest)
        torch.testing.assert_close(each, other, rtol=0, atol=limit)


@pytest.fixture(params=IMPLEMENTATIONS, ids=str)
def impl(request) -> str | None:
    require_cpp(request.param == "cpp")
    return request.param


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scan_has_the_tangents_of_the_reference(case, impl):
    inputs = make_inputs(case, torch.float32 if impl == "cpp" else torch.float64)
    function, tensors = of_scan(inputs, impl)
    oracle, _ = of_scan(inputs, "reference")
    wanted = by_dual_level(oracle, tensors)
    assert_close(by_dual_level(function, tensors), wanted)
    assert_close(jvp(function, tensors, tangents_for(tensors))[1], wanted)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_scan_with_one_tangent(name, impl):
    inputs = make_inputs(CASES[0], torch.float32 if impl == "cpp" else torch.float64)

    def function(impl):
        return lambda tensor: selective_scan(**(inputs | {name: tensor}), impl=impl)

    wanted = by_dual_level(function("reference"), [inputs[name]])
    assert_close(by_dual_level(function(impl), [inputs[name]]), wanted)


@pytest.mark.parametrize("reverse", [False, True])
def test_recurrence_has_the_tangents_of_the_reference(reverse, impl):
    dtype = torch.float32 if impl == "cpp" else torch.float64
    function, tensors = of_recurrence(impl, dtype, reverse=reverse)
    oracle, _ = of_recurrence("reference", dtype, reverse=reverse)
    wanted = by_dual_level(oracle, tensors)
    assert_close(by_dual_level(function, tensors), wanted)
    assert_close((jvp(function, tensors, tangents_for(tensors))[1],), wanted)


@pytest.mark.parametrize(
    "of", [lambda: of_scan(make_inputs(CASES[0], torch.float64), None), lambda: of_recurrence(None)]
)
def test_tangents_are_differences(of):
    """Of two calls a small step apart: independent of every formula."""
    function, tensors = of()
    step = 1e-6
    ends = []
    for sign in (1, -1):
        outputs = function(*(t + sign * step * each for t, each in zip(tensors, tangents_for(tensors), strict=True)))
        ends.append(outputs if isinstance(outputs, tuple) else (outputs,))
    for tangent, after, before in zip(by_dual_level(function, tensors), *ends, strict=True):
        torch.testing.assert_close(tangent, (after - before) / (2 * step), rtol=1e-6, atol=1e-6)


def test_half_precision_and_autocast_as_the_call_itself(impl):
    inputs = make_inputs(Case(options=ALL_OPTIONS[1:]), torch.bfloat16)
    function, tensors = of_scan(inputs, impl)
    assert [t.dtype for t in by_dual_level(function, tensors)] == [torch.bfloat16, torch.float32]
    function, tensors = of_scan(make_inputs(Case()), impl)
    with torch.autocast("cpu", torch.bfloat16):
        assert by_dual_level(function, tensors)[0].dtype == torch.bfloat16


SECOND = {"jacfwd of jacrev": (jacfwd, jacrev), "jacrev of jacfwd": (jacrev, jacfwd), "twice jacfwd": (jacfwd, jacfwd)}


@pytest.mark.parametrize("transforms", SECOND.values(), ids=SECOND)
def test_hessians(transforms):
    outer, inner = transforms
    inputs = make_inputs(Case(1, 5, 2, 2, options=("reset", "softplus", "z")), torch.float64)

    def hessian(impl):
        def loss(u, delta):
            return selective_scan(**(inputs | {"u": u, "delta": delta}), impl=impl).sin().sum()

        return outer(inner(loss, (0, 1)), (0, 1))(inputs["u"], inputs["delta"])

    for row, wanted in zip(hessian(None), hessian("reference"), strict=True):
        assert_close(row, wanted)


def test_a_tangent_through_a_backward_whose_forward_ran_before(impl):
    inputs = make_inputs(CASES[0], torch.float32 if impl == "cpp" else torch.float64)

    def tangent(impl):
        u = inputs["u"].clone().requires_grad_()
        y = selective_scan(**(inputs | {"u": u}), impl=impl)
        return by_dual_level(lambda grad: torch.autograd.grad(y, u, grad)[0], [torch.ones_like(y)])

    assert_close(tangent(impl), tangent("reference"))


def test_outside_of_a_level_nothing_changes(impl):
    inputs = make_inputs(CASES[0])
    scan, tensors = of_scan(inputs, impl)
    results = [run(lambda **given: selective_scan(**given, impl=impl, return_last_state=True), inputs)]
    by_dual_level(scan, tensors)
    results.append(run(lambda **given: selective_scan(**given, impl=impl, return_last_state=True), inputs))
    for name, tensor in results[0].items():
        assert torch.equal(results[1][name], tensor), name


@pytest.mark.parametrize("name", ["selective_scan", "selective_scan_chunked", "selective_scan_cpu"])
def test_a_bare_op_refuses_a_tangent(name):
    require_cpp(name.endswith("cpu"))
    arguments = op_arguments(make_inputs(CASES[0]))
    y, last_state = op(name)(*arguments)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(arguments[0], torch.ones_like(arguments[0]))
        with pytest.raises(NotImplementedError, match=r"forward-mode tangent.*call mvc.selective_scan"):
            op(name)(dual, *arguments[1:])
        grad = forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y))
        with pytest.raises(NotImplementedError, match="forward-mode tangent"):
            op(name, backward=True)(grad, last_state, *arguments)
        assert torch.equal(op(name)(*arguments)[0], y), "without a tangent it runs as ever"


@pytest.mark.parametrize("name", ["linear_recurrence", "linear_recurrence_chunked", "linear_recurrence_cpu"])
def test_a_bare_recurrence_refuses_a_tangent(name):
    require_cpp(name.endswith("cpu"))
    _, (a, b, initial) = of_recurrence(None, torch.float32)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(b, torch.ones_like(b))
        with pytest.raises(NotImplementedError, match=r"forward-mode tangent.*mvc.linear_recurrence"):
            op(name)(a, dual, initial, 1, False)


def unrolled(a: Tensor, b: Tensor) -> Tensor:
    state, states = torch.zeros_like(b[0]), []
    for t in range(b.shape[0]):
        state = a[t] * state + b[t]
        states.append(state)
    return torch.stack(states)


COMPILED = {
    "scan": lambda u, delta: selective_scan(u, delta, -torch.ones(4, 3), u[..., :3], u[..., 1:]),
    "recurrence": lambda a, b: linear_recurrence(a, b, dim=0),
    "raised loop": lambda a, b: unrolled(a, b),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name):
    """Inductor's code has no tangents, so that in a dual level the graph runs as it is, or torch's Dynamo leaves it."""
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand((2, 9, 4) if name == "scan" else (9, 4), generator=generator) for _ in range(2)]
    function = COMPILED[name]
    compiled = torch.compile(function, backend="mvc")
    before = compiled(*inputs)
    assert_close(by_dual_level(compiled, inputs), by_dual_level(function, inputs))
    assert_close((compiled(*inputs),), (before,))
    transformed = torch.compile(lambda *tensors: jvp(function, tensors, tangents_for(tensors))[1], backend="aot_eager")
    assert_close((transformed(*inputs),), by_dual_level(function, inputs))
    torch._dynamo.reset()
