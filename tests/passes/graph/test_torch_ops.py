"""One name for each torch call: however it is written, and only if it is torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toy_passes import capture

from mvc.passes import pipeline
from mvc.passes.graph.memory import written_by
from mvc.passes.graph.torch_ops import MOVEMENTS, Kind, call, filled_with
from mvc.passes.raising.raise_loop import RaiseLoop
from mvc.passes.verify import Verifier

pytestmark = pytest.mark.versions  # what Dynamo's graphs hold differs from one torch to the next

T, D = 4, 4


@torch.library.custom_op("torch_ops::mul", mutates_args=())
def mul(a: Tensor, b: Tensor) -> Tensor:
    """No product."""
    return a - b


@mul.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return torch.empty_like(a)


def calls(function: Callable, *inputs: Tensor):
    """The calls in Dynamo's graph of the function."""
    module, _ = capture(function, *inputs)
    return [node for node in module.graph.nodes if node.op in ("call_function", "call_method")]


SAME = {
    "add": (lambda x: x + 1, lambda x: torch.add(x, 1), lambda x: x.add(1)),
    "transpose": (lambda x: x.transpose(0, 1), lambda x: torch.swapaxes(x, 0, 1), lambda x: x.swapdims(dim0=0, dim1=1)),
    "stack": (lambda x: torch.stack([x, x], 1), lambda x: torch.stack([x, x], axis=1)),
    "sum": (
        lambda x: x.sum(1, True),
        lambda x: torch.sum(x, axis=1, keepdims=True),
        lambda x: x.sum(dim=1, keepdim=True),
    ),
    "silu_": (lambda x: F.silu(x, True), lambda x: F.silu(x, inplace=True)),
    "silu": (lambda x: F.silu(x), lambda x: F.silu(x, inplace=False)),
}


@pytest.mark.parametrize("name", SAME)
def test_spellings_are_one_call(name):
    known = [call(node) for function in SAME[name] for node in calls(function, torch.ones(T, D))]
    assert {each.name for each in known} == {name}
    arguments = [{key: str(each) for key, each in one.args.items()} for one in known]
    assert all(each == arguments[0] for each in arguments)


OTHERS = {
    "op-of-the-user's": (lambda x: torch.ops.torch_ops.mul(x, x), False),
    "masked-sum": (lambda x: torch.masked.sum(x, 0), False),
    "another-order-of-parameters": (
        lambda x: torch.batch_norm(x, None, None, x[0], x[1], True, 0.1, 1e-5, False),
        True,
    ),
    "written-to-out": (lambda x: torch.mul(x, 2, out=torch.empty(T, D)), True),
    "in-place-by-its-place": (lambda x: F.hardtanh(x, -0.1, 0.1, True), True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_are_not_taken_for_those_of_the_table(name):
    function, writes = OTHERS[name]
    node = calls(function, torch.ones(T, D))[-1]
    assert call(node) is None
    if writes:
        assert written_by(node)


def test_an_out_alone_is_written_to():
    node = calls(lambda x: torch.mul(x, 2, out=torch.empty(T, D)), torch.ones(T, D))[-1]
    assert written_by(node) == [node.kwargs["out"]]


def test_new_tensors_of_one_number():
    def function(x):
        return torch.zeros(3), x.new_ones(3), torch.full((3,), 0), torch.full_like(x, 2.5), torch.empty(3), x * 0

    numbers = [filled_with(node) for node in calls(function, torch.ones(T, D))]
    assert numbers == [0, 1, 0, 2.5, None, None]


def test_what_decides_about_elements_is_no_movement():
    def function(x):
        return x.relu(), x.sum(), x @ x, torch.zeros_like(x), x.detach()

    kinds = {call(node).kind for node in calls(function, torch.ones(T, T))}
    expected = {Kind.POINTWISE, Kind.REDUCTION, Kind.PRODUCT, Kind.CONSTRUCTION, Kind.DETACHMENT}
    assert kinds == expected
    assert not kinds & MOVEMENTS


def loop(step: Callable, collect: Callable) -> Callable:
    """States that `step(h, a, b)` gives, collected."""

    def run(a: Tensor, b: Tensor):
        h, states = torch.zeros_like(a[0]), []
        for t in range(T):
            h = step(h, a[t], b[t])
            states.append(h)
        return collect(states, a, b)

    return run


def plain(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a * h + b


def moved(h: Tensor, a: Tensor, b: Tensor) -> Tensor:
    a = torch.cat([a.narrow(0, -2, 2), a[:2]]).unflatten(0, (2, 2)).swapaxes(axis0=0, axis1=1).flatten()
    b = (
        b.view(2, 2).t().mT.reshape(1, 4, 1).squeeze((0, 2))
        + b[1:2].expand_as(a)
        + b.select(0, -1)
        + torch.sum(b, axis=0)
    )
    return (
        a.view_as(b) * h
        + torch.moveaxis(b[None, None], (0, 1), (1, 2)).broadcast_to(4, 1, 1).sum((-1, -2))
        + b.clip(max=1)
    )


WEIGHTS = torch.linspace(0.5, 2, D, dtype=torch.float64)


def unevenly_split(a: Tensor, b: Tensor) -> Tensor:
    h, states = torch.zeros_like(a[0]), []
    for one, other in zip(torch.cat([a, a]).split([T, 1, 1, 1, 1])[1:], b.split(1), strict=True):
        h = one * h + other
        states.append(h)
    return torch.stack(states)


def filled(a: Tensor, b: Tensor) -> Tensor:
    h, states = torch.zeros_like(a[0]), torch.full((T, D), 2.0)
    for t in range(T):
        h = a[t] * h + b[t]
        states[t] = h
    return states


def filled_buffer(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    buffer, h = torch.ones(T, D), torch.zeros_like(a[0])
    states = torch.zeros(T, D, out=buffer)
    for t in range(T):
        h = a[t] * h + b[t]
        states[t] = h
    return states, buffer


def stacked_into_a_buffer(states: list[Tensor], a: Tensor, b: Tensor) -> Tensor:
    buffer = torch.empty(T, D)
    torch.stack(states, out=buffer)
    return buffer


def written_without_a_sign(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    h, states, mean, b = torch.zeros_like(a[0]), [], torch.zeros(D), b.clone()
    for t in range(T):
        h = a[t] * h + b[t] + mean
        states.append(h)
        torch.batch_norm(a, None, None, mean, torch.ones(D), True, 0.1, 1e-5, False)
        F.hardtanh(b, -0.1 * t, 0.1, True)
    return torch.stack(states), mean


# What one pass's table, or none, had of a call that another's had otherwise; and whether the loop is raised.
LOOPS = {
    "numpy's name of an axis": (loop(plain, lambda states, a, b: torch.stack(states, axis=1)), True),
    "pieces of other sizes": (unevenly_split, True),
    "a new tensor of a number": (filled, True),
    "an operator's transposition in the step": (
        loop(plain, lambda s, a, b: torch.stack([each[None].mT for each in s])),
        True,
    ),
    "every movement in the step": (loop(moved, lambda states, a, b: torch.stack(states)), True),
    "a dtype of another's": (loop(lambda h, a, b: WEIGHTS.type_as(a) * h + b, lambda s, a, b: torch.stack(s)), False),
    "a new tensor in a buffer": (filled_buffer, True),
    "a stack in a buffer": (loop(plain, stacked_into_a_buffer), True),
    "rounded to whole numbers": (
        loop(lambda h, a, b: (a * h + b).to(torch.int64).float(), lambda s, a, b: torch.stack(s)),
        False,
    ),
    "a quotient rounded": (
        loop(lambda h, a, b: torch.div(a * h + b, 2, rounding_mode="floor"), lambda s, a, b: torch.stack(s)),
        False,
    ),
    "no product": (loop(lambda h, a, b: torch.ops.torch_ops.mul(h, a) + b, lambda s, a, b: torch.stack(s)), False),
    "an index by a truth": (loop(plain, lambda states, a, b: torch.stack([each[True] for each in states])), True),
    "a format of four axes": (
        loop(
            plain,
            lambda s, a, b: torch.stack([e.view(1, 2, 2, 1).contiguous(memory_format=torch.channels_last) for e in s]),
        ),
        True,
    ),
    "writes that no name shows": (written_without_a_sign, False),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_stay_what_they_compute(name):
    function, raised = LOOPS[name]
    generator = torch.Generator().manual_seed(0)
    given = [3 * torch.randn(T, D, generator=generator) for _ in "ab"]
    expected = function(*(each.clone() for each in given))
    module, inputs = capture(function, *given)
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True, observers=[Verifier(module, inputs)])
    assert record.matches == raised
    results = module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for actual, correct in zip(results, expected, strict=True):
        torch.testing.assert_close(actual, correct)
