"""Checks the machine code for the rows of the scan's table of tiles (kernels/scan/triton_tiles.py), without a GPU.

    python bench/scan_rows.py --budgets bench/scan_budgets.json

A row describes what problems of many or few sequences launch, by N and by the order in memory. Its budgets are figures
of its code, for the installed triton and each architecture; tests/kernels/test_triton_sass.py compares the code with
them.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.on_gpu.scan_job import Shape
from mvc import cli, files
from mvc.kernels.scan import triton_plan
from mvc.kernels.scan.triton_launch import Launch, Meta, Plan
from mvc.kernels.schemas import TENSORS
from mvc.offline import machine_code, torch_private
from mvc.offline.machine_code import Code
from mvc.offline.targets import TARGETS, find

ORDERS = ("channels", "length")  # which axis of the sequences is contiguous
STATES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ARCHITECTURES = [target.name for target in TARGETS.values() if target.name == target.architecture]
BUDGETS = Path(__file__).parent / "scan_budgets.json"


# Problems that stand for the rows of one N, from many sequences to few long ones.
ROWS = {
    "many": Shape(64, 1536, 2048, 16, "bfloat16"),
    "half as many": Shape(1, 5120, 4096, 16, "bfloat16"),
    "few": Shape(1, 1536, 2048, 16, "bfloat16"),
    "few long": Shape(1, 512, 65536, 16, "bfloat16"),
}


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--budgets", type=Path, required=True, metavar="FILE", help="where other rows stay as they are")
    parser.add_argument("--states", type=int, nargs="+", default=STATES, metavar="N", help="rows of these alone")
    parser.add_argument("--targets", nargs="+", default=ARCHITECTURES, metavar="SM", help="for these alone")
    args = parser.parse_args()
    files.require_folder(args.budgets, "--budgets")
    write_budgets(args.budgets, args.states, args.targets)


# From problems to launches.


def metas(problem: Shape, order: str) -> dict[str, Meta | None]:
    """The metadata of a forward's tensors, with the options that models use: D, a bias and softplus."""
    batch, dim, length, states, name = problem
    dtype = getattr(torch, name)
    of_sequences = (length * dim, dim, 1) if order == "channels" else (length * dim, 1, length)
    sequence = Meta((batch, length, dim), of_sequences, dtype)
    weights = Meta((batch, length, 1, states), (length * states, states, states, 1), dtype)
    vector = Meta((dim,), (1,), torch.float32)
    given = {"u": sequence, "delta": sequence, "A": Meta((dim, states), (states, 1), torch.float32), "B": weights}
    return dict.fromkeys(TENSORS) | given | {"C": weights, "D": vector, "delta_bias": vector}


def forward(problem: Shape, order: str, *, keep: bool = False) -> Plan:
    return triton_plan.plan_forward(metas(problem, order), softplus=True, reverse=False, keep=keep)


def backward(problem: Shape, order: str) -> Plan:
    """The backward's launches, from states that a forward has kept."""
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
    seconds: float  # of a processor that compiling took


def arguments(launch: Launch, plan: Plan) -> dict[str, Any]:
    """The kernel's arguments by name; tensors stand for their dtype."""
    names = launch.kernel.arg_names
    dtypes = [name and shape_and_dtype(plan, name)[1] for name in launch.pointers]
    tensors = [dtype and torch.empty(0, dtype=dtype, device="meta") for dtype in dtypes]
    sizes = iter(launch.sizes)
    rest = {name: launch.constants[name] if name in launch.constants else next(sizes) for name in names[len(tensors) :]}
    return dict(zip(names, tensors, strict=False)) | rest


def shape_and_dtype(plan: Plan, name: str) -> tuple[Sequence[int], torch.dtype]:
    return plan.new[name] if name in plan.new else (plan.given[name].shape, plan.given[name].dtype)


_compiled: dict[tuple, Compiled] = {}


def compiled(launch: Launch, plan: Plan, capability: int) -> Compiled:
    """Compile once for all launches for which Triton uses the same binary: of integers, it distinguishes those that are
    1 and those that are multiples of 16."""
    given = arguments(launch, plan)
    key = [launch.kernel.__name__, capability, launch.num_warps]
    for name, value in given.items():
        if isinstance(value, torch.Tensor):
            key.append(value.dtype)
        else:
            key.append(value if name in launch.constants or value is None else (value == 1, value % 16 == 0))
    if tuple(key) not in _compiled:
        start = sum(os.times()[:4])  # with the children's: ptxas
        binary = torch_private.compiled_launch(launch.kernel, given, capability, warps=launch.num_warps)
        seconds = sum(os.times()[:4]) - start
        _compiled[tuple(key)] = Compiled(machine_code.read_cubin(binary.image, shared=binary.shared), seconds)
    return _compiled[tuple(key)]


# Budgets.


class Row(NamedTuple):
    """A launch of the table: one kernel of one direction, for a problem's N and order.

    Attributes:
        name: the key in `BUDGETS`, below the architecture.
    """

    name: str
    launch: Launch
    plan: Plan


def rows(states: Iterable[int] = STATES) -> Iterator[Row]:
    """Every launch once, also where several problems have it."""
    for n, order, direction in itertools.product(states, ORDERS, DIRECTIONS):
        seen = []
        for half, problem in ROWS.items():
            plan = DIRECTIONS[direction](problem._replace(states=n), order)
            for launch in plan.launches:
                kernel = launch.kernel.__name__.removesuffix("_kernel")
                name = kernel if kernel == direction else f"{kernel} of the {direction}"
                row = Row(f"{name}, N {n}, {half}, {order}", launch, plan)
                if (name, tile_of(row)) not in seen:
                    seen.append((name, tile_of(row)))
                    yield row


def tile_of(row: Row) -> str | None:
    """The kernel's tile; None where it has none."""
    axes = {"CH": "CH", "G": "G", "S": "S", "W": "W", "BLOCKS": "blocks"}
    sizes = [f"{name} {row.launch.constants[axis]}" for axis, name in axes.items() if axis in row.launch.constants]
    return ", ".join([*sizes, f"{row.launch.num_warps} warps"]) if sizes else None


def states_of(row: Row) -> int:
    return row.plan.given["A"].shape[1]


def figures(row: Row, code: Code) -> dict[str, Any]:
    """The figures that have budgets. Instructions and operations of the special-function unit, nearly all of which are
    exponentials, are those of the loop, by warps, for 32 (step, channel)."""
    constants = row.launch.constants
    found = {"registers": code.registers, "shared": code.shared, "local": code.local}
    if tile_of(row) is None:
        return found
    in_loop = [stretch for stretch in code.stretches if stretch.loop is not None]
    share = 32 * row.launch.num_warps / (constants["W"] * constants["G"] * constants["CH"])
    return {
        "tile": tile_of(row),
        "instructions": round(share * sum(sum(stretch.pipes.values()) for stretch in in_loop), 1),
        "special": round(share * sum(stretch.pipes.get("special", 0) for stretch in in_loop), 1),
        "barriers": sum(event.kind == "barrier" for stretch in in_loop for event in stretch.events),
        **found,
    }


def version() -> str:
    """The version of triton that a budget belongs to, such as "3.8"."""
    return ".".join(triton.__version__.split(".")[:2])


@functools.cache
def budgets() -> dict[str, dict[str, Any]]:
    """The budgets of the installed triton by architecture and row; empty where it has none."""
    return json.loads(BUDGETS.read_text(encoding="utf-8")).get(version(), {})


def write_budgets(path: Path, states: Iterable[int], targets: Iterable[str]) -> None:
    """Write the rows' figures in place of those of the same triton and architecture, and keep all others."""
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
    """JSON with one line for each row."""
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
