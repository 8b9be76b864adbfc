"""Every variant in every format: written by the command, reloaded, and compared with eager mode.

    python bench/export.py --output bench/results/export

writes export.json and export.md there. Each file is made by a process of its own and then deleted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mvc import files
from mvc.cli import exit_status, json_text, parser
from mvc.errors import UserError
from mvc.model.config import VARIANTS
from mvc.table import tabulate

FORMATS = {
    "pt2, CPU": ("model.pt2",),
    "pt2, CUDA": ("model.pt2", "--device", "sm_90", "--dtype", "float16"),
    "ONNX": ("model.onnx",),
    "exported": ("model.exported",),
}
HEADERS = ["variant", "format", "batch: error / limit", "MB", "written in s", "load and first image s"]


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    return exit_status(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=VARIANTS, metavar="V", help="default all")
    made.add_argument("--formats", nargs="+", default=[*FORMATS], choices=FORMATS, metavar="NAME", help="default all")
    made.add_argument("--batch", default="1:8", metavar="LOW:HIGH", help="images in a batch (default 1:8)")
    made.add_argument("--output", type=Path, required=True, metavar="NAME", help="results, as NAME.json and NAME.md")
    return made


def _run(args: argparse.Namespace) -> int:
    files.require_folder(args.output, "--output")
    rows: list[dict[str, Any]] = []
    for variant in args.variants:
        for name in args.formats:
            print(f"{variant} as {name} ...", file=sys.stderr, flush=True)
            rows.append({**_exported(variant, *FORMATS[name], "--batch", args.batch), "kind": name})
            files.replace(args.output.with_suffix(".json"), json_text({"rows": rows}))
            files.replace(args.output.with_suffix(".md"), _page(rows))
    print(_page(rows))
    return 0 if all("failed" not in row for row in rows) else 1


def _exported(variant: str, file: str, *options: str) -> dict[str, Any]:
    """The command's facts, or the sentence with which it failed."""
    with tempfile.TemporaryDirectory(prefix="mvc-export-bench-") as folder:
        output = str(Path(folder) / file)
        command = [*("-m", "mvc.export", "--quiet", "--json", "-", "--variant", variant), "--output", output, *options]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode == 2:
        return {"variant": variant, "failed": done.stderr.strip().splitlines()[-1]}
    if not done.stdout.strip():
        raise UserError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    facts = json.loads(done.stdout)
    return facts if done.returncode == 0 else {**facts, "failed": "the file and eager disagree"}


def _page(rows: list[dict[str, Any]]) -> str:
    environment = next((row["environment"] for row in rows if "environment" in row), {})
    about = ", ".join(f"{name} {environment.get(name)}" for name in ("date", "device", "torch", "mvc"))
    return f"`python bench/export.py`: {about}\n\n{tabulate(map(_cells, rows), HEADERS, markdown=True)}\n"


def _cells(row: dict[str, Any]) -> list[str]:
    if "compared" not in row:
        return [row["variant"], row["kind"], row["failed"], "", "", ""]
    compared = [f"{each['batch']}: {each['error']:.0e} / {each['limit']:.0e}" for each in row["compared"]]
    load = row["load_seconds"]
    return [
        row["variant"],
        row["kind"],
        ", ".join(compared) or "not run here",
        f"{row['bytes'] / 1e6:.0f}",
        f"{row['seconds']:.0f}",
        "" if load is None else f"{load:.2f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
