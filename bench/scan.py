"""Measure the selective scan against other scans, the vector exponential, its own length and its threads.

The scans that are compared run interleaved on the same data. Nothing is measured while tests/kernels/test_cpu_scan.py
fails.

  python bench/scan.py
  python bench/scan.py --rounds 15 --json scan.json
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from checkout import ROOT, commit
from other_scans import installed
from torch import Tensor

from mvc import cli
from mvc.cli import positive, write_json
from mvc.kernels import cpu_scan
from mvc.kernels.scan import selective_scan
from mvc.measure import machine, profiler
from mvc.measure.environment import environment
from mvc.table import tabulate

TENSORS = ("u", "delta", "A", "B", "C", "D", "delta_bias")
Runs = dict[str, Callable[[], object]]


class Shape(NamedTuple):
    batch: int
    length: int
    dim: int
    states: int = 8

    def __str__(self) -> str:
        return f"({self.batch}, {self.dim}, {self.length}) N {self.states}"


WINDOWS, SEQUENCE = Shape(16, 196, 160), Shape(1, 2048, 1536)  # MambaVision-T's stage 3; a language model's


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--rounds", type=positive, default=9, metavar="N", help="interleaved rounds")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    args = parser.parse_args()
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "tests/kernels/test_cpu_scan.py"]
    if subprocess.run(tests, cwd=ROOT).returncode:
        print("error: tests/kernels/test_cpu_scan.py fails, so nothing is measured", file=sys.stderr)
        return 1
    known, sources = environment(torch.device("cpu")), {"commit": commit()}
    print(known, known.date, sources["commit"], "\n")
    rows = []
    for row in measure(args.rounds):
        rows.append({**row, **dataclasses.asdict(known), **sources, "threads": row["threads"]})
        print(f"measured {row['name']}", file=sys.stderr)
    print(table(rows))
    if args.json:
        write_json({"rows": rows, "rounds": args.rounds}, args.json)
    return 0


def measure(rounds: int) -> Iterator[dict[str, Any]]:
    yield memory(Shape(1, 8192, 1536, 16))
    for shape in (WINDOWS, SEQUENCE):
        yield from inference(shape, rounds)
    for shape in (WINDOWS, SEQUENCE):
        yield from training(shape, rounds)
    yield exponentials(Shape(1, 2048, 1536, 16), rounds)
    yield linearity(256, rounds)
    for dim in (64, 16):
        yield threads(Shape(1, 8192, dim), rounds)


def inputs(shape: Shape) -> dict[str, Tensor]:
    """Tensors of the published initialisation's sizes, (batch, length, dim)."""
    generator = torch.Generator().manual_seed(0)
    batch, length, dim, states = shape
    u, delta = torch.randn(2, batch, length, dim, generator=generator)
    B, C = torch.randn(2, batch, length, states, generator=generator)
    A = -torch.arange(1.0, states + 1).repeat(dim, 1)
    D, bias = torch.ones(dim), torch.full((dim,), -4.6)  # steps of about 0.01
    return dict(zip(TENSORS, (u, delta, A, B, C, D, bias), strict=True))


def ours(tensors: Mapping[str, Tensor]) -> Tensor:
    return selective_scan(**tensors, delta_softplus=True)


def turned(tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The same numbers as the peers want them: (batch, dim, length), contiguous."""
    return tuple(t.mT.contiguous() if t.dim() == 3 else t for t in tensors.values())


def inference(shape: Shape, rounds: int) -> Iterator[dict[str, Any]]:
    """Compare the forward with every peer, each in its own layout."""
    tensors = inputs(shape)
    given = turned(tensors)
    runs: Runs = {"ours": lambda: ours(tensors)}
    for name, scan in installed().items():
        runs[name] = lambda scan=scan: scan(*given)
    with torch.no_grad():
        must_agree(runs)
        timings = timed(runs, rounds)
    for name in runs.keys() - {"ours"}:
        yield row(f"{shape} forward, against {name}", timings["ours"], timings[name])


def training(shape: Shape, rounds: int) -> Iterator[dict[str, Any]]:
    """Compare forward and backward with autograd through the peers, and with the forward alone."""
    tensors = {name: t.requires_grad_() for name, t in inputs(shape).items()}
    leaves = tuple(t.detach().requires_grad_() for t in turned(tensors))
    peers = installed()
    peers.pop("transformers associative_scan", None)  # torch cannot differentiate it in compiled code
    if shape == SEQUENCE:
        peers.pop("mamba-ssm reference")  # minutes
    runs: Runs = {"ours": lambda: torch.autograd.grad(ours(tensors).sum(), tuple(tensors.values()))}
    for name, scan in peers.items():
        runs[name] = lambda scan=scan: torch.autograd.grad(scan(*leaves).sum(), leaves)
    timings = timed({**runs, "forward": lambda: ours(tensors).detach()}, rounds)
    for name in peers:
        yield row(f"{shape} forward and backward, against {name}", timings["ours"], timings[name])
    yield row(f"{shape} forward and backward over forward", timings["forward"], timings["ours"])


def exponentials(shape: Shape, rounds: int) -> dict[str, Any]:
    """Exponentials a second of a forward without softplus (one a step, channel and state), over a plain loop's."""
    plain_loop = exponential_loop()
    tensors = {name: t for name, t in inputs(shape).items() if name != "delta_bias"}
    tensors["delta"] = tensors["delta"].abs() / 100
    count = tensors["u"].numel() * shape.states
    threads = torch.get_num_threads()
    with torch.no_grad():
        runs: Runs = {"scan": lambda: selective_scan(**tensors), "loop": lambda: plain_loop(count // threads)}
        timings = timed(runs, rounds)
    return row(f"{shape}: exponentials a second over those of a plain loop", timings["scan"], timings["loop"])


def exponential_loop() -> Callable[[int], None]:
    """A function that computes many exponentials on each thread: bench/exp_rate.cpp, built like the scan."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "exp_rate.so"
        cpu_scan.compile_library(ROOT / "bench" / "exp_rate.cpp", library)
        torch.ops.load_library(library)
    return torch.ops.mvc_bench.exponentials


def linearity(dim: int, rounds: int) -> dict[str, Any]:
    """Time of 65,536 steps over that of 1,024, divided by 64."""
    short, long = (inputs(Shape(1, length, dim)) for length in (1024, 65536))
    with torch.no_grad():
        timings = timed({"short": lambda: [ours(short) for _ in range(8)], "long": lambda: ours(long)}, rounds)
    result = row(f"(1, {dim}, L) N 8: L 65,536 over 64 times L 1,024", timings["short"], timings["long"])
    return result | {"ratio": result["ratio"] / 8}


def threads(shape: Shape, rounds: int) -> dict[str, Any]:
    """One thread over two."""
    tensors = inputs(shape)

    def run(count: int) -> Callable[[], object]:
        def with_threads() -> None:
            torch.set_num_threads(count)
            for _ in range(4):
                ours(tensors)

        return with_threads

    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            timings = timed({"two": run(2), "one": run(1)}, rounds)
    finally:
        torch.set_num_threads(before)
    return row(f"{shape}: 2 threads against 1", timings["two"], timings["one"]) | {"threads": 2}


def memory(shape: Shape) -> dict[str, Any]:
    """The peak memory that a forward needs beyond its inputs, over the size of y."""
    tensors = inputs(shape)
    with torch.no_grad():
        ours(inputs(shape._replace(length=64)))  # loads the library, starts its threads
        before = machine.peak_memory(lambda: None, torch.device("cpu")).used
        extra = machine.peak_memory(lambda: ours(tensors), torch.device("cpu")).used - before
    ratio = extra / (tensors["u"].numel() * 4)
    return {"name": f"{shape}: extra peak memory over y", "ratio": ratio, "threads": torch.get_num_threads()}


def timed(runs: Runs, rounds: int) -> dict[str, profiler.Timing]:
    return profiler.measure(runs, rounds=rounds, device=torch.device("cpu")).timings


def row(name: str, one: profiler.Timing, other: profiler.Timing) -> dict[str, Any]:
    """A row of the table. `ratio` is the other's time over ours."""
    figures = {"name": name, "ratio": other.ratio_to(one).median, "threads": torch.get_num_threads()}
    for prefix, timing in (("", one), ("other_", other)):
        figures |= {f"{prefix}p{share}_seconds": timing.percentile(share / 100) for share in (10, 50, 90)}
    return figures


def must_agree(runs: Runs) -> None:
    """Exit unless all peers, whose results are (batch, dim, length), agree with our scan."""
    expected = runs["ours"]()
    for name, run in runs.items():
        actual = expected if name == "ours" else run().mT
        error = (actual - expected).abs().max() / expected.abs().max()
        if not error < 1e-4:
            raise SystemExit(
                f"error: {name} differs from ours by {error:.2g} of the largest value: nothing is measured"
            )


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, so that a README can quote it."""

    def span(row: dict[str, Any], prefix: str) -> str:
        if f"{prefix}p50_seconds" not in row:
            return ""
        low, middle, high = (row[f"{prefix}p{share}_seconds"] * 1e3 for share in (10, 50, 90))
        return f"{middle:.2f} ({low:.2f} to {high:.2f})"

    cells = [[row["name"], span(row, ""), span(row, "other_"), f"{row['ratio']:.2f}"] for row in rows]
    headers = ["float32", "ms (10 to 90 %)", "the other's", "ratio"]
    return tabulate(cells, headers=headers, markdown=True)


if __name__ == "__main__":
    sys.exit(main())
