"""A comparison as a table, Markdown, JSON and JUnit XML."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from typing import Any
from xml.etree import ElementTree

from mvc import report
from mvc.regress.compare import Comparison
from mvc.regress.decide import MOST_ROUNDS, further_rounds
from mvc.regress.run import CaseResult, Run
from mvc.table import tabulate

SCHEMA = "mvc.regress.compare/1"
HEADERS = ("case", "base ms", "head ms", "head over base", "rounds", "verdict")
FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML; compilers colour messages
MEANINGS = {
    0: "no change for the worse",
    1: "a regression",
    2: "inconclusive: neither a change nor its absence is sure",
    3: "not comparable",
}


def table(comparison: Comparison, *, markdown: bool = False) -> str:
    """For people."""
    lines = [tabulate([_row(each) for each in comparison.results], headers=HEADERS, markdown=markdown)]
    lines += [f"{result.case.name}: {text}" for result in comparison.results for text in remarks(result, comparison)]
    if comparison.apart and comparison.results:
        lines.append("recorded at different times: what drifted on the machine between them looks like a change")
    lines += [f"not comparable: {obstacle}" for obstacle in comparison.obstacles]
    lines.append(f"{comparison.head} against {comparison.base}: {MEANINGS[comparison.exit_status]}")
    lines.append(report.environment_line(comparison.environment))
    separator = "\n\n" if markdown else "\n"
    return separator.join(line for line in lines if line)


def markdown(comparison: Comparison) -> str:
    """For the summary of a CI job."""
    return f"## Latency: {MEANINGS[comparison.exit_status]}\n\n{table(comparison, markdown=True)}\n"


def _row(result: CaseResult) -> list[str]:
    base, head = (_processes(result.runs, side) for side in ("base", "head"))
    return [
        result.case.name,
        _milliseconds(base),
        _milliseconds(head),
        " and ".join(str(run.ratio) for run in result.runs if run.ratio is not None),
        " + ".join(str(len(seconds)) for seconds in base),
        result.verdict,
    ]


def _processes(runs: list[Run], side: str) -> list[tuple[float, ...]]:
    """The seconds of each process once: of recordings, each is in several pairs."""
    return list(dict.fromkeys(tuple(getattr(run, side)) for run in runs if run.ratio is not None))


def _milliseconds(processes: list[tuple[float, ...]]) -> str:
    seconds = list(itertools.chain.from_iterable(processes))
    return f"{statistics.median(seconds) * 1e3:.3g}" if seconds else ""


def remarks(result: CaseResult, comparison: Comparison) -> list[str]:
    """What the row does not say: changes other than of time, and what would settle an inconclusive case."""
    lines = [str(difference) for difference in result.exact]
    if discarded := sum(run.discarded for run in result.runs):
        lines.append(f"{discarded} rounds were measured anew, the GPU was throttled")
    for metric, verdict in result.verdicts.items():
        if verdict == "inconclusive" and metric == "time":
            lines.append(f"time is inconclusive: {_remedy(result.runs, comparison)}")
        elif verdict != "no change" and metric != "time":
            lines.append(f"{metric}: {verdict} ({_single_ratios(result.runs, metric)})")
    return lines


def _remedy(runs: list[Run], comparison: Comparison) -> str:
    """What would settle it, by the run that is furthest from decided; as much again where decided runs disagree."""
    effect = comparison.thresholds.effect
    undecided = [run for run in runs if run.findings["time"] == "undecided"]
    if comparison.apart and not undecided:
        return (
            "the processes of one recording differ by as much; record anew on a quieter machine, or compare revisions"
        )
    undecided = undecided or runs
    more = [further_rounds(run.ratio, len(run.base), effect) for run in undecided]
    if None in more:
        return f"more than {MOST_ROUNDS:,} more rounds would settle it: it is about the effect looked for, {effect:.0%}"
    how = "record both with" if comparison.apart else "with"
    rounds = max(len(run.base) for run in undecided)
    return f"about {max(more)} more rounds would settle it ({how} --rounds {rounds + max(more)})"


def _single_ratios(runs: list[Run], metric: str) -> str:
    key = {"compile time": "compile_seconds", "peak memory": "peak_bytes"}[metric]
    return " and ".join(f"{head[key] / base[key]:.2f} times" for base, head in (run.facts for run in runs))


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """For programs."""
    return {
        "schema": SCHEMA,
        "base": comparison.base,
        "head": comparison.head,
        "exit_status": comparison.exit_status,
        "meaning": MEANINGS[comparison.exit_status],
        "not_comparable": comparison.obstacles,
        "environment": comparison.environment,
        "thresholds": dataclasses.asdict(comparison.thresholds),
        "cases": [
            {
                "case": result.case.as_dict(),
                "verdict": result.verdict,
                "verdicts": result.verdicts,
                "exact_differences": [each._asdict() for each in result.exact],
                "remarks": remarks(result, comparison),
                "runs": [_run_as_dict(run) for run in result.runs],
            }
            for result in comparison.results
        ],
    }


def _run_as_dict(run: Run) -> dict[str, Any]:
    base, head = run.facts
    return {
        "ratio": run.ratio and run.ratio._asdict(),
        "findings": run.findings,
        "base_seconds": run.base,
        "head_seconds": run.head,
        "discarded": run.discarded,
        "base_facts": base,
        "head_facts": head,
    }


def junit(comparison: Comparison) -> str:
    """JUnit XML: a regression is a failure, an inconclusive case is skipped, what cannot be compared is an error."""
    suite = ElementTree.Element("testsuite", name="mvc.regress")
    for result in comparison.results:
        seconds = sum(sum(each) for side in ("base", "head") for each in _processes(result.runs, side))
        case = ElementTree.SubElement(
            suite, "testcase", classname="mvc.regress", name=result.case.name, time=f"{seconds:.3f}"
        )
        tag = {"regression": "failure", "inconclusive": "skipped"}.get(result.verdict)
        message = "; ".join([" ".join(_row(result)[1:]), *remarks(result, comparison)])
        message = FORBIDDEN.sub("?", message)
        ElementTree.SubElement(case, tag or "system-out", **({"message": message} if tag else {})).text = message
    for obstacle in comparison.obstacles:
        obstacle = FORBIDDEN.sub("?", obstacle)
        case = ElementTree.SubElement(
            suite, "testcase", classname="mvc.regress", name=f"comparable: {obstacle.partition(':')[0]}"
        )
        ElementTree.SubElement(case, "error", message=obstacle)
    counts = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
    for attribute, tag in counts.items():
        suite.set(attribute, str(len(list(suite.iter(tag)))))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
