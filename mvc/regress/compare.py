"""Two revisions that are measured side by side, case for case."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mvc.errors import UserError
from mvc.measure.environment import Environment, environment
from mvc.measure.gpu_processes import other_processes
from mvc.progress import Progress
from mvc.regress import accepted, cases
from mvc.regress.cases import Case, Suite, Thresholds
from mvc.regress.decide import verdict
from mvc.regress.outcome import CaseResult, judged
from mvc.regress.run import compare_case, exact_run
from mvc.regress.sources.dependencies import alike
from mvc.regress.sources.revisions import Pair, sources
from mvc.regress.sources.scratch import Scratch, device_lock
from mvc.regress.sources.version import Version
from mvc.regress.worker import CaseFailed, Side, Worker, require_expected


class Comparison(NamedTuple):
    """All cases of two versions.

    Attributes:
        base, head: what was compared; of a window of recordings, base is its newest.
        obstacles: why something cannot be compared, a line each.
        environment: of this machine before the first case, or of head's recording.
        remarks: what a reader must know besides, a line each.
        bases: the versions of a window's recordings.
        across: what differs between the sides and was to be compared all the same, a line each.
        apart: whether recordings were compared, whose rounds were not taken in turns.
    """

    base: Version
    head: Version
    results: list[CaseResult]
    obstacles: list[str]
    environment: Environment
    remarks: list[str]
    bases: Sequence[Version] = ()
    across: list[str] = []  # noqa: RUF012 - the default is never written to
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """In which way revisions are measured.

    Attributes:
        exact: judge only the numbers that do not vary from run to run, of the cases that have some, and time nothing.
        across: software that may differ between the sides, such as "torch".
        pythons: the interpreters of base and head; None is the one that runs the gate.
        timeout: seconds for each answer of a process.
        wait: for another run of the gate on the device; otherwise it is an error.
    """

    exact: bool = False
    across: frozenset[str] = frozenset()
    pythons: tuple[str | None, str | None] = (None, None)
    timeout: float
    wait: bool = True


def revisions(
    pair: Pair, suite: Suite, how: How, progress: Progress, *, keep: Callable[[Comparison], None] = lambda _: None
) -> Comparison:
    """Compare two revisions, whose processes take turns on this machine.

    Args:
        keep: called before each case with the comparison so far, in which the cases to come are obstacles.

    Raises:
        UserError: only exact numbers are judged, and no case has some; or another run of the gate is not waited for.
    """
    chosen = [case for case in suite.cases if case.has_exact_numbers or not how.exact]
    if not chosen:
        raise UserError("--exact compares compiled models, and the cases have none; choose others with --only")
    device = torch.device(chosen[0].device)
    with Scratch() as scratch, device_lock(device, progress, wait=how.wait):
        base, head = sources(pair.base, scratch), sources(pair.head, scratch)
        told, obstacles = alike(base, head, pythons=how.pythons)
        declared = [_Declared.of(side.folder, suite.path, pair.root) for side in (base, head)]
        remarks = [*pair.remarks, *told, *_deleted(*declared), *other_processes(device)]
        comparison = Comparison(pair.base, pair.head, [], obstacles, environment(device), remarks, across=[])
        sides = fresh_sides(scratch, (base.name, base.folder, how.pythons[0]), (head.name, head.folder, how.pythons[1]))
        for index, case in enumerate(chosen if not obstacles else ()):
            waiting = [f"{each.name}: not measured yet" for each in chosen[index:]]
            keep(comparison._replace(obstacles=[*obstacles, *waiting]))
            with progress.step(f"comparing {case.name}, {index + 1} of {len(chosen)}"):
                _compare(comparison, case, sides, suite.thresholds_of(case), how, declared, seed=index)
    return comparison


def fresh_sides(scratch: Scratch, *versions: tuple[str, Path, str | None]) -> Callable[[], tuple[Side, ...]]:
    """A function that returns the sides, each with a new, empty folder for compiled code at every call.

    Args:
        versions: the name, the folder of the sources and the interpreter of each.
    """
    return lambda: tuple(Side(name, tree, scratch.folder(), python) for name, tree, python in versions)


class _Declared(NamedTuple):
    """What the files in a side's own sources say.

    Attributes:
        cases: the names of its cases; None where it has no such file.
        accepted: see `mvc.regress.accepted`.
    """

    cases: frozenset[str] | None
    accepted: Mapping[str, list[str]]

    @classmethod
    def of(cls, tree: Path, cases_file: Path, root: Path) -> _Declared:
        if not cases_file.is_relative_to(root):  # a file from elsewhere belongs to neither side
            return cls(None, {})
        path = tree / cases_file.relative_to(root)
        return cls(cases.names(path), accepted.read(accepted.path_for(path)))


def _deleted(base: _Declared, head: _Declared) -> list[str]:
    """A line for each case that base has and that is no longer measured."""
    if base.cases is None or head.cases is None:
        return []
    return [f"{name}: deleted from the cases, and not measured" for name in sorted(base.cases - head.cases)]


def _compare(
    comparison: Comparison,
    case: Case,
    sides: Callable[[], tuple[Side, Side]],
    thresholds: Thresholds,
    how: How,
    declared: Sequence[_Declared],
    *,
    seed: int,
) -> None:
    """Measure a case, and add its result or what is in its way to the comparison."""
    try:
        if how.exact:
            result = judged(case, thresholds, [exact_run(case, sides(), timeout=how.timeout)], verdict)
        else:
            result = compare_case(case, sides, thresholds, timeout=how.timeout, seed=seed)
        _require_alike(result, how, comparison.across)
    except CaseFailed as error:
        added = declared[0].cases is not None and case.name not in declared[0].cases
        if added and _runs(case, sides()[1], how):
            comparison.remarks.append(f"{case.name}: added, and base cannot run it ({error})")
        else:
            comparison.obstacles.append(f"{case.name}: {error}")
        return
    news = accepted.news(declared[0].accepted, declared[1].accepted, case.name)
    comparison.results.append(result._replace(accepted=news))


def _require_alike(result: CaseResult, how: How, across: list[str]) -> None:
    """Check that every process measured what the case names, by software that both sides share.

    Args:
        across: a line is added for each difference that is wanted.

    Raises:
        CaseFailed: something else was measured.
    """
    for run in result.runs:
        for name, facts in zip(("base", "head"), run.facts, strict=True):
            require_expected(result.case, name, facts)
        base, head = (facts.versions or {} for facts in run.facts)
        differing = {
            software: f"{software} {base[software]} against {head[software]}"
            for software in sorted(base.keys() & head.keys())
            if base[software] != head[software]
        }
        if refused := [software for software in differing if software not in how.across]:
            lines = ", ".join(differing[software] for software in refused)
            raise CaseFailed(f"{lines}; compare all the same with --across {','.join(differing)}")
        across.extend(line for line in differing.values() if line not in across)


def _runs(case: Case, side: Side, how: How) -> bool:
    """Whether a side can run a case."""
    try:
        with Worker(case, side, timed=False, timeout=how.timeout) as worker:
            worker.wait_until_ready()
    except CaseFailed:
        return False
    return True
