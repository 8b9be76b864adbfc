"""Biases added by what follows a linear layer: numerics, counts, what is left alone, what is generated."""

from __future__ import annotations

import operator

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from toy_passes import capture, rewritten

import mvc
from mvc.passes import pipeline
from mvc.passes.base import Outcome
from mvc.passes.fusing.fuse_bias import FuseBias
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.verify import Verifier

torch.manual_seed(0)
X, WEIGHT, BIAS, REST = torch.randn(2, 4, 6), torch.randn(8, 6), torch.randn(8), torch.randn(2, 4, 8)


def rolled(y, rest):
    """As Swin goes on behind a shifted window: views, a copy, a roll, a residual."""
    y = F.dropout(y.view(2, 2, 2, 8), 0.1, False).permute(0, 2, 1, 3).contiguous().view(2, 4, 8)
    return rest + torch.roll(y, 1, 1)


FOLLOWERS = {
    "gelu": lambda y, rest: F.gelu(y),
    "in-place": lambda y, rest: y.relu_().neg(),
    "residual": operator.add,
    "residual-in-place": lambda y, rest: operator.iadd(y, rest).neg(),
    "scaled": lambda y, rest: rest + y * rest[0, 0],
    "dropout": lambda y, rest: rest + F.dropout(y, 0.1, False),
    "two": lambda y, rest: F.silu(y) + y.sigmoid(),
    "rolled": rolled,
}


def run(function, *inputs):
    """The rewritten graph's record, and the count of its calls; results are compared by `Verifier`."""
    module, examples = capture(function, *inputs)
    (record,) = pipeline.run([FuseBias()], module, strict=True, observers=[Verifier(module, examples)])
    return record, op_counts(module.graph)


@pytest.mark.parametrize("follower", FOLLOWERS)
def test_bias_is_added_apart(follower):
    def function(x, weight, bias, rest):
        return FOLLOWERS[follower](F.linear(x, weight, bias), rest)

    before = op_counts(capture(function, X, WEIGHT, BIAS, REST)[0].graph)
    record, after = run(function, X, WEIGHT, BIAS, REST)
    assert (record.matches, record.near_misses) == (1, ())
    assert after - before == {"add": 1}
    assert not before - after
    function_, done = rewritten(FuseBias(), function)
    torch.testing.assert_close(function_(X, WEIGHT, BIAS, REST), function(X, WEIGHT, BIAS, REST))
    assert done[0][0] == Outcome(matches=1)


def test_gradients_stay():
    def function(x, weight, bias):
        return F.gelu(F.linear(x, weight, bias)).square().sum()

    compiled, done = rewritten(FuseBias(), function)
    gradients = []
    for each in (compiled, function):
        leaves = [tensor.double().requires_grad_() for tensor in (X, WEIGHT, BIAS)]
        gradients.append(torch.autograd.grad(each(*leaves), leaves))
    torch.testing.assert_close(*gradients)
    assert done[0][0].matches == 1


def test_autocast_adds_in_the_product_s_dtype():
    def function(x, weight, bias):
        return F.gelu(F.linear(x, weight, bias))

    with torch.autocast("cpu", torch.bfloat16):
        record, _ = run(function, X, WEIGHT, BIAS)
        compiled, _ = rewritten(FuseBias(), function)
        y, expected = compiled(X, WEIGHT, BIAS), function(X, WEIGHT, BIAS)
    assert record.matches == 1
    assert y.dtype == expected.dtype == torch.bfloat16
    rounding = torch.finfo(torch.bfloat16).eps * (F.linear(X, WEIGHT).abs() + expected.abs())  # the product's is added
    assert ((y - expected).abs() <= rounding).all()


def matrix(x, weight, bias):
    return F.gelu(F.linear(x[0], weight, bias))


def returned(x, weight, bias):
    return F.linear(x, weight, bias)


def product(x, weight, bias):
    return F.linear(F.linear(x, weight, bias), weight.T)


def heads(x, weight, bias):
    q, k, v = F.linear(x, weight, bias).unflatten(-1, (2, 4)).transpose(1, 2), x[:, None, :, :4], x[:, None, :, :4]
    return F.scaled_dot_product_attention(q, k.expand(2, 2, 4, 4), v.expand(2, 2, 4, 4))


def part(x, weight, bias):
    gate, value = F.linear(x, weight, bias).chunk(2, dim=-1)
    return F.silu(gate), F.linear(value, weight[:4, :4])


@pytest.mark.parametrize(
    ("function", "reason"),
    [(matrix, "is a matrix"), (returned, "output"), (product, "linear"), (heads, "attention"), (part, "linear")],
)
def test_near_misses_are_left_alone(function, reason):
    record, counts = run(function, X, WEIGHT, BIAS)
    assert record.matches == 0
    assert [reason in miss.reason for miss in record.near_misses] == [True]
    assert counts["add"] == 0


def test_without_a_bias_there_is_nothing_to_miss():
    record, _ = run(lambda x, weight: F.gelu(F.linear(x, weight)), X, WEIGHT)
    assert (record.matches, record.near_misses) == (0, ())


@pytest.mark.parametrize(("follower", "matches"), [("gelu", 0), ("residual", 1), ("scaled", 1), ("two", 0)])
def test_on_a_gpu_it_stays_with_the_product_unless_more_is_added(follower, matches):
    def function(x, weight, bias, rest):
        return FOLLOWERS[follower](F.linear(x, weight, bias), rest)

    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs = [torch.empty(tensor.shape, device="cuda") for tensor in (X, WEIGHT, BIAS, REST)]
        module, _ = capture(function, *inputs)
    outcome = FuseBias()(module.graph)
    assert outcome.matches == matches
    assert ["library of a GPU" in miss.reason for miss in outcome.near_misses] == [True] * (1 - matches)


def test_the_loop_that_follows_adds_it():
    def function(x, weight, bias, rest):
        return rest + F.linear(x, weight, bias)

    inputs = [tensor.repeat(1, 64, 1) if tensor.dim() == 3 else tensor for tensor in (X, WEIGHT, BIAS, REST)]
    before, after = (mvc.explain(function, *inputs, options={"passes": p}) for p in ("none", [FuseBias()]))
    assert before.launches["extern_kernels.addmm"] == after.launches["extern_kernels.mm"] == 1
    assert before.launches.total() == after.launches.total() == 2
