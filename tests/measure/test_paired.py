"""Ratios of paired times, with known truth."""

import numpy as np
import pytest

from mvc.measure.paired import paired_ratio


def test_drift_that_meets_both_leaves_the_ratio_alone():
    drift = np.exp(np.random.default_rng(0).normal(0, 0.5, 40))
    ratio = paired_ratio(1.1 * drift, drift)
    assert ratio.low == pytest.approx(1.1)
    assert ratio.median == pytest.approx(1.1)
    assert ratio.high == pytest.approx(1.1)


def test_one_outlier_moves_no_median():
    base = np.ones(21)
    times = base.copy()
    times[3] = 50
    assert paired_ratio(times, base).median == 1


def test_interval_holds_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(1)
    held = 0
    for seed in range(300):
        times, base = np.exp(draw.normal(0, 0.05, (2, 25)))
        ratio = paired_ratio(1.02 * times, base, confidence=0.9, resamples=400, seed=seed)
        held += ratio.low <= 1.02 <= ratio.high
    assert 0.85 <= held / 300 <= 0.97


@pytest.mark.parametrize(("times", "base"), [([], []), ([1.0], [1.0, 2.0])], ids=["no rounds", "unequal"])
def test_unpaired_times_are_refused(times, base):
    with pytest.raises(ValueError, match="one of each for every round"):
        paired_ratio(times, base)
