"""What was found of the entries, as a table of Markdown, and as a part of a page."""

from __future__ import annotations

from typing import Any

from mvc.errors import UserError
from mvc.table import tabulate

BEGIN, END = "<!-- the table of bench/recurrences.py -->", "<!-- end of the table -->"
HEADERS = ["recurrence", "source", "raised, or why not", "compile time", "forward time", "error", "error of gradients"]
CAPTION = """\
Compile time and forward time, both of inference, are over stock Inductor's; of the latter the median, with its 90 %
interval. An error is that of the worst tensor against eager mode in float64, in brackets eager's own in float32."""


def table(facts: dict[str, Any]) -> str:
    """Figures and their machine, ahead of one row for each entry."""
    rows, about, size = facts["rows"], facts["environment"], facts["size"]
    raised = sum(is_raised(row) for row in rows)
    machine = f"{about['device']}, threads: {about['threads']}, torch {about['torch']}, {about['date'][:10]}"
    sizes = ", ".join(f"{name} {number}" for name, number in size.items())
    head = f"{len(rows)} recurrences, {raised} of them raised. {CAPTION}\n\n`{facts['command']}`: {sizes}; {machine}"
    return f"{head}\n\n{tabulate(map(_cells, rows), HEADERS, markdown=True)}\n"


def with_table(page: str, text: str, *, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """The page with the text between its two marks.

    Raises:
        UserError: it has no such marks.
    """
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise UserError(f"the page has no line {marks[0]!r} with {marks[1]!r} after it; add both, or name another page")
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def is_raised(row: dict[str, Any]) -> bool:
    """Whether as many recurrences were raised as are wanted, and one at least, in inference at least."""
    found = row.get("ops") or row.get("inference_ops", {})
    return sum(found.values()) >= max(1, row["wanted"] or 0)


def verdict(row: dict[str, Any]) -> str:
    """What was raised, or why it was not."""
    if "rewritten" in row["failed"]:
        return f"fails: {row['failed']['rewritten']}"
    ops, inference = (_calls(row.get(kind, {})) for kind in ("ops", "inference_ops"))
    if ops and is_raised(row):
        return ops
    reasons = "; ".join(row["reasons"]) or ("left, no reason given" if row["loop"] else "no loop over time")
    if inference:
        return f"{inference} in inference; in training: {reasons}"
    return f"{ops} of {row['wanted']}: {reasons}" if ops else reasons


def _calls(ops: dict[str, int]) -> str:
    return ", ".join(f"{count} {op.removeprefix('mvc.')}" for op, count in ops.items())


def _cells(row: dict[str, Any]) -> list[str]:
    return [row["name"], row["source"], verdict(row), _compile(row), _forward(row), *map(_error, _checks(row))]


def _compile(row: dict[str, Any]) -> str:
    failed = [name for name in row["failed"] if name != "rewritten"]
    if failed:
        return f"{' and '.join(failed)} failed"
    seconds = row.get("compile_seconds")
    return f"{seconds['mvc'] / seconds['inductor']:.2f} of {seconds['inductor']:.0f} s" if seconds else ""


def _forward(row: dict[str, Any]) -> str:
    return "{median:.2f} ({low:.2f} to {high:.2f})".format(**row["ratio"]) if "ratio" in row else ""


def _checks(row: dict[str, Any]) -> list[dict[str, Any] | None]:
    return [row.get("forward"), row.get("gradients")]


def _error(check: dict[str, Any] | None) -> str:
    if check is None:
        return ""
    if check["error"] is None:
        return "not finite"
    return f"{check['error']:.0e} ({check['eager_error']:.0e}){'' if check['passed'] else ' TOO LARGE'}"
