"""Where a call's time goes, operator by operator, by torch.profiler."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ExecutionTraceObserver, ProfilerActivity

from mvc import files
from mvc.errors import UserError
from mvc.measure import ceilings, flops, profiler
from mvc.measure.stopwatch import synchronize
from mvc.table import tabulate

CALLS = 3
SHOWN = 20
GRAPH = re.compile(r"^graph_\d+_(?=cpp_)")  # what Inductor's C++ kernels put before their names for the profiler


class Operator(NamedTuple):
    """An operator or generated kernel that does work of its own, over one profiled call.

    Attributes:
        calls: how often it ran.
        seconds: its own time without that of the operators that it calls; on CUDA, time on the device.
        bytes: for generated kernels by Inductor's count, for others the size of their input and output tensors; None
            where it is not known.
        flops: of convolutions, matrix products and attention; None for others.
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
            tabulate(cells, headers=headers)
            + f"\n{left}one call: {total * 1e3:.1f} ms; {self.flop_rate / 1e9:,.0f} GFLOP/s of a matrix product, "
            f"{self.byte_rate / 1e9:.1f} GB/s of a copy"
        )

    @staticmethod
    def _share(work: float | None, seconds: float, rate: float) -> str:
        return "" if not work or not seconds else f"{work / seconds / rate:.0%}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "flop_rate": self.flop_rate,
            "byte_rate": self.byte_rate,
            "rows": [row._asdict() for row in self.rows],
        }


def profile(
    run: Callable[[], object],
    *,
    device: torch.device,
    flop_rate: float,
    kernels: Mapping[str, int | None] | None = None,
    trace: str | None = None,
) -> Operators:
    """Profile a few calls of a warm callable.

    Args:
        flop_rate: FLOP/s of a matrix product on the device.
        kernels: the kernels of the compiled code, as `mvc.compile.explanation.kernel_bytes` yields them.
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
            activities=activities, record_shapes=True, execution_trace_observer=tensors
        ) as profiled:
            for _ in range(CALLS):
                run()
            synchronize(device)
        bytes_of, flops_of = _work(json.loads((Path(folder) / "tensors.json").read_text())["nodes"])
    if trace:
        _export(profiled, Path(trace))
    rows, kernels = [], kernels or {}
    for event in _working(profiled.key_averages(), device, kernels):
        name = GRAPH.sub("", event.key)
        own, total = _seconds(event, device)
        moved = bytes_of.get(event.key) if own >= 0.5 * total else None  # what mostly calls others moves theirs
        if kernels.get(name) is not None:
            moved = kernels[name] * CALLS
        rows.append(Operator(name, event.count, own, moved, flops_of.get(event.key)))
    rows = [Operator(row.name, *(each and each / CALLS for each in row[1:])) for row in rows]
    return Operators(sorted(rows, key=lambda row: -row.seconds), flop_rate, _copy_rate(device))


def _working(events: Iterable[Any], device: torch.device, kernels: Mapping[str, int | None]) -> list[Any]:
    """Operators with time of their own, which includes that of their kernels on the device; and the generated kernels
    that no operator launched, because a CUDA graph did."""
    events = [event for event in events if _seconds(event, device)[0]]
    operators = {event.key for event in events if event.device_type == DeviceType.CPU}
    return [
        event
        for event in events
        if event.device_type == DeviceType.CPU or (event.key in kernels and event.key not in operators)
    ]


def _seconds(event: Any, device: torch.device) -> tuple[float, float]:
    """The seconds of an operator alone, and with the operators that it calls."""
    if device.type == "cuda":
        return event.self_device_time_total / 1e6, event.device_time_total / 1e6
    return event.self_cpu_time_total / 1e6, event.cpu_time_total / 1e6


def _work(nodes: Iterable[dict[str, Any]]) -> tuple[Counter[str], Counter[str]]:
    """Bytes and floating-point operations by operator, from the tensors among its inputs and outputs.

    Memory that an output shares with an input (`out=`, in place) counts once.
    """
    moved, computed = Counter(), Counter()
    for node in nodes:
        inputs, outputs = (list(_tensors(node.get(side, {}))) for side in ("inputs", "outputs"))
        tensors = {(each.id, each.storage, each.offset): each for each in (*inputs, *outputs)}
        if tensors:
            size = max(each.item_size for each in tensors.values())
            # A weight in oneDNN's packed form has a shape, and no elements of its own.
            elements = {key: each.elements or math.prod(each.shape) for key, each in tensors.items()}
            moved[node["name"]] += sum(
                elements[key] * (each.item_size or size) for key, each in tensors.items() if each.shape
            )
        if work := flops.of_call(node["name"], [each.shape for each in inputs], [each.shape for each in outputs]):
            computed[node["name"]] += work
    return moved, computed


class _Tensor(NamedTuple):
    """A tensor of an execution trace, and its shape."""

    id: int
    storage: int
    offset: int
    elements: int
    item_size: int
    device: str
    shape: list[int]


def _tensors(side: dict[str, list[Any]]) -> Iterator[_Tensor]:
    """The tensors of a call in order, including those in lists."""
    for value, shape in zip(side.get("values", []), side.get("shapes", []), strict=False):
        if isinstance(value, list) and len(value) == 6 and isinstance(value[-1], str):
            yield _Tensor(*value, shape)
        elif isinstance(value, list):
            yield from _tensors({"values": value, "shapes": shape})


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
