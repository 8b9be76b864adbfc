"""What the passes remove from GPU code: launches and bytes compared with stock Inductor's on the published arithmetic.

    python bench/offline.py --output bench/results/offline

Code is generated and compiled without a GPU (`mvc.offline`); writes OUTPUT.json and the tables OUTPUT.md: both sides,
and what each pass and each choice of the model is worth. `--budgets DIR` also writes our float16 code's as budgets.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.checkout import commit
from mvc import cli, files
from mvc.offline import budget, estimate
from mvc.offline.generate import generate
from mvc.offline.manifest import Request
from mvc.offline.targets import TARGETS, find
from mvc.table import tabulate

VARIANTS, DTYPES, BATCH, SIDE = ("T", "S"), ("float16", "bfloat16"), 128, 224
CARDS = [target.name for target in TARGETS.values() if target.name == target.architecture]  # one of each architecture
COMPARED = ("sm_80", "sm_90")  # with stock; the others are generated for their registers and spills
PUBLISHED, FUSING = "bench.published:create_model", ("fuse_depthwise", "fuse_movement")
UNFROZEN = (*FUSING, "lower_scan", "fuse_bias", "lower_gelu")
# From stock to ours: what each step adds, and its request. For the first variant, dtype and compared target.
STEPS = (
    ("published arithmetic, Inductor alone", {"passes": "none", "builder": PUBLISHED}),
    ("its mixers through fuse_depthwise, fuse_movement", {"passes": FUSING, "builder": PUBLISHED}),
    ("the model and the scan of mvc", {"passes": (*FUSING, "lower_scan")}),
    ("fuse_bias, lower_gelu", {"passes": UNFROZEN}),
    ("what parameters alone decide, computed once", {"passes": UNFROZEN, "frozen": True}),
    ("fuse_batch_norm", {"passes": (*UNFROZEN, "fuse_batch_norm"), "frozen": True}),
    ("fuse_cat: all passes", {"frozen": True}),
)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="without .json and .md")
    parser.add_argument("--budgets", type=Path, metavar="DIR", help=f"also write ours in {DTYPES[0]} there, as budgets")
    args = parser.parse_args()
    output = args.output
    files.require_folder(output.with_suffix(".json"), "--output")
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": f"torch {torch.__version__}, triton {triton.__version__}",
        "rows": [row(*each, args.budgets) for each in itertools.product(VARIANTS, DTYPES, CARDS)],
        "steps": [{"step": name, **step(asked)} for name, asked in STEPS],
    }
    files.replace(output.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    files.replace(output.with_suffix(".md"), page(facts))
    print(page(facts))


def row(variant: str, dtype: str, target: str, budgets: Path | None) -> dict[str, Any]:
    sizes = (variant, BATCH, SIDE, SIDE, dtype)
    facts = {"variant": variant, "dtype": dtype, "target": target}
    facts["mvc"] = made(Request(*sizes, frozen=True), target, budgets=budgets if dtype == DTYPES[0] else None)
    if target in COMPARED:
        facts["stock"] = made(Request(*sizes, **STEPS[0][1]), target)
    return facts


def step(asked: dict[str, Any]) -> dict[str, Any]:
    return made(Request(VARIANTS[0], BATCH, SIDE, SIDE, DTYPES[0], **asked), COMPARED[-1], kernels=False)


def made(request: Request, target: str, *, kernels: bool = True, budgets: Path | None = None) -> dict[str, Any]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        manifest = generate(request, find(target), Path(folder) / "code", kernels=kernels)
    if budgets is not None:
        budget.update(manifest, budgets)
    entry = budget.measured(manifest)
    least = estimate.floor(manifest)
    facts = {
        **{key: value for key, value in entry.items() if key not in ("model", "versions")},
        "launches": len(manifest.launches),
        "floor launches": least.launches,
        "floor triton bytes": least.triton_bytes,
        "seconds to generate": round(time.perf_counter() - start, 1),
    }
    print(f"{budget.key(manifest.model)}, {target}: {facts}", file=sys.stderr)
    return facts


def page(facts: dict[str, Any]) -> str:
    rows = []
    for each in facts["rows"]:
        ours, stock = each["mvc"], each.get("stock")
        cells = [each["variant"], each["dtype"], each["target"]]
        for name in ("launches", "own", "extern bytes"):
            cells.append(_cell(_value(ours, name), stock and _value(stock, name), name))
        floor = f"{ours['floor launches']}, {ours['floor triton bytes'] / 1e9:.2f}"
        rows.append([*cells, floor, ours["largest registers"], ours["spills"]])
    headers = ["", "dtype", "target", "launches", "Triton and scan, GB", "library, GB", "floor", "registers", "spills"]
    table = tabulate(rows, headers=headers, markdown=True)
    steps = [
        [each["step"], each["launches"], f"{_value(each, 'own') / 1e9:.2f}", f"{each['extern bytes'] / 1e9:.2f}"]
        for each in facts["steps"]
    ]
    headers = ["step by step", "launches", "Triton and scan, GB", "library, GB"]
    by_steps = tabulate(steps, headers=headers, markdown=True)
    return (
        f"Batch {BATCH}, {SIDE} x {SIDE}, channels_last, inference, frozen; {facts['versions']}, commit "
        f"{facts['commit']}, {facts['date']}. Ours / stock Inductor's on the published arithmetic (ratio); the floor "
        f"is launches and GB in Triton kernels around the same library calls. Nothing here is a time.\n\n{table}\n\n"
        f"{VARIANTS[0]}, {DTYPES[0]}, {COMPARED[-1]}:\n\n{by_steps}\n"
    )


def _value(facts: dict[str, Any], name: str) -> int:
    return facts["triton bytes"] + facts["scan bytes"] if name == "own" else facts[name]


def _cell(ours: int, stock: int | None, name: str) -> str:
    scale, form = (1, "d") if name == "launches" else (1e9, ".2f")
    shown = format(ours if scale == 1 else ours / scale, form)
    if stock is None:
        return shown
    return f"{shown} / {format(stock if scale == 1 else stock / scale, form)} ({ours / stock:.3f})"


if __name__ == "__main__":
    main()
