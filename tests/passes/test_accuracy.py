"""How far results may be from what is expected: the measure, the budgets and the worst of several checks."""

import math

import pytest
import torch

from mvc.passes import accuracy
from mvc.passes.accuracy import COMPILED, REPLAYED, REWRITTEN, Check, relative_error, relative_errors, worst

INF, NAN = math.inf, math.nan
ONES = torch.ones(4)


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        (ONES, ONES, 0.0),
        (ONES + torch.tensor([0.5, 0, 0, 0]), ONES, 0.25),
        (ONES.half(), ONES.double(), 0.0),
        (ONES * 1j, ONES.to(torch.complex64), math.sqrt(2)),
        (torch.zeros(3), torch.zeros(3), 0.0),
        (torch.zeros(0), torch.zeros(0), 0.0),
        (torch.tensor([3, 4]), torch.tensor([3, 3]), 1 / math.sqrt(18)),
        (None, ONES, INF),
        (torch.ones(1), ONES, INF),
        (torch.tensor([1.0, INF]), torch.ones(2), INF),
    ],
)
def test_distance_over_the_expected_norm(actual, expected, error):
    assert relative_error(actual, expected) == pytest.approx(error)


def test_what_is_expected_to_be_zero_and_is_not_is_beyond_any_budget():
    assert relative_error(torch.tensor([1e-20]), torch.zeros(1)) > 1e100


@pytest.mark.parametrize("alike", [False, True])
def test_nan_and_infinities_are_equal_only_in_the_same_places_and_where_that_is_asked_for(alike):
    expected = torch.tensor([NAN, INF, -INF, 2.0])
    same, moved = expected.clone(), expected[[1, 0, 2, 3]]
    assert (relative_error(same, expected, same_nonfinite=alike) == 0) is alike
    near = torch.tensor([NAN, INF, -INF, 2.5])
    assert (relative_error(near, expected, same_nonfinite=alike) == 0.25) is alike
    for wrong in (moved, torch.tensor([NAN, INF, INF, 2.0]), torch.tensor([NAN, INF, -INF, NAN])):
        assert not relative_error(wrong, expected, same_nonfinite=alike) < INF


def test_a_share_of_all_tensors_is_what_the_small_ones_are_compared_with():
    expected = {"large": torch.full((3,), 2.0), "noise": torch.full((3,), 1e-9)}
    actual = {"large": torch.full((3,), 2.0), "noise": torch.full((3,), -1e-9)}
    assert relative_errors(actual, expected)["noise"] == pytest.approx(2)
    shared = relative_errors(actual, expected, share=0.5)
    assert shared == pytest.approx({"large": 0.0, "noise": 2e-9 / (0.5 * math.sqrt(2))})
    assert relative_errors({}, expected, share=0.5) == {"large": INF, "noise": INF}


def test_the_root_mean_square_leaves_out_what_is_not_finite():
    assert accuracy.root_mean_square([torch.tensor([3.0, NAN]), torch.tensor([INF, 4j])]) == pytest.approx(
        math.sqrt(25 / 6)
    )
    assert accuracy.root_mean_square([]) == 0


def test_each_judge_has_its_budget():
    """Compiled code four errors of eager and a rounding, replayed code two, a rewritten graph 32 roundings."""
    half = accuracy.rounding(torch.float16)
    assert half == 2**-10
    assert COMPILED.tolerance(half, eager_error=1e-3, typical=2e-3) == 8e-3 + half
    assert COMPILED.tolerance(half, eager_error=3e-3, typical=2e-3) == 12e-3 + half
    assert REPLAYED.tolerance(half, eager_error=1e-3, typical=2e-3) == 4e-3 + half
    assert REWRITTEN.tolerance(half) == 32 * half
    assert accuracy.rounding(torch.int64) == 0
    assert accuracy.rounding(torch.complex64) == accuracy.rounding(torch.float32)


@pytest.mark.parametrize("error", [NAN, INF])
def test_what_is_not_finite_never_passes(error):
    for check in (Check("scores", error, 1e-7, 3e-7), Check("scores", 1e-7, error, error)):
        assert not check.passed
        assert check.strain == INF


def test_the_worst_fails_or_is_nearest_to_failing_where_eager_means_something():
    near, far = Check("near", 0.9, 0.1, 1.0), Check("far", 0.1, 0.1, 1.0)
    noise, failed = Check("noise", 3.9, 1.2, 4.0), Check("failed", 4.1, 1.2, 4.0)
    assert worst([far, near, noise]) is near
    assert worst([near, failed, noise]) is failed
