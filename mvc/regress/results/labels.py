"""The words at the changes in a picture, and a place for each: none covers another, and no mark runs through one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mvc.regress.figures import signed
from mvc.regress.history import Change, Series

CHARACTER = 7.2  # the average width of a character at 12 pixels, in the widest of the usual fonts
MOST_ROWS = 5


class Label(NamedTuple):
    """A text beside the mark of a change, which runs from the text's row down into the plot. Row 0 stands lowest."""

    change: Change
    text: str
    row: int
    mark: float
    left: float
    right: float

    def clashes(self, other: Label) -> bool:
        """Whether one covers the other's text, or its mark runs through it."""
        if self.row == other.row and self.left < other.right and other.left < self.right:
            return True
        upper, lower = (self, other) if self.row >= other.row else (other, self)
        return lower.left < upper.mark < lower.right


def placed(
    series: Series, marks: Sequence[float], *, left: float, right: float, wordings: Sequence[Callable[[Change], str]]
) -> list[Label]:
    """The labels of the changes, right of their marks where there is room, or else left. One that has no room anywhere
    has the next wording, and is left out after the last one. What matters most is placed first.

    Args:
        marks: where the marks of the series' changes stand.
        wordings: what makes a text of a change, the longest first.
        left, right: the ends of the room.
    """
    labels: list[Label] = []
    pairs = list(zip(series.changes, marks, strict=True))
    for change, mark in sorted(pairs, key=lambda pair: (pair[0] not in series.alarms, -abs(math.log(pair[0].ratio)))):
        candidates = itertools.chain.from_iterable(_candidates(change, mark, wording(change)) for wording in wordings)
        inside = (each for each in candidates if each.left >= left and each.right <= right)
        fitting = (each for each in inside if not any(each.clashes(other) for other in labels))
        labels += itertools.islice(fitting, 1)
    return labels


def _candidates(change: Change, mark: float, text: str) -> Iterator[Label]:
    needed = len(text) * CHARACTER + 8
    for left, right in ((mark + 1, mark + needed), (mark - needed, mark - 1)):
        yield from (Label(change, text, row, mark, left, right) for row in range(MOST_ROWS))


def percent(change: Change) -> str:
    """The change of the level."""
    return signed(change.ratio)


def at(change: Change) -> str:
    """The change with the version that it came with, or of a creep the version up to which it goes."""
    return f"{percent(change)} {'at' if change.kind == 'step' else 'up to'} {change.after.version_name[:7]}"


def brief(change: Change) -> str:
    """The change with its version and what else changed there."""
    meanwhile = "" if change.kind == "step" else "meanwhile "
    return f"{at(change)} ({meanwhile}{', '.join(change.causes)})" if change.causes else at(change)


def cut(text: str, room: float) -> str:
    """As much of a text as a room of so many pixels holds; nothing where that is less than two characters."""
    fits = int(room / CHARACTER)
    if len(text) <= fits:
        return text
    return f"{text[: fits - 1]}…" if fits > 2 else ""
