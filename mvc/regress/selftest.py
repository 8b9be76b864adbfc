"""The gate held against known truth: a version against itself, and against itself with work inserted."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mvc.paired import Ratio
from mvc.regress.cases import Case, Thresholds
from mvc.regress.decide import finding
from mvc.regress.run import compare_case
from mvc.regress.worker import Side


class Trial(NamedTuple):
    """One comparison whose truth is known.

    Attributes:
        case: its name.
        slowdown: share of work that was inserted on the head's side.
        verdict: of the whole gate: times, compile times, memory and exact numbers.
        by_metric: `CaseResult.verdicts`.
        ratios: of times, one (median, low, high) for each run.
        seconds: that the comparison took.
    """

    case: str
    slowdown: float
    verdict: str
    by_metric: dict[str, str]
    ratios: list[Ratio]
    seconds: float

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Trial:
        return cls(**{**facts, "ratios": [Ratio(*ratio) for ratio in facts["ratios"]]})


def trial(
    case: Case, slowdown: float, sides: Callable[[], tuple[Side, Side]], thresholds: Thresholds, *, seed: int
) -> Trial:
    """Compare a case with itself, with that share of extra work on the head's side."""
    start = time.perf_counter()
    result = compare_case((case, dataclasses.replace(case, slowdown=slowdown)), sides, thresholds, seed=seed)
    ratios = [run.ratio for run in result.runs]
    return Trial(case.name, slowdown, result.verdict, dict(result.verdicts), ratios, time.perf_counter() - start)


def count(trials: Sequence[Trial], verdict: str) -> int:
    return sum(each.verdict == verdict for each in trials)


def smallest_detectable(trials: Sequence[Trial], effect: float, *, power: float = 0.9) -> float | None:
    """The smallest slowdown, in steps of 1 %, that would be called a regression with that probability.

    A slowdown moves the ratios that were measured without one by its own size; both of two independent runs have to
    find it. As runs without a change end early, their intervals are wide: near the effect a comparison takes more
    rounds, and finds somewhat less than this. None if not even 50 % would be found, or no trial is without a slowdown.
    """
    ratios = [ratio for each in trials if not each.slowdown for ratio in each.ratios]
    for percent in range(1, 51) if ratios else ():
        moved = (Ratio(*(bound * (1 + percent / 100) for bound in ratio)) for ratio in ratios)
        found = sum(finding(ratio, effect) == "slower" for ratio in moved)
        if found / len(ratios) >= math.sqrt(power):
            return percent / 100
    return None
