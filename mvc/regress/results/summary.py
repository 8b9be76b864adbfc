"""A comparison as a table, as Markdown for a pull request, and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from mvc.cli import json_text
from mvc.regress.compare import Comparison
from mvc.regress.figures import with_interval
from mvc.regress.outcome import CaseResult, Run
from mvc.regress.results.words import MEANINGS, headline, milliseconds, remarks, sentence
from mvc.table import escaped, tabulate

SCHEMA = "mvc.regress.compare/3"
HEADERS = ("case", "base ms", "head ms", "change", "verdict")
CLOCKS = {
    "graph": "device time of a call, by the replay of a CUDA graph",
    "kernels": "device time of a call, its kernels summed by torch.profiler",
    "wall": "time of a call until its result is there",
}


def table(comparison: Comparison) -> str:
    """The comparison for people: the verdict in words, the cases, and what there is to say of them."""
    rows = [row for each in comparison.results for row in _rows(each)]
    lines = [headline(comparison), "", *([tabulate(rows, headers=HEADERS)] if rows else [])]
    return "\n".join([*lines, *_notes(comparison)])


def markdown(comparison: Comparison) -> str:
    """The comparison in Markdown: its first line is the verdict in words."""
    rows = [row for each in comparison.results for row in _rows(each)]
    lines = [escaped(headline(comparison)), ""]
    if rows:
        lines += [tabulate(rows, headers=HEADERS, markdown=True), ""]
    details = [f"- {escaped(note)}" for note in _notes(comparison)]
    return "\n".join(
        [*lines, "<details><summary>What was compared, and how</summary>", "", *details, "", "</details>", ""]
    )


def _rows(result: CaseResult) -> list[list[str]]:
    """The row of a case with its verdict, and on CUDA a row of the call's time with its own verdict."""
    names = list(result.runs[0].times)
    rows = [[result.case.name, *_measured(result, names[0] if names else None), _verdict(result)]]
    return rows + [
        [f"{result.case.name}, {name}", *_measured(result, name), result.verdicts[name]] for name in names[1:]
    ]


def _measured(result: CaseResult, metric: str | None) -> list[str]:
    return [*milliseconds(result, metric), with_interval(*result.change(metric))] if metric else [""] * 3


def _verdict(result: CaseResult) -> str:
    """The verdict of a case, with the metrics that it comes from unless that is time alone."""
    plain = result.verdict == "no change" or result.causes == ["time"]
    return result.verdict + ("" if plain else f" ({', '.join(result.causes)})")


def _notes(comparison: Comparison) -> list[str]:
    """What the table does not say, a line each."""
    used = {times.clock for result in comparison.results for run in result.runs for times in run.times.values()}
    lines = []
    if used - {"wall"}:
        lines.append("; ".join(f"{clock}: {meaning}" for clock, meaning in CLOCKS.items() if clock in used))
    lines += [f"{result.case.name}: {text}" for result in comparison.results for text in remarks(result, comparison)]
    if comparison.apart and comparison.results:
        lines.append("recorded at different times: what drifted on the machine between them looks like a change")
    lines += [f"not comparable: {obstacle}" for obstacle in comparison.obstacles]
    lines += comparison.remarks
    lines += [f"base: {each}" for each in comparison.bases or [comparison.base]]
    lines.append(f"head: {comparison.head}")
    lines.append(str(comparison.environment))
    lines.append(f"exit status {comparison.exit_status}: {MEANINGS[comparison.exit_status]}")
    return lines


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison for programs, as plain types that JSON can hold."""
    return {
        "schema": SCHEMA,
        "headline": headline(comparison),
        "base": dataclasses.asdict(comparison.base),
        "bases": [dataclasses.asdict(each) for each in comparison.bases],
        "head": dataclasses.asdict(comparison.head),
        "exit_status": comparison.exit_status,
        "meaning": MEANINGS[comparison.exit_status],
        "not_comparable": comparison.obstacles,
        "remarks": comparison.remarks,
        "across": comparison.across,
        "environment": dataclasses.asdict(comparison.environment),
        "cases": [_case_as_dict(result, comparison) for result in comparison.results],
    }


def json(comparison: Comparison) -> str:
    """The comparison as the text of a JSON file."""
    return json_text(as_dict(comparison))


def _case_as_dict(result: CaseResult, comparison: Comparison) -> dict[str, Any]:
    return {
        "case": result.case.as_dict(),
        "thresholds": dataclasses.asdict(result.thresholds),
        "verdict": result.verdict,
        "sentence": sentence(result),
        "verdicts": result.verdicts,
        "changes": {name: result.change(name)._asdict() for name in result.runs[0].times},
        "accepted": result.accepted,
        "call_over_device": result.call_over_device,
        "host_limited": result.host_limited,
        "exact_differences": [each._asdict() for each in result.exact],
        "remarks": remarks(result, comparison),
        "runs": [_run_as_dict(run) for run in result.runs],
    }


def _run_as_dict(run: Run) -> dict[str, Any]:
    base, head = run.facts
    return {
        "times": {
            name: {
                "clock": times.clock,
                "ratio": times.ratio._asdict(),
                "pairs": [each._asdict() for each in times.pairs],
                "base_seconds": times.base,
                "head_seconds": times.head,
            }
            for name, times in run.times.items()
        },
        "findings": run.findings,
        "discarded": run.discarded,
        "base_facts": base.as_dict(),
        "head_facts": head.as_dict(),
    }
