"""One run: a fresh process of each side, timed in turns until the difference is decided."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mvc.paired import Ratio
from mvc.regress.cases import Case, Thresholds
from mvc.regress.decide import Finding, Steps, Verdict, finding, interval, single_finding, verdict
from mvc.regress.worker import Side, Worker

Measure = Callable[[], Sequence[float]]  # base's and head's seconds of one round


class Run(NamedTuple):
    """One run's times and what they say.

    Attributes:
        base, head: seconds of one call, one for each round.
        ratio: head's over base's.
        findings: of "time", and of "compile time" and "peak memory" where both sides have them.
        facts: of base's and of head's process: compile time, peak memory, exact numbers.
    """

    base: list[float]
    head: list[float]
    ratio: Ratio
    findings: dict[str, Finding]
    facts: tuple[dict[str, Any], dict[str, Any]]


class CaseResult(NamedTuple):
    """One case on both sides.

    Attributes:
        verdicts: by metric, as `Run.findings`.
        exact: numbers that differ, as "launches: 40, was 38", and whether that is for the worse.
    """

    case: Case
    runs: list[Run]
    verdicts: dict[str, Verdict]
    exact: list[tuple[str, bool]]

    @property
    def verdict(self) -> Verdict:
        """The worst: a regression, then what is inconclusive, then an improvement."""
        found = {*self.verdicts.values(), *("regression" if worse else "improvement" for _, worse in self.exact)}
        return next(each for each in ("regression", "inconclusive", "improvement", "no change") if each in found)


def in_turns(workers: Sequence[Worker], *, seed: int) -> Measure:
    """Times every worker once, in an order drawn anew each time; only one works at a time."""
    generator = random.Random(seed)
    order = list(range(len(workers)))

    def measure() -> list[float]:
        generator.shuffle(order)
        seconds = [0.0] * len(workers)
        for index in order:
            seconds[index] = workers[index].time()
        return seconds

    return measure


def sample(measure: Measure, thresholds: Thresholds) -> tuple[list[float], list[float], Ratio, Finding]:
    """Rounds until the finding is decided, or the most that are allowed: base's and head's times, what they say."""
    base: list[float] = []
    head: list[float] = []
    steps = Steps(thresholds)
    look = steps.next_look(0)
    while True:
        while len(base) < look:
            seconds = measure()
            base.append(seconds[0])
            head.append(seconds[1])
        ratio = interval(head, base, thresholds, paired=True)
        found = finding(ratio, thresholds.effect)
        look = steps.next_look(len(base))
        if found != "undecided" or look is None:
            return base, head, ratio, found


def one_run(cases: tuple[Case, Case], sides: tuple[Side, Side], thresholds: Thresholds, *, seed: int) -> Run:
    """A run with processes of its own.

    Args:
        cases: base's and head's; they differ only in studies.

    Raises:
        CaseFailed: a side that cannot run its case.
    """
    with contextlib.ExitStack() as stack:
        # One after the other: two that compile or warm up at once measure each other.
        workers = [
            stack.enter_context(Worker(case, side)).wait_until_ready() for case, side in zip(cases, sides, strict=True)
        ]
        base, head, ratio, found = sample(in_turns(workers, seed=seed), thresholds)
        facts = tuple(worker.facts for worker in workers)
        return Run(base, head, ratio, {"time": found, **_single_findings(facts, thresholds)}, facts)


def recorded_run(
    base: list[float], head: list[float], facts: tuple[dict[str, Any], dict[str, Any]], thresholds: Thresholds
) -> Run:
    """A run of each of two recordings, whose rounds were not taken in turns."""
    ratio = interval(head, base, thresholds, paired=False)
    findings = {"time": finding(ratio, thresholds.effect), **_single_findings(facts, thresholds)}
    return Run(base, head, ratio, findings, facts)


def _single_findings(facts: Sequence[dict[str, Any]], thresholds: Thresholds) -> dict[str, Finding]:
    keys = {
        "compile time": ("compile_seconds", thresholds.compile_effect),
        "peak memory": ("peak_bytes", thresholds.memory_effect),
    }
    return {
        name: single_finding(facts[1][key] / facts[0][key], effect)
        for name, (key, effect) in keys.items()
        if all(key in each for each in facts)
    }


def compare_case(
    cases: tuple[Case, Case], sides: Callable[[], tuple[Side, Side]], thresholds: Thresholds, *, seed: int = 0
) -> CaseResult:
    """One case on both sides: a second run, with fresh processes, unless the first finds no difference at all.

    Args:
        sides: called for each run; gives fresh folders for compiled code where compile times are to be compared.
    """
    runs = [one_run(cases, sides(), thresholds, seed=2 * seed)]
    if any(found != "same" for found in runs[0].findings.values()):
        runs.append(one_run(cases, sides(), thresholds, seed=2 * seed + 1))
    return judged(cases[1], runs)


def judged(case: Case, runs: list[Run]) -> CaseResult:
    """What one run or two say."""
    metrics = runs[0].findings.keys() & runs[-1].findings.keys()
    verdicts = {
        metric: verdict(runs[0].findings[metric], runs[1].findings[metric] if len(runs) > 1 else None)
        for metric in runs[0].findings
        if metric in metrics
    }
    return CaseResult(case, runs, verdicts, exact_differences(*(facts.get("exact", {}) for facts in runs[-1].facts)))


def exact_differences(base: dict[str, int], head: dict[str, int]) -> list[tuple[str, bool]]:
    """The numbers that differ, and whether for the worse: more graphs or launches, fewer scans or matches."""
    differences = []
    for name in base.keys() & head.keys():
        if base[name] != head[name]:
            more_is_worse = name in ("graphs", "launches")
            differences.append((f"{name}: {head[name]}, was {base[name]}", (head[name] > base[name]) == more_is_worse))
    return sorted(differences)
