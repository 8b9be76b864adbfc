"""One run: a fresh process for each side, timed in turns until the difference is decided."""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from mvc.measure import nvml
from mvc.measure.paired import paired_ratio
from mvc.regress.cases import Case, Thresholds
from mvc.regress.decide import MOST_RUNS, Finding, finding, next_look, runs_wanted, verdict
from mvc.regress.outcome import CaseResult, Run, Times, judged
from mvc.regress.worker import TIMEOUT, CaseFailed, Side, Worker

MOST_DISCARDED = 20  # rounds one after the other; then a throttled GPU is given up
TURN_SECONDS = 0.02  # about so long is each turn of a case
Round = Sequence[Mapping[str, float]]  # base's and head's seconds, "time" and perhaps "call time"
Measure = Callable[[], Round]


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
        if found in ("slower", "faster", "same") or look is None:
            return Times(clock, base, head, ratio), found


def one_run(
    case: Case,
    sides: tuple[Side, Side],
    thresholds: Thresholds,
    *,
    seed: int,
    slowdown: float = 0.0,
    timeout: float = TIMEOUT,
) -> Run:
    """Run both sides in processes of their own.

    Args:
        slowdown: share of extra work on the head's side, for studies of the gate itself.
        timeout: seconds for each answer of a process.

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
        return Run.of(sampled, tuple(worker.facts for worker in workers), thresholds, rounds.discarded)


def exact_run(case: Case, sides: tuple[Side, Side], *, timeout: float = TIMEOUT) -> Run:
    """Run a process of each side for the numbers that do not vary from run to run. Nothing is timed.

    Args:
        timeout: seconds for each answer of a process.

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
    timeout: float = TIMEOUT,
) -> CaseResult:
    """Compare one case on both sides, in as many runs with fresh processes as their findings ask for.

    Args:
        sides: called for each run; returns sides with fresh folders for compiled code where compile times are compared.
        slowdown: share of extra work on the head's side, for studies of the gate itself.
        timeout: seconds for each answer of a process.
    """
    run = functools.partial(one_run, case, thresholds=thresholds, slowdown=slowdown, timeout=timeout)
    runs: list[Run] = []
    while len(runs) < _wanted(runs, thresholds):
        runs.append(run(sides(), seed=MOST_RUNS * seed + len(runs)))
    return judged(case, thresholds, runs, verdict)


def _wanted(runs: Sequence[Run], thresholds: Thresholds) -> int:
    """How many runs the metric takes that takes most."""
    if not runs:
        return 1
    return max(
        runs_wanted(
            [run.findings[name] for run in runs if name in run.findings],
            [run.times[name].ratio for run in runs if name in run.times],
            thresholds.effects[name],
        )
        for name in runs[0].findings
    )
