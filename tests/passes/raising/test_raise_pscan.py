from __future__ import annotations

import functools

import pytest
import torch
from toy_passes import rewritten, without_layout

from mvc.passes.raising.raise_pscan import RaisePscan

pscan = pytest.importorskip("mambapy.pscan")
PScan = pscan.PScan


def scan(a, b):
    return PScan.apply(a, b)


def sequences(length, batch=2, *, grad):
    torch.manual_seed(0)
    shape = (batch, length, 3, 4)
    return torch.rand(shape, requires_grad=grad), torch.randn(shape, requires_grad=grad)


raised = functools.partial(rewritten, RaisePscan())


@pytest.mark.parametrize("length", [2, 3, 4, 5, 8, 13, 32], ids="L{}".format)
@pytest.mark.parametrize("grad", [False, True], ids=["inlined", "autograd_function"])
def test_pscan_becomes_one_recurrence(length, grad):
    a, b = sequences(length, grad=grad)
    run, done = raised(scan)
    actual, expected = run(a, b), scan(a, b)
    torch.testing.assert_close(actual, expected)
    ((outcome, calls),) = done
    assert (outcome.matches, outcome.near_misses) == (1, [])
    assert calls["mvc.linear_recurrence"] == 1
    assert without_layout(calls).keys() <= {"mvc.linear_recurrence", "getitem"}  # a slice that cuts nothing
    if grad:
        weights = torch.randn_like(expected)
        gradients = (torch.autograd.grad(result, (a, b), weights) for result in (actual, expected))
        for one, two in zip(*gradients, strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("grad", [False, True], ids=["inlined", "autograd_function"])
def test_batch_may_be_a_symbol(grad):
    run, done = raised(scan)
    for batch in (2, 4):
        tensors = sequences(5, batch, grad=grad)
        for tensor in tensors:
            torch._dynamo.mark_dynamic(tensor, 0)
        torch.testing.assert_close(run(*tensors), scan(*tensors))
    ((outcome, _),) = done
    assert outcome.matches == 1


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("length", [7, 12], ids="L{}".format)
def test_mamba_py(length, training):
    mamba = pytest.importorskip("mambapy.mamba")
    torch.manual_seed(0)
    model = mamba.Mamba(mamba.MambaConfig(d_model=16, n_layers=2, d_state=4, pscan=True)).train(training)
    x = torch.randn(2, length, 16)
    run, done = raised(model)
    with torch.set_grad_enabled(training):
        actual, expected = run(x), model(x)
    torch.testing.assert_close(actual, expected)
    ((outcome, calls),) = done
    assert (outcome.matches, calls["mvc.linear_recurrence"], calls["add_"]) == (2, 2, 0)
    if training:
        parameters = list(model.parameters())
        gradients = (torch.autograd.grad(result.square().sum(), parameters) for result in (actual, expected))
        for one, two in zip(*gradients, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


class Straight(PScan):
    """Its backward takes no part in the recurrence."""

    @staticmethod
    def backward(ctx, grad):
        a, _ = ctx.saved_tensors
        return grad * a, grad


def test_function_with_other_gradients_is_left_alone():
    a, b = sequences(5, grad=True)
    run, done = raised(lambda a, b: Straight.apply(a, b))
    torch.testing.assert_close(run(a, b), scan(a, b))
    ((outcome, calls),) = done
    (miss,) = outcome.near_misses
    assert miss.reason == "no linear recurrence: its backward is not that of the recurrence"
    assert "test_raise_pscan.py" in miss.source
    assert calls["mvc.linear_recurrence"] == 0


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b * 2

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return grad * b * 2, grad * a * 2


def test_other_functions_are_no_near_miss():
    run, done = raised(lambda a, b: Doubled.apply(a, b))
    run(*sequences(5, grad=True))
    ((outcome, _),) = done
    assert (outcome.matches, outcome.near_misses) == (0, [])


def prefix_products(a, b):
    a, b = a.clone(), b.clone()
    b[:, 1].add_(a[:, 1].mul(b[:, 0]))
    a[:, 1].mul_(a[:, 0])
    return a[:, :] + b[:, :]


def squares(a, b):
    a, b = a.clone(), b.clone()
    b[:, 1].add_(a[:, 1].mul(b[:, 0]).mul(b[:, 0]))
    return b[:, :]


def in_the_argument(a, b):
    c = b.clone()
    b[:, 1].add_(a.clone()[:, 1].mul(c[:, 0]))
    return b * 1


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (prefix_products, "the products of its factors are used, not only the states"),
        (squares, "what it combines is not (a₁·a₂, a₂·b₁ + b₂)"),
        (in_the_argument, "it writes to the sequences themselves"),
    ],
)
def test_near_misses_are_left_alone(function, reason):
    a, b = sequences(2, grad=False)
    run, done = raised(function)
    expected = function(a.clone(), b.clone())
    torch.testing.assert_close(run(a, b), expected)
    ((outcome, calls),) = done
    (miss,) = outcome.near_misses
    assert miss.reason == f"no linear recurrence: {reason}"
    assert "test_raise_pscan.py" in miss.source
    assert calls["mvc.linear_recurrence"] == 0


def test_length_that_is_a_symbol_is_left_alone():
    """The code for one symbol serves several lengths; only one of them has been looked at."""
    run, done = raised(scan)
    for length in (5, 6):
        tensors = sequences(length, grad=False)
        for tensor in tensors:
            torch._dynamo.mark_dynamic(tensor, 1)
        torch.testing.assert_close(run(*tensors), scan(*tensors))
    assert all(outcome.matches == 0 for outcome, _ in done)
