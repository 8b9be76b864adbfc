"""Depthwise convolutions as shifted multiply-adds: numerics, counts, launches, what is left alone."""

from __future__ import annotations

import mvc
import pytest
import torch
from mvc.passes import pipeline
from mvc.passes.fuse_depthwise import FuseDepthwise
from mvc.passes.fx_utils import op_counts
from mvc.passes.verify import Verifier
from torch.nn import functional as F
from toy_passes import capture


def run(function, *inputs):
    """The rewritten graph's record, the count of its calls, and its results."""
    module, examples = capture(function, *inputs)
    (record,) = pipeline.run([FuseDepthwise()], module, strict=True, observers=[Verifier(module, examples)])
    return record, op_counts(module.graph)


def compiled(function):
    """The function through the pass, without generating code."""

    def backend(module, _):
        pipeline.run([FuseDepthwise()], module, strict=True)
        module.recompile()
        return module.forward

    torch.compiler.reset()
    return torch.compile(function, backend=backend, fullgraph=True)


def causal(x, weight, bias=None):
    """mamba-ssm's: padded at both ends, cut to the length."""
    taps, length = weight.shape[-1], x.shape[-1]
    y = F.conv1d(x, weight, bias, padding=taps - 1, groups=x.shape[1])
    return F.silu(y[..., :length])


def same(x, weight, bias=None):
    """MambaVision's."""
    return F.silu(F.conv1d(x, weight, bias, padding="same", groups=weight.shape[0]))


def in_tuples(x, weight, bias=None):
    return torch.conv1d(x, weight, bias, (1,), (1,), (1,), x.shape[1])


def unpadded(x, weight, bias=None):
    return F.conv1d(x, weight, bias, padding="valid", groups=x.shape[1])


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("taps", [1, 2, 3, 4])
@pytest.mark.parametrize("function", [causal, same, in_tuples, unpadded])
def test_result_and_gradients_stay(function, taps, bias, training):
    torch.manual_seed(0)
    leaves = [torch.randn(2, 3, 6), torch.randn(3, 1, taps), *([torch.randn(3)] if bias else [])]
    leaves = [leaf.requires_grad_(training) for leaf in leaves]
    record, counts = run(function, *leaves)
    assert record.matches == 1
    assert counts["conv1d"] == 0
    assert counts["mul"] == taps
    y, expected = compiled(function)(*leaves), function(*leaves)
    torch.testing.assert_close(y, expected)
    if training:
        weight = torch.randn_like(expected)
        torch.testing.assert_close(*(torch.autograd.grad((each * weight).sum(), leaves) for each in (y, expected)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sum_is_rounded_once(dtype):
    """As far from the exact result as the convolution, or less: the taps' sum is kept in float32 at least."""
    torch.manual_seed(0)
    leaves = [torch.randn(2, 8, 9), torch.randn(8, 1, 4), torch.randn(8)]
    low = [leaf.to(dtype).transpose(0, 1).contiguous().transpose(0, 1) for leaf in leaves[:1]]
    low += [leaf.to(dtype) for leaf in leaves[1:]]
    y = compiled(in_tuples)(*low)
    exact = in_tuples(*(leaf.double() for leaf in low))
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= torch.finfo(dtype).eps * (0.51 * exact.abs() + 1e-3)).all()


@pytest.mark.parametrize("axes", [(0,), (0, 2)], ids=["batch", "batch-length"])
def test_sizes_may_be_symbolic(axes):
    x, weight = torch.randn(5, 3, 7), torch.randn(3, 1, 3)
    for axis in axes:
        torch._dynamo.mark_dynamic(x, axis)
    assert run(causal, x, weight)[0].matches == 1
    function = compiled(causal)
    for shape in ((5, 3, 7), (4, 3, 9 if 2 in axes else 7)):
        x = torch.randn(shape)
        torch.testing.assert_close(function(x, weight), causal(x, weight))


def test_without_a_batch():
    x, weight = torch.randn(3, 7), torch.randn(3, 1, 3)

    def function(x, weight):
        return F.conv1d(x, weight, padding=1, groups=3)

    assert run(function, x, weight)[0].matches == 1
    torch.testing.assert_close(compiled(function)(x, weight), function(x, weight))


def test_autocast_rounds_as_the_convolution():
    leaves = [torch.randn(2, 3, 6, requires_grad=True), torch.randn(3, 1, 3), torch.randn(3)]
    with torch.autocast("cpu", torch.bfloat16):
        record, _ = run(in_tuples, *leaves)
        y, expected = compiled(in_tuples)(*leaves), in_tuples(*leaves)
    assert record.matches == 1
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)


def test_one_loop_takes_in_what_surrounds_it():
    def branch(x, weight):
        return causal(x.transpose(1, 2), weight).transpose(1, 2) * 2

    x, weight = torch.randn(2, 9, 16), torch.randn(16, 1, 4)
    before, after = (mvc.explain(branch, x, weight, options={"passes": p}) for p in ("none", [FuseDepthwise()]))
    assert any("convolution" in name for name in before.launches)
    assert not any("convolution" in name for name in after.launches)
    assert after.launches.total() == 1
    assert after.bytes_moved < before.bytes_moved


def strided(x, weight):
    return F.conv1d(x, weight, stride=2, groups=4)


def dilated(x, weight):
    return F.conv1d(x, weight, dilation=(2,), groups=4)


def plain(x, weight):
    return F.conv1d(x, weight, padding=1, groups=4)


@pytest.mark.parametrize(
    ("function", "taps", "reason"),
    [(strided, 3, "stride 2"), (dilated, 3, "dilation 2"), (plain, 7, "7 taps")],
    ids=["strided", "dilated", "taps"],
)
def test_near_misses_are_left_alone(function, taps, reason):
    record, counts = run(function, torch.randn(2, 4, 9), torch.randn(4, 1, taps))
    assert record.matches == 0
    assert [reason in miss.reason for miss in record.near_misses] == [True]
    assert counts["conv1d"] == 1


@pytest.mark.parametrize(
    ("groups", "weight"), [(1, (4, 4, 3)), (2, (4, 2, 3)), (4, (8, 1, 3))], ids=["dense", "grouped", "two-per-channel"]
)
def test_other_convolutions_are_no_near_misses(groups, weight):
    record, _ = run(lambda x, w: F.conv1d(x, w, groups=groups), torch.randn(2, 4, 9), torch.randn(weight))
    assert (record.matches, record.near_misses) == (0, ())
