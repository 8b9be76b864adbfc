"""One run: a fresh process for each side, timed in turns until the difference is decided."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from mvc.measure import nvml
from mvc.measure.paired import Ratio, paired_ratio
from mvc.measure.profiler import HOST_LIMIT
from mvc.regress.cases import EXACT, Case, Thresholds
from mvc.regress.decide import Finding, Verdict, finding, next_look, pooled_ratio, single_finding, verdict
from mvc.regress.worker import TIMEOUT, CaseFailed, Facts, Side, Worker

MOST_DISCARDED = 20  # rounds one after the other; then a throttled GPU is given up
TURN_SECONDS = 0.02  # about so long is each turn of a case
Round = Sequence[Mapping[str, float]]  # base's and head's seconds, "time" and perhaps "call time"
Measure = Callable[[], Round]
SINGLE = {"compile time": "compile_seconds", "peak memory": "peak_bytes"}  # facts of which a process has one


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
        """Head's time over base's in all runs: the mean of their medians, and an interval that holds theirs."""
        ratios = [run.times[metric].ratio for run in self.runs]
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


def shared_clocks(workers: Sequence[Worker]) -> dict[str, str]:
    """The clocks for the times of all workers: the best one that all of them have, and on CUDA also that of calls."""
    known = [worker.facts.clocks for worker in workers]
    shared = next(clock for clock in known[0] if all(clock in clocks for clocks in known))
    return {"time": shared} if shared == "wall" else {"time": shared, "call time": "wall"}


def in_turns(workers: Sequence[Worker], clocks: Mapping[str, str], *, seed: int) -> Measure:
    """Time every worker once by each clock, in an order drawn anew each time. Only one works at a time.

    All workers make the same number of calls.
    """
    generator = random.Random(seed)
    order = list(range(len(workers)))
    calls = max(1, round(TURN_SECONDS / min(worker.facts.seconds for worker in workers)))

    def measure() -> Round:
        generator.shuffle(order)
        turns = {index: {name: workers[index].time(calls, clock) for name, clock in clocks.items()} for index in order}
        return [turns[index] for index in range(len(workers))]

    return measure


class Rounds:
    """The rounds of one run, without those in which the GPU was throttled or ran below 90 % of the run's highest clock.

    They are determined anew after each round, since a higher clock may show that earlier rounds were slow.

    Attributes:
        discarded: how many rounds were discarded.
    """

    def __init__(self, measure: Measure, watch: nvml.Watch) -> None:
        self._measure, self._watch = measure, watch
        self._taken: list[Round] = []
        self._spans: list[tuple[float, float]] = []
        self.discarded = 0

    def up_to(self, count: int) -> list[Round]:
        """The seconds of every side in each of the first `count` rounds; rounds not yet taken are measured now.

        Raises:
            CaseFailed: the last `MOST_DISCARDED` rounds were all discarded.
        """
        while len(kept := self._kept()) < count:
            start = time.perf_counter()
            self._taken.append(self._measure())
            self._spans.append((start, time.perf_counter()))
        return kept[:count]

    def _kept(self) -> list[Round]:
        reasons = nvml.discards(self._spans, self._watch.samples)
        kept = [seconds for seconds, reason in zip(self._taken, reasons, strict=True) if reason is None]
        self.discarded = len(self._taken) - len(kept)
        last = reasons[-MOST_DISCARDED:]
        if len(last) == MOST_DISCARDED and None not in last:
            named = ", ".join(sorted(set(last)))
            raise CaseFailed(f"{MOST_DISCARDED} rounds one after the other were discarded ({named})")
        return kept


def sample(rounds: Rounds, name: str, clock: str, thresholds: Thresholds) -> tuple[Times, Finding]:
    """Take rounds until the finding on the times of that name is decided or the most rounds are taken; return both.

    Calls for several names share the rounds, and each examines them on its own.
    """
    look = next_look(0, thresholds)
    while True:
        base, head = ([turn[name] for turn in side] for side in zip(*rounds.up_to(look), strict=True))
        ratio = paired_ratio(head, base, confidence=thresholds.confidence)
        found = finding(ratio, thresholds.effects[name])
        look = next_look(len(base), thresholds)
        if found != "undecided" or look is None:
            return Times(clock, base, head, ratio), found


def one_run(
    case: Case,
    sides: tuple[Side, Side],
    thresholds: Thresholds,
    *,
    seed: int,
    slowdown: float = 0.0,
    timeout: float | None = TIMEOUT,
) -> Run:
    """Run both sides in processes of their own.

    Args:
        slowdown: share of extra work on the head's side, for studies of the gate itself.
        timeout: seconds for each answer of a process; None waits for ever.

    Raises:
        CaseFailed: a side cannot run the case.
    """
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(case, side, slowdown=share, timeout=timeout))
            for side, share in zip(sides, (0.0, slowdown), strict=True)
        ]
        for worker in workers:  # one after the other: two that compile or warm up at once measure each other
            worker.wait_until_ready()
        watch = stack.enter_context(nvml.Watch(torch.device(case.device)))
        clocks = shared_clocks(workers)
        rounds = Rounds(in_turns(workers, clocks, seed=seed), watch)
        sampled = {name: sample(rounds, name, clock, thresholds) for name, clock in clocks.items()}
        return _run(sampled, tuple(worker.facts for worker in workers), thresholds, rounds.discarded)


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
    return _run(sampled, facts, thresholds)


def _run(
    sampled: Mapping[str, tuple[Times, Finding]],
    facts: tuple[Facts, Facts],
    thresholds: Thresholds,
    discarded: int = 0,
) -> Run:
    findings = {name: found for name, (_, found) in sampled.items()}
    for name, key in SINGLE.items():
        base, head = (getattr(each, key) for each in facts)
        if name in thresholds.effects and base is not None and head is not None:
            findings[name] = single_finding(head / base, thresholds.effects[name])
    return Run({name: times for name, (times, _) in sampled.items()}, findings, facts, discarded)


def exact_run(case: Case, sides: tuple[Side, Side], *, timeout: float | None = TIMEOUT) -> Run:
    """Run a process of each side for the numbers that do not vary from run to run. Nothing is timed.

    Args:
        timeout: seconds for each answer of a process; None waits for ever.

    Raises:
        CaseFailed: a side cannot run its case, or has no such numbers.
    """
    facts = []
    for side in sides:
        with Worker(case, side, timed=False, timeout=timeout) as worker:
            facts.append(worker.wait_until_ready().facts)
        if not facts[-1].exact:
            raise CaseFailed(f"{side.name}: has no numbers that do not vary")
    return Run({}, {}, (facts[0], facts[1]))


def compare_case(
    case: Case,
    sides: Callable[[], tuple[Side, Side]],
    thresholds: Thresholds,
    *,
    seed: int = 0,
    slowdown: float = 0.0,
    timeout: float | None = TIMEOUT,
) -> CaseResult:
    """Compare one case on both sides, with a second run in fresh processes unless the first finds no difference at all.

    Args:
        sides: called for each run; returns sides with fresh folders for compiled code where compile times are compared.
        slowdown: share of extra work on the head's side, for studies of the gate itself.
        timeout: seconds for each answer of a process; None waits for ever.
    """
    run = functools.partial(one_run, case, thresholds=thresholds, slowdown=slowdown, timeout=timeout)
    runs = [run(sides(), seed=2 * seed)]
    if any(found != "same" for found in runs[0].findings.values()):
        runs.append(run(sides(), seed=2 * seed + 1))
    return judged(case, thresholds, runs, verdict)


def judged(
    case: Case, thresholds: Thresholds, runs: list[Run], together: Callable[[Sequence[Finding]], Verdict]
) -> CaseResult:
    """The result of the runs together, by one of the rules of `mvc.regress.decide`.

    Raises:
        CaseFailed: the runs were not measured by the same clock.
    """
    if len(clocks := sorted({run.times["time"].clock for run in runs if run.times})) > 1:
        raise CaseFailed(f"its runs were timed by different clocks, {' and '.join(clocks)}")
    metrics = [metric for metric in runs[0].findings if all(metric in run.findings for run in runs)]
    verdicts = {metric: together([run.findings[metric] for run in runs]) for metric in metrics}
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
