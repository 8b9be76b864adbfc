"""Tables for people, as text or as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MARKS = re.compile(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)")  # an underscore within a word is none
_NUMBER = re.compile(r"[-+]?[\d.]|$")
WITHOUT = "(the package tabulate is not installed: columns are separated by tabs)"


def tabulate(rows: Iterable[Sequence[object]], headers: Sequence[str] = (), *, markdown: bool = False) -> str:
    """Align columns with the package tabulate; to the right those whose cells all are empty or begin with a number.

    A bare machine with a GPU may lack that package: the same cells are then not aligned, and a line says why.

    Args:
        rows: cells, shown by `str`; all rows have as many.
        headers: one for each column, or none; Markdown needs them.
        markdown: write a table of Markdown.
    """
    cells = [[escaped(str(cell)) if markdown else str(cell) for cell in row] for row in rows]
    columns = list(zip(*([list(headers)] if headers else []), *cells, strict=True))
    try:
        import tabulate as package
    except ImportError:
        return _unaligned(cells, headers, markdown)
    numbers = [all(map(_NUMBER.match, column[bool(headers) :])) for column in columns]
    return package.tabulate(
        cells,
        headers=headers,
        tablefmt="github" if markdown else "simple" if headers else "plain",
        colalign=["right" if number else "left" for number in numbers] if cells else None,
        disable_numparse=True,
    )


def escaped(text: str) -> str:
    """A text that Markdown shows as it is: no cell, link, emphasis or element of HTML begins in it."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split()))


def _unaligned(cells: list[list[str]], headers: Sequence[str], markdown: bool) -> str:
    if markdown:
        lines = [headers, ["---"] * len(headers), *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([WITHOUT, *("\t".join(line) for line in [*([headers] if headers else []), *cells])])
