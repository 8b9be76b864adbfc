"""How one call is timed. The meaning of a figure depends on the stopwatch, whose name is printed beside the figure."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch

from mvc.arguments import require_choice
from mvc.errors import UserError
from mvc.measure.capture import Function, NotCapturable, capture
from mvc.measure.device_profile import trace

Clock = Literal["wall", "events", "graph", "kernels"]
MEANINGS = {
    "wall": "wall time of one call, until the device is done",
    "events": "time between device events around one call, launches included",
    "graph": "device time, between events around the replay of one call's CUDA graph, without launches from Python",
    "kernels": "device time, the sum of one call's kernels, copies and memsets in torch.profiler's record",
}


class WallClock:
    """Wall time of one call, until the device is done.

    Attributes:
        of_device: whether the time leaves the host's out.
    """

    name: Clock = "wall"
    of_device = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def bind(self, run: Function, arguments: Sequence[Any]) -> Callable[[], object]:
        """A callable of no arguments that is timed; preparations that must not be timed happen here."""
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
    """Time between device events around the replay of a CUDA graph, captured when a callable is first bound."""

    name: Clock = "graph"
    of_device = True

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._graphs: dict[tuple[Function, ...], tuple[Callable[[], None], Sequence[Any]]] = {}

    @functools.cached_property
    def _pool(self) -> tuple[int, int]:
        return torch.cuda.graph_pool_handle()

    def bind(self, run: Function, arguments: Sequence[Any]) -> Callable[[], object]:
        """Raises:
        NotCapturable: see `mvc.measure.capture.capture`.
        """
        key = run, *map(id, arguments)
        if key not in self._graphs:
            replay = capture(run, arguments, self.device, pool=self._pool)
            replay()  # the first replay also brings the graph to the device
            self._graphs[key] = replay, arguments  # which keeps the ids theirs
        return self._graphs[key][0]


class KernelSum(WallClock):
    """The summed time of one call's kernels, copies and memsets by torch.profiler, whoever launched them."""

    name: Clock = "kernels"
    of_device = True

    def seconds(self, call: Callable[[], object]) -> float:
        return sum(event.end - event.start for event in trace(call, device=self.device))


def stopwatch(clock: Clock | None, device: torch.device) -> WallClock:
    """The stopwatch of that name; by default the replay of graphs on CUDA, and wall time elsewhere.

    Raises:
        UserError: an unknown name, or a clock that needs CUDA on another device.
    """
    kinds = {kind.name: kind for kind in (WallClock, DeviceEvents, GraphReplay, KernelSum)}
    if clock is None:
        clock = "graph" if device.type == "cuda" else "wall"
    require_choice("clock", clock, kinds)
    if clock != "wall" and device.type != "cuda":
        raise UserError(f"clock is {clock!r}, which needs CUDA; on {device.type} use 'wall'")
    return kinds[clock](device)


def for_calls(device: torch.device) -> WallClock:
    """The stopwatch for a call as its caller sees it, launches included."""
    return stopwatch("events" if device.type == "cuda" else "wall", device)


def for_all(
    watch: WallClock, runs: Mapping[str, Function], inputs: Iterable[Sequence[Any]], *, required: bool
) -> tuple[WallClock, str | None]:
    """One stopwatch for warm callables whose times are compared, each bound to all inputs.

    Returns:
        `watch`, or `KernelSum` and the reason where `watch` replays graphs and one of the callables cannot be captured.

    Raises:
        UserError: a callable cannot be captured, and `watch` is required.
    """
    for (name, run), arguments in itertools.product(runs.items(), inputs):
        try:
            watch.bind(run, arguments)
        except NotCapturable as error:
            if required:
                raise UserError(f"clock is {watch.name!r}, but {name} {error}; use 'kernels'") from error
            return KernelSum(watch.device), f"{name} {error}"
    return watch, None


class CacheFlush:
    """Overwrites the contents of a GPU's second-level cache with a buffer of twice its size.

    Raises:
        UserError: a device that is not a GPU.
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
