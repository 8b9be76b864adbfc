"""Recurrences in log space become one op; other uses of cumulative sums are left alone with their reason."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from toy_passes import capture

from mvc.passes import pipeline
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.raising.raise_log_scan import RaiseLogScan
from mvc.passes.verify import Verifier

B, L, D = 2, 7, 3


def plain(log_a, log_b):
    sums = log_a.cumsum(dim=1)
    return (sums + (log_b - sums).logcumsumexp(dim=1)).exp()


def padded(log_a, log_b):
    """As the paper of minGRU has it, with the first state ahead of the sequence."""
    sums = F.pad(torch.cumsum(log_a, dim=1), (0, 0, 1, 0))
    first = torch.full_like(log_b[:, :1], -1.0)
    return torch.exp(sums + torch.logcumsumexp(torch.cat([first, log_b], 1) - sums, dim=1))[:, 1:]


def turned(log_a, log_b):
    sums = torch.cumsum(log_a.mT, -1)
    return torch.exp(torch.logcumsumexp(log_b.mT - sums, -1) + sums).mT


def inputs(grad: bool = False):
    generator = torch.Generator().manual_seed(0)
    made = (torch.rand(B, L, D, generator=generator, dtype=torch.float64).log() for _ in range(2))
    return [each.requires_grad_(grad) for each in made]


@pytest.mark.parametrize("grad", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("function", [plain, padded, turned])
def test_form_becomes_one_recurrence(function, grad):
    module, examples = capture(function, *inputs(grad))
    (record,) = pipeline.run([RaiseLogScan()], module, strict=True, observers=[Verifier(module, examples)])
    assert (record.matches, record.near_misses) == (1, ())
    calls = op_counts(module.graph)
    assert (calls["mvc.linear_recurrence"], calls["logcumsumexp"], calls["cumsum"]) == (1, 0, 0)


def logarithms(log_a, log_b):
    sums = log_a.cumsum(1)
    return sums + (log_b - sums).logcumsumexp(1)


def other_axis(log_a, log_b):
    sums = log_a.cumsum(0)
    return (sums + (log_b - sums).logcumsumexp(1)).exp()


def not_added(log_a, log_b):
    return (log_a + (log_b - log_a.cumsum(1)).logcumsumexp(1)).exp()


def alone(log_a, log_b):
    return log_b.logcumsumexp(1) + log_a


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (logarithms, "the logarithms of the states are used"),
        (other_axis, "along the same axis"),
        (not_added, "are not added again"),
        (alone, "no difference from cumulative sums"),
    ],
)
def test_other_cumulative_sums_are_left_alone(function, reason):
    module, _ = capture(function, *inputs())
    before = str(module.graph)
    (record,) = pipeline.run([RaiseLogScan()], module, strict=True)
    assert record.matches == 0
    assert reason in record.near_misses[0].reason
    assert "test_raise_log_scan.py" in record.near_misses[0].source
    assert str(module.graph) == before
