"""Unrolled loops, as people write them, become one recurrence; what is almost one is left alone with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from loop_forms import (
    FORMS,
    WITHOUT_GRADIENTS,
    B,
    D,
    L,
    N,
    sequences,
    state_read_by_another,
    state_with_an_axis_more,
)
from loop_near_misses import (
    NEAR_MISSES,
    WITH_TWO_STATES,
    read_back_without_gradients,
    viewed_as_it_is,
    written_without_gradients,
)
from torch import Tensor
from torch.nn import functional as F
from toy_passes import capture

from mvc.passes import pipeline
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.raising.raise_loop import RaiseLoop
from mvc.passes.raising.raise_scan import RaiseScan
from mvc.passes.torch_private import example_size


def check_same(
    function: Callable, tensors: dict[str, Tensor], rtol: float = 1e-9, *, gradients: bool = True, recurrences: int = 1
) -> None:
    """Results and gradients of the rewritten graph are those of the function, and no step remains."""
    leaves = [t.requires_grad_(gradients) for t in tensors.values()]
    module, inputs = capture(function, *leaves)
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.near_misses == ()
    assert record.matches
    calls = op_counts(module.graph)
    assert calls["mvc.linear_recurrence"] == recurrences
    assert calls["mul"] + calls["addcmul"] <= 4, f"steps remain: {calls}"
    expected, actual = function(*leaves), module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)
    if not gradients:
        return
    grads = [
        torch.autograd.grad(sum(each.sin().sum() for each in ys), leaves, allow_unused=True)
        for ys in (actual, expected)
    ]
    for name, ours, theirs in zip(tensors, *grads, strict=True):
        ours, theirs = (torch.zeros(()) if g is None else g for g in (ours, theirs))
        torch.testing.assert_close(ours, theirs.expand_as(ours), rtol=rtol, atol=rtol, msg=name)


@pytest.mark.parametrize("name", FORMS)
def test_form_becomes_one_recurrence(name):
    rtol = 1e-5 if name == "casts" else 1e-9
    check_same(FORMS[name], sequences(), rtol=rtol, gradients=name not in WITHOUT_GRADIENTS)


def test_state_that_another_reads_before_its_update():
    check_same(state_read_by_another, sequences(), recurrences=2)


def test_leading_axis_of_time():
    def loop(a, b, c, h):
        outputs = []
        for t in range(a.size(0)):
            h = a[t] * h + b[t]
            outputs.append((h * c[t]).sum(-1))
        return torch.stack(outputs)

    check_same(loop, sequences(time=0))


@pytest.mark.parametrize(
    ("function", "raised"),
    [(state_with_an_axis_more, True), (viewed_as_it_is, False)],
    ids=["an axis more", "view"],
)
def test_batch_may_be_a_symbol(function, raised):
    tensors = sequences()
    for tensor in tensors.values():
        torch._dynamo.mark_dynamic(tensor, 0)
    module, inputs = capture(function, *tensors.values())
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.matches == raised
    assert raised or "whose sizes are not known" in record.near_misses[0].reason
    torch.testing.assert_close(module(*map(example_size, inputs))[0], function(*tensors.values()))


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_states_of_any_rank(rank):
    def loop(a, b, h):
        outputs = []
        for t in range(L):
            h = a[..., t] * h + b[..., t]
            outputs.append(h)
        return torch.stack(outputs, -1)

    sizes = (2, 1, 3, 2)[: rank - 1]
    check_same(
        loop,
        {"a": torch.rand(*sizes, L).double(), "b": torch.rand(*sizes, L).double(), "h": torch.rand(sizes).double()},
    )


def test_half_precision_keeps_its_state_in_float32():
    """The loop as transformers has it: bfloat16 inputs, a float32 state, outputs rounded."""

    def loop(a, b, c):
        h, outputs = torch.zeros(B, D, N), []
        for t in range(L):
            h = a[:, :, t].float() * h + b[:, :, t].float()
            outputs.append((h.to(c.dtype) * c[:, :, t]).sum(-1))
        return torch.stack(outputs, -1)

    tensors = {name: t.bfloat16() for name, t in sequences().items() if name != "h"}
    check_same(loop, tensors, rtol=2**-7)


def test_loop_of_a_selective_scan_ends_as_the_scan():
    def published(u, delta, A, B_, C, z):
        delta = F.softplus(delta)
        decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
        drive = torch.einsum("bdl,bnl,bdl->bdln", delta, B_, u)
        h, outputs = u.new_zeros(B, 4, N), []
        for t in range(L):
            h = decay[:, :, t] * h + drive[:, :, t]
            outputs.append(torch.einsum("bdn,bn->bd", h, C[:, :, t]))
        return torch.stack(outputs, dim=2) * F.silu(z), h

    u, delta, z = torch.rand(3, B, 4, L).double()
    B_, C = torch.rand(2, B, N, L).double()
    inputs = (u, delta, -torch.rand(4, N).double(), B_, C, z)
    module, example = capture(published, *inputs)
    loop, scan = pipeline.run([RaiseLoop(always=True), RaiseScan()], module, strict=True)
    assert (loop.matches, scan.matches) == (1, 1), (loop.near_misses, scan.near_misses)
    assert op_counts(module.graph)["exp"] == 0
    for actual, expected in zip(module(*example), published(*inputs), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("forwards", [True, False], ids=["forwards", "backwards"])
def test_few_steps_from_a_number(length, forwards):
    def loop(a, b):
        h, states = 0, []
        for t in range(length):
            h = h * a[:, :, t] + b[:, :, t]
            states.insert(len(states) if forwards else 0, h)
        return torch.stack(states, 2)

    check_same(loop, {name: tensor for name, tensor in sequences().items() if name in "ab"})


def test_two_loops_in_a_row():
    first, second = FORMS["backwards-with-reversed-list"], FORMS["product-first"]
    tensors = sequences()
    module, inputs = capture(lambda a, b, c, h: second(a, first(a, b, c, h), c, h), *tensors.values())
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.matches == 2
    a, b, c, h = tensors.values()
    torch.testing.assert_close(module(*inputs)[0], second(a, first(a, b, c, h), c, h))


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss_is_left_alone_with_its_reason(name):
    function, reason = NEAR_MISSES[name]
    tensors = sequences()
    tensors["h"].requires_grad_(function is written_without_gradients)
    module, inputs = capture(function, *tensors.values())
    before = str(module.graph)
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.matches == 0
    assert len(record.near_misses) == 1 + (name in WITH_TWO_STATES)
    miss = record.near_misses[0]
    assert reason in miss.reason
    assert "loop_" in miss.source
    assert str(module.graph) == before
    clones = [t.clone() for t in tensors.values()]
    torch.testing.assert_close(module(*inputs)[0], function(*clones))


def test_what_is_read_back_without_gradients_is_not_forwarded():
    """Each step starts anew, as far as gradients are concerned."""
    leaves = [t.requires_grad_() for t in sequences().values()]
    module, inputs = capture(read_back_without_gradients, *leaves)
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert record.matches == 0
    for run in (lambda: module(*inputs)[0], lambda: read_back_without_gradients(*leaves)):
        gradients = torch.autograd.grad(run().sum(), leaves, allow_unused=True)
        assert gradients[0].count_nonzero() <= gradients[0].numel() / L
        assert gradients[3] is None


def test_collections_that_are_no_loops_are_not_mentioned():
    def function(a, b, c, h):
        return (
            torch.stack([a, b, c]),
            torch.cat([a[:, :, t : t + 1] * 2 for t in range(L)], 2),
            torch.stack([h.sin(), h]),
        )

    module, _ = capture(function, *sequences().values())
    (record,) = pipeline.run([RaiseLoop(always=True)], module, strict=True)
    assert (record.matches, record.near_misses) == (0, ())
