"""Host time of an eager scan on tiny tensors, over that of `torch.add`: Python, checks, dispatch and autograd.

The scan's own work on (1, 2, 8) is next to nothing. Each figure is the least of many short batches, taken in turns,
since other work on a machine only ever adds time. Triton's path runs on a stand-in for a card (Linux, torch 2.14) whose
launches do nothing, so that its figures contain everything but the driver's own launch.

  python bench/host_time.py
  python bench/host_time.py --rounds 500 --json host_time.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mvc import cli
from mvc.cli import positive, write_json
from mvc.kernels.scan import selective_scan
from mvc.kernels.schemas import op
from mvc.measure.environment import environment
from mvc.offline import device as standin
from mvc.offline.targets import TARGETS
from mvc.table import tabulate

BATCH = 20  # calls timed at once
SHAPE, STATES = (1, 2, 8), 4
TARGET, TIMEOUT = "sm_90", 300.0
Runs = dict[str, Callable[[], object]]


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--rounds", type=positive, default=300, metavar="N", help="batches of each call, taken in turns"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--child", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        Path(args.child).write_text(json.dumps(measure("triton", torch.device("cuda"), args.rounds)))
        return 0
    machine = environment(torch.device("cpu"))
    print(machine, machine.date, "\n")
    rows = [*measure("cpp", torch.device("cpu"), args.rounds), *on_stand_in(args.rounds)]
    print(table(rows))
    if args.json:
        write_json({"rows": rows, "environment": dataclasses.asdict(machine)}, args.json)
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    cells = []
    for name, *figures in map(dict.values, rows):
        cells.append([name, *("" if figure is None else f"{figure:.1f}" for figure in figures)])
    return tabulate(cells, headers=["", "µs", "in torch.add", "beyond the raw op"])


def on_stand_in(rounds: int) -> list[dict[str, Any]]:
    if (reason := standin.why_not()) is not None:
        print(f"without Triton's path: {reason}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        arguments = [__file__, "--rounds", str(rounds), "--child", str(rows)]
        done = standin.run(arguments, TARGETS[TARGET], scratch=Path(folder), timeout=TIMEOUT, launches=True)
        if done.returncode:
            raise SystemExit(f"Triton's path failed: {done.stderr.strip()}")
        return json.loads(rows.read_text())


def measure(impl: str, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """The rows: the raw op, the call without gradients, and the call and the whole step with gradients."""
    torch.set_num_threads(1)
    u, delta = torch.randn(2, *SHAPE).to(device)
    B, C = torch.randn(2, *SHAPE[:2], STATES).to(device)
    A, D = (-torch.rand(SHAPE[2], STATES)).to(device), torch.rand(SHAPE[2]).to(device)
    tensors = (u, delta, A, B, C, D)
    leaves = [t.clone().requires_grad_() for t in tensors]
    selective_scan(*tensors[:5], impl=impl)  # registers the op
    raw = op({"cpp": "selective_scan_cpu", "triton": "selective_scan_triton"}[impl])
    given = (u, delta, A, B.unsqueeze(2), C.unsqueeze(2), D, None, None, None, None, True, False)
    one = torch.ones(SHAPE, device=device)
    runs: Runs = {
        "torch.add": lambda: torch.add(u, delta),
        "the raw op": lambda: raw(*given),
        "the call": lambda: selective_scan(u, delta, A, B, C, D=D, delta_softplus=True, impl=impl),
        "the call, with gradients": lambda: _call(leaves, impl),
        "forward and backward": lambda: torch.autograd.grad(_call(leaves, impl), leaves, one),
    }
    seconds = least(runs, rounds)
    add, beyond = seconds["torch.add"], seconds["the raw op"] if impl == "cpp" else 0.0
    return [
        {
            "name": f"{impl}: {name}",
            "us": time * 1e6,
            "adds": time / add,
            "beyond raw": None if name in ("torch.add", "the raw op") else (time - beyond) / add,
        }
        for name, time in seconds.items()
    ]


def _call(leaves: list[torch.Tensor], impl: str) -> torch.Tensor:
    u, delta, A, B, C, D = leaves
    return selective_scan(u, delta, A, B, C, D=D, delta_softplus=True, impl=impl)


def least(runs: Runs, rounds: int) -> dict[str, float]:
    """Seconds of one call of each, as the least over `rounds` batches."""
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            for _ in range(BATCH):
                run()
            seconds[name] = min(seconds[name], (time.perf_counter() - start) / BATCH)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
