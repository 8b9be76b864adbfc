"""How one call is timed. What a figure means depends on it, so a stopwatch has a name that is printed beside it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from mvc.errors import UserError

Run = Callable[..., object]
Clock = Literal["wall", "events", "graph"]
MEANINGS = {
    "wall": "wall time of one call, until the device is done",
    "events": "time between device events around one call, launches included",
    "graph": "time between device events around the replay of one call's CUDA graph, without launches from Python",
}


class WallClock:
    """Wall time of one call, until the device is done."""

    name: Clock = "wall"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def bind(self, run: Run, arguments: Sequence[Any]) -> Callable[[], object]:
        """What is timed; what it needs beforehand is done here."""
        return functools.partial(run, *arguments)

    def seconds(self, call: Callable[[], object]) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        call()
        synchronize(self.device)
        return time.perf_counter() - start


class DeviceEvents(WallClock):
    """Time between two events of the device's stream around one call, as the device saw it."""

    name: Clock = "events"

    def seconds(self, call: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        synchronize(self.device)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


class GraphReplay(DeviceEvents):
    """The same around the replay of a CUDA graph, captured from each callable's first call.

    The arguments are copied beforehand into the tensors that the graph reads.
    """

    name: Clock = "graph"

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._captured: dict[Run, tuple[torch.cuda.CUDAGraph, list[Any]]] = {}

    def bind(self, run: Run, arguments: Sequence[Any]) -> Callable[[], object]:
        if run not in self._captured:
            self._captured[run] = self._capture(run, arguments)
        graph, read = self._captured[run]
        for target, source in zip(read, arguments, strict=True):
            if isinstance(target, torch.Tensor):
                target.copy_(source)
        return graph.replay

    def _capture(self, run: Run, arguments: Sequence[Any]) -> tuple[torch.cuda.CUDAGraph, list[Any]]:
        read = [each.clone() if isinstance(each, torch.Tensor) else each for each in arguments]
        beside = torch.cuda.Stream(self.device)
        beside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(beside):  # capture wants what is made on first use to be there, on another stream
            run(*read)
        torch.cuda.current_stream(self.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run(*read)
        return graph, read


def stopwatch(clock: Clock | None, device: torch.device) -> WallClock:
    """The one of that name; by default device events on CUDA and wall time elsewhere.

    Raises:
        UserError: a name that there is not, or one that needs CUDA.
    """
    kinds = {kind.name: kind for kind in (WallClock, DeviceEvents, GraphReplay)}
    if clock is None:
        clock = "events" if device.type == "cuda" else "wall"
    if clock not in kinds:
        raise UserError(f"clock is {clock!r}; it must be one of {', '.join(kinds)}")
    if clock != "wall" and device.type != "cuda":
        raise UserError(f"clock is {clock!r}, which needs CUDA; on {device.type} use 'wall'")
    return kinds[clock](device)


class CacheFlush:
    """Overwrites what a GPU's second-level cache holds, by a buffer of twice its size.

    Raises:
        UserError: a device that is no GPU.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise UserError(f"flushing the L2 cache needs CUDA; the device is {device.type}")
        size = torch.cuda.get_device_properties(device).L2_cache_size
        self._buffer = torch.empty(2 * size, dtype=torch.int8, device=device)

    def __call__(self) -> None:
        self._buffer.zero_()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
