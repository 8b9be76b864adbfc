"""One run: a fresh process of each side, timed in turns until the difference is decided."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from mvc import nvml
from mvc.paired import Ratio, paired_ratio
from mvc.regress.cases import Case, Thresholds
from mvc.regress.decide import Finding, Verdict, finding, next_look, single_finding, unpaired_ratio, verdict
from mvc.regress.worker import CaseFailed, Side, Worker

MOST_DISCARDED = 20  # rounds one after the other; then a throttled GPU is given up
Measure = Callable[[], Sequence[float]]  # base's and head's seconds of one round


class Run(NamedTuple):
    """One run's times and what they say.

    Attributes:
        base, head: seconds of one call, one for each round; empty where only exact numbers were asked for.
        ratio: head's over base's, None without times.
        findings: of "time", and of "compile time" and "peak memory" where both sides have them.
        facts: of base's and of head's process: compile time, peak memory, exact numbers.
        discarded: rounds that were measured anew because the GPU was throttled.
    """

    base: list[float]
    head: list[float]
    ratio: Ratio | None
    findings: dict[str, Finding]
    facts: tuple[dict[str, Any], dict[str, Any]]
    discarded: int = 0


class Difference(NamedTuple):
    """A number that does not vary from run to run, and differs between the sides."""

    name: str
    base: int
    head: int

    @property
    def verdict(self) -> Verdict:
        """More graphs, launches or bytes are worse, and so are fewer scans or matches of a pass."""
        more_is_worse = self.name in ("graphs", "launches", "peak bytes")
        return "regression" if (self.head > self.base) == more_is_worse else "improvement"

    def __str__(self) -> str:
        return f"{self.name}: {self.head:,}, was {self.base:,}"


class CaseResult(NamedTuple):
    """One case on both sides.

    Attributes:
        verdicts: by metric, as `Run.findings`.
        exact: the numbers that differ.
    """

    case: Case
    runs: list[Run]
    verdicts: dict[str, Verdict]
    exact: list[Difference]

    @property
    def verdict(self) -> Verdict:
        """The worst: a regression, then what is inconclusive, then an improvement."""
        found = {*self.verdicts.values(), *(each.verdict for each in self.exact), "no change"}
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


class Unthrottled:
    """Measures a round anew while the GPU was throttled in it, or ran below the clock that it had before.

    Attributes:
        discarded: rounds so far.
    """

    def __init__(self, measure: Measure, watch: nvml.Watch) -> None:
        self._measure, self._watch = measure, watch
        self.discarded = 0

    def __call__(self) -> Sequence[float]:
        for _ in range(MOST_DISCARDED):
            start = time.perf_counter()
            seconds = self._measure()
            (reason,) = nvml.discards([(start, time.perf_counter())], self._watch.samples)
            if reason is None:
                return seconds
            self.discarded += 1
        raise CaseFailed(f"{MOST_DISCARDED} rounds one after the other were discarded ({reason})")


def sample(measure: Measure, thresholds: Thresholds) -> tuple[list[float], list[float], Ratio, Finding]:
    """Rounds until the finding is decided, or the most that are allowed: base's and head's times, what they say."""
    base: list[float] = []
    head: list[float] = []
    look = next_look(0, thresholds)
    while True:
        while len(base) < look:
            seconds = measure()
            base.append(seconds[0])
            head.append(seconds[1])
        ratio = paired_ratio(head, base, confidence=thresholds.confidence)
        found = finding(ratio, thresholds.effect)
        look = next_look(len(base), thresholds)
        if found != "undecided" or look is None:
            return base, head, ratio, found


def one_run(cases: tuple[Case, Case], sides: tuple[Side, Side], thresholds: Thresholds, *, seed: int) -> Run:
    """A run with processes of its own.

    Raises:
        CaseFailed: a side that cannot run its case.
    """
    with contextlib.ExitStack() as stack:
        # One after the other: two that compile or warm up at once measure each other.
        workers = [
            stack.enter_context(Worker(case, side)).wait_until_ready() for case, side in zip(cases, sides, strict=True)
        ]
        watch = stack.enter_context(nvml.watch(torch.device(cases[0].device)))
        measure = Unthrottled(in_turns(workers, seed=seed), watch)
        base, head, ratio, found = sample(measure, thresholds)
        facts = tuple(worker.facts for worker in workers)
        findings = {"time": found, **_single_findings(facts, thresholds)}
        return Run(base, head, ratio, findings, facts, measure.discarded)


def recorded_run(base: list[float], head: list[float], facts: Sequence[dict[str, Any]], thresholds: Thresholds) -> Run:
    """A run of each of two recordings, whose rounds were not taken in turns."""
    ratio = unpaired_ratio(head, base, confidence=thresholds.confidence)
    findings = {"time": finding(ratio, thresholds.effect), **_single_findings(facts, thresholds)}
    return Run(base, head, ratio, findings, tuple(facts))


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


def exact_run(case: Case, sides: tuple[Side, Side]) -> Run:
    """A process of each side for the numbers that do not vary; nothing is timed."""
    facts = []
    for side in sides:
        with Worker(case, side) as worker:
            facts.append(worker.wait_until_ready().facts)
    return Run([], [], None, {}, (facts[0], facts[1]))


def compare_case(
    cases: tuple[Case, Case], sides: Callable[[], tuple[Side, Side]], thresholds: Thresholds, *, seed: int = 0
) -> CaseResult:
    """One case on both sides: a second run, with fresh processes, unless the first finds no difference at all.

    Args:
        cases: base's and head's; they differ only in studies.
        sides: called for each run; gives fresh folders for compiled code where compile times are to be compared.
    """
    runs = [one_run(cases, sides(), thresholds, seed=2 * seed)]
    if any(found != "same" for found in runs[0].findings.values()):
        runs.append(one_run(cases, sides(), thresholds, seed=2 * seed + 1))
    return judged(cases[1], runs)


def judged(case: Case, runs: list[Run]) -> CaseResult:
    """What one run or two say."""
    first, last = runs[0].findings, runs[-1].findings
    verdicts = {
        metric: verdict(first[metric], last[metric] if len(runs) > 1 else None) for metric in first if metric in last
    }
    return CaseResult(case, runs, verdicts, exact_differences(*(facts["exact"] for facts in runs[0].facts)))


def exact_differences(base: dict[str, int], head: dict[str, int]) -> list[Difference]:
    """The numbers that both sides have and that differ."""
    return [
        Difference(name, base[name], head[name])
        for name in sorted(base.keys() & head.keys())
        if base[name] != head[name]
    ]
