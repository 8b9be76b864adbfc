"""The histories of cases as a table, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mvc.regress.changes import FEWEST
from mvc.regress.figures import signed
from mvc.regress.history import Change, Series
from mvc.table import escaped, tabulate

SCHEMA = "mvc.regress.history/1"
HEADERS = ("case", "recordings", "first ms", "last ms", "change", "where", "with", "")


class Trends(NamedTuple):
    """What a history shows.

    Attributes:
        remarks: what was left out and why, a sentence each.
    """

    series: Sequence[Series]
    remarks: Sequence[str]

    @property
    def exit_status(self) -> int:
        """1 while a slowdown stands, 3 where no series is long enough to be judged, else 0."""
        if any(each.alarms for each in self.series):
            return 1
        return 0 if any(each.judged for each in self.series) else 3

    @property
    def headline(self) -> str:
        """The verdict in words, in one line."""
        alarms = [f"{each.name}: {_risen(change)}" for each in self.series for change in each.alarms]
        if alarms:
            return "; ".join(alarms)
        judged = sum(each.judged for each in self.series)
        unjudged = len(self.series) - judged
        too_few = f"{unjudged} of fewer than {FEWEST} recordings not judged" if unjudged else ""
        if not judged:
            return f"nothing can be judged: {too_few or 'no recording is left'}"
        return f"no slowdown stands in {judged} series" + (f"; {too_few}" if too_few else "")


def _risen(change: Change) -> str:
    """The slowdown, and today's level where that differs."""
    causes = f", {', '.join(change.causes)}" if change.causes else ""
    more = "" if abs(change.today / change.ratio - 1) < 0.01 else f", {signed(change.today)} today"
    return f"{change.percentage} slower{more}, {change.kind} {change.where}{causes}"


def table(trends: Trends) -> str:
    """The history for people."""
    return "\n".join([trends.headline, "", _table(trends), *trends.remarks])


def markdown(trends: Trends) -> str:
    """The history in Markdown, for the summary of a CI job."""
    lines = [f"**{escaped(trends.headline)}**", _table(trends, markdown=True), *map(escaped, trends.remarks)]
    return "\n\n".join(lines) + "\n"


def _table(trends: Trends, *, markdown: bool = False) -> str:
    several = len({each.machine for each in trends.series}) > 1
    rows = []
    for each in trends.series:
        name = f"{each.name} on {each.machine}" if several else each.name
        ends = [f"{point.median * 1e3:.3g}" for point in (each.points[0], each.points[-1])]
        start = [name, len(each.points), *ends]
        changes = [[c.percentage, f"{c.kind} {c.where}", ", ".join(c.causes), c.fate] for c in each.changes]
        if not each.judged:
            changes = [[signed(each.points[-1].median / each.points[0].median), "", "", "too few to be judged"]]
        rows += [[*start, *change] for change in changes or [["none", "", "", ""]]]
    return tabulate(rows, headers=HEADERS, markdown=markdown) if rows else ""


def as_dict(trends: Trends) -> dict[str, Any]:
    """The history as plain types that JSON can hold; times are in seconds."""
    return {
        "schema": SCHEMA,
        "exit_status": trends.exit_status,
        "headline": trends.headline,
        "remarks": [*trends.remarks],
        "series": [
            {
                "case": each.case,
                "metric": each.metric,
                "machine": each.machine,
                "effect": each.effect,
                "judged": each.judged,
                "points": [
                    {key: getattr(point, key) for key in ("date", "commit", "median", "low", "high", "accepted")}
                    for point in each.points
                ],
                "changes": [_change(change, each) for change in each.changes],
            }
            for each in trends.series
        ],
    }


def _change(change: Change, series: Series) -> dict[str, Any]:
    plain = ("kind", "index", "ratio", "low", "high", "today", "accepted", "stands", "causes", "text")
    ends = {
        key: {"date": point.date, "commit": point.commit}
        for key, point in (("before", change.before), ("after", change.after))
    }
    return {key: getattr(change, key) for key in plain} | ends | {"alarm": change in series.alarms}
