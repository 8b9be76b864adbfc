"""Recordings compared with each other, whose rounds were not taken in turns."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from functools import partial

from mvc.regress import accepted, decide
from mvc.regress.cases import Suite
from mvc.regress.compare import Comparison
from mvc.regress.outcome import CaseResult, judged, recorded_run
from mvc.regress.recordings.recording import RecordedCase, Recording, differences, ignored, unknown
from mvc.regress.sources.version import Version
from mvc.regress.worker import CaseFailed, require_expected


def recordings(
    bases: Sequence[Recording],
    head: Recording,
    suite: Suite,
    *,
    across: frozenset[str] = frozenset(),
    deleted: bool = False,
    remarks: Sequence[str] = (),
) -> Comparison:
    """Compare a recording with a window of others, or with one.

    Args:
        bases: the oldest first; at least one.
        suite: for the thresholds.
        across: fields of an environment that may differ.
        deleted: whether a case that only bases have, and `suite` has not, was deleted on purpose.
        remarks: what the caller knows besides.
    """
    newest = bases[-1]
    obstacles = list(dict.fromkeys(line for base in bases for line in differences(base, head, across)))
    told = dict.fromkeys(line for base in bases for line in unknown(base, head))
    differing = dict.fromkeys(line for base in bases for line in ignored(base, head, across))
    comparison = Comparison(
        base=newest.version,
        head=head.version,
        results=[],
        obstacles=obstacles,
        environment=head.environment,
        remarks=[*remarks, *told],
        bases=[base.version for base in bases],
        across=list(differing),
        apart=True,
    )
    if not obstacles:
        known = {case.name for case in suite.cases}
        for name in sorted({*head.cases, *(name for base in bases for name in base.cases)}):
            _compare(comparison, name, bases, head, suite, gone=deleted and name not in known)
    return comparison


def without_base(head: Recording, left_out: Sequence[str]) -> Comparison:
    """The comparison where no recording can be the base.

    Args:
        left_out: which recordings there are, and why each is none.
    """
    reasons = "; ".join(left_out) or "there is no recording"
    obstacle = (
        f"no base: {reasons}; record one, or allow with --across, --main-branch or --allow-dirty what is left out"
    )
    return Comparison(Version(asked="none"), head.version, [], [obstacle], head.environment, [], apart=True)


def _compare(
    comparison: Comparison, name: str, bases: Sequence[Recording], head: Recording, suite: Suite, *, gone: bool
) -> None:
    """Add the result of a case, or what is in its way, to the comparison."""
    remark, obstacle = comparison.remarks.append, comparison.obstacles.append
    having = [base for base in bases if name in base.cases]
    if name not in head.cases:
        if gone:
            return remark(f"{name}: deleted from the cases")
        return obstacle(f"{name}: head lacks this case; record it, or pass the --cases file from which it was deleted")
    ours = head.cases[name]
    if not having:
        return remark(f"{name}: added, there is no base for it")
    if not (alike := [base for base in having if not _unlike(base.cases[name], ours)]):
        return obstacle(f"{name}: {_unlike(having[-1].cases[name], ours)}")
    since = [base for base in alike if base.accepted.get(name, []) == head.accepted.get(name, [])]
    chosen = [base.cases[name] for base in since or alike]
    try:
        result = _judged(chosen, ours, suite)
    except CaseFailed as error:
        return obstacle(f"{name}: {error}")
    comparison.remarks.extend(dict.fromkeys(f"{name}: {line}" for each in chosen for line in _unsaid(each, ours)))
    news = None if since else accepted.news(alike[-1].accepted, head.accepted, name)
    comparison.results.append(result._replace(accepted=news))
    return None


def _unlike(base: RecordedCase, head: RecordedCase) -> str | None:
    """Why two recordings of a case do not measure the same, as far as both tell; None where they do."""
    ours, theirs = base.case.as_dict(), head.case.as_dict()
    told = [key for key in ours if key not in base.unsaid | head.unsaid and ours[key] != theirs[key]]
    if told:
        return ", ".join(f"{key} {ours[key]} against {theirs[key]}" for key in told)
    if base.clocks != head.clocks:
        by = (" and ".join(f"{of} by {clock}" for of, clock in each.clocks.items()) for each in (base, head))
        return f"{' against '.join(by)}; compare the revisions, which are timed alike"
    return None


def _unsaid(base: RecordedCase, head: RecordedCase) -> list[str]:
    """What one of two recordings of a case does not tell, a line for each side."""
    return [
        f"{side}'s recording does not tell {', '.join(sorted(unsaid))}, which may differ"
        for side, unsaid in (("base", base.unsaid - head.unsaid), ("head", head.unsaid - base.unsaid))
        if unsaid
    ]


def _judged(bases: Sequence[RecordedCase], head: RecordedCase, suite: Suite) -> CaseResult:
    """Compare each process of head with all processes of base. A finding on which head's processes agree is larger than
    the difference between two processes of one version.

    Raises:
        CaseFailed: a process measured something else than the case names.
    """
    for side, facts in [("head", each) for each in head.facts] + [
        ("base", each) for base in bases for each in base.facts
    ]:
        require_expected(head.case, side, facts)
    thresholds = suite.thresholds_of(head.case)
    processes = [run for base in _middle(bases) for run in base.runs]
    runs = [
        recorded_run(processes, run, head.clocks, (bases[-1].facts[0], facts), thresholds)
        for run, facts in zip(head.runs, head.facts, strict=True)
    ]
    return judged(head.case, thresholds, runs, partial(decide.apart, base_processes=len(processes)))


def _middle(bases: Sequence[RecordedCase]) -> list[RecordedCase]:
    """The recordings of a window without its fastest and slowest quarter: one odd night says nothing of the others."""
    cut = len(bases) // 4
    by_time = sorted(bases, key=lambda base: statistics.median(itertools.chain(*(run["time"] for run in base.runs))))
    return by_time[cut : len(bases) - cut]
