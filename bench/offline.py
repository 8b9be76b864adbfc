"""What the passes remove from GPU code: launches and bytes compared with stock Inductor's on the published arithmetic.

    python bench/offline.py --output bench/results/offline
    python bench/offline.py --training bench/results/offline_training
    python bench/offline.py --budgets bench/budgets

Code is generated and compiled without a GPU (`mvc.offline`). The first writes OUTPUT.json and the tables OUTPUT.md:
both sides, and what each pass and each choice of the model is worth. The second writes a table of training steps, with
the memory of their tensors. The third writes the budgets of our float16 code.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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
from mvc.offline.targets import find
from mvc.passes.pipeline import PASSES
from mvc.table import tabulate

SIDE = 224
TARGETS = ("sm_80", "sm_90", "sm_100")
# Batch 128, frozen, beside stock. Launches and bytes are the same on every target; the budgets have all registers.
ROWS = [(variant, dtype, "sm_90") for variant in ("T", "S") for dtype in ("float16", "bfloat16")]
BUDGETS = [  # of each architecture: variant, batch, and what else its request says
    *(("T", batch, {}) for batch in (128, 1)),
    *(("S", batch, {}) for batch in (128, 1)),
    *((variant, 128, {"kernels": "library"}) for variant in ("T", "S")),
]
PUBLISHED, FUSING = "bench.published:create_model", ("fuse_depthwise", "fuse_movement")
JOINING = ("fuse_delta_bias", "join_depthwise")  # what the model's layers compute apart
UNFROZEN = (*JOINING, *FUSING, "lower_scan", "fuse_bias", "lower_gelu")
OWN = ("fuse_linear", "join_linear", "fuse_convolution", "lower_attention")  # place kernels of mvc for a library's


def without(left_out: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in PASSES if name not in left_out)


# From stock to ours: what each step adds, and its request.
STEPS = (
    ("published arithmetic, Inductor alone", {"passes": "none", "builder": PUBLISHED}),
    ("its mixers through fuse_depthwise, fuse_movement", {"passes": FUSING, "builder": PUBLISHED}),
    ("the model and the scan of mvc", {"passes": (*JOINING, *FUSING, "lower_scan")}),
    ("fuse_bias, lower_gelu", {"passes": UNFROZEN}),
    ("what parameters alone decide, computed once", {"passes": UNFROZEN, "frozen": True}),
    ("fuse_batch_norm", {"passes": (*UNFROZEN, "fuse_batch_norm"), "frozen": True}),
)
OWN_STEPS = (
    ("all passes but for those of own kernels", {"passes": without(OWN), "frozen": True}),
    *((f"and {OWN[n]}", {"passes": without(OWN[n + 1 :]), "frozen": True}) for n in range(len(OWN))),
)
CHAINS = {  # by variant and batch
    ("T", 128): (*STEPS, *OWN_STEPS),
    ("T", 1): OWN_STEPS,
    ("S", 128): OWN_STEPS,
    ("S", 1): OWN_STEPS,
}
STOCK = {"builder": "bench.published:create_for_training", "passes": "none"}
TRAINING = (  # of T at batch 128, under autocast to float16
    ("published arithmetic with mvc's scan, Inductor alone", STOCK),
    ("the model of mvc, lower_scan alone", {"passes": (*JOINING, "lower_scan"), "recompute": False}),
    ("all passes, without recomputation", {"recompute": False}),
    ("all passes", {}),
)
CARD = "h200"  # of the steps: the one whose kernels the estimate is fitted to


def main() -> None:
    parser = cli.parser(__doc__)
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--output", type=Path, metavar="PATH", help="write the tables there, without .json and .md")
    add("--training", type=Path, metavar="PATH", help="write the table of training steps there, without .json and .md")
    add("--budgets", type=Path, metavar="DIR", help="write the budgets of our code there")
    args = parser.parse_args()
    if args.budgets:
        for target, (variant, batch, asked) in itertools.product(TARGETS, BUDGETS):
            made(Request(variant, batch, SIDE, SIDE, "float16", frozen=True, **asked), target, budgets=args.budgets)
    elif args.training:
        write(args.training, "--training", training, training_page)
    else:
        write(args.output, "--output", tables, page)


def write(
    output: Path, option: str, measure: Callable[[], dict[str, Any]], paged: Callable[[dict[str, Any]], str]
) -> None:
    files.require_folder(output.with_suffix(".json"), option)
    start = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": f"torch {torch.__version__}, triton {triton.__version__}",
    }
    facts = {**start, **measure()}
    files.replace(output.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    files.replace(output.with_suffix(".md"), paged(facts))
    print(paged(facts))


def tables() -> dict[str, Any]:
    return {
        "rows": [row(*each) for each in ROWS],
        "steps": [step(*chain, *each) for chain, steps in CHAINS.items() for each in steps],
    }


def training() -> dict[str, Any]:
    rows = []
    for name, asked in TRAINING:
        request = Request("T", 128, SIDE, SIDE, "float16", training=True, autocast=True, **asked)
        rows.append({"step": name, **made(request, CARD, kernels=False)})
    return {"rows": rows}


def row(variant: str, dtype: str, target: str) -> dict[str, Any]:
    sizes = (variant, 128, SIDE, SIDE, dtype)
    facts = {"variant": variant, "dtype": dtype, "target": target}
    facts["mvc"] = made(Request(*sizes, frozen=True), target)
    facts["stock"] = made(Request(*sizes, **STEPS[0][1]), target, kernels=False)
    return facts


def step(variant: str, batch: int, name: str, asked: dict[str, Any]) -> dict[str, Any]:
    request = Request(variant, batch, SIDE, SIDE, "float16", **asked)
    return {"variant": variant, "batch": batch, "step": name, **made(request, CARD, kernels=False)}


def made(request: Request, target: str, *, kernels: bool = True, budgets: Path | None = None) -> dict[str, Any]:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        manifest = generate(request, find(target), Path(folder) / "code", kernels=kernels)
    if budgets is not None:
        budget.update(manifest, budgets)
    entry = budget.measured(manifest)
    memory = {} if manifest.memory is None else {"memory": dataclasses.asdict(manifest.memory)}
    least = estimate.floor(manifest)
    facts = {
        **{key: value for key, value in entry.items() if key not in ("model", "versions")},
        **memory,
        "launches": len(manifest.launches),
        "floor launches": least.launches,
        "floor triton bytes": least.triton_bytes,
        "estimated ms": round(1e3 * sum(cost.seconds for cost in estimate.costs(manifest)), 3),
        "seconds to generate": round(time.perf_counter() - start, 1),
    }
    print(f"{budget.key(manifest.model)}, {target}: {facts}", file=sys.stderr)
    return facts


def page(facts: dict[str, Any]) -> str:
    rows = []
    for each in facts["rows"]:
        ours, stock = each["mvc"], each["stock"]
        floor = f"{ours['floor launches']}, {ours['floor triton bytes'] / 1e9:.2f}"
        cells = [_cell(_moved(ours, name), _moved(stock, name)) for name in MOVED]
        launches = f"{ours['launches']} / {stock['launches']} ({ours['launches'] / stock['launches']:.3f})"
        start = [each["variant"], each["dtype"], each["target"], launches]
        rows.append([*start, *cells, floor, ours["largest registers"], ours["spills"]])
    headers = ["", "dtype", "target", "launches", *MOVED, "floor", "registers", "spills"]
    parts = [
        f"Batch 128, {SIDE} x {SIDE}, channels_last, inference, frozen; {facts['versions']}, commit {facts['commit']}, "
        f"{facts['date']}. Ours / stock Inductor's on the published arithmetic (ratio); the floor is launches and GB "
        "in generated kernels around the same calls of libraries and of own kernels.",
        tabulate(rows, headers=headers, markdown=True),
    ]
    for variant, batch in CHAINS:
        steps = [each for each in facts["steps"] if (each["variant"], each["batch"]) == (variant, batch)]
        rows = [
            [each["step"], each["launches"], *(_gigabytes(_moved(each, name)) for name in MOVED), each["estimated ms"]]
            for each in steps
        ]
        headers = [f"{variant}, batch {batch}, float16, {CARD}", "launches", *MOVED, "estimate, ms"]
        parts.append(tabulate(rows, headers=headers, markdown=True))
    parts.append(f"The estimate is no measured time: {estimate.OWN_ASSUMED}.")
    return "\n\n".join(parts) + "\n"


def training_page(facts: dict[str, Any]) -> str:
    rows = [
        [
            each["step"],
            *(f"{each['memory'][name] / 2**20:,.0f}" for name in ("saved", "peak")),
            each["launches"],
            *(_gigabytes(_moved(each, name)) for name in MOVED),
            each["estimated ms"],
        ]
        for each in facts["rows"]
    ]
    kept = ["kept for the backward, MiB", "peak of tensors, MiB"]
    headers = [f"T, batch 128, {CARD}", *kept, "launches", *MOVED, "estimate, ms"]
    return (
        f"A training step, {SIDE} x {SIDE}, channels_last, parameters in float32, autocast to float16; "
        f"{facts['versions']}, commit {facts['commit']}, {facts['date']}. Memory is that of parameters, buffers, "
        "images, gradients and what lies between, not what libraries take for themselves; the optimizer is not part of "
        "it. The published arithmetic runs mvc's scan in the place of mamba-ssm's.\n\n"
        f"{tabulate(rows, headers=headers, markdown=True)}\n\n"
        "The estimate is no measured time, and its fit has seen inference alone; "
        f"{estimate.OWN_ASSUMED}.\n"
    )


MOVED = {  # columns, and the kinds of launches whose bytes they sum
    "GB, generated": ("triton",),
    "GB, own kernels": ("own",),
    "GB, library": ("extern",),
    "GB, all": ("triton", "own", "extern"),
}


def _moved(facts: dict[str, Any], column: str) -> int:
    return sum(facts[f"{kind} bytes"] for kind in MOVED[column])


def _gigabytes(moved: int) -> str:
    return f"{moved / 1e9:.2f}" if moved >= 1e9 else f"{moved / 1e9:.3f}"


def _cell(ours: int, stock: int) -> str:
    ratio = f" ({ours / stock:.3f})" if stock else ""
    return f"{_gigabytes(ours)} / {_gigabytes(stock)}{ratio}"


if __name__ == "__main__":
    main()
