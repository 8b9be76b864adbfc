"""What an exported file costs: beside the model that torch.compile makes in the process, and for a free batch.

    python bench/export_speed.py --variant T --batch 8 --output bench/results/export_speed

writes export_speed.json and export_speed.md there. All are timed in one interleaved run. From load to the first image,
each file is timed in processes of its own, after torch is imported.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvc import cli, create_model, export_model, files
from mvc.cli import exit_status, json_text, positive
from mvc.compile.compiler import check_against_eager, compile_model
from mvc.errors import UserError
from mvc.export import load
from mvc.measure import profiler
from mvc.measure.environment import environment
from mvc.model.config import VARIANTS
from mvc.table import tabulate

PACKAGES = {"package, frozen weights": True, "package, weights by name": False}
PROGRAM = "program without custom ops"  # whose scans are in one form for every batch
HEADERS = ("file", "beside it", "ms of the file", "ms beside it", "speed of the file (90 %)")
FIRST_IMAGE = """
import json, sys, time
import torch
x = torch.randn(1, 3, int(sys.argv[2]), int(sys.argv[2]))
torch.mm(x[0, 0], x[0, 0])  # torch's own start
start = time.perf_counter()
from mvc.export import load
imported = time.perf_counter()
with torch.no_grad():
    run = load(sys.argv[1])
    loaded = time.perf_counter()
    run(x)
    first = time.perf_counter()
print(json.dumps({"import mvc": imported - start, "load": loaded - imported, "first image": first - loaded}))
"""


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    return exit_status(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    made = cli.parser(__doc__)
    made.add_argument("--variant", default="T", choices=VARIANTS, metavar="V", help="default T")
    made.add_argument("--batch", type=positive, default=8, help="images in a batch (default 8)")
    made.add_argument("--rounds", type=positive, default=15, metavar="N", help="interleaved rounds (default 15)")
    made.add_argument("--starts", type=positive, default=5, metavar="N", help="processes for each package (default 5)")
    made.add_argument("--output", type=Path, required=True, metavar="NAME", help="results, as NAME.json and NAME.md")
    return made


@torch.no_grad()
def _run(args: argparse.Namespace) -> int:
    files.require_folder(args.output, "--output")
    torch.manual_seed(0)
    model = create_model(args.variant).eval()
    side = model.config.image_size
    x = torch.randn(args.batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    runs: dict[str, Callable[[Tensor], Tensor]] = {}
    starts = {}
    with tempfile.TemporaryDirectory(prefix="mvc-export-speed-") as folder:

        def exported(name: str, suffix: str, **options: Any) -> Path:
            print(f"writing {args.variant} as a {name} ...", file=sys.stderr, flush=True)
            path = Path(folder) / f"{name}{suffix}"
            export_model(model, x, path, **options)
            return path

        for name, frozen in PACKAGES.items():
            path = exported(name, ".pt2", frozen=frozen)
            starts[name], runs[name] = _starts(path, side, args.starts), load(path)
            print("compiling it in this process ...", file=sys.stderr, flush=True)
            runs[f"{name}: torch.compile"], _ = compile_model(model, x, options={"frozen": frozen})
        path = exported(PROGRAM, ".exported")
        starts[PROGRAM], runs[PROGRAM] = _starts(path, side, args.starts), load(path)
        runs[f"{PROGRAM}: for this batch alone"] = load(exported("program for one batch", ".exported", dynamic=None))
        _check(model, runs, x)
        print(f"measuring {args.rounds} rounds ...", file=sys.stderr, flush=True)
        timings = profiler.measure(runs, rounds=args.rounds, device=x.device, inputs=[(x,)]).timings
    facts = {
        "environment": dataclasses.asdict(environment(x.device)),
        "variant": args.variant,
        "batch": args.batch,
        "rows": [_row(name, timings, starts) for name in runs if ": " in name],
    }
    files.replace(args.output.with_suffix(".json"), json_text(facts))
    files.replace(args.output.with_suffix(".md"), _page(facts))
    print(_page(facts))
    return 0


def _check(model: nn.Module, runs: dict[str, Callable[[Tensor], Tensor]], x: Tensor) -> None:
    for name, run in runs.items():
        if not (check := check_against_eager(model, run, x)).passed:
            raise UserError(f"{name} disagrees with eager, nothing is measured: {check}")


def _starts(path: Path, side: int, count: int) -> dict[str, float]:
    """Median seconds of each step from the import to the first image, over processes that do nothing else."""
    command = [sys.executable, "-c", FIRST_IMAGE, str(path), str(side)]
    several = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(count)]
    return {name: statistics.median(each[name] for each in several) for name in several[0]}


def _row(pair: str, timings: dict[str, profiler.Timing], starts: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Of a file and what it is measured beside, named `FILE: BESIDE`."""
    name, beside = pair.split(": ")
    file, other = timings[name], timings[pair]
    facts = {"file": name, "beside": beside, "seconds": file.median, "seconds_beside": other.median}
    return {**facts, "speed": other.ratio_to(file)._asdict(), "start": starts[name]}


def _page(facts: dict[str, Any]) -> str:
    about = ", ".join(f"{name} {facts['environment'].get(name)}" for name in ("date", "device", "torch", "mvc"))
    title = f"`python bench/export_speed.py --variant {facts['variant']} --batch {facts['batch']}`: {about}"
    rows = [
        [
            row["file"],
            row["beside"],
            f"{row['seconds'] * 1e3:.1f}",
            f"{row['seconds_beside'] * 1e3:.1f}",
            "{median:.3f} ({low:.3f} to {high:.3f})".format(**row["speed"]),
            *(f"{seconds:.2f} s" for seconds in row["start"].values()),
        ]
        for row in facts["rows"]
    ]
    return f"{title}\n\n{tabulate(rows, [*HEADERS, *facts['rows'][0]['start']], markdown=True)}\n"


if __name__ == "__main__":
    sys.exit(main())
