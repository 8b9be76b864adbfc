"""Steps and creeps in six months of made-up nights, and none in noise."""

import numpy as np
import pytest
from test_regress_history import nightly

from mvc.regress import changes, history

pytest.importorskip("ruptures", reason="ruptures, of the extra `history`, is not installed")

NIGHTS = np.arange(180)


def noise(seed, count=180, deviation=0.01, *, disturbed=True):
    """Logarithms: normal noise, and if disturbed, 3 % outliers and a week that is slower by some 3 % on average."""
    draw = np.random.default_rng(seed)
    made = draw.normal(0, deviation, count)
    if disturbed:
        outliers = draw.random(count) < 0.03
        made[outliers] += draw.uniform(0.05, 0.25, outliers.sum())
        week = draw.integers(0, count - 7)
        made[week : week + 7] += np.abs(draw.normal(0, 0.04, 7))
    return made


def months(seed, deviation=0.01, *, driver):
    """Two steps of 6 %, on nights 40 and 140, the second amid a creep of 0.5 % a week from night 100 on; and a driver's
    update on night 75, after which the times are as much longer as `driver` says."""
    steps = 0.06 * (NIGHTS >= 40) + driver * (NIGHTS >= 75) + 0.06 * (NIGHTS >= 140)
    return np.exp(
        noise(seed, deviation=deviation, disturbed=False) + steps + 0.005 / 7 * np.clip(NIGHTS - 100, 0, None)
    )


@pytest.mark.parametrize("seed", [1000, 1001, 1002])
@pytest.mark.parametrize("driver", [0, 0.08])
def test_six_months(seed, driver):
    updated = ["570" if night < 75 else "580" for night in NIGHTS]
    (found,) = history.series(nightly((0.001 * months(seed, driver=driver)).tolist(), driver=updated))
    steps = [each for each in found.changes if each.kind == "step"]
    (creep,) = (each for each in found.changes if each.kind == "creep")
    expected = [40, 75, 140] if driver else [40, 140]
    assert len(steps) == len(expected)
    assert all(abs(each.index - night) <= 1 for each, night in zip(steps, expected, strict=True))
    assert [each.causes for each in steps] == [("driver 580 (was 570)",) if n == 75 else () for n in expected]
    assert creep.ratio == pytest.approx(1.057, abs=0.025)
    assert found.alarms


@pytest.mark.parametrize("seed", [1000, 1001, 1002])
def test_a_creep_is_told_before_it_reaches_the_effect(seed):
    told = 0.001 * months(seed, driver=0)[: 100 + 65]  # it has reached 4.6 %
    (found,) = history.series(nightly(told.tolist()))
    (creep,) = (each for each in found.changes if each.kind == "creep")
    assert creep.ratio > 1
    assert creep.text.startswith("creep: +")


@pytest.mark.parametrize("count", [6, 12, 60, 180])
def test_noise_is_no_change(count):
    for seed in range(8):
        for disturbed in {False, count > 14}:
            seconds = np.exp(noise(seed, count, disturbed=disturbed))
            assert changes.fitted(seconds, effect=0.05).changes == []


def test_a_step_at_the_end_is_found_after_a_few_recordings():
    series = np.exp(noise(1, 64, disturbed=False) + 0.1 * (np.arange(64) >= 60))
    assert [each.start for each in changes.fitted(series, effect=0.05).changes] == [60]
    assert changes.fitted(series[:62], effect=0.05).changes == []  # two may be outliers


def test_a_step_is_found_in_ten_recordings():
    series = np.exp(noise(1, 10, 0.005, disturbed=False) + 0.1 * (np.arange(10) >= 5))
    assert [each.start for each in changes.fitted(series, effect=0.05).changes] == [5]


def test_what_comes_back_within_a_week_is_no_change():
    series = np.exp(noise(1, 60, disturbed=False) + 0.06 * ((np.arange(60) >= 30) & (np.arange(60) < 35)))
    assert changes.fitted(series, effect=0.05).changes == []


def test_what_is_taken_back_does_not_stand():
    nights = np.arange(60)
    logs = noise(1, 60, disturbed=False) + 0.1 * ((nights >= 20) & (nights < 40))
    (found,) = history.series(nightly((0.001 * np.exp(logs)).tolist()))
    assert [(each.index, each.stands) for each in found.changes] == [(20, False), (40, True)]
    assert found.alarms == ()
