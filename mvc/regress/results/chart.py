"""A series as SVG: its line with intervals, its changes, and the versions behind it.

Text keeps its size where a page is narrow only if the picture is drawn for that width, so a page holds one for each of
`WIDTHS` and shows one. No label covers another: what has no room is left out here, and stands in the page's lists.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from mvc.regress.history import Change, Point, Series
from mvc.regress.recordings.recording import COMPARABLE
from mvc.regress.results.markup import node

WIDTHS = {"wide": 1040, "narrow": 350}  # of the pictures, in CSS pixels
GUTTER, EDGE = 68, 38  # left of the plot for the axis, and right of it
ROW = 18  # the height of a line of text
CHARACTER = 7.2  # the average of a character at 12 pixels, in the widest of the usual fonts
MOST_ROWS = 5  # of labels of changes
LEAST_SPAN = 0.10  # of the axis, as a share of the value: noise of a percent looks calm
ALWAYS = ("torch", "driver")  # versions that are shown even where they did not change


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


class Label(NamedTuple):
    """A text beside the mark of a change, which runs from the label's row down through the plot. Row 0 stands lowest."""

    change: Change
    text: str
    row: int
    mark: float
    left: float
    right: float

    def clashes(self, other: Label) -> bool:
        """Whether one covers the other's text, or runs through it."""
        if self.row == other.row and self.left < other.right and other.left < self.right:
            return True
        upper, lower = (self, other) if self.row >= other.row else (other, self)
        return lower.left < upper.mark < lower.right


def chart(series: Series, description: str, kind: str) -> Element:
    """The picture of a series.

    Args:
        description: what it shows, for those who do not see it.
        kind: one of `WIDTHS`.
    """
    width, lanes = WIDTHS[kind], versions(series.points)
    low, high = axis(series.points)
    probe = Frame(width, 0, 1, len(series.points), low, high)
    labels = placed(series, probe, short=kind == "narrow")
    top = ROW * (max((each.row for each in labels), default=-1) + 2) + 10
    bottom = top + (210 if kind == "wide" else 170)
    frame = probe._replace(top=top, bottom=bottom)
    height = bottom + ROW * (1.5 + len(lanes)) + 4
    return node(
        "svg",
        *_bands(frame, lanes),
        *_axes(frame, series.points),
        *_line(frame, series.points),
        *(part for change in series.changes for part in _mark(frame, series, change, labels)),
        *(_label(frame, each) for each in labels),
        _readout(frame, series.points) if kind == "wide" else None,
        class_=f"chart {kind}",
        viewBox=f"0 0 {width} {height:.0f}",
        role="img",
        aria_label=description,
    )


def sparkline(series: Series, *, width: int = 120, height: int = 26) -> Element:
    """The line alone, for a row of a table that says the rest."""
    low, high = axis(series.points)
    count = max(1, len(series.points) - 1)
    places = [
        (2 + i / count * (width - 6), height - 3 - (each.median - low) / (high - low) * (height - 6))
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
    margin = 0.06 * (high - low + 2 * lacking)
    return max(0.0, low - lacking - margin), high + lacking + margin


def ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round values of an axis."""
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def versions(points: Sequence[Point]) -> dict[str, list[tuple[int, int, str]]]:
    """The spans of each version as (first index, index after the last, value), by the field of the environment: of those
    that changed, and of `ALWAYS` where they are known."""
    lanes = {}
    for field in COMPARABLE:
        values = ["unknown" if (value := getattr(each.environment, field)) is None else str(value) for each in points]
        starts = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
        if len(starts) > 1 or (field in ALWAYS and values[0] != "unknown"):
            lanes[field] = [
                (start, end, values[start]) for start, end in zip(starts, [*starts[1:], len(points)], strict=True)
            ]
    return lanes


def placed(series: Series, frame: Frame, *, short: bool) -> list[Label]:
    """The labels of the changes, right of their marks where there is room, or else left. One that has no room anywhere is
    shortened, at last to its percentage, and then left out. What matters most is placed first."""
    labels: list[Label] = []
    for change in sorted(series.changes, key=lambda each: (tone(each) != "worse", -abs(math.log(each.ratio)))):
        texts = (percent(change),) if short else (brief(change), at(change), percent(change))
        candidates = (each for text in texts for each in _candidates(change, frame.x(spot(series, change)), text))
        free = (each for each in candidates if GUTTER / 2 <= each.left and each.right <= frame.width)
        fitting = (each for each in free if not any(each.clashes(other) for other in labels))
        labels += itertools.islice(fitting, 1)
    return labels


def _candidates(change: Change, mark: float, text: str) -> Iterator[Label]:
    needed = len(text) * CHARACTER + 8
    for left, right in ((mark + 1, mark + needed), (mark - needed, mark - 1)):
        yield from (Label(change, text, row, mark, left, right) for row in range(MOST_ROWS))


def spot(series: Series, change: Change) -> float:
    """Where a change is marked, as an index: a step between two recordings, a creep at its end."""
    return change.index - 0.5 if change.kind == "step" else series.points.index(change.after)


def signed(ratio: float) -> str:
    """A change with its sign: "+6.1 %"."""
    return f"{(ratio - 1) * 100:+.1f} %".replace("-", "−")


def percent(change: Change) -> str:
    """The change of the level."""
    return signed(change.ratio)


def at(change: Change) -> str:
    """The change with the version that it came with, or of a creep the version up to which it goes."""
    return f"{percent(change)} {'at' if change.kind == 'step' else 'up to'} {change.after.version_name[:7]}"


def brief(change: Change) -> str:
    """The change with its version and what else changed there."""
    return f"{at(change)} ({', '.join(change.causes)})" if change.causes else at(change)


def tone(change: Change) -> str:
    """The class of a change: "worse", "better", "accepted", or "past" for one that stands no longer."""
    if change.accepted:
        return "accepted"
    if not change.stands:
        return "past"
    return "worse" if change.ratio > 1 else "better"


def _mark(frame: Frame, series: Series, change: Change, labels: Sequence[Label]) -> Iterator[Element]:
    """A vertical line from the change's label through the plot; for a creep down to the end of its slope."""
    x = frame.x(spot(series, change))
    top = next((_baseline(frame, each) - 11 for each in labels if each.change is change), frame.top)
    bottom = frame.bottom if change.kind == "step" else frame.y(change.after.median) - 6
    yield node("path", class_=f"mark {change.kind} {tone(change)}", d=_path([(x, top), (x, bottom)]))
    if change.kind == "creep":
        ends = [(frame.x(series.points.index(each)), frame.y(each.median)) for each in (change.before, change.after)]
        yield node("path", class_=f"slope {tone(change)}", d=_path(ends))


def _label(frame: Frame, label: Label) -> Element:
    right = label.left > label.mark
    x, anchor = (label.mark + 4, "start") if right else (label.mark - 4, "end")
    y = _baseline(frame, label)
    return node("text", label.text, class_=f"label {tone(label.change)}", x=x, y=y, text_anchor=anchor)


def _baseline(frame: Frame, label: Label) -> float:
    return frame.top - 8 - label.row * ROW


def _bands(frame: Frame, lanes: dict[str, list[tuple[int, int, str]]]) -> Iterator[Element]:
    """A shade behind every second span between changes of versions, and below the plot a row for each version."""
    starts = sorted({start for spans in lanes.values() for start, _, _ in spans} | {0, frame.count})
    edges = [frame.x(start - 0.5) for start in starts]
    for left, right in list(zip(edges, edges[1:]))[1::2]:  # noqa: B905 - one is shorter
        yield node(
            "rect", class_="band", x=left, y=frame.top, width=right - left, height=frame.bottom - frame.top
        )
    for lane, (field, spans) in enumerate(lanes.items()):
        y = frame.bottom + ROW * (lane + 1.5) + 4
        yield node("text", _cut(field.replace("_", " "), GUTTER - 10), class_="field", x=GUTTER - 8, y=y + 13, text_anchor="end")
        for serial, (start, end, value) in enumerate(spans):
            left, right = frame.x(start - 0.5), frame.x(end - 0.5)
            yield node(
                "g",
                node("title", f"{field.replace('_', ' ')} {value}"),
                node("rect", class_=f"lane {('even', 'odd')[serial % 2]}", x=left, y=y + 1, width=right - left - 1, height=ROW - 2, rx=2),
                node("text", _cut(value, right - left - 8), x=left + 4, y=y + 13),
            )


def _axes(frame: Frame, points: Sequence[Point]) -> Iterator[Element]:
    values = ticks(frame.low * 1e3, frame.high * 1e3)
    digits = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9)) if len(values) > 1 else 3
    digits += any(abs(value - round(value, digits)) > 1e-9 * value for value in values)
    for value in values:
        y = frame.y(value / 1e3)
        yield node("path", class_="grid", d=_path([(GUTTER, y), (frame.right, y)]))
        yield node("text", f"{value:.{digits}f}", class_="tick", x=GUTTER - 8, y=y + 4, text_anchor="end")
    yield node("text", "ms", class_="tick", x=GUTTER - 8, y=frame.top - 8, text_anchor="end")
    most = max(1, min(int((frame.right - GUTTER) / 110), len(points) - 1))
    shown = {round(i * (len(points) - 1) / most) for i in range(most + 1)}
    dates = [point.date[:10] for point in points]
    before = None
    for i in sorted(shown):
        text = points[i].date[11:16] if len(points) > 1 and dates[0] == dates[-1] else dates[i]
        if text != before:
            yield node("text", text, class_="tick", x=frame.x(i), y=frame.bottom + ROW - 2, text_anchor="middle")
        before = text


def _line(frame: Frame, points: Sequence[Point]) -> Iterator[Element]:
    """The intervals as a ribbon, the medians as a line with a dot for each where there is room."""
    xs = [frame.x(i) for i in range(len(points))]
    if len(points) == 1:
        yield node("path", class_="whisker", d=_path([(xs[0], frame.y(points[0].low)), (xs[0], frame.y(points[0].high))]))
    upper = [(x, frame.y(each.high)) for x, each in zip(xs, points, strict=True)]
    lower = [(x, frame.y(each.low)) for x, each in zip(xs, points, strict=True)]
    yield node("path", class_="ribbon", d=_path([*upper, *reversed(lower)]) + "Z")
    line = [(x, frame.y(each.median)) for x, each in zip(xs, points, strict=True)]
    yield node("path", class_="line", d=_path(line))
    radius = 3 if frame.step >= 14 else 2 if frame.step >= 7 else None
    for x, y in line if radius else line[-1:]:
        yield node("circle", class_="dot", cx=x, cy=y, r=radius or 3)


def _readout(frame: Frame, points: Sequence[Point]) -> Element:
    """The figures of the recording under the pointer, in the picture's first row; style sheets show and hide them."""
    strips = []
    for i, each in enumerate(points):
        x = frame.x(i)
        strips.append(
            node(
                "g",
                node("path", d=_path([(x, frame.top), (x, frame.bottom)])),
                node("circle", cx=x, cy=frame.y(each.median), r=4),
                node("text", says(each), x=frame.right, y=12, text_anchor="end"),
            )
        )
    return node("g", *strips, class_="readout", stroke_width=frame.step)


def says(point: Point) -> str:
    """A recording's figures in one line."""
    return f"{point.date[:10]}, {point.version_name}: {milliseconds(point.median)} ms ({milliseconds(point.low)} to {milliseconds(point.high)})"


def milliseconds(seconds: float) -> str:
    """Four digits, for a column in which all have about the same size."""
    value = seconds * 1e3
    return f"{value:.{max(0, 3 - math.floor(math.log10(value)))}f}"


def _cut(text: str, room: float) -> str:
    """As much of a text as has room; nothing where that is less than two characters."""
    fits = int(room / CHARACTER)
    if len(text) <= fits:
        return text
    return f"{text[: fits - 1]}…" if fits > 2 else ""


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
