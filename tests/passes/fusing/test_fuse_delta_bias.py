"""The bias of a time step's projection as the scan's own: numerics, counts, what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from toy_passes import CheckExamples, capture

from mvc.kernels.scan import selective_scan
from mvc.kernels.schemas import ScanInputs
from mvc.passes import pipeline
from mvc.passes.fusing.fuse_delta_bias import FuseDeltaBias
from mvc.passes.verify import Verifier

pytestmark = pytest.mark.versions
DIM, RANK = 6, 3


def run(function, *inputs):
    """The pass's record, and what its scans and projections are given; that the result stays is the verifier's."""
    module, examples = capture(function, *inputs)
    (record,) = pipeline.run([FuseDeltaBias()], module, strict=True, observers=[Verifier(module, examples)])
    CheckExamples(module).run(*examples)
    graph = module.graph
    scans = [ScanInputs(*each.args) for each in graph.nodes if "selective_scan" in str(each.target)]
    biases = [each.args[2] for each in graph.nodes if each.target is F.linear and len(each.args) > 2]
    return record, scans, [each for each in biases if each is not None]


def tensors(dtype=torch.float32):
    torch.manual_seed(0)
    u, dt = torch.randn(2, 5, DIM, dtype=dtype), torch.randn(2, 5, RANK, dtype=dtype)
    return u, dt, torch.randn(DIM, RANK, dtype=dtype), torch.randn(DIM, dtype=dtype)


def scan(u, delta, delta_bias=None):
    A, B = -torch.ones(DIM, 4), torch.ones(u.shape[0], u.shape[1], 4, dtype=u.dtype)
    return selective_scan(u, delta, A, B, B, delta_bias=delta_bias, delta_softplus=True)


def alone(u, dt, weight, bias):
    return scan(u, F.linear(dt, weight, bias))


def twice(u, dt, weight, bias):
    return scan(u, F.linear(dt, weight, bias), bias.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("function", [alone, twice])
def test_scan_adds_the_bias(function, dtype):
    record, (given,), biases = run(function, *tensors(dtype))
    assert (record.matches, biases) == (1, [])
    wide = torch.promote_types(dtype, torch.float32)
    assert given.delta_bias.meta["example_value"].dtype == wide


def test_gradients_stay():
    record, _, biases = run(twice, *(each.requires_grad_() for each in tensors()))
    assert (record.matches, biases) == (1, [])


def also_returned(u, dt, weight, bias):
    delta = F.linear(dt, weight, bias)
    return scan(u, delta), delta


def also_the_input(u, dt, weight, bias):
    delta = F.linear(dt, weight, bias)
    return scan(delta, delta)


def autocast_between(u, dt, weight, bias):
    with torch.autocast("cpu", torch.bfloat16):
        delta = F.linear(dt, weight, bias)
    return scan(u, delta)


def written_between(u, dt, weight, bias):
    bias = bias + 1
    delta = F.linear(dt, weight, bias)
    bias.mul_(2)
    return scan(u, delta)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (also_returned, "used elsewhere"),
        (also_the_input, "used elsewhere"),
        (autocast_between, "autocast"),
        (written_between, "writes to"),
    ],
)
def test_what_looks_alike_is_left_alone(function, reason):
    record, _, biases = run(function, *tensors())
    assert record.matches == 0
    assert len(biases) == 1
    assert reason in record.near_misses[0].reason


def test_without_a_bias_there_is_nothing_to_move():
    record, _, _ = run(lambda u, dt, weight, _: scan(u, F.linear(dt, weight)), *tensors())
    assert (record.matches, record.near_misses) == (0, ())
