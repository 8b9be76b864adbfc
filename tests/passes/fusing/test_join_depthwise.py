"""Depthwise convolutions of the parts of a tensor as one: numerics, counts, what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from toy_passes import CheckExamples, capture

from mvc.passes import pipeline
from mvc.passes.fusing.join_depthwise import JoinDepthwise
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.verify import Verifier

pytestmark = pytest.mark.versions


def run(function, *inputs):
    """The pass's record and the count of the graph's calls; that the result stays is the verifier's."""
    module, examples = capture(function, *inputs)
    (record,) = pipeline.run([JoinDepthwise()], module, strict=True, observers=[Verifier(module, examples)])
    CheckExamples(module).run(*examples)
    return record, op_counts(module.graph)


def conv(x, weight, bias=None, **options):
    return F.conv1d(x, weight, bias, groups=x.shape[1], **{"padding": "same", **options})


def published(y, wx, wz):
    x, z = y.chunk(2, dim=1)
    return torch.cat((F.silu(conv(x, wx)).transpose(1, 2) * 2, F.silu(conv(z, wz)).transpose(1, 2)), dim=-1)


def of_other_sizes(y, wx, wz, bx, bz):
    x, z = y.split((wx.shape[0], wz.shape[0]), dim=-2)
    return conv(x, wx, bx, padding=1), F.relu(conv(z, wz, bz, padding=1))


def of_three(y, wx):
    a, b, c = y.chunk(3, dim=1)
    return conv(a, wx).sum() + (conv(b, wx + 1) * conv(c, wx + 2)).sum()


def tensors(*channels, taps=3, bias=False):
    torch.manual_seed(0)
    weights = [torch.randn(each, 1, taps) for each in channels]
    return torch.randn(2, sum(channels), 5), *weights, *[torch.randn(each) for each in channels if bias]


def test_published_mixer():
    record, counts = run(published, *tensors(4, 4))
    assert (record.matches, record.near_misses) == (1, ())
    assert (counts["conv1d"], counts["silu"], counts["transpose"], counts["chunk"]) == (1, 1, 1, 1)


def test_gradients_stay():
    inputs = [each.requires_grad_() for each in tensors(4, 4)]
    record, counts = run(published, *inputs)
    assert record.matches == 1
    assert counts["conv1d"] == 1


def test_parts_of_other_sizes_with_biases():
    record, counts = run(of_other_sizes, *tensors(3, 5, bias=True))
    assert record.matches == 1
    assert counts["conv1d"] == counts["relu"] == 1


def test_weights_that_are_computed_before_the_first():
    def early(y, wx):
        weights = wx + 1, wx + 2, wx + 3
        return sum(conv(part, weight).sum() for part, weight in zip(y.chunk(3, dim=1), weights, strict=True))

    y = torch.randn(2, 12, 5)
    record, counts = run(early, y, torch.randn(4, 1, 3))
    assert record.matches == counts["conv1d"] == 1


def test_a_late_weight_is_a_near_miss():
    record, counts = run(of_three, torch.randn(2, 12, 5), torch.randn(4, 1, 3))
    assert counts["conv1d"] == 3
    assert "is computed after the first convolution" in record.near_misses[0].reason


def other_paddings(y, wx, wz):
    x, z = y.chunk(2, dim=1)
    return conv(x, wx, padding=1).sum() + conv(z, wz, padding=2).sum()


def other_taps(y, wx, wz):
    x, z = y.chunk(2, dim=1)
    return conv(x, wx).sum() + conv(z, wz[..., :1]).sum()


def one_bias(y, wx, wz):
    x, z = y.chunk(2, dim=1)
    return conv(x, wx).sum() + conv(z, wz, wz[:, 0, 0]).sum()


def a_part_is_read_elsewhere(y, wx, wz):
    x, z = y.chunk(2, dim=1)
    return conv(x, wx) + conv(z, wz) * z


def a_part_is_no_convolution(y, wx, _):
    x, z = y.chunk(2, dim=1)
    return conv(x, wx) + z


def along_the_length(y, wx, wz):
    x, z = y.chunk(2, dim=2)
    return conv(x, wx).sum() + conv(z, wz).sum()


@pytest.mark.parametrize(
    "function",
    [other_paddings, other_taps, one_bias, a_part_is_read_elsewhere, a_part_is_no_convolution],
)
def test_what_looks_alike_is_left_alone(function):
    record, counts = run(function, *tensors(4, 4))
    assert record.matches == 0
    assert counts["conv1d"] == op_counts(capture(function, *tensors(4, 4))[0].graph)["conv1d"]


def test_parts_of_the_length_are_left_alone():
    y, wx, wz = torch.randn(2, 4, 6), torch.randn(4, 1, 3), torch.randn(4, 1, 3)
    assert run(along_the_length, y, wx, wz)[0].matches == 0


def written_between(y, wx, wz):
    y = y + 1
    x, z = y.chunk(2, dim=1)
    first = conv(x, wx)
    y.mul_(2)
    return first + conv(z, wz)


def autocast_between(y, wx, wz):
    x, z = y.chunk(2, dim=1)
    first = conv(x, wx)
    with torch.autocast("cpu", torch.bfloat16):
        return first, conv(z, wz)


@pytest.mark.parametrize(("function", "reason"), [(written_between, "writes to"), (autocast_between, "autocast")])
def test_what_happens_between_is_a_near_miss(function, reason):
    record, counts = run(function, *tensors(4, 4))
    assert counts["conv1d"] == 2
    assert reason in record.near_misses[0].reason


def test_returned_parts_keep_their_memory_apart_and_their_strides():
    def parts(y, wx, wz):
        x, z = y.chunk(2, dim=1)
        return conv(x, wx), F.silu(conv(z, wz))

    def changed(y, wx, wz):
        x, z = parts(y, wx, wz)
        z.add_(x)
        return x, z

    for function in (parts, changed):
        module, examples = capture(function, *tensors(4, 4))
        pipeline.run([JoinDepthwise()], module, strict=True, observers=[Verifier(module, examples)])
        results = module(*examples)
        assert [each.stride() for each in results] == [(20, 5, 1)] * 2
        assert results[0].untyped_storage().data_ptr() != results[1].untyped_storage().data_ptr()
