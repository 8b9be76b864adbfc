"""What was found of a case: its runs, what differs exactly, and the verdict on all of it."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from mvc.measure.paired import Ratio
from mvc.measure.profiler import HOST_LIMIT
from mvc.regress.cases import EXACT, Case, Thresholds
from mvc.regress.decide import Finding, Verdict, finding, pooled_ratio, single_finding
from mvc.regress.worker import CaseFailed, Facts

SINGLE = {"compile time": "compile_seconds", "peak memory": "peak_bytes"}  # facts of which a process has one


Together = Callable[[Sequence[Finding], Sequence[Ratio], float], Verdict]


class Times(NamedTuple):
    """The seconds of one call in each round, and the ratio of head's to base's.

    Attributes:
        clock: one of `mvc.regress.process.clocks`.
        pairs: of recordings, the ratio to each of base's processes, whose rounds are all in `base`.
    """

    clock: str
    base: list[float]
    head: list[float]
    ratio: Ratio
    pairs: list[Ratio] = []  # noqa: RUF012 - never written to


class Run(NamedTuple):
    """One run's times and findings.

    Attributes:
        times: "time", and on CUDA, where that is the device's, "call time" too; empty where only exact numbers were
            asked for.
        findings: from the times, and from "compile time" and "peak memory" where both sides have them.
        facts: of base's and of head's process: compile time, peak memory, exact numbers.
        discarded: how many rounds were measured anew because the GPU was throttled.
    """

    times: dict[str, Times]
    findings: dict[str, Finding]
    facts: tuple[Facts, Facts]
    discarded: int = 0

    @classmethod
    def of(
        cls,
        sampled: Mapping[str, tuple[Times, Finding]],
        facts: tuple[Facts, Facts],
        thresholds: Thresholds,
        discarded: int = 0,
    ) -> Run:
        """The run with these times and the findings on them, and those on figures of which each process has one."""
        findings = {name: finding for name, (_, finding) in sampled.items()}
        for name, key in SINGLE.items():
            base, head = (getattr(each, key) for each in facts)
            if name in thresholds.effects and base is not None and head is not None:
                findings[name] = single_finding(head / base, thresholds.effects[name])
        return cls({name: times for name, (times, _) in sampled.items()}, findings, facts, discarded)


class Difference(NamedTuple):
    """A number that does not vary from run to run, and differs between the sides."""

    name: str
    base: int
    head: int

    @property
    def verdict(self) -> Verdict:
        """More graphs, breaks, recompiles, launches or bytes are worse; so are fewer scans or matches of a pass."""
        more_is_worse = self.name in ("graphs", *EXACT)
        return "regression" if (self.head > self.base) == more_is_worse else "improvement"

    def __str__(self) -> str:
        return f"{self.name}: {self.head:,}, was {self.base:,}"


class CaseResult(NamedTuple):
    """One case on both sides.

    Attributes:
        verdicts: by metric, with the keys of `Run.findings`.
        exact: the exact numbers that differ.
        unknown: the exact numbers that one side does not tell, a sentence each.
        accepted: why a regression of this case is meant, or None.
    """

    case: Case
    thresholds: Thresholds
    runs: list[Run]
    verdicts: dict[str, Verdict]
    exact: list[Difference]
    unknown: list[str]
    accepted: str | None = None

    @property
    def verdict(self) -> Verdict | Literal["accepted"]:
        """The worst of the verdicts: a regression before an inconclusive one, and that before an improvement. A
        regression that is meant is "accepted"."""
        found = {*self.verdicts.values(), *(each.verdict for each in self.exact), "no change"}
        worst = next(each for each in ("regression", "inconclusive", "improvement", "no change") if each in found)
        return "accepted" if worst == "regression" and self.accepted else worst

    @property
    def causes(self) -> list[str]:
        """The metrics and exact numbers from which the verdict comes."""
        wanted = "regression" if self.verdict == "accepted" else self.verdict
        found = [*self.verdicts.items(), *((each.name, each.verdict) for each in self.exact)]
        return [name for name, verdict in found if verdict == wanted]

    def change(self, metric: str) -> Ratio:
        """Head's time over base's in the runs that decided: the mean of their medians, an interval that holds theirs.

        A run that found the same decides alone, whatever a process of another run had against it.
        """
        same = [run for run in self.runs if run.findings[metric] == "same"]
        ratios = [run.times[metric].ratio for run in same or self.runs]
        return Ratio(
            statistics.geometric_mean([each.median for each in ratios]),
            min(each.low for each in ratios),
            max(each.high for each in ratios),
        )

    @property
    def lone_process(self) -> bool:
        """Whether a side of two recordings has one process alone."""
        return len(self.runs) < 2 or any(len(times.pairs) < 2 for run in self.runs for times in run.times.values())

    @property
    def call_over_device(self) -> tuple[float, float] | None:
        """The time of a call over its device time, for base and head, where both times were measured."""
        if any("call time" not in run.times for run in self.runs):
            return None
        base, head = (
            statistics.median(
                statistics.median(getattr(run.times["call time"], side))
                / statistics.median(getattr(run.times["time"], side))
                for run in self.runs
            )
            for side in ("base", "head")
        )
        return base, head

    @property
    def host_limited(self) -> bool:
        """Whether a call of either side waits for the host."""
        return max(self.call_over_device or (0.0,)) > HOST_LIMIT


def recorded_run(
    base: Sequence[Mapping[str, list[float]]],
    head: Mapping[str, list[float]],
    clocks: Mapping[str, str],
    facts: tuple[Facts, Facts],
    thresholds: Thresholds,
) -> Run:
    """One process of a recording beside the processes of others as a run, whose rounds were not taken in turns."""
    sampled, confidence = {}, thresholds.confidence
    for name, clock in clocks.items():
        processes = [each[name] for each in base]
        ratio = pooled_ratio(head[name], processes, confidence=confidence)
        pairs = [pooled_ratio(head[name], [each], confidence=confidence) for each in processes]
        times = Times(clock, list(itertools.chain.from_iterable(processes)), head[name], ratio, pairs)
        sampled[name] = times, finding(ratio, thresholds.effects[name])
    return Run.of(sampled, facts, thresholds)


def judged(case: Case, thresholds: Thresholds, runs: list[Run], together: Together) -> CaseResult:
    """The result of the runs together, by one of the rules of `mvc.regress.decide`.

    Raises:
        CaseFailed: the runs were not measured by the same clock.
    """
    if len(clocks := sorted({run.times["time"].clock for run in runs if run.times})) > 1:
        raise CaseFailed(f"its runs were timed by different clocks, {' and '.join(clocks)}")
    metrics = [metric for metric in runs[0].findings if all(metric in run.findings for run in runs)]
    verdicts = {
        metric: together(
            [run.findings[metric] for run in runs],
            [run.times[metric].ratio for run in runs if metric in run.times],
            thresholds.effects[metric],
        )
        for metric in metrics
    }
    base, head = runs[0].facts
    differing = exact_differences(base.exact, head.exact)
    return CaseResult(case, thresholds, runs, verdicts, differing, _unknown(case, base, head))


def exact_differences(base: dict[str, int], head: dict[str, int]) -> list[Difference]:
    """The exact numbers that differ. A pass that a side lacks has no matches there; any other number that only one side
    has is unknown on the other, and not compared."""
    return [
        Difference(name, base.get(name, 0), head.get(name, 0))
        for name in sorted(_passes(base, head) | (base.keys() & head.keys()))
        if base.get(name, 0) != head.get(name, 0)
    ]


def _unknown(case: Case, base: Facts, head: Facts) -> list[str]:
    """What a side does not tell, a sentence each."""
    sides = (("base", base), ("head", head))
    lacking = (base.exact.keys() ^ head.exact.keys()) - _passes(base.exact, head.exact)
    told = [
        f"{name} is not known of {side}, and was not compared"
        for name in sorted(lacking)
        for side, facts in sides
        if name not in facts.exact
    ]
    if case.expected_scan is not None:
        told += [f"which scan ran is not known of {side}" for side, facts in sides if facts.implementations is None]
    return told


def _passes(base: dict[str, int], head: dict[str, int]) -> set[str]:
    return {name for name in base.keys() | head.keys() if name.startswith("matches of ")}
