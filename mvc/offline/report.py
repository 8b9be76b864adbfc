"""What was generated, for people: a table for the terminal, and a page in Markdown with the launches as a picture."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from mvc import files
from mvc.offline import budget, estimate
from mvc.offline.estimate import Cost
from mvc.offline.manifest import Launch, Manifest
from mvc.offline.replay import Replay
from mvc.offline.targets import find

SHOWN = 10
ESTIMATE = "estimate, not measured"
WHAT_IT_SHOWS = (
    "Generated and compiled for this card, and not run there: races, the rounding of tensor cores and what autotuning "
    "would choose cannot be seen, and no time here is measured."
)
COLOURS = {"triton": "#4c78a8", "scan": "#e45756", "extern": "#b8b8b8"}
WIDTH, HEIGHT, ROWS = 1000, 24, 10  # of the picture: pixels of a row, and rows


def text(manifest: Manifest, replayed: Replay | None = None) -> str:
    """For the terminal."""
    return "\n".join(_parts(manifest, replayed, "simple"))


def write_page(manifest: Manifest, folder: Path, replayed: Replay | None = None) -> Path:
    """Write `report.md` and `timeline.svg` into the folder."""
    files.replace(folder / "timeline.svg", timeline(estimate.costs(manifest)))
    head, *rest = _parts(manifest, replayed, "github")
    picture = f"![launches in order, by kind and estimated time ({ESTIMATE})](timeline.svg)"
    page = folder / "report.md"
    files.replace(page, "\n\n".join((f"# {head}", picture, *rest)) + "\n")
    return page


def _parts(manifest: Manifest, replayed: Replay | None, style: str) -> list[str]:
    costs, target = estimate.costs(manifest), find(manifest.target)
    versions = f"torch {manifest.versions['torch']}, triton {manifest.versions['triton']}"
    parts = [
        f"MambaVision-{budget.key(manifest.model)}: {target.name} ({target.card}), {versions}",
        _totals(manifest.launches, style),
        _floor(manifest),
        _binaries(manifest),
        f"The {SHOWN} launches that cost most ({ESTIMATE}; all together {sum(c.seconds for c in costs) * 1e3:.2f} ms):",
        _costliest(costs, style),
    ]
    if replayed is not None:
        parts.append(_replayed(replayed))
    return [*parts, WHAT_IT_SHOWS]


def _totals(launches: Sequence[Launch], style: str) -> str:
    kinds: dict[str, list[Launch]] = defaultdict(list)
    for launch in launches:
        kinds[launch.kind].append(launch)
    rows = [
        [
            kind,
            len(some),
            f"{sum(each.bytes_read for each in some) / 1e6:,.1f}",
            f"{sum(each.bytes_written for each in some) / 1e6:,.1f}",
            f"{sum(each.flops for each in some) / 1e9:,.1f}",
        ]
        for kind, some in [*kinds.items(), ("all", list(launches))]
    ]
    headers = ["launches of", "", "MB read", "MB written", "GFLOP"]
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def _floor(manifest: Manifest) -> str:
    least = estimate.floor(manifest)
    moved = sum(launch.bytes_moved for launch in manifest.launches if launch.kind == "triton")
    return (
        f"Floor around the same library calls and scans, one read and one write for each: {least.launches} launches "
        f"({len(manifest.launches) - least.launches} fewer), {least.triton_bytes / 1e6:,.1f} MB in Triton kernels "
        f"({(moved - least.triton_bytes) / 1e6:,.1f} fewer, of sums of residuals)."
    )


def _binaries(manifest: Manifest) -> str:
    kernels = manifest.kernels.values()
    if not kernels:
        return "No binary: kernels were not compiled."
    return (
        f"{len(kernels)} binaries: at most {max(each.registers for each in kernels)} registers, "
        f"{sum(each.spills > 0 for each in kernels)} with spills, at least "
        f"{min(each.occupancy for each in kernels):.0%} of the warps that a multiprocessor can hold."
    )


def _costliest(costs: Sequence[Cost], style: str) -> str:
    rows = [
        [
            cost.launch.name.removeprefix("torch.ops.aten."),
            f"{cost.launch.bytes_moved / 1e6:,.1f}",
            f"{cost.seconds * 1e6:.1f}",
            f"{cost.floor * 1e6:.1f}",
            next(iter(cost.launch.source), ""),
        ]
        for cost in sorted(costs, key=lambda cost: -cost.seconds)[:SHOWN]
    ]
    headers = ["launch", "MB", "µs", "floor", "from"]
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def _replayed(replay: Replay) -> str:
    verdict = "within the limit" if replay.passed else "BEYOND THE LIMIT"
    return (
        f"Replayed on the CPU, Triton kernels interpreted: relative error {replay.error:.1e} against float64 "
        f"({replay.worst}; eager {replay.eager:.1e}), {verdict} {replay.limit:.1e}."
    )


def timeline(costs: Sequence[Cost]) -> str:
    """The launches in order as SVG, over several rows: width by the estimate, colour by kind; names as tool tips."""
    row = sum(cost.seconds for cost in costs) / ROWS
    shapes, start = [], 0.0
    for cost in costs:
        end = start + cost.seconds
        position = start
        while position < end:  # a launch may run on in the next row
            index = int(position / row + 1e-9)
            stop = min(end, (index + 1) * row)
            x, width = (position - index * row) / row * WIDTH, (stop - position) / row * WIDTH
            title = html.escape(f"{cost.launch.name}: {cost.seconds * 1e6:.1f} µs, {ESTIMATE}")
            shapes.append(
                f'<rect x="{x:.2f}" y="{index * (HEIGHT + 4)}" width="{max(width - 0.5, 0.3):.2f}" height="{HEIGHT}" '
                f'fill="{COLOURS[cost.launch.kind]}"><title>{title}</title></rect>'
            )
            position = stop if stop > position else end
        start = end
    below = ROWS * (HEIGHT + 4) + 16
    legend = [
        f'<rect x="{120 * index}" y="{below - 10}" width="12" height="12" fill="{colour}"/>'
        f'<text x="{120 * index + 18}" y="{below}" font-family="sans-serif" font-size="12">{kind}</text>'
        for index, (kind, colour) in enumerate(COLOURS.items())
    ]
    size = f'viewBox="0 0 {WIDTH} {below + 10}" width="{WIDTH}" height="{below + 10}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *shapes, *legend, "</svg>", ""])
