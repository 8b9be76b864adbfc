from __future__ import annotations

import functools

import pytest
import torch
from torch._higher_order_ops.associative_scan import associative_scan
from toy_passes import rewritten, without_layout

from mvc.passes.raising.raise_tree import RaiseTree


def product_and_state(left, right):
    return left[0] * right[0], right[0] * left[1] + right[1]


def states(a, b, *, combine=product_and_state, dim=1, reverse=False):
    return associative_scan(combine, (a, b), dim=dim, reverse=reverse, combine_mode="generic")[1]


def sequences(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.rand(shape, requires_grad=True), torch.randn(shape, requires_grad=True)


raised = functools.partial(rewritten, RaiseTree())


def assert_same(function, tensors):
    """Results and gradients are eager's; returns what the pass did and the calls that are left."""
    run, done = raised(function)
    actual, expected = run(*tensors), function(*tensors)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    for one, two in zip(
        torch.autograd.grad(actual, tensors, weights), torch.autograd.grad(expected, tensors, weights), strict=True
    ):
        torch.testing.assert_close(one, two)
    ((outcome, calls),) = done
    return outcome, calls


@pytest.mark.parametrize("length", [*range(2, 18), 64], ids="L{}".format)
def test_tree_of_any_length_becomes_one_recurrence(length):
    outcome, calls = assert_same(states, sequences(2, length, 3))
    assert (outcome.matches, outcome.near_misses) == (1, [])
    assert without_layout(calls) == {"mvc.linear_recurrence": 1}


def test_one_step_is_no_tree():
    outcome, _ = assert_same(lambda a, b: states(a, b) * a, sequences(2, 1, 3))
    assert outcome.matches == 0
    assert outcome.near_misses == []


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_axis_and_direction(dim, reverse):
    shape = [2, 3]
    shape.insert(dim, 6)
    _, calls = assert_same(lambda a, b: states(a, b, dim=dim, reverse=reverse), sequences(*shape))
    assert calls["mvc.linear_recurrence"] == 1
    assert without_layout(calls).keys() <= {"mvc.linear_recurrence"}


def addcmul(left, right):
    return right[0] * left[0], torch.addcmul(right[1], left[1], right[0])


def swapped(left, right):
    return right[0] + left[0] * right[1], left[1] * right[1]


def with_casts(left, right):
    return (left[0] * right[0]).float(), right[0].double().mul(left[1].double()).add(right[1]).to(torch.float32)


@pytest.mark.parametrize("combine", [addcmul, with_casts])
def test_combination_is_known_by_what_it_computes(combine):
    outcome, calls = assert_same(lambda a, b: states(a, b, combine=combine), sequences(2, 5, 3))
    assert (outcome.matches, calls["mvc.linear_recurrence"]) == (1, 1)


def test_factors_may_come_second():
    def function(a, b):
        return associative_scan(swapped, (b, a), dim=1, combine_mode="generic")[0]

    outcome, calls = assert_same(function, sequences(2, 5, 3))
    assert (outcome.matches, without_layout(calls)) == (1, {"mvc.linear_recurrence": 1})


def test_factors_may_be_broadcast():
    a, b = sequences(2, 5, 3)
    _, calls = assert_same(lambda a, b: states(a, b), (a[..., :1].detach().requires_grad_(), b))
    assert without_layout(calls) == {"mvc.linear_recurrence": 1}


def test_scan_of_another_scans_states():
    outcome, calls = assert_same(lambda a, b: states(a, states(a, b)), sequences(2, 6, 3))
    assert (outcome.matches, calls["mvc.linear_recurrence"], calls["mul"]) == (2, 2, 0)


def test_view_of_the_states_gets_a_copy_where_it_needs_one():
    def function(a, b):
        return states(a, b).movedim(1, 0).view(6, -1)

    assert_same(function, sequences(2, 6, 3))


def test_factors_may_be_written_to_behind_it():
    """The tree keeps a copy of them for the backward, since it runs on flipped ones, the recurrence themselves."""

    def function(a, b):
        a = a * 1
        y = associative_scan(product_and_state, (a, b), dim=1, reverse=True, combine_mode="generic")[1]
        a.add_(1)
        return y

    outcome, _ = assert_same(function, sequences(2, 6, 3))
    assert outcome.matches == 1


def test_tree_without_vmap():
    def scan(a, b):
        if a.shape[1] < 2:
            return a, b
        odd = product_and_state((a[:, :-1:2], b[:, :-1:2]), (a[:, 1::2], b[:, 1::2]))
        odd = scan(*odd)
        even = product_and_state((odd[0][:, :-1], odd[1][:, :-1]), (a[:, 2::2], b[:, 2::2]))
        both = [(torch.cat([x[:, :1], y], 1), z) for x, y, z in zip((a, b), even, odd, strict=True)]
        return tuple(torch.stack(pair, 2).flatten(1, 2) for pair in both)

    outcome, calls = assert_same(lambda a, b: scan(a, b)[1], sequences(2, 8, 3))
    assert (outcome.matches, without_layout(calls)) == (1, {"mvc.linear_recurrence": 1})


def test_other_lengths_are_compiled_anew():
    """Dynamo makes the length a symbol the second time; a tree is that of one length all the same."""
    run, done = raised(states)
    for length in (5, 9, 6):
        tensors = sequences(2, length, 3)
        torch.testing.assert_close(run(*tensors), states(*tensors))
    assert [outcome.matches for outcome, _ in done] == [1, 1, 1]
    assert all(without_layout(calls) == {"mvc.linear_recurrence": 1} for _, calls in done)


def test_batch_may_be_a_symbol():
    run, done = raised(states)
    for batch in (2, 4, 7):
        tensors = sequences(batch, 5, 3)
        for tensor in tensors:
            torch._dynamo.mark_dynamic(tensor, 0)
        torch.testing.assert_close(run(*tensors), states(*tensors))
    ((outcome, calls),) = done
    assert (outcome.matches, without_layout(calls)) == (1, {"mvc.linear_recurrence": 1})


def largest(left, right):
    return torch.maximum(left[0], right[0]), right[0] * left[1] + right[1]


def forgetful(left, right):
    return left[0] * right[0], right[0] * left[1] + right[1] * right[1]


def mirrored(left, right):
    return left[0] * right[0], left[0] * right[1] + left[1]


def matrices(left, right):
    return left[0] @ right[0], right[0] @ left[1] + right[1]


@pytest.mark.parametrize(
    ("combine", "reason"),
    [
        (largest, "it calls maximum"),
        (forgetful, "what it combines is not (a₁·a₂, a₂·b₁ + b₂)"),
        (mirrored, "what it combines is not (a₁·a₂, a₂·b₁ + b₂)"),
        (matrices, "it calls matmul"),
    ],
)
def test_other_combinations_are_left_alone(combine, reason):
    outcome, calls = assert_same(lambda a, b: states(a, b, combine=combine), sequences(2, 5, 3, 3))
    assert outcome.matches == 0
    assert calls["mvc.linear_recurrence"] == 0
    (miss,) = outcome.near_misses
    assert miss.reason == f"no linear recurrence: {reason}"
    assert "test_raise_tree.py" in miss.source


def test_used_products_are_left_alone():
    def function(a, b):
        products, h = associative_scan(product_and_state, (a, b), dim=1, combine_mode="generic")
        return products + h

    outcome, calls = assert_same(function, sequences(2, 5, 3))
    (miss,) = outcome.near_misses
    assert miss.reason == "no linear recurrence: the products of its factors are used, not only the states"
    assert calls["mvc.linear_recurrence"] == 0


def test_three_sequences_are_left_alone():
    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1] * right[2], left[2] + right[2]

    def function(a, b):
        return associative_scan(combine, (a, b, a * b), dim=1, combine_mode="generic")[1]

    outcome, _ = assert_same(function, sequences(2, 5, 3))
    assert outcome.matches == 0
    assert len(outcome.near_misses) == 1


def test_slices_that_are_no_tree_are_no_near_miss():
    def rotate(a, b):
        return torch.stack([a[:, ::2] * b[:, 1::2], a[:, 1::2] * b[:, ::2]], 2).flatten(1, 2)

    outcome, _ = assert_same(rotate, sequences(2, 6, 3))
    assert (outcome.matches, outcome.near_misses) == (0, [])
