"""The page for a glance: what stands, the last comparison, and a picture of every case over its recordings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from mvc.regress.changes import FEWEST
from mvc.regress.history import Change, Point, Series
from mvc.regress.recordings.recording import COMPARABLE
from mvc.regress.results.chart import WIDTHS, chart, milliseconds, sparkline, tone
from mvc.regress.results.compared import compared
from mvc.regress.results.labels import brief, percent
from mvc.regress.results.markup import document, node, table

STALE = 7  # days without a recording after which nothing is known of today
STYLE = Path(__file__).with_name("report.css")


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a page shows.

    Attributes:
        title: of the page.
        series: of every case and metric.
        comparison: the JSON of the last `compare`, or None.
        unreadable: why recordings could not be read, a line each.
        left_out: which recordings do not belong here, a line each.
        made: when the page was made.
    """

    title: str
    series: Sequence[Series]
    comparison: Mapping[str, Any] | None
    unreadable: Sequence[str]
    left_out: Sequence[str]
    made: datetime


def page(contents: Contents) -> str:
    """The page as HTML that needs no other file."""
    ordered = sorted(contents.series, key=lambda each: (-max((c.ratio for c in each.alarms), default=0.0), each.name))
    return document(
        node(
            "html",
            node(
                "head",
                node("meta", charset="utf-8"),
                node("meta", name="viewport", content="width=device-width, initial-scale=1"),
                node("meta", name="color-scheme", content="light dark"),
                node("title", f"{contents.title}: {verdict(contents)}"),
                node("style", STYLE.read_text(encoding="utf-8")),
            ),
            node(
                "body",
                node("header", node("h1", contents.title)),
                node(
                    "main",
                    _card(contents),
                    _left_out([*contents.unreadable, *contents.left_out]),
                    _overview(ordered),
                    contents.comparison and compared(contents.comparison),
                    node(
                        "section",
                        node("h2", "Cases over time", id="cases"),
                        _legend(),
                        *(_case(each, serial) for serial, each in enumerate(ordered)),
                    ),
                    _machines(ordered),
                ),
                node("footer", f"Made {contents.made:%Y-%m-%d %H:%M %Z} by python -m mvc.regress report."),
            ),
            lang="en",
        )
    )


def verdict(contents: Contents) -> str:
    """What stands, in words; without a slowdown also why that is not sure."""
    series, alarms = contents.series, _alarms(contents.series)
    if alarms:
        (worst, change), count = alarms[0], len(alarms)
        what = f"{count} slowdowns stand, the worst" if count > 1 else "1 slowdown stands:"
        return f"{what} {percent(change)} in {worst.name}"
    if not any(each.judged for each in series):
        return f"Too early to tell: no case has {FEWEST} recordings"
    doubts = _doubts(contents)
    return f"No slowdown stands, but {'; '.join(doubts)}" if doubts else "All quiet: no slowdown stands"


def _doubts(contents: Contents) -> list[str]:
    """Why a slowdown may stand that is not seen."""
    series = contents.series
    doubts = []
    if (days := _age(contents)) >= STALE:
        doubts.append(f"nothing was recorded for {days} days")
    if absent := [each.name for each in series if _last([each]).date != _last(_of(series, each.machine)).date]:
        doubts.append(f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not in the last recording")
    if few := [each.name for each in series if not each.judged]:
        doubts.append(f"{', '.join(few)} {'has' if len(few) == 1 else 'have'} fewer than {FEWEST} recordings")
    if contents.unreadable:
        doubts.append(f"{_plural(len(contents.unreadable), 'recording')} could not be read")
    return doubts


def _age(contents: Contents) -> int:
    """Days from the last recording to the page."""
    return max(0, (contents.made.date() - datetime.fromisoformat(_last(contents.series).date).date()).days)


def _alarms(series: Sequence[Series]) -> list[tuple[Series, Change]]:
    """The changes for the worse that stand and were not accepted, the worst first."""
    found = [(each, change) for each in series for change in each.alarms]
    return sorted(found, key=lambda pair: -pair[1].ratio)


def _last(series: Sequence[Series]) -> Point:
    """The last recording; the points of a series stand in the order of their commits."""
    return max((point for each in series for point in each.points), key=lambda point: point.date)


def _of(series: Sequence[Series], machine: str) -> list[Series]:
    return [each for each in series if each.machine == machine]


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _card(contents: Contents) -> Element:
    series, alarms = contents.series, _alarms(contents.series)
    last, days, doubts = _last(series), _age(contents), _doubts(contents)
    accepted = sum(tone(each, change) == "accepted" for each in series for change in each.changes)
    better = sum(tone(each, change) == "better" for each in series for change in each.changes)
    numbers = [
        (percent(alarms[0][1]) if alarms else "none", "worst slowdown standing"),
        (str(len(alarms)), "slowdowns standing"),
        (str(better), "speed-ups standing"),
        (str(accepted), "slowdowns accepted"),
        (str(len({each.case for each in series})), "cases"),
        (str(len({point.date for each in series for point in each.points})), "recordings"),
    ]
    when = f"{last.date[:16].replace('T', ' ')}, {'today' if days == 0 else _plural(days, 'day') + ' before this page'}"
    return node(
        "section",
        node("p", verdict(contents), class_="verdict"),
        node("p", "Last recording: ", node("strong", last.version_name), f", {when}."),
        node("p", f"Not sure: {'; '.join(doubts)}.", class_="caution") if alarms and doubts else None,
        node("dl", *(node("div", node("dt", what), node("dd", value)) for value, what in numbers)),
        class_=f"card {'alarm' if alarms else 'unknown' if doubts else 'quiet'}",
        aria_label="Summary",
    )


def _left_out(lines: Sequence[str]) -> Element | None:
    if not lines:
        return None
    return node("section", node("h2", "Left out"), node("ul", *(node("li", each) for each in lines)), class_="caution")


def _overview(series: Sequence[Series]) -> Element:
    rows, several = [], len({each.machine for each in series}) > 1
    for serial, each in enumerate(series):
        last, link = each.points[-1], node("a", each.name, href=f"#case-{serial}")
        rows.append(
            [
                node("div", link, node("div", each.machine, class_="muted")) if several else link,
                node("td", sparkline(each), class_="wide"),
                node("td", milliseconds(last.median), class_="number"),
                node("td", f"{milliseconds(last.low)} to {milliseconds(last.high)}", class_="number wide"),
                node("td", *_standing(each)),
            ]
        )
    head = [("Case", ""), ("Over time", "wide"), ("Last, ms", "number"), ("Interval, ms", "number wide")]
    head.append(("Changes that stand", ""))
    return node("section", node("h2", "At a glance"), table(head, rows, "Each case at a glance", "glance"))


def _standing(series: Series) -> Iterator[Element | str]:
    """What the overview says of a case: the changes that stand, each a line."""
    shown = [change for change in series.changes if tone(series, change) in ("worse", "better")]
    for change in shown:
        rest = brief(change).removeprefix(percent(change))
        yield node("div", node("strong", percent(change)), rest, class_=tone(series, change))
    if not shown:
        yield node("span", "no change" if series.judged else "not judged yet", class_="muted")


def _legend() -> Element:
    return node(
        "p",
        "Each recording is a step to the right: the line is its median, the ribbon its interval. A vertical mark is a "
        "step, a dashed slope a creep; ",
        node("span", "slower", class_="worse"),
        ", ",
        node("span", "faster", class_="better"),
        ", ",
        node("span", "accepted or no longer standing", class_="muted"),
        ". The rows under a picture name the versions. The axis of times does not begin at 0.",
        class_="muted",
    )


def _case(series: Series, serial: int) -> Element:
    first, last = series.points[0], series.points[-1]
    count = _plural(len(series.points), "recording")
    span = f"{count}, {first.date[:10]} to {last.date[:10]}" if len(series.points) > 1 else count
    found = _plural(len(series.changes), "change") if series.changes else "no change"
    description = f"{series.name}: {span}; last {milliseconds(last.median)} ms; {found}, told below the picture."
    changes = [node("li", change.text, class_=tone(series, change)) for change in series.changes]
    return node(
        "article",
        node("h3", series.name),
        node("p", f"{span}; {series.machine}", class_="muted"),
        *(chart(series, description, kind) for kind in WIDTHS),
        node("ul", *changes, class_="changes") if changes else None,
        _recordings(series),
        id=f"case-{serial}",
    )


def _recordings(series: Series) -> Element:
    """The picture as a table, the newest first."""
    rows = [
        [
            node("span", each.date[:16].replace("T", " ")),
            node("td", node("code", each.version_name)),
            node("td", milliseconds(each.median), class_="number"),
            node("td", f"{milliseconds(each.low)} to {milliseconds(each.high)}", class_="number"),
        ]
        for each in reversed(series.points)
    ]
    head = [("Recorded", ""), ("Version", ""), ("Median, ms", "number"), ("Interval, ms", "number")]
    summary = node("summary", f"All {_plural(len(rows), 'recording')} as a table" if len(rows) > 1 else "As a table")
    return node("details", summary, table(head, rows, f"Recordings of {series.name}"))


def _machines(series: Sequence[Series]) -> Element:
    """The newest environment of each machine."""
    machines = list(dict.fromkeys(each.machine for each in series))
    blocks = []
    for machine in machines:
        point = _last(_of(series, machine))
        facts = {field: getattr(point.environment, field) for field in COMPARABLE}
        known = {field.replace("_", " "): value for field, value in facts.items() if value is not None}
        rows = (node("div", node("dt", field), node("dd", str(value))) for field, value in known.items())
        blocks += [node("h3", machine), node("dl", *rows, class_="facts")]
    title = "Machine" if len(machines) == 1 else "Machines"
    return node("section", node("h2", f"{title}, as in the last recording"), *blocks)
