"""Shows people what was generated: a table for the terminal, and a page in Markdown with a picture of the launches."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mvc import files
from mvc.offline import budget, estimate
from mvc.offline.estimate import Cost
from mvc.offline.manifest import Launch, Manifest, Memory
from mvc.offline.targets import find
from mvc.passes.accuracy import Check
from mvc.table import tabulate

SHOWN, LINE_WIDTH = 10, 48
NOT_SHOWN = (
    "Not shown: races, the rounding of tensor cores and what autotuning would choose; nothing ran on the card, and no "
    "time here is measured."
)
COLOURS = {"triton": "#4c78a8", "own": "#e45756", "extern": "#b8b8b8"}
WIDTH, HEIGHT, ROWS = 1000, 24, 10  # of the picture: pixels of a row, and rows


def text(manifest: Manifest, replayed: Check | None = None) -> str:
    """The report for the terminal."""
    return "\n".join(_parts(manifest, replayed))


def write_page(manifest: Manifest, folder: Path, replayed: Check | None = None) -> Path:
    """Write `report.md` and `timeline.svg` into the folder."""
    basis = estimate.basis(manifest)
    files.replace(folder / "timeline.svg", timeline(estimate.costs(manifest), basis))
    head, *rest = _parts(manifest, replayed, markdown=True)
    picture = f"![launches in order, by kind and time ({basis})](timeline.svg)"
    page = folder / "report.md"
    files.replace(page, "\n\n".join((f"# {head}", picture, *rest)) + "\n")
    return page


def _parts(manifest: Manifest, replayed: Check | None, *, markdown: bool = False) -> list[str]:
    costs, target = estimate.costs(manifest), find(manifest.target)
    versions = f"torch {manifest.versions['torch']}, triton {manifest.versions['triton']}"
    parts = [
        f"MambaVision-{budget.key(manifest.model)}: {target.name} ({target.card}), {versions}",
        _totals(manifest.launches, markdown),
        _floor(manifest),
        *([] if manifest.memory is None else [_memory(manifest.memory)]),
        _binaries(manifest),
        f"The {SHOWN} launches that cost most; all together take {sum(c.seconds for c in costs) * 1e3:.2f} ms "
        f"({estimate.basis(manifest)}):",
        _costliest(costs, markdown),
    ]
    if replayed is not None:
        parts.append(_replayed(replayed))
    return [*parts, _shown(manifest, replayed)]


def _totals(launches: Sequence[Launch], markdown: bool) -> str:
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
    return tabulate(rows, headers=headers, markdown=markdown)


def _floor(manifest: Manifest) -> str:
    least = estimate.floor(manifest)
    moved = sum(launch.bytes_moved for launch in manifest.launches if launch.kind == "triton")
    return (
        "Floor around the same library calls and own kernels, one read and one write for each: "
        f"{least.launches} launches ({len(manifest.launches) - least.launches} fewer), "
        f"{least.triton_bytes / 1e6:,.1f} MB in generated kernels "
        f"({(moved - least.triton_bytes) / 1e6:,.1f} fewer: {least.parameter_bytes / 1e6:,.1f} of parameters and "
        "arguments; the rest passes between generated kernels, is read again, as residual sums are, or leaves the "
        "model)."
    )


def _memory(memory: Memory) -> str:
    inputs, saved, peak = (f"{size / 2**20:,.0f} MiB" for size in (memory.inputs, memory.saved, memory.peak))
    return (
        f"Memory of tensors: {saved} kept for the backward, {peak} at most, with {inputs} of parameters, buffers and "
        "images, and the gradients; without what libraries take for themselves."
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


def _costliest(costs: Sequence[Cost], markdown: bool) -> str:
    rows = [
        [
            cost.launch.name.removeprefix("torch.ops.aten."),
            f"{cost.launch.bytes_moved / 1e6:,.1f}",
            f"{cost.seconds * 1e6:.1f}",
            f"{cost.floor * 1e6:.1f}",
            _origin(cost.launch),
        ]
        for cost in sorted(costs, key=lambda cost: -cost.seconds)[:SHOWN]
    ]
    headers = ["launch", "MB", "µs", "floor", "from"]
    return tabulate(rows, headers=headers, markdown=markdown)


def _origin(launch: Launch) -> str:
    """The line of the launch's result after that of its caller, each cut to the room that the table has."""
    lines = next(iter(launch.source), "").split(" > ")
    return " > ".join(line if len(line) <= LINE_WIDTH else f"{line[: LINE_WIDTH - 1]}…" for line in lines)


def _replayed(replay: Check) -> str:
    verdict = "within the limit" if replay.passed else "BEYOND THE LIMIT"
    return (
        "Replayed on the CPU at batch 1, Triton kernels interpreted, each with its first configuration and widened "
        f"blocks: relative error {replay.error:.1e} against float64 ({replay.tensor}; eager {replay.eager_error:.1e}), "
        f"{verdict} {replay.tolerance:.1e}."
    )


def _shown(manifest: Manifest, replayed: Check | None) -> str:
    """What the report allows to conclude, and what not."""
    if not manifest.kernels:
        shown = "code can be generated for this card"
    elif spilled := sum(kernel.spills > 0 for kernel in manifest.kernels.values()):
        shown = f"the code compiles for this card, WITH SPILLS IN {spilled} BINARIES"
    else:
        shown = "the code compiles for this card without spills"
    if replayed is not None:
        computes = "computes" if replayed.passed else "DOES NOT COMPUTE"
        shown += f", and at batch 1 its Triton part {computes} what eager computes"
    return f"Shown: {shown}. {NOT_SHOWN}"


def timeline(costs: Sequence[Cost], basis: str) -> str:
    """The launches in order as SVG, over several rows: width by the estimate, colour by kind; names as tool tips.

    Args:
        basis: of the estimates, as `estimate.basis` puts it.
    """
    row = sum(cost.seconds for cost in costs) / ROWS
    shapes, start = [], 0.0
    for cost in costs:
        end = start + cost.seconds
        position = start
        while position < end:  # a launch may run on in the next row
            index = int(position / row + 1e-9)
            stop = min(end, (index + 1) * row)
            x, width = (position - index * row) / row * WIDTH, (stop - position) / row * WIDTH
            title = html.escape(f"{cost.launch.name}: {cost.seconds * 1e6:.1f} µs, {basis}")
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
