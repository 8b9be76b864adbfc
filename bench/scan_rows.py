"""What the scan's table of tiles (kernels/triton_tiles.py) comes to, without a GPU: machine code, predicted times, memory.

    python bench/scan_rows.py --budgets bench/budgets/scan.json      every row of the table, for three architectures
    python bench/scan_rows.py --output bench/results/scan_rows       the shapes of `GOALS`, as OUTPUT.json and OUTPUT.md

A row is what a problem of few or of many sequences launches, by N and by the order in memory. Its budgets are what its
machine code has, for the triton that runs this; tests/test_triton_sass.py holds the code to them. Times are predicted
by `mvc.offline.scan_cost`, not measured.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

sys.path.insert(0, str(Path(__file__).parents[1]))

from mvc.kernels import triton_plan
from mvc.kernels.rules import TENSORS
from mvc.kernels.triton_launch import Launch, Meta, Plan

from bench.checkout import commit
from mvc import files
from mvc.offline import machine_code, torch_private
from mvc.offline.machine_code import Code
from mvc.offline.scan_cost import Geometry, predict
from mvc.offline.targets import TARGETS, Target, find
from mvc.table import tabulate

ORDERS = ("channels", "length")  # which axis of the sequences is contiguous
STATES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ARCHITECTURES = [target.name for target in TARGETS.values() if target.name == target.architecture]
BUDGETS = Path(__file__).parent / "budgets" / "scan.json"
CARD = "h200"
UNROLLED = 4  # by ptxas, a short loop: one of so many rounds together, and one of those that are left
SECTOR = 32  # bytes


class Problem(NamedTuple):
    batch: int
    dim: int
    length: int
    states: int
    dtype: str

    def __str__(self) -> str:
        return f"({self.batch}, {self.dim}, {self.length}) N {self.states} {self.dtype}"


class Goal(NamedTuple):
    """Microseconds, forward and backward.

    Attributes:
        asked: of these kernels.
        before, peer: measured on an H200 on 2026-11-26 (torch 2.11, triton 3.6): the kernels of 7952f19 in the slower
            order, and mamba-ssm's CUDA kernels.
    """

    problem: Problem
    asked: tuple[float, float]
    before: tuple[float, float]
    peer: tuple[float, float]


GOALS = (
    Goal(Problem(128, 160, 196, 8, "float16"), (23, 90), (118, 334), (92, 280)),
    Goal(Problem(128, 320, 49, 8, "float16"), (13, 45), (32, 122), (101, 285)),
    Goal(Problem(1, 160, 196, 8, "float16"), (4, 7), (67, 189), (7.1, 22)),
    Goal(Problem(2, 160, 12544, 8, "float16"), (50, 160), (154, 404), (97, 316)),
    Goal(Problem(8, 1536, 2048, 16, "bfloat16"), (200, 850), (1529, 5541), (417, 1732)),
    Goal(Problem(8, 1536, 2048, 16, "float32"), (220, 950), (1885, 5801), (828, 2091)),
    Goal(Problem(1, 1536, 2048, 16, "bfloat16"), (43, 130), (189, 758), (60, 276)),
    Goal(Problem(1, 5120, 4096, 16, "bfloat16"), (230, 700), (1139, 4414), (362, 1557)),
    Goal(Problem(1, 1536, 16384, 16, "bfloat16"), (320, 1000), (1345, 5005), (527, 1964)),
    Goal(Problem(1, 512, 65536, 16, "bfloat16"), (430, 1700), (1570, 5922), (687, 3549)),
)
# Problems that stand for the two halves of the table.
ROWS = {"many": Problem(64, 1536, 2048, 16, "bfloat16"), "few": Problem(1, 1536, 2048, 16, "bfloat16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="PATH", help="predict; without .json and .md")
    parser.add_argument("--budgets", type=Path, metavar="FILE", help="compile every row, and write its figures there")
    parser.add_argument("--states", type=int, nargs="+", default=STATES, metavar="N", help="rows of these alone")
    parser.add_argument("--targets", nargs="+", default=ARCHITECTURES, metavar="SM", help="architectures of the rows")
    args = parser.parse_args()
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # how long a compilation takes is one of the figures
    if args.output is None and args.budgets is None:
        parser.error("give --output, --budgets or both")
    for path in (args.output and args.output.with_suffix(".json"), args.budgets):
        if path is not None:
            files.require_folder(path, "--output" if path != args.budgets else "--budgets")
    if args.output is not None:
        facts = {**heading(), "shapes": [facts_of(goal, order) for goal in GOALS for order in ORDERS]}
        files.replace(args.output.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
        files.replace(args.output.with_suffix(".md"), page(facts))
        print(page(facts))
    if args.budgets is not None:
        write_budgets(args.budgets, args.states, args.targets)


def heading() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": f"torch {torch.__version__}, triton {triton.__version__}",
        "card": find(CARD).card,
    }


# From problems to launches.


def metas(problem: Problem, order: str) -> dict[str, Meta | None]:
    """Of a forward's tensors, with the options that models use: D, a bias and softplus."""
    batch, dim, length, states, name = problem
    dtype = getattr(torch, name)
    of_sequences = (length * dim, dim, 1) if order == "channels" else (length * dim, 1, length)
    sequence = Meta((batch, length, dim), of_sequences, dtype)
    weights = Meta((batch, length, 1, states), (length * states, states, states, 1), dtype)
    vector = Meta((dim,), (1,), torch.float32)
    given = {"u": sequence, "delta": sequence, "A": Meta((dim, states), (states, 1), torch.float32), "B": weights}
    return dict.fromkeys(TENSORS) | given | {"C": weights, "D": vector, "delta_bias": vector}


def forward(problem: Problem, order: str, *, keep: bool = False) -> Plan:
    return triton_plan.plan_forward(metas(problem, order), softplus=True, reverse=False, keep=keep)


def backward(problem: Problem, order: str) -> Plan:
    """From states that a forward has kept."""
    given, (shape, dtype) = metas(problem, order), forward(problem, order, keep=True).new["states"]
    batch, dim, _, states, _ = problem
    given |= {"grad_y": given["u"], "states": _contiguous(shape, dtype)}
    given["grad_last_state"] = _contiguous((batch, dim, states), torch.float32)
    return triton_plan.plan_backward(given, softplus=True, reverse=False)


def _contiguous(shape: Sequence[int], dtype: torch.dtype) -> Meta:
    return Meta(tuple(shape), torch.empty(shape, device="meta").stride(), dtype)


DIRECTIONS = {"forward": forward, "backward": backward}


class Compiled(NamedTuple):
    code: Code
    seconds: float  # that compiling took


def arguments(launch: Launch, plan: Plan) -> dict[str, Any]:
    """Of the kernel, by name; tensors stand for their dtype."""
    names = launch.kernel.arg_names
    tensors = [
        name and torch.empty(0, dtype=_shape_and_dtype(plan, name)[1], device="meta") for name in launch.pointers
    ]
    sizes = iter(launch.sizes)
    rest = {name: launch.constants[name] if name in launch.constants else next(sizes) for name in names[len(tensors) :]}
    return dict(zip(names, tensors, strict=False)) | rest


def _shape_and_dtype(plan: Plan, name: str) -> tuple[Sequence[int], torch.dtype]:
    return plan.new[name] if name in plan.new else (plan.given[name].shape, plan.given[name].dtype)


_compiled: dict[tuple, Compiled] = {}


def compiled(launch: Launch, plan: Plan, capability: int) -> Compiled:
    """Once for all launches that Triton takes the same binary for: of integers it knows which are 1 and which are
    multiples of 16."""
    given = arguments(launch, plan)
    key = [launch.kernel.__name__, capability, launch.num_warps]
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            key.append(value.dtype)
        else:
            key.append(value if name in launch.constants or value is None else (value == 1, value % 16 == 0))
    if tuple(key) not in _compiled:
        start = time.perf_counter()
        binary = torch_private.compiled_launch(launch.kernel, given, capability, warps=launch.num_warps)
        seconds = time.perf_counter() - start
        _compiled[tuple(key)] = Compiled(machine_code.read_cubin(binary.image, shared=binary.shared), seconds)
    return _compiled[tuple(key)]


# Predictions.


def geometry(launch: Launch, plan: Plan, code: Code) -> Geometry:
    """How often its loops run, and what it moves: each tensor once, since what programs share is in a cache by then.

    Where the length is contiguous, `lines` is how many more of them the tiles of u and delta touch than where channels
    are, as one of five accesses each: the constants of the model were fitted to tiles of the latter order.
    """
    given = arguments(launch, plan)
    touched = {name: _shape_and_dtype(plan, name) for name in launch.pointers if name is not None}
    moved = sum(math.prod(shape) * dtype.itemsize for shape, dtype in touched.values())
    programs, constants = math.prod(launch.grid), launch.constants
    if "G" not in constants:  # a loop over chunks
        return Geometry(programs, launch.num_warps, _rounds(given["chunks"], code.loops), moved)
    steps = constants["W"] * constants["G"]
    tiles = math.ceil(min(given["chunk"], given["length"]) / steps) * constants.get("BLOCKS", 1)
    reuse = lines = 1.0
    u = plan.given["u"]
    if u.strides[-1] != 1:
        reuse = max(1.0, SECTOR / (steps * u.dtype.itemsize))
        lines = (3 + 2 * max(1.0, constants["CH"] / steps)) / 5
    return Geometry(programs, launch.num_warps, _rounds(tiles, code.loops), moved, reuse=reuse, lines=lines)


def _rounds(count: int, loops: int) -> list[int]:
    return [] if loops == 0 else [count] if loops == 1 else [*divmod(count, UNROLLED), *[0] * (loops - 2)]


def predicted(plan: Plan, target: Target) -> list[tuple[str, float, float]]:
    """Of each launch the kernel, seconds that it is predicted to take, and seconds that compiling it took."""
    found = []
    for launch in plan.launches:
        code, seconds = compiled(launch, plan, target.compute_capability)
        took = predict(code, geometry(launch, plan, code), target)
        found.append((launch.kernel.__name__, took, seconds))
    return found


def facts_of(goal: Goal, order: str) -> dict[str, Any]:
    facts = {"problem": goal.problem, "order": order, "memory": memory(goal.problem)}
    for name, (direction, plan_of) in enumerate(DIRECTIONS.items()):
        launches = predicted(plan_of(goal.problem, order), find(CARD))
        facts[direction] = {
            "predicted us": round(sum(took for _, took, _ in launches) * 1e6, 1),
            "launches": {kernel: round(took * 1e6, 1) for kernel, took, _ in launches},
            "seconds to compile": {kernel: round(seconds, 1) for kernel, _, seconds in launches},
            "asked us": goal.asked[name],
            "before us": goal.before[name],
            "mamba-ssm us": goal.peer[name],
        }
    print(facts, file=sys.stderr, flush=True)
    return facts


def memory(problem: Problem) -> dict[str, int]:
    """Bytes of what is read, u, delta, B and C; of the states that a forward keeps for its backward; and of what lives
    only within a call of the backward: partial sums of the gradients of B and C, and all else that is no output."""
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
    """In Markdown."""
    rows, sizes, worst = [], [], dict.fromkeys(DIRECTIONS, 0.0)
    for each in facts["shapes"]:
        cells = [str(Problem(*each["problem"])), each["order"]]
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
            sizes.append([str(Problem(*each["problem"])), f"{held['inputs'] / 1e6:.1f}", *of_inputs])
    each_way = ("predicted", "asked", "ratio", "before", "mamba-ssm")
    headers = ["(batch, dim, length) N dtype", "contiguous", *each_way, *(f"{name}, backward" for name in each_way)]
    launches = [
        [str(Problem(*each["problem"])), each["order"], direction]
        + [", ".join(f"{kernel} {took}" for kernel, took in each[direction]["launches"].items())]
        for each in facts["shapes"]
        for direction in DIRECTIONS
    ]
    return "\n\n".join(
        [
            f"Predictions for an {facts['card']} by `mvc.offline.scan_cost`, µs, nothing of them measured; before and "
            f"mamba-ssm are measured. {facts['versions']}, commit {facts['commit']}, {facts['date']}.",
            tabulate(rows, headers=headers, markdown=True),
            "The backward starts from states that the forward has kept; the sums of partial sums that follow it, which "
            "torch does, are not in it. Each launch:",
            tabulate(launches, headers=["", "contiguous", "direction", "kernels, µs"], markdown=True),
            "Memory of a training step, as parts of u, delta, B and C together: states that the forward keeps, partial "
            "sums of the gradients of B and C, and the rest that a backward allocates beside its results.",
            tabulate(sizes, headers=["", "u, delta, B, C, MB", "states", "partial sums", "rest"], markdown=True),
            f"The longest compilation of a launch took {worst['forward']:.1f} s forward, {worst['backward']:.1f} s "
            "backward, on a machine that ran other work.",
        ]
    ) + "\n"  # fmt: skip


# Budgets.


class Row(NamedTuple):
    """A launch of the table: one kernel of one direction, for a half of the table, N and an order.

    Attributes:
        name: as `BUDGETS` has it, but for the architecture.
    """

    name: str
    launch: Launch
    plan: Plan


def rows(states: Iterable[int] = STATES, orders: Iterable[str] = ORDERS) -> Iterator[Row]:
    for n, half, order, direction in itertools.product(states, ROWS, orders, DIRECTIONS):
        plan = DIRECTIONS[direction](ROWS[half]._replace(states=n), order)
        for launch in plan.launches:
            kernel = launch.kernel.__name__.removesuffix("_kernel")
            name = kernel if kernel == direction else f"{kernel} of the {direction}"
            yield Row(f"{name}, N {n}, {half}, {order}", launch, plan)


def figures(row: Row, code: Code) -> dict[str, Any]:
    """What is held to a budget. Instructions and operations of the special-function unit, exponentials nearly all, are
    those of the loop, by warps, for 32 (step, channel)."""
    constants = row.launch.constants
    found = {"registers": code.registers, "shared": code.shared, "local": code.local}
    if "G" not in constants:
        return found
    in_loop = [stretch for stretch in code.stretches if stretch.loop is not None]
    share = 32 * row.launch.num_warps / (constants["W"] * constants["G"] * constants["CH"])
    return {
        "tile": f"CH {constants['CH']} G {constants['G']} S {constants['S']} W {constants['W']}, "
        f"{row.launch.num_warps} warps",
        "instructions": round(share * sum(sum(stretch.pipes.values()) for stretch in in_loop), 1),
        "special": round(share * sum(stretch.pipes.get("special", 0) for stretch in in_loop), 1),
        "barriers": sum(event.kind == "barrier" for stretch in in_loop for event in stretch.events),
        **found,
    }


def version() -> str:
    """The triton whose code a budget is of: "3.8"."""
    return ".".join(triton.__version__.split(".")[:2])


@functools.cache
def budgets() -> dict[str, dict[str, Any]]:
    """By architecture and row, of the triton that is installed; empty where it has none."""
    return json.loads(BUDGETS.read_text(encoding="utf-8")).get(version(), {})


def write_budgets(path: Path, states: Iterable[int], targets: Iterable[str]) -> None:
    """Figures of the rows in place of those of the same triton and architecture; others stay."""
    everything = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    of_version = everything.setdefault(version(), {})
    for name in targets:
        found = {}
        for row in rows(states):
            code, seconds = compiled(row.launch, row.plan, find(name).compute_capability)
            found[row.name] = figures(row, code)
            print(f"{name}, {row.name}: {found[row.name]}, {seconds:.1f} s to compile", flush=True)
        of_version[name] = {**of_version.get(name, {}), **found}
        files.replace(path, _dumped(everything))


def _dumped(everything: dict[str, dict[str, dict[str, Any]]]) -> str:
    """One line for each row."""
    versions = []
    for number, architectures in sorted(everything.items()):
        each = []
        for name, found in sorted(architectures.items()):
            lines = ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
            each.append(f'  "{name}": {{\n{lines}\n  }}')
        versions.append(f' "{number}": {{\n' + ",\n".join(each) + "\n }")
    return "{\n" + ",\n".join(versions) + "\n}\n"


if __name__ == "__main__":
    main()
