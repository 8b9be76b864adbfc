"""The last comparison as a section of the page."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from mvc.regress.figures import signed
from mvc.regress.results.chart import milliseconds
from mvc.regress.results.markup import node, table
from mvc.regress.sources.version import Version

HEAD = (
    *(("Case", ""), ("Base, ms", "number wide"), ("Head, ms", "number"), ("Change", "number")),
    *(("Interval", "number wide"), ("Verdict", "")),
)
TONES = {"regression": "worse", "improvement": "better", "accepted": "muted"}


def compared(facts: Mapping[str, Any]) -> Element:
    """The section for what `compare --json` wrote. Its first line is the verdict in words."""
    rows = [row for case in facts["cases"] for row in _rows(case)]
    notes = list(_notes(facts))
    base, head = (Version(**facts[side]) for side in ("base", "head"))
    others = f" and {len(facts['bases']) - 1} more recordings of its window" if len(facts["bases"]) > 1 else ""
    return node(
        "section",
        node("h2", "The last comparison"),
        node("p", node("strong", facts["headline"])),
        node("p", f"{head} against {base}{others}", class_="muted"),
        table(HEAD, rows, "The last comparison") if rows else None,
        node("ul", *(node("li", each) for each in notes)) if notes else None,
    )


def _rows(case: Mapping[str, Any]) -> Iterator[list[Element]]:
    """The row of a case, and on CUDA one of the call's time; without times, the verdict alone."""
    name, changes = case["case"]["name"], case["changes"]
    if not changes:
        yield [node("span", name), *(node("td", class_=style) for _, style in HEAD[1:-1]), _verdict(case["verdict"])]
    for metric, change in changes.items():
        base, head = (_median(case["runs"], metric, side) for side in ("base_seconds", "head_seconds"))
        median, low, high = (signed(change[key]) for key in ("median", "low", "high"))
        yield [
            node("span", name if metric == "time" else f"{name}, {metric}"),
            node("td", milliseconds(base), class_="number wide"),
            node("td", milliseconds(head), class_="number"),
            node("td", median, class_="number"),
            node("td", f"{low} to {high}", class_="number wide"),
            _verdict(case["verdict"] if metric == "time" else case["verdicts"][metric]),
        ]


def _verdict(text: str) -> Element:
    return node("td", text, class_=TONES.get(text))


def _notes(facts: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"not comparable: {each}" for each in facts["not_comparable"])
    yield from facts["remarks"]
    for case in facts["cases"]:
        yield from (f"{case['case']['name']}: {each}" for each in case["remarks"])


def _median(runs: Sequence[Mapping[str, Any]], metric: str, side: str) -> float:
    """Over the processes of a side, each once: of recordings, a process is in several runs."""
    processes = dict.fromkeys(tuple(run["times"][metric][side]) for run in runs)
    return statistics.median(seconds for each in processes for seconds in each)
