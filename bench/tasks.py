"""Measure the backbone of dense tasks, eager and compiled, with windows as published and of valid tokens.

All runs of one size are interleaved, so that a drift of a shared machine changes all times alike.

  python bench/tasks.py
  python bench/tasks.py --variant S --sizes 800x1333 --rounds 9 --json tasks.json
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

import torch
from models import HOWS

from mvc import cli
from mvc.cli import DTYPES, exit_status, positive, write_json
from mvc.compile.compiler import check_against_eager, compile_model
from mvc.errors import UserError
from mvc.measure import profiler
from mvc.measure.environment import environment
from mvc.model.config import get_config
from mvc.progress import Progress
from mvc.table import tabulate
from mvc.tasks import detection, segmentation
from mvc.tasks.backbone import Backbone

DETECTION, SEGMENTATION = (800, 1333), (512, 512)  # the published sizes
WINDOWS = {"as published": True, "of valid tokens": False}  # padded_windows
WAYS = ("eager", "inductor", "mvc, frozen")
BASE = "as published, eager"  # what the others are compared with


def main() -> int:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--variant", default="T", metavar="V")
    add("--sizes", nargs="+", type=_size, default=[DETECTION, SEGMENTATION], metavar="HxW")
    add("--windows", nargs=2, type=positive, metavar="N", help="of stages 3 and 4 (default the published ones)")
    add("--how", nargs="+", choices=WAYS, default=WAYS, metavar="HOW", help=f"of {'; '.join(WAYS)} (default all)")
    add("--batch", type=positive, default=1, metavar="N")
    add("--dtype", choices=DTYPES, default="float32")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--rounds", type=positive, default=7, metavar="N", help="interleaved rounds (default 7)")
    add("--json", type=cli.name, metavar="FILE", help="also write the figures as JSON")
    args = parser.parse_args()
    return exit_status(lambda: run(args))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return positive(height), positive(width)


def run(args: argparse.Namespace) -> int:
    device = torch.device(args.device)
    machine = environment(device)
    facts: dict[str, Any] = {"environment": dataclasses.asdict(machine), "variant": args.variant, "sizes": {}}
    print(f"{machine}, {machine.date}, {args.variant}, batch {args.batch}, {args.dtype}\n")
    with torch.no_grad():
        for size in args.sizes:
            name = "x".join(map(str, size))
            facts["sizes"][name] = found = measure(args, size, device)
            print(table(name, found), "\n")
    if args.json:
        write_json(facts, args.json)
    return 0


def windows_of(variant: str, size: tuple[int, int]) -> tuple[int, int]:
    """The published windows of segmentation at its size, otherwise those of detection."""
    if size == SEGMENTATION:
        return segmentation.window_sizes(get_config(variant).name)
    return detection.BACKBONE["window_sizes"]


def measure(args: argparse.Namespace, size: tuple[int, int], device: torch.device) -> dict[str, Any]:
    """The times of every way and kind of windows at one size, in one interleaved run."""
    progress = Progress(quiet=False)
    windows = tuple(args.windows or windows_of(args.variant, size))
    torch.manual_seed(0)
    x = torch.randn(args.batch, 3, *size).to(device, DTYPES[args.dtype])
    runs, errors = {}, {}
    for kind, padded in WINDOWS.items():
        config = get_config(args.variant, window_sizes=windows, padded_windows=padded)
        torch.manual_seed(0)  # the same weights
        model = Backbone(config, device=device, dtype=DTYPES[args.dtype]).eval()
        for how in args.how:
            compiled, name = model, f"{kind}, {how}"
            if how != "eager":
                with progress.step(f"compiling {args.variant} at {size[0]} x {size[1]}, windows {name}"):
                    compiled, report = compile_model(model, x, **HOWS[how])
                    check = check_against_eager(model, compiled, x)
                errors[name] = {"error": check.error, "compile_seconds": report.seconds}
                if not check.passed:
                    raise UserError(f"{name} disagrees with eager, so nothing is measured: {check}")
            runs[name] = lambda compiled=compiled: compiled(x)
    with progress.step(f"measuring {args.rounds} rounds"):
        timings = profiler.measure(runs, rounds=args.rounds, device=device).timings
    rows = {
        name: {
            **timing.spread._asdict(),
            "seconds": list(timing.seconds),
            **errors.get(name, {}),
            **({"times_as_fast": list(timings[BASE].ratio_to(timing))} if BASE in timings else {}),
        }
        for name, timing in timings.items()
    }
    ratios = {
        how: list(timings[f"as published, {how}"].ratio_to(timings[f"of valid tokens, {how}"])) for how in args.how
    }
    return {"windows": list(windows), "rounds": args.rounds, "rows": rows, "valid_over_padded": ratios}


def table(size: str, facts: dict[str, Any]) -> str:
    """Markdown, so that a page can quote it."""
    rows = []
    for name, row in facts["rows"].items():
        kind, _, how = name.partition(", ")
        spread = f"{row['median_seconds'] * 1e3:.0f} ({row['p10_seconds'] * 1e3:.0f} to {row['p90_seconds'] * 1e3:.0f})"
        rows.append([size, kind, how, spread, f"{row['times_as_fast'][0]:.2f}" if "times_as_fast" in row else ""])
    headers = ["size", f"windows of {' and '.join(map(str, facts['windows']))}", "run by", "ms", "times as fast"]
    lines = [tabulate(rows, headers=headers, markdown=True)]
    for how, (median, low, high) in facts["valid_over_padded"].items():
        lines.append(f"{how}: valid tokens {median:.2f} ({low:.2f} to {high:.2f}) times as fast as padded windows")
    return "\n".join([*lines, f"{facts['rounds']} interleaved rounds; median, and 10 % to 90 % of them"])


if __name__ == "__main__":
    sys.exit(main())
