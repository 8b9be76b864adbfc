"""The gate compared with known truth: a version against itself, and against itself with work inserted."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from mvc.measure.environment import Environment
from mvc.measure.paired import Ratio
from mvc.regress.cases import Case, Thresholds
from mvc.regress.decide import finding
from mvc.regress.run import compare_case
from mvc.regress.sources.version import Version
from mvc.regress.worker import CaseFailed, Side, unexpected
from mvc.table import tabulate

SCHEMA = "mvc.regress.selftest/2"
Outcome = Literal["right", "wrong", "inconclusive"]


class Trial(NamedTuple):
    """One comparison whose truth is known.

    Attributes:
        case: its name.
        slowdown: share of work that was inserted on the head's side.
        verdict: of the whole gate: times, compile times, memory and exact numbers.
        by_metric: `CaseResult.verdicts`.
        ratios: of times, on CUDA the device's, one (median, low, high) for each run.
        seconds: how long the comparison took.
        clock: the clock that measured the times.
        call_over_device: `CaseResult.call_over_device` of the base; None on a CPU.
    """

    case: str
    slowdown: float
    verdict: str
    by_metric: dict[str, str]
    ratios: list[Ratio]
    seconds: float
    clock: str
    call_over_device: float | None

    @property
    def outcome(self) -> Outcome:
        """Right where the gate finds nothing without inserted work, and a regression of time with it."""
        found, truth = (self.by_metric["time"], "regression") if self.slowdown else (self.verdict, "no change")
        return "inconclusive" if found == "inconclusive" else "right" if found == truth else "wrong"

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Trial:
        return cls(**{**facts, "ratios": [Ratio(*ratio) for ratio in facts["ratios"]]})


def trial(
    case: Case, slowdown: float, sides: Callable[[], tuple[Side, Side]], thresholds: Thresholds, *, seed: int
) -> Trial:
    """Compare a case with itself, with a `slowdown` share of extra work on the head's side.

    Raises:
        CaseFailed: the case cannot run, or something else ran than it names.
    """
    start = time.perf_counter()
    result = compare_case(case, sides, thresholds, seed=seed, slowdown=slowdown)
    for facts in (each for run in result.runs for each in run.facts):
        if (reason := unexpected(case, facts)) is not None:
            raise CaseFailed(reason)
    times = [run.times["time"] for run in result.runs]
    return Trial(
        case.name,
        slowdown,
        result.verdict,
        dict(result.verdicts),
        [each.ratio for each in times],
        time.perf_counter() - start,
        times[0].clock,
        result.call_over_device and result.call_over_device[0],
    )


def count(trials: Sequence[Trial], verdict: str) -> int:
    return sum(each.verdict == verdict for each in trials)


def exit_status(trials: Sequence[Trial], obstacles: Sequence[str]) -> int:
    """The first that applies: 1 a trial was wrong, 3 a case could not be tried, 2 a trial was inconclusive, 0 right."""
    outcomes = {each.outcome for each in trials}
    if "wrong" in outcomes:
        return 1
    if obstacles:
        return 3
    return 2 if "inconclusive" in outcomes else 0


def as_dict(
    trials: Sequence[Trial],
    obstacles: Sequence[str],
    version: Version,
    environment: Environment,
    thresholds: Thresholds,
) -> dict[str, Any]:
    """The trials for programs, as plain types that JSON can hold.

    Args:
        version: that was compared with itself.
    """
    return {
        "schema": SCHEMA,
        "exit_status": exit_status(trials, obstacles),
        "not_comparable": list(obstacles),
        "version": dataclasses.asdict(version),
        "environment": dataclasses.asdict(environment),
        "thresholds": dataclasses.asdict(thresholds),
        "trials": [
            {**each._asdict(), "ratios": [ratio._asdict() for ratio in each.ratios], "outcome": each.outcome}
            for each in trials
        ],
    }


def table(trials: Sequence[Trial], effect: float) -> str:
    """A table with a row for each case and slowdown."""
    headers = ("case", "slower by", "measured", "comparisons", "right", "inconclusive", "wrong", "detectable slowdown")
    rows = []
    for case, slowdown in dict.fromkeys((each.case, each.slowdown) for each in trials):
        some = [each for each in trials if (each.case, each.slowdown) == (case, slowdown)]
        outcomes = [each.outcome for each in some]
        counts = [outcomes.count(outcome) for outcome in ("right", "inconclusive", "wrong")]
        measured = statistics.median(ratio.median for each in some for ratio in each.ratios) - 1
        smallest = smallest_detectable(some, effect)
        detectable = "" if slowdown else "above 50 %" if smallest is None else f"{smallest:.0%}"
        rows.append([case, f"{slowdown * 100:g}%", f"{measured:+.1%}", len(some), *counts, detectable])
    lines = [tabulate(rows, headers=headers)]
    for each in {each.case: each for each in trials if each.call_over_device}.values():
        lines.append(
            f"{each.case}: device time by {each.clock}; a call takes {each.call_over_device:.2f} times as long"
        )
    return "\n".join(lines)


def smallest_detectable(trials: Sequence[Trial], effect: float, *, power: float = 0.9) -> float | None:
    """The smallest slowdown, in steps of 1 %, that would be called a regression with that probability.

    A slowdown is assumed to move the ratios measured without one by its own size, and two independent runs must both
    find it. Runs without a change end early and have wide intervals; near the effect, a comparison runs more rounds and
    finds somewhat smaller slowdowns. None if not even 50 % would be found, or if no trial is without a slowdown.
    """
    ratios = [ratio for each in trials if not each.slowdown for ratio in each.ratios]
    for percent in range(1, 51) if ratios else ():
        moved = (Ratio(*(bound * (1 + percent / 100) for bound in ratio)) for ratio in ratios)
        found = sum(finding(ratio, effect) == "slower" for ratio in moved)
        if found / len(ratios) >= math.sqrt(power):
            return percent / 100
    return None
