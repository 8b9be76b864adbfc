"""Depthwise convolutions as shifted multiply-adds: numerics, counts, launches, what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from toy_passes import CheckExamples, capture

import mvc
from mvc.passes import pipeline
from mvc.passes.fusing.fuse_depthwise import FuseDepthwise
from mvc.passes.graph.fx_utils import op_counts, value
from mvc.passes.verify import Verifier


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


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("taps", [1, 2, 3, 4])
@pytest.mark.parametrize("function", [causal, same, in_tuples, unpadded])
def test_result_stays(function, taps, bias):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 6), torch.randn(3, 1, taps), *([torch.randn(3)] if bias else [])]
    record, counts = run(function, *inputs)
    assert record.matches == 1
    assert counts["conv1d"] == 0
    assert counts["mul"] == taps
    torch.testing.assert_close(compiled(function)(*inputs), function(*inputs))


@pytest.mark.parametrize("function", [in_tuples, unpadded])
def test_result_is_contiguous_as_the_convolutions(function):
    def viewed(x, weight):
        return function(x.transpose(1, 2), weight).view(2, -1)

    inputs = torch.randn(2, 6, 3), torch.randn(3, 1, 3)
    assert run(viewed, *inputs)[0].matches == 1
    torch.testing.assert_close(compiled(viewed)(*inputs), viewed(*inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sum_is_rounded_once(dtype):
    """As far from the exact result as the convolution, or less: the taps' sum is kept in float32 at least."""
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(size, dtype=dtype) for size in ((2, 9, 8), (8, 1, 4), 8))
    inputs = x.transpose(1, 2), weight, bias
    assert run(in_tuples, *inputs)[0].matches == 1
    y, exact = compiled(in_tuples)(*inputs), in_tuples(*(each.double() for each in inputs))
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= torch.finfo(dtype).eps * (0.51 * exact.abs() + 1e-3)).all()


@pytest.mark.parametrize("axes", [(0,), (0, 2)], ids=["batch", "batch-length"])
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "gradients"])
def test_sizes_may_be_symbolic(axes, gradients):
    """Dynamo raises where a size that is marked as dynamic was asked for its number."""
    weight = torch.randn(3, 1, 3)
    function = compiled(causal)
    for shape in ((5, 3, 7), (4, 3, 9 if 2 in axes else 7)):
        x = torch.randn(shape[0], shape[2], shape[1]).transpose(1, 2).requires_grad_(gradients)
        for axis in axes:
            torch._dynamo.mark_dynamic(x, axis)
        assert run(causal, x, weight)[0].matches == 1
        torch.testing.assert_close(function(x, weight), causal(x, weight))


def test_without_a_batch():
    x, weight = torch.randn(3, 7), torch.randn(3, 1, 3)

    def function(x, weight):
        return F.conv1d(x, weight, padding=1, groups=3)

    assert run(function, x, weight)[0].matches == 1
    torch.testing.assert_close(compiled(function)(x, weight), function(x, weight))


def test_autocast_rounds_as_the_convolution():
    inputs = torch.randn(2, 6, 3).transpose(1, 2), torch.randn(3, 1, 3), torch.randn(3)
    with torch.autocast("cpu", torch.bfloat16):
        record, _ = run(in_tuples, *inputs)
        y, expected = compiled(in_tuples)(*inputs), in_tuples(*inputs)
    assert record.matches == 1
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)


def projected(x, weight):
    return F.linear(causal(x.sin().transpose(1, 2), weight).transpose(1, 2), torch.ones(2, 3))


def test_memory_order_of_the_input_is_kept():
    """Behind a projection the channels are innermost, and stay so up to the next; the example values say so."""
    inputs = torch.randn(2, 6, 3), torch.randn(3, 1, 4)
    module, examples = capture(projected, *inputs)
    pipeline.run([FuseDepthwise()], module, strict=True)
    (linear,) = module.graph.find_nodes(op="call_function", target=F.linear)
    assert value(linear.args[0]).stride() == (18, 3, 1)
    (activation,) = module.graph.find_nodes(op="call_function", target=F.silu)
    assert value(activation).is_contiguous(), "Inductor writes in the order of the axes"
    CheckExamples(module).run(*examples)
    torch.testing.assert_close(compiled(projected)(*inputs), projected(*inputs))


def test_scan_takes_the_result_as_it_lies():
    def function(x, weight):
        u = causal(x.sin().transpose(1, 2), weight).transpose(1, 2)
        return torch.ops.mvc.linear_recurrence(u, causal(x.transpose(1, 2), weight).mT, None, 1, False)

    inputs = torch.randn(2, 6, 3), torch.randn(3, 1, 4)
    assert run(function, *inputs)[0].matches == 2
    torch.testing.assert_close(compiled(function)(*inputs), function(*inputs))


def test_strides_that_are_seen_stay():
    def function(x, weight):
        return causal(x.transpose(1, 2), weight)

    inputs = torch.randn(2, 6, 3), torch.randn(3, 1, 4)
    y = compiled(function)(*inputs)
    assert y.stride() == function(*inputs).stride()
    torch.testing.assert_close(y, function(*inputs))


def test_what_is_written_to_a_cut_stays_written():
    def function(x, weight):
        y = F.conv1d(x.transpose(1, 2), weight, padding="same", groups=3)
        y[..., :2] = 7
        return F.hardtanh(y.narrow(-1, 1, 4).exp().transpose(1, 2), 0, 5)

    inputs = torch.randn(2, 6, 3), torch.randn(3, 1, 3)
    assert run(function, *inputs)[0].matches == 1
    torch.testing.assert_close(compiled(function)(*inputs), function(*inputs))


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


def test_gradients_are_the_librarys():
    leaves = [torch.randn(2, 4, 9, requires_grad=True), torch.randn(4, 1, 3)]
    assert "gradients" in run(plain, *leaves)[0].near_misses[0].reason
    with torch.no_grad():
        assert run(plain, *leaves)[0].matches == 1


def behind_a_projection(x, weight):
    return F.conv1d(x.transpose(1, 2), weight, padding=1, groups=4)


def test_gradients_with_the_channels_innermost():
    """A library would transpose the input, the result and both of their gradients."""
    torch.manual_seed(0)
    leaves = [torch.randn(2, 9, 4, requires_grad=True), torch.randn(4, 1, 3, requires_grad=True)]
    assert run(behind_a_projection, *leaves)[0].matches == 1
    results = [each(*leaves) for each in (compiled(behind_a_projection), behind_a_projection)]
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), leaves) for y in results))


def test_on_a_gpu_taps_are_not_stacked():
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, weight = (torch.empty(size, device="cuda", requires_grad=True) for size in ((2, 9, 4), (4, 1, 3)))
        module, _ = capture(behind_a_projection, x, weight)
    assert FuseDepthwise()(module.graph).matches == 1
    assert op_counts(module.graph)["stack"] == 0, "it would be a kernel of its own"


def test_length_innermost_in_16_bits_is_left_alone():
    inputs = [torch.randn(2, 4, 9, dtype=torch.bfloat16), torch.randn(4, 1, 3, dtype=torch.bfloat16)]
    assert "length innermost" in run(plain, *inputs)[0].near_misses[0].reason


@pytest.mark.parametrize(
    ("groups", "weight"), [(1, (4, 4, 3)), (2, (4, 2, 3)), (4, (8, 1, 3))], ids=["dense", "grouped", "two-per-channel"]
)
def test_other_convolutions_are_no_near_misses(groups, weight):
    record, _ = run(lambda x, w: F.conv1d(x, w, groups=groups), torch.randn(2, 4, 9), torch.randn(weight))
    assert (record.matches, record.near_misses) == (0, ())
