"""The results as a page of Markdown with bar charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.models import PAPER_RATES
from bench.on_gpu import svg
from bench.on_gpu.turns import RATIOS, limited_by_host
from bench.published_scan import SCANS
from mvc import files
from mvc.measure.environment import Environment
from mvc.measure.nvml import Summary
from mvc.table import tabulate

MODEL_PARTS = {
    "models": "Inference",
    "latency": "Inference, one image",
    "training": "Training step, forward and backward",
    "further models": "Inference, further models",
    "peers": "Inference, beside the models of the paper's comparison",
}
US, MS = 1e6, 1e3


def write(facts: dict[str, Any], folder: Path) -> Path:
    """Write report.md and the charts that it shows, and return the page's path."""
    charts = dict(_charts(facts))
    for name, chart in charts.items():
        files.replace(folder / f"{name}.svg", chart)
    page = folder / "report.md"
    files.replace(page, "\n\n".join(_parts(facts, list(charts))) + "\n")
    return page


def _parts(facts: dict[str, Any], charts: Sequence[str]) -> Iterator[str]:
    environment = Environment.from_json(facts["environment"])
    yield f"# {environment.device}"
    yield (
        f"`{facts['command']}`, {environment.date}, commit {facts['commit']}, {facts['seconds']:.0f} s, "
        f"ended {facts['ended']}. {environment}, driver {environment.driver}, highest clocks "
        f"{environment.sm_clock_mhz} MHz SM and {environment.memory_clock_mhz} MHz memory."
    )
    if facts["quick"]:
        yield "**A trial of the command: its sizes are too small for its figures to mean anything.**"
    for absent in facts["absent"]:
        yield f"Not installed: {absent}."
    if rows := _of(facts, "scan"):
        yield f"## Selective scan, µs\n\n{_scan_table(rows)}"
        yield _scan_limits(facts)
    if rows := _of(facts, RATIOS):
        yield f"## How many times as fast our models are\n\n{_ratio_table(rows)}"
    for part, title in MODEL_PARTS.items():
        if rows := _of(facts, part):
            file = _file(part)
            yield f"## {title}\n\n{_model_table(rows)}"
            if part == "peers":
                quoted = ", ".join(f"{name} {rate}" for name, rate in PAPER_RATES.items())
                yield f"The paper's own images/s, on an A100: {quoted}."
            if chose := [row for row in rows if "choices" in row]:
                yield f"What the passes rewrote, and what they left alone:\n\n{_choice_table(chose)}"
            if file in charts:
                yield f"![{title}](./{file}.svg)"
            if profiled := [row for row in rows if "families" in row]:
                yield f"Kernels of a call by family, ms:\n\n{_family_table(profiled)}"
                yield f"![Kernels by family](./{file}-families.svg)"
    yield f"The published model's scans run on {facts['published_scan']}: {SCANS[facts['published_scan']]}."
    if rows := _of(facts, "gate"):
        yield f"## The gate compared with known truth\n\n{_gate_table(rows)}"
    if rows := _of(facts, "tests"):
        yield f"## Tests that need a GPU\n\n{_count(rows)}"
    if facts["failed"]:
        yield "## Failed\n\n" + "\n\n".join(
            f"{each['part']}: {each['name']}\n\n```\n{each['why']}\n```" for each in facts["failed"]
        )
    if facts["not_run"]:
        yield "## Not run\n\n" + "\n".join(
            f"- {each['part']}: {each['name']}: {each['why']}" for each in facts["not_run"]
        )
    for part, seen in facts["gpu"].items():
        yield f"{part}: {'; '.join(Summary(**seen).lines())}"


def _of(facts: dict[str, Any], part: str) -> list[dict[str, Any]]:
    return [row for row in facts["rows"] if row["part"] == part]


def _scan_table(rows: Sequence[dict[str, Any]]) -> str:
    ways = list(dict.fromkeys(way for row in rows for way in row["seconds"]))
    limits = list(dict.fromkeys(limit for row in rows for limit in row["limits"]))
    cells = [
        [
            row["name"],
            *(_number(row["seconds"].get(way, [None] * 3)[1], US, ".1f") for way in ways),
            *(_number(row["limits"].get(limit), US, ".1f") for limit in limits),
            f"{row['share']:.0%}",
            f"{row['error']:.1e}",
        ]
        for row in rows
    ]
    headers = ["(batch, dim, length)", *ways, *(f"limit: {limit}" for limit in limits), "reached", "error"]
    return tabulate(cells, headers, markdown=True)


def _scan_limits(facts: dict[str, Any]) -> str:
    rates = facts["rates"]
    said = f"Limits: bytes at the {rates['bytes'] / 1e9:,.0f} GB/s that a copy moves"
    if rates["exponentials"]:
        said += f"; N + 2 exponentials and reciprocals a step and channel at {rates['exponentials'] / 1e12:.2f} a ps"
    return f"{said}. Reached: the nearer limit over the better order. Error: of the forward, against float64."


def _model_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        [
            row["name"],
            _number(row["median_seconds"], MS, ".3f"),
            f"{row['p10_seconds'] * MS:.3f} to {row['p90_seconds'] * MS:.3f}",
            _number(row["wall_seconds"], MS, ".3f"),
            _number(row.get("kernel_seconds"), MS, ".3f") + _host(row),
            f"{row['images_per_second']:,.0f}",
            _against(row["against"]),
            f"{row['peak_bytes'] / 2**20:,.0f}",
            _number(row.get("compile_seconds"), 1, ".1f"),
        ]
        for row in rows
    ]
    headers = [
        "",
        "ms",
        "10 to 90 %",
        "by the wall",
        "kernels",
        "images/s",
        "times as fast",
        "peak MiB",
        "compiled in s",
    ]
    return tabulate(cells, headers, markdown=True)


def _ratio_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        [
            row["name"],
            _number(row["by_kernels"], 1, ".3f"),
            "{:.3f} ({:.3f} to {:.3f})".format(*row["by_clock"]),
            f"{row['memory']:.2f}",
        ]
        for row in rows
    ]
    return tabulate(cells, ["", "by kernels", "by the clock (90 % interval)", "peak memory over theirs"], markdown=True)


def _choice_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        [
            row["name"],
            name,
            f"{choice['rewritten']}",
            "; ".join(f"{count}: {reason}" for reason, count in choice["left"].items()),
        ]
        for row in rows
        for name, choice in row["choices"].items()
    ]
    return tabulate(cells, ["", "pass", "rewritten", "left alone, and why"], markdown=True)


def _host(row: dict[str, Any]) -> str:
    return ", host-limited" if "kernel_seconds" in row and limited_by_host(row) else ""


def _against(against: dict[str, Any] | None) -> str:
    if against is None:
        return ""
    middle, low, high = against["times_as_fast"]
    return f"{middle:.3f} ({low:.3f} to {high:.3f}) as {against['name']}"


def _family_table(rows: Sequence[dict[str, Any]]) -> str:
    families = list(dict.fromkeys(family for row in rows for family in row["families"]))
    cells = [
        [
            row["name"],
            *(_number(row["families"].get(family), MS, ".3f") for family in families),
            f"{row['launches']:.0f}",
        ]
        for row in rows
    ]
    return tabulate(cells, ["", *families, "launches"], markdown=True)


def _gate_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        [
            row["name"],
            f"{trial['slowdown']:.0%}",
            ", ".join(
                f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})" for ratio in trial["ratios"]
            ),
            trial["verdict"],
            trial["outcome"],
        ]
        for row in rows
        for trial in row["trials"]
    ]
    return tabulate(cells, ["case", "more work", "times over the other's", "verdict", ""], markdown=True)


def _count(rows: Sequence[dict[str, Any]]) -> str:
    outcomes = [row["outcome"] for row in rows]
    return ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)) + "."


def _charts(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    device = facts["environment"]["device"]
    for part, title in MODEL_PARTS.items():
        rows = sorted(_of(facts, part), key=lambda row: -row["images_per_second"])
        if not rows:
            continue
        rates = [
            (row["name"], {"images/s": row["images_per_second"]}, f"{row['images_per_second']:,.0f}") for row in rows
        ]
        yield _file(part), svg.bars(f"{title}, images/s, {device}", rates)
        if profiled := [row for row in rows if "families" in row]:
            bars = [
                (
                    row["name"],
                    {family: seconds * MS for family, seconds in row["families"].items()},
                    f"{row['kernel_seconds'] * MS:.2f}",
                )
                for row in profiled
            ]
            yield f"{_file(part)}-families", svg.bars(f"{title}, kernels of a call by family, ms, {device}", bars)


def _file(part: str) -> str:
    return part.replace(" ", "-")


def _number(value: float | None, unit: float, form: str) -> str:
    return "" if value is None else format(value * unit, form)
