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
TURN_SECONDS = 0.02  # about so long is each turn of a case
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
    """Times every worker once, in an order drawn anew each time; only one works at a time, and all call as often."""
    generator = random.Random(seed)
    order = list(range(len(workers)))
    calls = max(1, round(TURN_SECONDS / min(worker.facts["seconds"] for worker in workers)))

    def measure() -> list[float]:
        generator.shuffle(order)
        seconds = [0.0] * len(workers)
        for index in order:
            seconds[index] = workers[index].time(calls)
        return seconds

    return measure


class Rounds:
    """Rounds of one run, but for those in which the GPU was throttled, or ran below 90 % of the run's highest clock.

    Which those are is asked anew after each round: a higher clock may show that earlier ones were slow.

    Attributes:
        discarded: how many.
    """

    def __init__(self, measure: Measure, watch: nvml.Watch) -> None:
        self._measure, self._watch = measure, watch
        self._taken: list[Sequence[float]] = []
        self._spans: list[tuple[float, float]] = []
        self.discarded = 0

    def up_to(self, count: int) -> list[Sequence[float]]:
        """The seconds of every side in each of so many rounds, measured as far as they are not there yet.

        Raises:
            CaseFailed: the last `MOST_DISCARDED` were all discarded.
        """
        while len(kept := self._kept()) < count:
            start = time.perf_counter()
            self._taken.append(self._measure())
            self._spans.append((start, time.perf_counter()))
        return kept[:count]

    def _kept(self) -> list[Sequence[float]]:
        reasons = nvml.discards(self._spans, self._watch.samples)
        kept = [seconds for seconds, reason in zip(self._taken, reasons, strict=True) if reason is None]
        self.discarded = len(self._taken) - len(kept)
        last = reasons[-MOST_DISCARDED:]
        if len(last) == MOST_DISCARDED and None not in last:
            named = ", ".join(sorted(set(last)))
            raise CaseFailed(f"{MOST_DISCARDED} rounds one after the other were discarded ({named})")
        return kept


def sample(rounds: Rounds, thresholds: Thresholds) -> tuple[list[float], list[float], Ratio, Finding]:
    """Rounds until the finding is decided, or the most that are allowed: base's and head's times, what they say."""
    look = next_look(0, thresholds)
    while True:
        base, head = (list(side) for side in zip(*rounds.up_to(look), strict=True))
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
        rounds = Rounds(in_turns(workers, seed=seed), watch)
        base, head, ratio, found = sample(rounds, thresholds)
        facts = tuple(worker.facts for worker in workers)
        findings = {"time": found, **_single_findings(facts, thresholds)}
        return Run(base, head, ratio, findings, facts, rounds.discarded)


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
    """A process of each side for the numbers that do not vary; nothing is timed.

    Raises:
        CaseFailed: a side that cannot run its case, or has no such numbers.
    """
    facts = []
    for side in sides:
        with Worker(case, side, timed=False) as worker:
            facts.append(worker.wait_until_ready().facts)
        if not facts[-1]["exact"]:
            raise CaseFailed(f"{side.name}: has no numbers that do not vary")
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
    return judged(cases[1], runs, verdict)


def judged(case: Case, runs: list[Run], together: Callable[[Sequence[Finding]], Verdict]) -> CaseResult:
    """What the runs say together, by one of the rules of `mvc.regress.decide`."""
    metrics = [metric for metric in runs[0].findings if all(metric in run.findings for run in runs)]
    verdicts = {metric: together([run.findings[metric] for run in runs]) for metric in metrics}
    return CaseResult(case, runs, verdicts, exact_differences(*(facts["exact"] for facts in runs[0].facts)))


def exact_differences(base: dict[str, int], head: dict[str, int]) -> list[Difference]:
    """The numbers that differ. A pass that a side does not have matches nothing there; other numbers that only one side
    has are unknown on the other."""
    passes = {name for name in base.keys() | head.keys() if name.startswith("matches of ")}
    return [
        Difference(name, base.get(name, 0), head.get(name, 0))
        for name in sorted(passes | (base.keys() & head.keys()))
        if base.get(name, 0) != head.get(name, 0)
    ]
