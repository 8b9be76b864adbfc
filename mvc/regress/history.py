"""Change points over many recordings, found by Apache Otava (Hunter: E-Divisive means with a t-test)."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from mvc.errors import UserError
from mvc.regress import store
from mvc.regress.store import Recording


class ChangePoint(NamedTuple):
    """A case that became slower or faster between two recordings that follow on each other.

    Attributes:
        device: fingerprint of the kind of device.
        last, first: the commits between which it changed: the last before and the first after.
        before, after: mean seconds of one call on each side, as far as the next change point.
    """

    device: str
    case: str
    last: str
    first: str
    before: float
    after: float

    def __str__(self) -> str:
        change = self.after / self.before - 1
        times = f"{self.before * 1e3:.3g} to {self.after * 1e3:.3g} ms ({change:+.1%})"
        return f"{self.case}: {times} in {self.last}..{self.first}"


def read(folder: Path) -> tuple[list[Recording], list[str]]:
    """The recordings in a folder and those below, in the order of their commits; and why files were left out.

    Raises:
        UserError: no folder, or no recording in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the one with the recordings")
    recordings, unusable = [], []
    for path in sorted(folder.rglob("*.json")):
        try:
            recordings.append(store.read(path))
        except UserError as error:
            unusable.append(str(error))
    if not recordings:
        raise UserError(
            f"{folder} has no recording; write some with `python -m mvc.regress record --baselines {folder}`"
        )
    return sorted(recordings, key=_time), unusable


def _time(recording: Recording) -> datetime:
    return datetime.fromisoformat(recording.commit.get("time") or recording.environment.date)


def change_points(recordings: Sequence[Recording]) -> list[ChangePoint]:
    """Of every case's time, on CUDA the device's, in the order of the recordings; those that cannot be compared with
    each other (another device, driver, torch, clock, input and so on) are series of their own.

    Raises:
        UserError: Apache Otava is not installed.
    """
    series: dict[tuple[object, ...], list[tuple[Recording, float]]] = defaultdict(list)
    for recording in recordings:
        environment = recording.environment
        machine = tuple(str(getattr(environment, key)) for key in store.COMPARABLE)
        for recorded in recording.cases.values():
            seconds = statistics.median(seconds for run in recorded.runs for seconds in run["time"])
            alike = (*machine, recorded.clocks["time"])
            series[store.fingerprint(environment), recorded.case, alike].append((recording, seconds))
    return [point for (device, case, _), points in series.items() for point in _of_one(device, case.name, points)]


def _of_one(device: str, name: str, points: Sequence[tuple[Recording, float]]) -> list[ChangePoint]:
    found = _analyzed([int(_time(recording).timestamp()) for recording, _ in points], [value for _, value in points])
    commits = [store.commit_name(recording) for recording, _ in points]
    return [
        ChangePoint(device, name, commits[each.index - 1], commits[each.index], each.mean_before(), each.mean_after())
        for each in found
    ]


def _analyzed(times: list[int], seconds: list[float]) -> list[Any]:
    try:
        from otava.series import AnalysisOptions, Metric, Series
    except ImportError as error:
        raise UserError(f"history needs Apache Otava ({error}); pip install 'mvc-mambavision[history]'") from error
    series = Series("mvc", None, times, {"seconds": Metric(direction=-1)}, {"seconds": seconds}, {})
    return series.analyze(AnalysisOptions()).change_points["seconds"]
