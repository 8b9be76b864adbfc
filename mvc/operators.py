"""What a call's time goes to, operator by operator, by torch.profiler."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch.profiler import ExecutionTraceObserver, ProfilerActivity

from mvc import ceilings, files, profiler
from mvc.errors import UserError
from mvc.stopwatch import synchronize

CALLS = 3
SHOWN = 20


class Operator(NamedTuple):
    """An operator or generated kernel that does work of its own, over one call of what was profiled.

    Attributes:
        calls: how often it ran.
        seconds: of its own, without what it calls: on CUDA on the device.
        bytes: of the tensors that it was handed and gave back; None for generated kernels, which do not tell.
        flops: of convolutions, matrix products and attention, as torch counts them; None for others.
    """

    name: str
    calls: float
    seconds: float
    bytes: float | None
    flops: float | None


class Operators(NamedTuple):
    """Attributes:
    rows: the slowest first.
    flop_rate, byte_rate: the device's ceilings, FLOP/s of a matrix product and bytes/s of a copy.
    """

    rows: list[Operator]
    flop_rate: float
    byte_rate: float

    def __str__(self) -> str:
        total = sum(row.seconds for row in self.rows)
        cells = [
            [
                row.name,
                f"{row.calls:g}",
                f"{row.seconds * 1e3:.3f}",
                f"{row.seconds / total:.1%}",
                "" if row.bytes is None else f"{row.bytes / 2**20:.1f}",
                "" if row.flops is None else f"{row.flops / 1e9:.2f}",
                self._share(row.flops, row.seconds, self.flop_rate),
                self._share(row.bytes, row.seconds, self.byte_rate),
            ]
            for row in self.rows[:SHOWN]
        ]
        headers = ["operator", "calls", "ms", "of time", "MiB", "GFLOP", "of matmul's rate", "of copy's rate"]
        left = f"{len(self.rows) - SHOWN} more are not shown\n" if len(self.rows) > SHOWN else ""
        return (
            tabulate(cells, headers=headers, disable_numparse=True, stralign="right", colalign=("left",))
            + f"\n{left}one call: {total * 1e3:.1f} ms; {self.flop_rate / 1e9:,.0f} GFLOP/s of a matrix product, "
            f"{self.byte_rate / 1e9:.1f} GB/s of a copy"
        )

    @staticmethod
    def _share(work: float | None, seconds: float, rate: float) -> str:
        return "" if not work or not seconds else f"{work / seconds / rate:.0%}"

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> Operators:
        return cls([Operator(**row) for row in facts["rows"]], facts["flop_rate"], facts["byte_rate"])

    def as_dict(self) -> dict[str, Any]:
        return {
            "flop_rate": self.flop_rate,
            "byte_rate": self.byte_rate,
            "rows": [row._asdict() for row in self.rows],
        }


def profile(
    run: Callable[[], object], *, device: torch.device, flop_rate: float, trace: str | None = None
) -> Operators:
    """Profile a few calls of what is warm.

    Args:
        flop_rate: of a matrix product on the device.
        trace: file for a Chrome trace of the calls.

    Raises:
        UserError: the trace cannot be written.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    run()
    with tempfile.TemporaryDirectory(prefix="mvc-operators-") as folder:
        tensors = ExecutionTraceObserver()
        tensors.register_callback(str(Path(folder) / "tensors.json"))
        with torch.profiler.profile(
            activities=activities, record_shapes=True, with_flops=True, execution_trace_observer=tensors
        ) as profiled:
            for _ in range(CALLS):
                run()
            synchronize(device)
        bytes_of = _bytes(json.loads((Path(folder) / "tensors.json").read_text())["nodes"])
    if trace:
        _export(profiled, Path(trace))
    flops_of = _flops(profiled.events())
    rows = [
        Operator(
            event.key,
            event.count / CALLS,
            seconds / CALLS,
            bytes_of[event.key] / CALLS if event.key in bytes_of else None,
            flops_of[event.key] / CALLS if event.key in flops_of else None,
        )
        for event in profiled.key_averages()
        if (seconds := _own_seconds(event, device))
    ]
    return Operators(sorted(rows, key=lambda row: -row.seconds), flop_rate, _copy_rate(device))


def _own_seconds(event: Any, device: torch.device) -> float:
    """Of an operator that mostly works itself; 0 for one that mostly calls others."""
    own, total = (
        (event.self_device_time_total, event.device_time_total)
        if device.type == "cuda"
        else (event.self_cpu_time_total, event.cpu_time_total)
    )
    return own / 1e6 if own >= 0.5 * total else 0.0


def _bytes(nodes: Iterable[dict[str, Any]]) -> Counter[str]:
    """By operator, of the tensors among its inputs and outputs: [id, storage, offset, elements, bytes of one, device].

    What an output shares with an input (`out=`, in place) counts once.
    """
    found: Counter[str] = Counter()
    for node in nodes:
        tensors = {
            tuple(value[:3]): value[3] * value[4]
            for side in ("inputs", "outputs")
            for value in _tensors(node.get(side, {}).get("values", []))
        }
        if tensors:
            found[node["name"]] += sum(tensors.values())
    return found


def _tensors(values: Iterable[Any]) -> Iterable[list[Any]]:
    for value in values:
        if not isinstance(value, list):
            continue
        if len(value) == 6 and isinstance(value[-1], str):
            yield value
        else:
            yield from _tensors(value)


def _flops(events: Iterable[Any]) -> Counter[str]:
    """By operator that does the work: torch counts those of `conv2d`, which calls `convolution`, which calls others."""
    found: Counter[str] = Counter()
    for event in events:
        if event.flops:
            worker = event
            while worker.cpu_children:
                slowest = max(worker.cpu_children, key=lambda child: child.cpu_time_total)
                if slowest.cpu_time_total < 0.5 * worker.cpu_time_total:
                    break
                worker = slowest
            found[worker.name] += event.flops
    return found


def _copy_rate(device: torch.device) -> float:
    run, size = ceilings.copy(device)
    timing = profiler.measure({"copy": run}, rounds=5, device=device).timings["copy"]
    return size / timing.median


def _export(profiled: torch.profiler.profile, path: Path) -> None:
    try:
        with files.replacing(path, suffix=path.suffix) as partial:  # what ends in .gz is compressed
            profiled.export_chrome_trace(str(partial))
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write --trace {path}: {error}") from error
