from __future__ import annotations

import functools

import pytest
import torch
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.scan import scan
from torch.utils import _pytree as pytree
from toy_passes import rewritten, without_layout

from mvc.passes.raising.raise_higher_order import RaiseHigherOrder

pytestmark = pytest.mark.versions

BATCH, LENGTH, DIM, STATES = 2, 5, 3, 4
SEQUENCE = (BATCH, LENGTH, DIM)
STATE = (BATCH, DIM)


def tensors(*shapes, dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.rand(shape, dtype=dtype, requires_grad=True) for shape in shapes]


raised = functools.partial(rewritten, RaiseHigherOrder())


def gradients(results, inputs):
    total = sum(each.double().square().sum() for each in pytree.tree_leaves(results))
    return torch.autograd.grad(total, inputs, materialize_grads=True)


def assert_same(function, inputs, *, oracle=None, **tolerance):
    """Results and gradients are eager's; returns what the pass did and the calls that are left."""
    run, done = raised(function)
    actual, expected = run(*inputs), (oracle or function)(*inputs)
    torch.testing.assert_close(actual, expected, **tolerance)
    for one, two in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, two, **tolerance)
    ((outcome, calls),) = done
    return outcome, calls


def product(h, x):
    h = x[0] * h + x[1]
    return h, h.clone()


def product_first(h, x):
    h = h * x[0] + x[1]
    return h, h.clone()


def addcmul(h, x):
    h = torch.addcmul(x[1], x[0], h)
    return h, h.clone()


def in_place(h, x):
    h = x[0] * h
    h += x[1]
    return h, h.clone()


def lerp(h, x):
    h = torch.lerp(h, x[1], x[0])
    return h, h.clone()


def difference(h, x):
    h = x[1] - (-h) / (x[0] + 1)
    return h, h.clone()


def einsum(h, x):
    h = torch.einsum("bd,db->bd", h, x[0].transpose(0, 1)) + x[1]
    return h, h.clone()


def in_double(h, x):
    h = (x[0].double() * h.double() + x[1]).float()
    return h, h.clone()


def fixed_factor(h, x):
    h = 0.5 * h + x[0] * x[1]
    return h, h.clone()


def decay_alone(h, x):
    h = h * x[0] * x[1]
    return h, h.clone()


@pytest.mark.parametrize(
    "step",
    [product, product_first, addcmul, in_place, lerp, difference, einsum, in_double, fixed_factor, decay_alone],
    ids=lambda step: step.__name__,
)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_step_that_is_affine_in_its_state(step, reverse):
    def function(h, a, b):
        return scan(step, h, (a, b), dim=1, reverse=reverse)

    outcome, calls = assert_same(function, tensors(STATE, SEQUENCE, SEQUENCE))
    assert (outcome.matches, outcome.near_misses) == (1, [])
    assert (calls["mvc.linear_recurrence"], calls["scan"], calls["flip"]) == (1, 0, 0)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_axis(dim):
    shape = [LENGTH if axis == dim else 3 for axis in range(3)]
    outcome, _ = assert_same(lambda h, a, b: scan(product, h, (a, b), dim=dim), tensors((3, 3), shape, shape))
    assert outcome.matches == 1


def test_factor_may_be_broadcast():
    _, calls = assert_same(lambda h, a, b: scan(product, h, (a, b), dim=0), tensors((3,), (LENGTH,), (LENGTH, 1)))
    assert calls["mvc.linear_recurrence"] == 1


def selective(read_out):
    def function(h, delta, A, B, C, u):
        def step(h, x):
            delta, B, C, u = x
            after = torch.exp(delta[..., None] * A) * h + delta[..., None] * B[:, None] * u[..., None]
            return after, read_out(h, after, C)

        return scan(step, h, (delta, B, C, u), dim=1, reverse=True)

    return function


READ_OUTS = {
    "einsum": lambda before, h, C: torch.einsum("bdn,bn->bd", h, C),
    "sum": lambda before, h, C: (h * C[:, None]).sum(-1),
    "matmul": lambda before, h, C: (h @ C.unsqueeze(-1)).squeeze(-1),
    "vector": lambda before, h, C: h @ C.mean(0),
    "state_before": lambda before, h, C: torch.tanh(before.transpose(1, 2)).mean(1) + C.sum(-1, keepdim=True),
    "reshaped": lambda before, h, C: h.reshape(BATCH, -1).unsqueeze(1).expand(-1, 2, -1) * 2,
    "stacked": lambda before, h, C: torch.cat([h, torch.stack([C, C], 1)], 1).permute(2, 0, 1),
    "cumulative": lambda before, h, C: torch.cumsum(h, -1),
    "linear": lambda before, h, C: torch.nn.functional.linear(h, torch.ones(2, STATES)),
}


@pytest.mark.parametrize("name", READ_OUTS)
def test_read_out_on_all_states(name):
    inputs = tensors(
        (BATCH, DIM, STATES), SEQUENCE, (DIM, STATES), (BATCH, LENGTH, STATES), (BATCH, LENGTH, STATES), SEQUENCE
    )
    outcome, calls = assert_same(selective(READ_OUTS[name]), inputs, rtol=1e-4, atol=1e-5)
    assert (outcome.matches, outcome.near_misses) == (1, [])
    assert (calls["mvc.linear_recurrence"], calls["exp"], calls["scan"]) == (1, 1, 0)


def test_state_that_feeds_another():
    def step(carry, x):
        first, second = carry
        first = torch.lerp(first, x, 0.1)
        second = 0.5 * second + first
        return (first, second), (first - second) ** 2

    outcome, calls = assert_same(lambda h, g, x: scan(step, (h, g), x, dim=1), tensors(STATE, STATE, SEQUENCE))
    assert (outcome.matches, calls["mvc.linear_recurrence"]) == (1, 2)


def test_half_precision_state_is_rounded_once():
    inputs = tensors(STATE, SEQUENCE, SEQUENCE, dtype=torch.bfloat16)
    run, done = raised(lambda h, a, b: scan(product, h, (a, b), dim=1))
    _, actual = run(*inputs)
    _, expected = scan(product, inputs[0].double(), tuple(each.double() for each in inputs[1:]), dim=1)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.double(), expected, rtol=2**-8, atol=0)
    assert done[0][0].matches == 1


def test_sizes_may_be_symbols():
    run, done = raised(lambda h, a, b: scan(product, h, (a, b), dim=1), dynamic=True)
    for batch, length in ((2, 5), (3, 7)):
        inputs = tensors((batch, DIM), (batch, length, DIM), (batch, length, DIM))
        torch.testing.assert_close(run(*inputs), scan(product, inputs[0], tuple(inputs[1:]), dim=1))
    ((outcome, _),) = done
    assert outcome.matches == 1


def second_order(carry, x):
    one, two = carry
    return (x * one + two, one.clone()), one + two


def squared(h, x):
    return h * h + x, h * 2


def bounded(h, x):
    return torch.tanh(x * h), h * 2


def rotated(h, x):
    return h.flip(0) * x, h * 2


def inverse(h, x):
    return x / (h + 1), h * 2


def noisy(h, x):
    return 0.5 * h + x * torch.rand(2, 3), h * 2


def cumulative_output(h, x):
    return 0.5 * h + x, torch.cumprod(x, 0)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (second_order, "two states of a step depend on each other; in a linear recurrence each has factors of its own"),
        (squared, "each step multiplies the state by itself; its factors must not depend on it"),
        (bounded, "each step calls tanh on the state; a linear recurrence only multiplies it and adds to it"),
        (rotated, "each step moves elements of the state (flip); a linear recurrence keeps each in its place"),
        (inverse, "each step divides by the state; its factors must not depend on it"),
        (noisy, "rand is not known to be the same in each step"),
        (cumulative_output, "cumprod is not known over all steps"),
    ],
    ids=lambda step: getattr(step, "__name__", ""),
)
def test_other_steps_are_left_alone(step, reason):
    h, x = tensors(STATE, SEQUENCE)
    start = (h, h.detach().clone()) if step is second_order else h
    run, done = raised(lambda start, x: scan(step, start, x, dim=1))
    with torch.no_grad():
        torch.manual_seed(0)
        actual = run(start, x)
        torch.manual_seed(0)
        torch.testing.assert_close(actual, scan(step, start, x, dim=1))
    ((outcome, calls),) = done
    (miss,) = outcome.near_misses
    assert miss.reason == f"no linear recurrence: {reason}"
    assert "test_raise_higher_order.py" in miss.source
    assert (calls["scan"], calls["mvc.linear_recurrence"]) == (1, 0)


def combination(left, right):
    return left[0] * right[0], right[0] * left[1] + right[1]


def largest(left, right):
    return torch.maximum(left[0], right[0]), right[0] * left[1] + right[1]


def mirrored(left, right):
    return left[0] * right[0], left[0] * right[1] + left[1]


@pytest.fixture
def pointwise(monkeypatch):
    """torch 2.13 traces a pointwise scan on GPUs alone."""
    a, b = tensors(SEQUENCE, SEQUENCE)
    try:
        raised(lambda a, b: associative_scan(combination, (a, b), dim=1))[0](a, b)
    except torch._dynamo.exc.Unsupported:
        pytest.skip("this torch traces a pointwise associative_scan on a GPU alone")


@pytest.mark.usefixtures("pointwise")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_associative_scan(dim, reverse):
    """Against the generic form: where products are unused, torch's gradients of the pointwise form are wrong."""

    def states(mode):
        return lambda a, b: associative_scan(combination, (a, b), dim=dim, reverse=reverse, combine_mode=mode)[1]

    outcome, calls = assert_same(states("pointwise"), tensors(SEQUENCE, SEQUENCE), oracle=states("generic"))
    assert outcome.matches == 1
    assert calls["mvc.linear_recurrence"] == 1
    assert without_layout(calls).keys() <= {"mvc.linear_recurrence"}


@pytest.mark.usefixtures("pointwise")
@pytest.mark.parametrize(
    ("combine", "used", "reason"),
    [
        (largest, [1], "it calls maximum"),
        (mirrored, [1], "what it combines is not (a₁·a₂, a₂·b₁ + b₂)"),
        (combination, [0, 1], "the products of its factors are used, not only the states"),
    ],
)
def test_other_associative_scans_are_left_alone(combine, used, reason):
    def function(a, b):
        results = associative_scan(combine, (a, b), dim=1)
        return [results[each] for each in used]

    run, done = raised(function)
    inputs = tensors(SEQUENCE, SEQUENCE)
    with torch.no_grad():
        torch.testing.assert_close(run(*inputs), function(*inputs))
    ((outcome, calls),) = done
    (miss,) = outcome.near_misses
    assert miss.reason == f"no linear recurrence: {reason}"
    assert (calls["associative_scan"], calls["mvc.linear_recurrence"]) == (1, 0)
