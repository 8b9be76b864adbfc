"""Two recordings, or two revisions measured side by side, case for case."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from mvc.errors import UserError
from mvc.measure import nvml
from mvc.measure.environment import Environment, environment
from mvc.progress import Progress
from mvc.regress.cases import Case, Suite, Thresholds
from mvc.regress.decide import unanimous, verdict
from mvc.regress.recordings.recording import RecordedCase, Recording, differences
from mvc.regress.run import CaseResult, Rounds, compare_case, exact_run, in_turns, judged, recorded_run, shared_clocks
from mvc.regress.sources.dependencies import alike
from mvc.regress.sources.revisions import resolve, sources
from mvc.regress.sources.scratch import Scratch
from mvc.regress.sources.version import checkout
from mvc.regress.worker import CaseFailed, Side, Worker

RUNS = 2  # processes of each case in a recording: a finding must recur in the second


class Comparison(NamedTuple):
    """All cases of two versions.

    Attributes:
        base, head: the names of what was compared, for people.
        obstacles: why something cannot be compared, a line each.
        environment: of this machine before the first case, or of both recordings.
        apart: whether two recordings were compared, whose rounds were not taken in turns.
    """

    base: str
    head: str
    results: list[CaseResult]
    obstacles: list[str]
    environment: Environment
    thresholds: Thresholds
    apart: bool = False

    @property
    def exit_status(self) -> int:
        """1 regression, 3 not comparable, 2 inconclusive, 0 no change or better, the first that applies."""
        verdicts = {result.verdict for result in self.results}
        if "regression" in verdicts:
            return 1
        if self.obstacles:
            return 3
        return 2 if "inconclusive" in verdicts else 0


def revisions(base: str, head: str, suite: Suite, progress: Progress, *, exact: bool = False) -> Comparison:
    """Compare two revisions, whose processes take turns on this machine.

    Args:
        exact: judge only the numbers that do not vary from run to run, of the cases that have some, and time nothing.

    Raises:
        UserError: `exact` is set, and no case has such numbers.
    """
    results: list[CaseResult] = []
    cases = [case for case in suite.cases if case.has_exact_numbers or not exact]
    if not cases:
        raise UserError("--exact compares compiled models, and the cases have none; choose others with --only")
    machine = environment(torch.device(cases[0].device))
    pair = resolve(base, head)
    with Scratch() as scratch:
        trees = sources(pair.base, scratch), sources(pair.head, scratch)
        remarks, obstacles = alike(*trees)
        for remark in (*pair.remarks, *remarks):
            progress.say(remark)
        for seed, case in enumerate(cases if not obstacles else ()):
            with (
                progress.step(f"comparing {case.name}"),
                fresh_sides((base, trees[0].folder), (head, trees[1].folder)) as sides,
            ):
                try:
                    if exact:
                        results.append(judged(case, [exact_run(case, sides())], verdict))
                    else:
                        results.append(compare_case(case, sides, suite.thresholds_of(case), seed=seed))
                except CaseFailed as error:
                    obstacles.append(f"{case.name}: {error}")
    return Comparison(base, head, results, obstacles, machine, suite.thresholds)


@contextlib.contextmanager
def fresh_sides(*versions: tuple[str, Path | None]) -> Iterator[Callable[[], tuple[Side, ...]]]:
    """Yield a function that returns the sides, each with a new, empty folder for compiled code at every call."""
    with Scratch() as scratch:

        def sides() -> tuple[Side, ...]:
            return tuple(Side(name, tree, scratch.folder()) for name, tree in versions)

        yield sides


def recordings(base: Recording, head: Recording, thresholds: Thresholds, *, names: tuple[str, str]) -> Comparison:
    """Compare two recordings, which must come from the same kind of machine and have the same cases."""
    obstacles = differences(base, head)
    results: list[CaseResult] = []
    for name in base.cases.keys() | head.cases.keys() if not obstacles else ():
        pair = [each.cases.get(name) for each in (base, head)]
        if None in pair:
            obstacles.append(f"{name}: only {names[pair[0] is None]} has this case")
        elif pair[0].case != pair[1].case:
            obstacles.append(f"{name}: {_different_inputs(pair[0].case, pair[1].case)}")
        elif pair[0].clocks != pair[1].clocks:
            ours, theirs = (" and ".join(f"{of} by {clock}" for of, clock in each.clocks.items()) for each in pair)
            obstacles.append(f"{name}: {ours} against {theirs}; compare the revisions, which are timed alike")
        else:
            results.append(_judge_recorded(pair[0], pair[1], thresholds))
    results.sort(key=lambda result: result.case.name)
    return Comparison(*names, results, sorted(obstacles), head.environment, thresholds, apart=True)


def _different_inputs(base: Case, head: Case) -> str:
    ours, theirs = base.as_dict(), head.as_dict()
    return ", ".join(f"{key} {ours[key]} against {theirs[key]}" for key in ours if ours[key] != theirs[key])


def _judge_recorded(base: RecordedCase, head: RecordedCase, thresholds: Thresholds) -> CaseResult:
    """Compare each process of the base with each process of the head. A finding on which all pairs agree is larger than
    the difference between two processes of one version."""
    sides = (zip(each.runs, each.facts, strict=True) for each in (base, head))
    pairs = itertools.product(*sides)
    runs = [recorded_run(ours[0], theirs[0], head.clocks, (ours[1], theirs[1]), thresholds) for ours, theirs in pairs]
    return judged(head.case, runs, unanimous)


def record(suite: Suite, progress: Progress) -> tuple[Recording, list[str]]:
    """Record every case in fresh processes, each with the most rounds; and say why cases are missing."""
    recorded: dict[str, RecordedCase] = {}
    device = torch.device(suite.cases[0].device)
    machine, package = environment(device), None
    obstacles: list[str] = []
    for case in suite.cases:
        runs, facts, clocks = [], [], {}
        with progress.step(f"recording {case.name}"), fresh_sides(("installed", None)) as sides:
            try:
                for _ in range(RUNS):
                    with Worker(case, *sides()).wait_until_ready() as worker, nvml.Watch(device) as watch:
                        if shared_clocks([worker]) != (clocks := clocks or shared_clocks([worker])):
                            raise CaseFailed("its two processes have different clocks")
                        rounds = Rounds(in_turns([worker], clocks, seed=0), watch)
                        taken = [turn for (turn,) in rounds.up_to(suite.thresholds.rounds[1])]
                        runs.append({name: [turn[name] for turn in taken] for name in clocks})
                    gpu = dataclasses.asdict(nvml.summary(watch)) if device.type == "cuda" else None
                    facts.append(dataclasses.replace(worker.facts, discarded=rounds.discarded, gpu=gpu))
            except CaseFailed as error:
                obstacles.append(f"{case.name}: {error}")
                continue
        recorded[case.name] = RecordedCase(case, clocks, runs, facts)
        package = Path(facts[0].source).parent
    return Recording(machine, checkout(package, "installed"), recorded), obstacles
