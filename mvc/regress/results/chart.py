"""A series as SVG: its line with intervals, its changes, and the versions behind it.

Text keeps its size on a narrow page only if the picture is drawn for that width, so a page holds one picture for each
of `WIDTHS` and shows one of them. What has no room in a picture stands in the page's lists.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from mvc.regress.history import Change, Point, Series
from mvc.regress.recordings.recording import COMPARABLE
from mvc.regress.results.labels import Label, at, brief, cut, percent, placed
from mvc.regress.results.markup import node

WIDTHS = {"wide": 1040, "narrow": 350}  # of the pictures, in CSS pixels
HEIGHTS = {"wide": 210, "narrow": 170}  # of their plots
WORDINGS = {"wide": (brief, at, percent), "narrow": (percent,)}
GUTTER, EDGE = 68, 38  # left of the plot for the axis, and right of it for half a date
ROW = 18  # the height of a line of text
DATE = 110  # the room for a date under the axis
LEAST_SPAN = 0.10  # of the axis, as a share of the value: noise of a percent looks calm
ALWAYS = ("torch", "driver")  # versions that are shown even where they did not change

Spans = list[tuple[int, int, str]]  # first index, index after the last, value


class Frame(NamedTuple):
    """Where the plot lies in the picture, and what it shows: `count` recordings, each a step to the right."""

    width: int
    top: float
    bottom: float
    count: int
    low: float
    high: float

    @property
    def right(self) -> float:
        return self.width - EDGE

    @property
    def step(self) -> float:
        return (self.right - GUTTER) / self.count

    def x(self, index: float) -> float:
        return GUTTER + (index + 0.5) * self.step

    def y(self, seconds: float) -> float:
        """A value beyond the axis is drawn at its end."""
        share = (min(max(seconds, self.low), self.high) - self.low) / (self.high - self.low)
        return self.bottom - share * (self.bottom - self.top)


def chart(series: Series, description: str, kind: str) -> Element:
    """The picture of a series.

    Args:
        description: what it shows, for those who do not see it.
        kind: one of `WIDTHS`.
    """
    width, points, lanes = WIDTHS[kind], series.points, versions(series.points)
    frame = Frame(width, 0, 0, len(points), *axis(points))
    marks = [frame.x(_spot(series, change)) for change in series.changes]
    labels = placed(series, marks, left=GUTTER / 2, right=width, wordings=WORDINGS[kind])
    top = ROW * (max((each.row for each in labels), default=-1) + 2) + 10  # the first row is the readout's
    frame = frame._replace(top=top, bottom=top + HEIGHTS[kind])
    return node(
        "svg",
        *_bands(frame, lanes),
        *_axes(frame, points),
        *_line(frame, points),
        *(part for change in series.changes for part in _mark(frame, series, change, labels)),
        *(_label(frame, series, each) for each in labels),
        _readout(frame, points) if kind == "wide" else None,
        class_=f"chart {kind}",
        viewBox=f"0 0 {width} {frame.bottom + ROW * (1.5 + len(lanes)) + 4:.0f}",
        role="img",
        aria_label=description,
    )


def sparkline(series: Series, *, width: int = 120, height: int = 26) -> Element:
    """The line alone, for a row of a table that says the rest."""
    low, high = axis(series.points)
    last = max(1, len(series.points) - 1)
    places = [
        (2 + i / last * (width - 6), height - 3 - (each.median - low) / (high - low) * (height - 6))
        for i, each in enumerate(series.points)
    ]
    return node(
        "svg",
        node("path", class_="line", d=_path(places)),
        node("circle", class_="last", cx=places[-1][0], cy=places[-1][1], r=2.5),
        class_="sparkline",
        viewBox=f"0 0 {width} {height}",
        aria_hidden="true",
    )


def axis(points: Sequence[Point]) -> tuple[float, float]:
    """The least and the largest value of the axis, in seconds. Intervals far wider than the line do not flatten it."""
    least, most = min(each.median for each in points), max(each.median for each in points)
    room = max(most - least, LEAST_SPAN / 2 * most)
    low = max(min(each.low for each in points), least - room)
    high = min(max(each.high for each in points), most + room)
    lacking = max(0.0, LEAST_SPAN * most - (high - low)) / 2
    margin = lacking + 0.06 * (high - low + 2 * lacking)
    return max(0.0, low - margin), high + margin


def ticks(low: float, high: float, *, most: int = 6) -> list[str]:
    """Round values of an axis, with as many digits as tell them apart."""
    raw = (high - low) / most
    power = math.floor(math.log10(raw))
    factor = next(each for each in (1, 2, 2.5, 5, 10) if each * 10**power >= raw * (1 - 1e-9))
    step, digits = factor * 10**power, max(0, (factor == 2.5) - power - (factor == 10))
    return [f"{i * step:.{digits}f}" for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def versions(points: Sequence[Point]) -> dict[str, Spans]:
    """The spans of each version, by the field of the environment: of those that changed, and of `ALWAYS` where they are
    known."""
    lanes = {}
    for field in COMPARABLE:
        values = ["unknown" if (value := getattr(each.environment, field)) is None else str(value) for each in points]
        starts = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1])]
        if len(starts) > 1 or (field in ALWAYS and values[0] != "unknown"):
            ends = [*starts[1:], len(values)]
            lanes[field] = [(start, end, values[start]) for start, end in zip(starts, ends, strict=True)]
    return lanes


def tone(series: Series, change: Change) -> str:
    """The class of a change: "worse" for one that alarms, "better" for a gain that stands, "accepted", or "past"."""
    if change in series.alarms:
        return "worse"
    if change.accepted:
        return "accepted"
    return "better" if change.stands and change.ratio < 1 else "past"


def _spot(series: Series, change: Change) -> float:
    """Where a change is marked, as an index: a step between two recordings, a creep at its end."""
    return change.index - 0.5 if change.kind == "step" else series.points.index(change.after)


def _mark(frame: Frame, series: Series, change: Change, labels: Sequence[Label]) -> Iterator[Element]:
    """A vertical line from the change's label through the plot; for a creep down to the end of its slope."""
    x = frame.x(_spot(series, change))
    top = next((_baseline(frame, each) - 11 for each in labels if each.change is change), frame.top)
    bottom = frame.bottom if change.kind == "step" else frame.y(change.after.median) - 6
    yield node("path", class_=f"mark {change.kind} {tone(series, change)}", d=_path([(x, top), (x, bottom)]))
    if change.kind == "creep":
        ends = [(frame.x(series.points.index(each)), frame.y(each.median)) for each in (change.before, change.after)]
        yield node("path", class_=f"slope {tone(series, change)}", d=_path(ends))


def _label(frame: Frame, series: Series, label: Label) -> Element:
    x, anchor = (label.mark + 4, "start") if label.left > label.mark else (label.mark - 4, "end")
    style = f"label {tone(series, label.change)}"
    return node("text", label.text, class_=style, x=x, y=_baseline(frame, label), text_anchor=anchor)


def _baseline(frame: Frame, label: Label) -> float:
    return frame.top - 8 - label.row * ROW


def _bands(frame: Frame, lanes: dict[str, Spans]) -> Iterator[Element]:
    """A shade behind every second span between changes of versions, and below the plot a row for each version."""
    starts = sorted({start for spans in lanes.values() for start, _, _ in spans} | {0, frame.count})
    edges = [frame.x(start - 0.5) for start in starts]
    size = {"y": frame.top, "height": frame.bottom - frame.top}
    for left, right in list(itertools.pairwise(edges))[1::2]:
        yield node("rect", class_="band", x=left, width=right - left, **size)
    for lane, (field, spans) in enumerate(lanes.items()):
        name, y = field.replace("_", " "), frame.bottom + ROW * (lane + 1.5) + 4
        yield node("text", cut(name, GUTTER - 10), class_="field", x=GUTTER - 8, y=y + 13, text_anchor="end")
        for serial, (start, end, value) in enumerate(spans):
            left, right = frame.x(start - 0.5), frame.x(end - 0.5)
            size = {"x": left, "y": y + 1, "width": right - left - 1, "height": ROW - 2}
            yield node(
                "g",
                node("title", f"{name} {value}"),
                node("rect", class_=f"lane {('even', 'odd')[serial % 2]}", rx=2, **size),
                node("text", cut(value, right - left - 8), x=left + 4, y=y + 13),
            )


def _axes(frame: Frame, points: Sequence[Point]) -> Iterator[Element]:
    yield node("text", "ms", class_="tick", x=GUTTER - 8, y=frame.top - 8, text_anchor="end")
    for text in ticks(frame.low * 1e3, frame.high * 1e3):
        y = frame.y(float(text) / 1e3)
        yield node("path", class_="grid", d=_path([(GUTTER, y), (frame.right, y)]))
        yield node("text", text, class_="tick", x=GUTTER - 8, y=y + 4, text_anchor="end")
    last = len(points) - 1
    spaces = max(1, min(int((frame.right - GUTTER) / DATE), last))
    shown = sorted({round(i * last / spaces) for i in range(spaces + 1)})
    of_one_day = last > 0 and points[0].date[:10] == points[-1].date[:10]
    texts = [points[i].date[11:16] if of_one_day else points[i].date[:10] for i in shown]
    for i, text, before in zip(shown, texts, ["", *texts], strict=False):
        if text != before:
            yield node("text", text, class_="tick", x=frame.x(i), y=frame.bottom + ROW - 2, text_anchor="middle")


def _line(frame: Frame, points: Sequence[Point]) -> Iterator[Element]:
    """The intervals as a ribbon, the medians as a line with a dot for each where there is room."""
    places = [(frame.x(i), frame.y(each.median)) for i, each in enumerate(points)]
    upper = [(frame.x(i), frame.y(each.high)) for i, each in enumerate(points)]
    lower = [(frame.x(i), frame.y(each.low)) for i, each in enumerate(points)]
    if len(points) == 1:
        yield node("path", class_="whisker", d=_path([*upper, *lower]))
    yield node("path", class_="ribbon", d=f"{_path([*upper, *reversed(lower)])}Z")
    yield node("path", class_="line", d=_path(places))
    *others, last = places
    for x, y in others if frame.step >= 7 else ():
        yield node("circle", class_="dot", cx=x, cy=y, r=min(3, frame.step / 4))
    yield node("circle", class_="dot", cx=last[0], cy=last[1], r=3)


def _readout(frame: Frame, points: Sequence[Point]) -> Element:
    """The figures of the recording under the pointer, in the picture's first row; the style sheet shows them."""
    strips = [
        node(
            "g",
            node("path", d=_path([(frame.x(i), frame.top), (frame.x(i), frame.bottom)])),
            node("circle", cx=frame.x(i), cy=frame.y(each.median), r=4),
            node("text", f"{each}: {interval(each)} ms", x=frame.right, y=12, text_anchor="end"),
        )
        for i, each in enumerate(points)
    ]
    return node("g", *strips, class_="readout", stroke_width=frame.step)


def interval(point: Point) -> str:
    """The median and its interval in milliseconds."""
    return f"{milliseconds(point.median)} ({milliseconds(point.low)} to {milliseconds(point.high)})"


def milliseconds(seconds: float) -> str:
    """Four digits or more, for a column in which all have about the same size."""
    value = seconds * 1e3
    return f"{value:.{max(0, 3 - math.floor(math.log10(value)))}f}"


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
