"""Tables for people, as text or as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"[-+]?[\d.]|$")


def tabulate(rows: Iterable[Sequence[object]], headers: Sequence[str] = (), *, markdown: bool = False) -> str:
    """Columns as wide as their widest cell; those whose cells all begin with a number, or are empty, end in line.

    Args:
        rows: cells, shown by `str`; all rows have as many.
        headers: one for each column, or none; Markdown needs them.
        markdown: write a table of Markdown.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(*([list(headers)] if headers else []), *cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [all(map(_NUMBER.match, column[bool(headers) :])) for column in columns]

    def line(row: Sequence[str]) -> str:
        aligned = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ]
        return f"| {' | '.join(aligned)} |" if markdown else "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    if markdown:
        ends = (":" if number else "-" for number in numbers)
        rule = f"|{'|'.join('-' * (width + 1) + end for width, end in zip(widths, ends, strict=True))}|"
    return "\n".join([*([line(headers), rule] if headers else []), *map(line, cells)])
