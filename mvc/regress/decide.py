"""When a difference of times is a change: by an interval, a minimum effect, and recurrence in an independent run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np

from mvc.measure.paired import Ratio
from mvc.regress.cases import Thresholds

MOST_ROUNDS = 10_000  # further ones that are worth counting
RESAMPLES = 2000  # of a bootstrap
MOST_RUNS = 4

Finding = Literal["slower", "somewhat slower", "faster", "somewhat faster", "same", "undecided"]
Verdict = Literal["regression", "improvement", "no change", "inconclusive"]
SIDES: dict[Verdict, tuple[Finding, Finding]] = {
    "regression": ("slower", "somewhat slower"),
    "improvement": ("faster", "somewhat faster"),
}


def finding(ratio: Ratio, effect: float) -> Finding:
    """The finding of one run, from its ratio of head over base.

    "slower" when the interval lies above half of the effect and the median reaches the effect, "somewhat slower" when
    only the interval does so; "faster" mirrors them; "same" when the interval lies within the effect on both sides.
    """
    bound, half = math.log1p(effect), math.log1p(effect) / 2
    median, low, high = (math.log(each) for each in ratio)
    if low > half:
        return "slower" if median >= bound else "somewhat slower"
    if high < -half:
        return "faster" if median <= -bound else "somewhat faster"
    return "same" if -bound < low and high < bound else "undecided"


def single_finding(ratio: float, effect: float) -> Finding:
    """The finding from one measurement of each side, without an interval."""
    if ratio >= 1 + effect:
        return "slower"
    return "faster" if ratio <= 1 / (1 + effect) else "same"


def verdict(findings: Sequence[Finding], ratios: Sequence[Ratio], effect: float) -> Verdict:
    """The verdict of independent runs together, as many as `runs_wanted` says.

    A change must recur in all runs, and the mean of their medians must reach the effect. Where one run is undecided,
    another may decide for "same" but not for a change.

    Args:
        ratios: of the same runs; none for a figure that each process has one of.
    """
    found = set(findings)
    if "same" in found:
        return "no change"
    for changed, side in SIDES.items():
        if found <= {*side}:
            return changed if found == {side[0]} or _reached(ratios, effect) else "no change"
    return "inconclusive"


def _reached(ratios: Sequence[Ratio], effect: float) -> bool:
    """Whether the mean of the medians is as far from 1 as the effect."""
    return abs(statistics.fmean(math.log(ratio.median) for ratio in ratios)) >= math.log1p(effect)


def scatters(ratio: Ratio, effect: float) -> bool:
    """Whether an interval is wider than from one effect below to one above."""
    return math.log(ratio.high / ratio.low) > 2 * math.log1p(effect)


def runs_wanted(findings: Sequence[Finding], ratios: Sequence[Ratio], effect: float) -> int:
    """How many independent runs a metric takes, by those that it has had.

    One that finds "same" is enough, and otherwise there are two. Where all lie on one side, there are `MOST_RUNS` in
    two cases: some do not reach the effect, so that the mean decides; or an interval is wider than from one effect
    below to one above, and the machine so busy that two may agree by chance.

    Args:
        ratios: as `verdict` accepts them.
    """
    found = set(findings)
    if "same" in findings[:1]:
        return 1
    if len(findings) < 2 or "same" in found or not any(found <= {*side} for side in SIDES.values()):
        return 2
    busy = any(scatters(ratio, effect) for ratio in ratios)
    return MOST_RUNS if busy or found & {side[1] for side in SIDES.values()} else 2


def apart(findings: Sequence[Finding], ratios: Sequence[Ratio], effect: float, *, base_processes: int) -> Verdict:
    """The verdict on recordings, from a finding of each of head's processes; inconclusive unless they agree.

    Args:
        base_processes: with which each was compared. One process of a side cannot show how much processes differ, so
            nothing is concluded from it.
    """
    found = set(findings)
    if min(len(findings), base_processes) < 2:
        return "inconclusive"
    if "same" in found and found <= {"same", *(side[1] for side in SIDES.values())}:
        return "no change"
    return "inconclusive" if "same" in found else verdict(findings, ratios, effect)


def pooled_ratio(head: Sequence[float], base: Sequence[Sequence[float]], *, confidence: float) -> Ratio:
    """The ratio of head's median to the median of base's processes' medians, with its percentile bootstrap interval.

    The bootstrap draws among base's processes and then among the rounds of each, since processes differ by more than
    their rounds tell. Two processes make the interval reach from one to the other.

    Args:
        head: seconds of the rounds of one process.
        base: the same of each process that it is compared with.
    """
    generator = np.random.default_rng(0)
    drawn = [_medians(generator, each) for each in base]
    chosen = generator.integers(len(base), size=(RESAMPLES, len(base)))
    of_base = np.median(np.stack(drawn, axis=1)[np.arange(RESAMPLES)[:, None], chosen], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(_medians(generator, head) - of_base, [tail, 1 - tail])
    median = np.median(np.log(head)) - np.median([np.median(np.log(each)) for each in base])
    return Ratio(*(float(each) for each in np.exp([median, min(low, median), max(high, median)])))


def _medians(generator: np.random.Generator, seconds: Sequence[float]) -> np.ndarray:
    """Medians of the logarithms of resampled rounds."""
    logs = np.log(np.asarray(seconds))
    return np.median(logs[generator.integers(len(logs), size=(RESAMPLES, len(logs)))], axis=1)


def further_rounds(ratio: Ratio, rounds: int, effect: float) -> int | None:
    """About how many more rounds would settle an undecided ratio; None where that is more than `MOST_ROUNDS`.

    Intervals shrink with the square root of the rounds. The interval has to clear the nearest of the bounds that
    separate "slower", "faster" and "same".
    """
    median = abs(math.log(ratio.median))
    width = math.log(max(ratio.high / ratio.median, ratio.median / ratio.low))
    bound = math.log1p(effect)
    room = median - bound / 2 if median >= bound else bound - median
    if width <= room:
        return rounds
    more = math.ceil(rounds * ((width / room) ** 2 - 1))
    return more if more <= MOST_ROUNDS else None


def next_look(rounds: int, thresholds: Thresholds) -> int | None:
    """The number of rounds at which a run is examined next, or None after the last look. A decided run ends there.

    The first look is after the least number of rounds, each other one after half as many more. Several looks are
    several chances of a false finding, which is why a finding must recur;
    `tests/regress/test_regress_decide.py` measures the false alarms of the whole procedure on synthetic times.
    """
    least, most = thresholds.rounds
    if rounds >= most:
        return None
    return least if rounds < least else min(most, rounds + max(1, rounds // 2))
