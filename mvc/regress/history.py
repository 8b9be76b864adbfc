"""Each case's time over many recordings: where it changed, with what, and whether the change stands today."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

from mvc.measure.environment import Environment
from mvc.regress import changes
from mvc.regress.cases import Case, Thresholds
from mvc.regress.figures import with_interval
from mvc.regress.recordings.recording import RecordedCase, Recording, fingerprint, moment, order

# A series goes through changes of anything else, and names what changed beside a step: a driver, a version, a clock.
HARDWARE = ("device", "gpu_memory_bytes", "mig", "cpu", "threads", "nominal_mhz", "cache_bytes", "memory_bytes")
PASSING = ("date", "load", "frequency_mhz", "gpu_bus_id")  # differ between recordings without meaning a change
WIDTH = 1.96  # standard errors on each side of an interval


@dataclasses.dataclass(frozen=True)
class Point:
    """A case in one recording.

    Attributes:
        date: of the recording, in ISO format.
        commit: the full id, if it is known.
        version_name: for people: the short id, or "installed".
        median: seconds of one call: the median of those of the processes.
        low, high: the least and the largest median of a process; of a single process, the quartiles of its rounds.
        accepted: the slowdowns of the case that the recorded sources accept.
    """

    date: str
    commit: str | None
    version_name: str
    median: float
    low: float
    high: float
    environment: Environment
    accepted: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.version_name} ({self.date[:10]})"

    @property
    def moment(self) -> datetime:
        """The date with its time zone."""
        return moment(self.date)


@dataclasses.dataclass(frozen=True)
class Change:
    """A step of the level, or a creep over many recordings.

    Attributes:
        index: of the first point after a step, or of the first on a creep.
        ratio: of the level after the change to that before; `low` and `high` are its 95 % interval.
        before, after: the last point before a step and the first after it; before a creep, and the last on it.
        causes: what else changed there, as "driver 580 (was 570)".
        accepted: the acceptance that covers the change, or None.
        today: the ratio of the level of the last point to that before the change.
        stands: whether no later change took it back.
    """

    kind: Literal["step", "creep"]
    index: int
    ratio: float
    low: float
    high: float
    before: Point
    after: Point
    causes: tuple[str, ...]
    accepted: str | None
    today: float
    stands: bool

    @property
    def percentage(self) -> str:
        """The change with its interval: "+30.1% (+29.0% to +31.3%)"."""
        return with_interval(self.ratio, self.low, self.high)

    @property
    def where(self) -> str:
        """The last point before it and the first after it, or those between which it crept."""
        joined = "between {} and {}" if self.kind == "step" else "from {} to {}"
        return joined.format(self.before, self.after)

    @property
    def fate(self) -> str:
        """What became of it."""
        if self.accepted:
            return f"accepted, {self.accepted}"
        return "stands" if self.stands else "taken back since"

    @property
    def text(self) -> str:
        """One sentence for people, without the name of the case."""
        word = "slower" if self.ratio > 1 else "faster"
        link = {"step": "with", "creep": "meanwhile"}[self.kind]
        causes = f", {link} {', '.join(self.causes)}" if self.causes else ""
        return f"{self.kind}: {self.percentage}, {word} {self.where}{causes}; {self.fate}"


@dataclasses.dataclass(frozen=True)
class Series:
    """A case on one kind of machine, in the order of time.

    Attributes:
        machine: the name of the kind of machine.
        effect: the smallest change that counts.
        changes: in the order of time; none of fewer points than `changes.FEWEST`, which are not judged.
    """

    case: str
    metric: Literal["time", "call time"]
    machine: str
    effect: float
    points: tuple[Point, ...]
    changes: tuple[Change, ...]

    @property
    def name(self) -> str:
        return self.case if self.metric == "time" else f"{self.case}, {self.metric}"

    @property
    def judged(self) -> bool:
        return len(self.points) >= changes.FEWEST

    def since(self, moment: datetime) -> Series:
        """The series with those changes alone whose last point is of a moment or later."""
        kept = tuple(each for each in self.changes if each.after.moment >= moment)
        return dataclasses.replace(self, changes=kept)

    @property
    def alarms(self) -> tuple[Change, ...]:
        """The changes for the worse that stand, were not accepted, and left the level higher by at least the effect."""
        worse = [each for each in self.changes if each.ratio > 1 and each.stands and not each.accepted]
        return tuple(each for each in worse if each.today >= 1 + self.effect)


def series(
    recordings: Sequence[Recording], *, thresholds_of: Callable[[Case], Thresholds] = lambda _: Thresholds()
) -> list[Series]:
    """The series of all cases, each with its changes. A time that the thresholds leave unjudged has none.

    Args:
        thresholds_of: the thresholds of a case, whose effects are those of its time and of the time of calls.

    Raises:
        UserError: the package ruptures is not installed.
    """
    made = []
    for name, metric, members in _grouped(sorted(recordings, key=order)):
        effect = thresholds_of(members[-1].cases[name].case).effects.get(metric)
        if effect is not None:
            made.append(_series(name, metric, members, effect))
    return made


def _grouped(recordings: Sequence[Recording]) -> list[tuple[str, str, list[Recording]]]:
    """The recordings of each case and metric, apart for hardware that is known to differ."""
    groups: dict[tuple[str, str], list[list[Recording]]] = {}
    for recording in recordings:
        for name, recorded in recording.cases.items():
            for metric in recorded.clocks:
                known = groups.setdefault((name, metric), [])
                for members in known:
                    if _same_hardware(members[-1].environment, recording.environment):
                        members.append(recording)
                        break
                else:
                    known.append([recording])
    return [(*key, members) for key, known in groups.items() for members in known]


def _same_hardware(one: Environment, other: Environment) -> bool:
    pairs = [(getattr(one, key, None), getattr(other, key, None)) for key in HARDWARE]
    return all(a == b for a, b in pairs if a is not None and b is not None)


def _series(name: str, metric: str, members: Sequence[Recording], effect: float) -> Series:
    points = tuple(_point(recording, name, metric) for recording in members)
    machine = fingerprint(members[-1].environment)
    if len(points) < changes.FEWEST:
        return Series(name, metric, machine, effect, points, ())
    facts = [_facts(recording, name, metric) for recording in members]
    model = changes.fitted([point.median for point in points], effect=effect)
    found = tuple(_change(each, model.level, points, facts, effect) for each in model.changes)
    return Series(name, metric, machine, effect, points, found)


def _point(recording: Recording, name: str, metric: str) -> Point:
    runs = [run[metric] for run in recording.cases[name].runs]
    medians = [statistics.median(run) for run in runs]
    low, high = min(medians), max(medians)
    if len(runs) == 1 and len(runs[0]) > 1:
        low, _, high = statistics.quantiles(runs[0], method="inclusive")
    version, environment = recording.version, recording.environment
    accepted = tuple(recording.accepted.get(name, ()))
    median = statistics.median(medians)
    return Point(environment.date, version.commit, version.name, median, low, high, environment, accepted)


def _facts(recording: Recording, name: str, metric: str) -> dict[str, Any]:
    """What may explain a change, by the name that people read."""
    recorded: RecordedCase = recording.cases[name]
    environment = {key: value for key, value in vars(recording.environment).items() if key not in PASSING}
    case = {f"the case's {key}": value for key, value in recorded.case.as_dict().items() if key not in recorded.unsaid}
    exact = {key: number for facts in recorded.facts for key, number in facts.exact.items()}
    return environment | case | exact | {"clock": recorded.clocks[metric]}


def _change(
    found: changes.Found, level: Sequence[float], points: Sequence[Point], facts: Sequence[dict], effect: float
) -> Change:
    before = max(0, found.start - 1)
    newest, since = _newest_acceptance(points)
    accepted = newest is not None and since >= max(before, 1)
    if accepted and found.kind == "creep" and level[found.end] / level[min(since, found.end)] >= 1 + effect / 2:
        accepted, before = False, since  # it crept on after it was accepted
    today = level[-1] / level[before]
    half = 1 + effect / 2
    # A step is placed within one recording.
    first, last = (
        (before, found.end) if found.kind == "creep" else (max(0, before - 1), min(len(points) - 1, found.start + 1))
    )
    causes = [
        f"{key} {facts[last][key]} (was {value})"
        for key, value in facts[first].items()
        if value is not None and facts[last].get(key) not in (None, value)
    ]
    return Change(
        kind=found.kind,
        index=found.start,
        ratio=math.exp(found.rise),
        low=math.exp(found.rise - WIDTH * found.error),
        high=math.exp(found.rise + WIDTH * found.error),
        before=points[before],
        after=points[found.end],
        causes=tuple(causes),
        accepted=newest if accepted and found.rise > 0 else None,
        today=float(today),
        stands=bool(today >= half if found.rise > 0 else today <= 1 / half),
    )


def _newest_acceptance(points: Sequence[Point]) -> tuple[str | None, int]:
    """The acceptance of the last point that appeared last, and the index of the point where it did."""
    first = {each: next(i for i, point in enumerate(points) if each in point.accepted) for each in points[-1].accepted}
    newest = max(first, key=first.get, default=None)
    return newest, first.get(newest, -1)
