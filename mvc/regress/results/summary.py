"""A comparison as a table, Markdown, JSON and JUnit XML."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from typing import Any
from xml.etree import ElementTree

from mvc.regress.compare import Comparison
from mvc.regress.decide import MOST_ROUNDS, further_rounds
from mvc.regress.run import SINGLE, CaseResult, Run, Times
from mvc.table import tabulate

SCHEMA = "mvc.regress.compare/2"
HEADERS = ("case", "clock", "base ms", "head ms", "head over base", "rounds", "verdict")
CLOCKS = {
    "graph": "device time of a call, by the replay of a CUDA graph",
    "kernels": "device time of a call, its kernels summed by torch.profiler",
    "wall": "time of a call until its result is there",
}
FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML; compilers colour messages
MEANINGS = {
    0: "no change for the worse",
    1: "a regression",
    2: "inconclusive: neither a change nor its absence is sure",
    3: "not comparable",
}


def table(comparison: Comparison, *, markdown: bool = False) -> str:
    """The comparison for people."""
    rows = [row for each in comparison.results for row in _rows(each)]
    lines = [tabulate(rows, headers=HEADERS, markdown=markdown)]
    used = {times.clock for result in comparison.results for run in result.runs for times in run.times.values()}
    if used != {"wall"}:
        lines.append("; ".join(f"{clock}: {meaning}" for clock, meaning in CLOCKS.items() if clock in used))
    lines += [f"{result.case.name}: {text}" for result in comparison.results for text in remarks(result, comparison)]
    if comparison.apart and comparison.results:
        lines.append("recorded at different times: what drifted on the machine between them looks like a change")
    lines += [f"not comparable: {obstacle}" for obstacle in comparison.obstacles]
    lines.append(f"{comparison.head} against {comparison.base}: {MEANINGS[comparison.exit_status]}")
    lines.append(str(comparison.environment))
    separator = "\n\n" if markdown else "\n"
    return separator.join(line for line in lines if line)


def markdown(comparison: Comparison) -> str:
    """The comparison in Markdown, for the summary of a CI job."""
    return f"## Latency: {MEANINGS[comparison.exit_status]}\n\n{table(comparison, markdown=True)}\n"


def _rows(result: CaseResult) -> list[list[str]]:
    """The row of a case with its verdict, and on CUDA a row of the call's time with its own verdict."""
    names = list(result.runs[0].times)
    first, *others = [_measured([run.times[name] for run in result.runs]) for name in names] or [[""] * 5]
    rows = [[result.case.name, *first, _verdict(result)]]
    for name, measured in zip(names[1:], others, strict=True):
        rows.append([f"{result.case.name}, {name}", *measured, result.verdicts[name]])
    return rows


def _measured(times: list[Times]) -> list[str]:
    base, head = (_processes(times, side) for side in ("base", "head"))
    return [
        times[0].clock,
        _milliseconds(base),
        _milliseconds(head),
        " and ".join(str(each.ratio) for each in times),
        " + ".join(str(len(seconds)) for seconds in base),
    ]


def _verdict(result: CaseResult) -> str:
    """The verdict of a case, with the metrics that it comes from unless that is time alone."""
    found = [*result.verdicts.items(), *((each.name, each.verdict) for each in result.exact)]
    causes = [name for name, verdict in found if verdict == result.verdict]
    named = "" if result.verdict == "no change" or causes == ["time"] else f" ({', '.join(causes)})"
    return result.verdict + named


def _processes(times: list[Times], side: str) -> list[tuple[float, ...]]:
    """The seconds of each process once, since each process of a recording is in several pairs."""
    return list(dict.fromkeys(tuple(getattr(each, side)) for each in times))


def _milliseconds(processes: list[tuple[float, ...]]) -> str:
    return f"{statistics.median(itertools.chain.from_iterable(processes)) * 1e3:.3g}"


def remarks(result: CaseResult, comparison: Comparison) -> list[str]:
    """What the rows do not say: changes of metrics other than time, and what would settle an inconclusive case."""
    lines = [str(difference) for difference in result.exact]
    if discarded := sum(run.discarded for run in result.runs):
        lines.append(f"{discarded} rounds were measured anew, the GPU was throttled")
    if result.host_limited:
        base, head = result.call_over_device
        lines.append(f"limited by the host: a call takes {base:.2f} (base) and {head:.2f} (head) times its device time")
    reasons = dict.fromkeys(facts.no_graph for run in result.runs for facts in run.facts)
    lines += [f"no CUDA graph of it is timed: {reason}" for reason in reasons if reason]
    for metric, verdict in result.verdicts.items():
        if metric in SINGLE:
            if verdict != "no change":
                lines.append(f"{metric}: {verdict} ({_single_ratios(result.runs, metric)})")
        elif verdict == "inconclusive":
            lines.append(f"{metric} is inconclusive: {_remedy(result.runs, metric, comparison)}")
    return lines


def _remedy(runs: list[Run], metric: str, comparison: Comparison) -> str:
    """What would settle a metric, by the run furthest from a decision; as much again where decided runs disagree."""
    effect = comparison.thresholds.effects[metric]
    undecided = [run for run in runs if run.findings[metric] == "undecided"]
    if comparison.apart and not undecided:
        return (
            "the processes of one recording differ by as much; record anew on a quieter machine, or compare revisions"
        )
    times = [run.times[metric] for run in undecided or runs]
    more = [further_rounds(each.ratio, len(each.base), effect) for each in times]
    if None in more:
        return f"more than {MOST_ROUNDS:,} more rounds would settle it: it is about the effect looked for, {effect:.0%}"
    how = "record both with" if comparison.apart else "with"
    rounds = max(len(each.base) for each in times)
    return f"about {max(more)} more rounds would settle it ({how} --rounds {rounds + max(more)})"


def _single_ratios(runs: list[Run], metric: str) -> str:
    key = SINGLE[metric]
    return " and ".join(
        f"{getattr(head, key) / getattr(base, key):.2f} times" for base, head in (run.facts for run in runs)
    )


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison for programs, as plain types that JSON can hold."""
    return {
        "schema": SCHEMA,
        "base": comparison.base,
        "head": comparison.head,
        "exit_status": comparison.exit_status,
        "meaning": MEANINGS[comparison.exit_status],
        "not_comparable": comparison.obstacles,
        "environment": dataclasses.asdict(comparison.environment),
        "thresholds": dataclasses.asdict(comparison.thresholds),
        "cases": [
            {
                "case": result.case.as_dict(),
                "verdict": result.verdict,
                "verdicts": result.verdicts,
                "call_over_device": result.call_over_device,
                "host_limited": result.host_limited,
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
        "times": {
            name: {
                "clock": times.clock,
                "ratio": times.ratio._asdict(),
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


def junit(comparison: Comparison) -> str:
    """JUnit XML: a regression is a failure, an inconclusive case is skipped, what cannot be compared is an error."""
    suite = ElementTree.Element("testsuite", name="mvc.regress")
    for result in comparison.results:
        times = [run.times["time"] for run in result.runs if run.times]
        seconds = sum(sum(each) for side in ("base", "head") for each in _processes(times, side))
        case = ElementTree.SubElement(
            suite, "testcase", classname="mvc.regress", name=result.case.name, time=f"{seconds:.3f}"
        )
        tag = {"regression": "failure", "inconclusive": "skipped"}.get(result.verdict)
        message = "; ".join([*(" ".join(row) for row in _rows(result)), *remarks(result, comparison)])
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
