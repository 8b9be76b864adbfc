"""The scan's kernels at the shapes that they are made for: predicted times and memory, without a GPU.

    python bench/scan_goals.py --output bench/results/scan_rows

Compiles the kernels that each shape launches for an H200, and writes OUTPUT.json and the tables OUTPUT.md. Times are
predicted by `mvc.offline.scan_cost`, not measured; beside them are the goals, and measured times of other kernels.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.checkout import commit
from bench.on_gpu.scan_job import Shape
from bench.scan_rows import DIRECTIONS, ORDERS, arguments, backward, compiled, shape_and_dtype
from mvc import cli, files
from mvc.kernels.scan.triton_launch import Launch, Meta, Plan
from mvc.offline.machine_code import Code
from mvc.offline.scan_cost import Geometry, predict
from mvc.offline.targets import Target, find
from mvc.table import tabulate

CARD = "h200"
UNROLLED = 4  # ptxas splits a short loop: one loop runs this many rounds at a time, another the rounds that are left
SECTOR = 32  # bytes


class Goal(NamedTuple):
    """Microseconds, forward and backward.

    Attributes:
        asked: the goal for these kernels.
        before, peer: measured on an H200 on 2026-11-26 (torch 2.11, triton 3.6): the kernels of 7952f19 in the slower
            order, and mamba-ssm's CUDA kernels.
    """

    problem: Shape
    asked: tuple[float, float]
    before: tuple[float, float]
    peer: tuple[float, float]


GOALS = (
    Goal(Shape(128, 160, 196, 8, "float16"), (23, 90), (118, 334), (92, 280)),
    Goal(Shape(128, 320, 49, 8, "float16"), (13, 45), (32, 122), (101, 285)),
    Goal(Shape(1, 160, 196, 8, "float16"), (4, 7), (67, 189), (7.1, 22)),
    Goal(Shape(2, 160, 12544, 8, "float16"), (50, 160), (154, 404), (97, 316)),
    Goal(Shape(8, 1536, 2048, 16, "bfloat16"), (200, 850), (1529, 5541), (417, 1732)),
    Goal(Shape(8, 1536, 2048, 16, "float32"), (220, 950), (1885, 5801), (828, 2091)),
    Goal(Shape(1, 1536, 2048, 16, "bfloat16"), (43, 130), (189, 758), (60, 276)),
    Goal(Shape(1, 5120, 4096, 16, "bfloat16"), (230, 700), (1139, 4414), (362, 1557)),
    Goal(Shape(1, 1536, 16384, 16, "bfloat16"), (320, 1000), (1345, 5005), (527, 1964)),
    Goal(Shape(1, 512, 65536, 16, "bfloat16"), (430, 1700), (1570, 5922), (687, 3549)),
)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="PATH", help="without .json and .md")
    output = parser.parse_args().output
    files.require_folder(output.with_suffix(".json"), "--output")
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # how long a compilation takes is one of the figures
    facts = {**heading(), "shapes": [facts_of(goal, order) for goal in GOALS for order in ORDERS]}
    files.replace(output.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    files.replace(output.with_suffix(".md"), page(facts))
    print(page(facts))


def heading() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": f"torch {torch.__version__}, triton {triton.__version__}",
        "card": find(CARD).card,
    }


def geometry(launch: Launch, plan: Plan, code: Code) -> Geometry:
    """How often a launch's loops run, and the bytes that it moves: each tensor once, since shared data is cached.

    `lines` is the mean over five accesses. Where the length is contiguous, the tiles of u and delta, two of the five,
    touch more lines than with contiguous channels, to whose tiles the model's constants were fitted.
    """
    given = arguments(launch, plan)
    touched = {name: shape_and_dtype(plan, name) for name in launch.pointers if name is not None}
    moved = sum(math.prod(shape) * dtype.itemsize for shape, dtype in touched.values())
    programs, constants = math.prod(launch.grid), launch.constants
    if "G" not in constants:  # a loop over chunks, some of them at once
        turns = -(-given["chunks"] // constants["AHEAD"])
        return Geometry(programs, launch.num_warps, rounds(turns, code.loops), moved)
    steps = constants["W"] * constants["G"]
    tiles = math.ceil(min(given["chunk"], given["length"]) / steps) * constants.get("BLOCKS", 1)
    reuse = lines = 1.0
    u = plan.given["u"]
    if u.strides[-1] != 1:
        reuse = max(1.0, SECTOR / (steps * u.dtype.itemsize))
        lines = (3 + 2 * max(1.0, constants["CH"] / steps)) / 5
    return Geometry(programs, launch.num_warps, rounds(tiles, code.loops), moved, reuse=reuse, lines=lines)


def rounds(count: int, loops: int) -> list[int]:
    """The rounds of each of the loops into which ptxas splits one loop."""
    return [] if loops == 0 else [count] if loops == 1 else [*divmod(count, UNROLLED), *[0] * (loops - 2)]


def predicted(plan: Plan, target: Target) -> list[tuple[str, float, float]]:
    """For each launch: the kernel, its predicted seconds, and the processor's seconds to compile it."""
    found = []
    for launch in plan.launches:
        code, seconds = compiled(launch, plan, target.compute_capability)
        took = predict(code, geometry(launch, plan, code), target)
        found.append((launch.kernel.__name__, took, seconds))
    return found


def facts_of(goal: Goal, order: str) -> dict[str, Any]:
    facts = {"problem": goal.problem, "order": order, "memory": memory(goal.problem)}
    for place, (direction, plan_of) in enumerate(DIRECTIONS.items()):
        launches = predicted(plan_of(goal.problem, order), find(CARD))
        facts[direction] = {
            "predicted us": round(sum(took for _, took, _ in launches) * 1e6, 1),
            "launches": {kernel: round(took * 1e6, 1) for kernel, took, _ in launches},
            "seconds to compile": {kernel: round(seconds, 1) for kernel, _, seconds in launches},
            "asked us": goal.asked[place],
            "before us": goal.before[place],
            "mamba-ssm us": goal.peer[place],
        }
    print(facts, file=sys.stderr, flush=True)
    return facts


def memory(problem: Shape) -> dict[str, int]:
    """Bytes of the inputs u, delta, B and C; of the states that a forward keeps for its backward; and of memory that
    only a call of the backward uses: partial sums of the gradients of B and C, and all else that is not an output."""
    plan = backward(problem, ORDERS[0])
    sizes = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in plan.new.items()}
    partial = {f"grad_{name}": sizes[f"grad_{name}"] for name in "BC" if plan.new[f"grad_{name}"][0][0] > 1}
    outputs = {f"grad_{name}" for name in ("u", "delta", "z", "B", "C")}
    states = plan.given["states"]
    return {
        "inputs": sum(_bytes(plan.given[name]) for name in ("u", "delta", "B", "C")),
        "states": _bytes(states),
        "partial sums": sum(partial.values()),
        "other scratch": sum(size for name, size in sizes.items() if name not in outputs),
    }


def _bytes(meta: Meta) -> int:
    return math.prod(meta.shape) * meta.dtype.itemsize


def page(facts: dict[str, Any]) -> str:
    """The page in Markdown."""
    rows, sizes, worst = [], [], dict.fromkeys(DIRECTIONS, 0.0)
    for each in facts["shapes"]:
        cells = [str(Shape(*each["problem"])), each["order"]]
        for direction in DIRECTIONS:
            figures = each[direction]
            asked = figures["asked us"]
            cells += [f"{figures['predicted us']:.1f}", f"{asked:g}", f"{figures['predicted us'] / asked:.2f}"]
            cells += [f"{figures['before us']:g}", f"{figures['mamba-ssm us']:g}"]
            worst[direction] = max(worst[direction], *figures["seconds to compile"].values())
        rows.append(cells)
        if each["order"] == ORDERS[0]:
            held = each["memory"]
            of_inputs = [f"{held[name] / held['inputs']:.3f}" for name in ("states", "partial sums", "other scratch")]
            sizes.append([str(Shape(*each["problem"])), f"{held['inputs'] / 1e6:.1f}", *of_inputs])
    each_way = ("predicted", "asked", "ratio", "before", "mamba-ssm")
    headers = ["(batch, dim, length) N dtype", "contiguous", *each_way, *(f"{name}, backward" for name in each_way)]
    launches = []
    for each, direction in itertools.product(facts["shapes"], DIRECTIONS):
        kernels = ", ".join(f"{kernel} {took}" for kernel, took in each[direction]["launches"].items())
        launches.append([str(Shape(*each["problem"])), each["order"], direction, kernels])
    return "\n\n".join(
        [
            f"Predictions for an {facts['card']} by `mvc.offline.scan_cost`, µs, none of them measured; before and "
            f"mamba-ssm are measured. {facts['versions']}, commit {facts['commit']}, {facts['date']}.",
            tabulate(rows, headers=headers, markdown=True),
            "The backward starts from states that the forward has kept; the final sums of its partial sums, which "
            "torch computes, are not included. Each launch:",
            tabulate(launches, headers=["", "contiguous", "direction", "kernels, µs"], markdown=True),
            "Memory of a training step, as parts of u, delta, B and C together: states that the forward keeps, partial "
            "sums of the gradients of B and C, and the rest that a backward allocates beside its results.",
            tabulate(sizes, headers=["", "u, delta, B, C, MB", "states", "partial sums", "rest"], markdown=True),
            f"The longest compilation of a launch took {worst['forward']:.1f} s of processor time forward and "
            f"{worst['backward']:.1f} s backward.",
        ]
    ) + "\n"  # fmt: skip


if __name__ == "__main__":
    main()
