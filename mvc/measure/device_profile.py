"""What a GPU does during a call, kernel by kernel, by torch.profiler."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from mvc.errors import UserError
from mvc.measure.families import FAMILIES, family

GAPS = "gaps"


class Event(NamedTuple):
    """A kernel, copy or memset that ran; seconds from one origin for all."""

    name: str
    start: float
    end: float


class Kernel(NamedTuple):
    """All runs of the kernels of one name in one call.

    Attributes:
        calls: how often it ran.
        seconds: of all runs together.
    """

    name: str
    calls: float
    seconds: float


class DeviceProfile(NamedTuple):
    """What one call ran on the device, as the mean of the calls that were profiled.

    Attributes:
        kernels: kernels, copies and memsets, the slowest first.
        gaps: seconds between the call's first and last kernel in which nothing ran. Profiling slows launches down, so
            that where the host is the limit the gaps are longer than without it.
    """

    kernels: tuple[Kernel, ...]
    gaps: float

    @property
    def seconds(self) -> float:
        """The seconds of all kernels, each counted in full where they overlap."""
        return sum(kernel.seconds for kernel in self.kernels)

    def by_family(self) -> dict[str, float]:
        """Seconds of each family that there is, in the order of `mvc.measure.families.FAMILIES`, and of the gaps."""
        seconds = Counter()
        for kernel in self.kernels:
            seconds[family(kernel.name)] += kernel.seconds
        return {name: seconds[name] for name in FAMILIES if name in seconds} | {GAPS: self.gaps}

    def launches(self) -> dict[str, float]:
        """How many kernels of each family ran in a call."""
        calls = Counter()
        for kernel in self.kernels:
            calls[family(kernel.name)] += kernel.calls
        return {name: calls[name] for name in FAMILIES if name in calls}

    def as_dict(self) -> dict[str, Any]:
        """The profile by family, as plain types that JSON can hold."""
        seconds = self.by_family()
        rows = [{"family": name, "kernels": n, "seconds": seconds[name]} for name, n in self.launches().items()]
        return {"seconds": self.seconds, "gaps": self.gaps, "rows": rows}


def profile_device(run: Callable[[], object], *, device: torch.device, calls: int = 3) -> DeviceProfile:
    """Profile calls of a warm callable one by one, including kernels that CUDA graphs replay.

    Raises:
        UserError: a device that is not a GPU, or a profiler that sees no kernel.
    """
    return of_calls([trace(run, device=device) for _ in range(calls)])


def of_calls(calls: Sequence[Sequence[Event]]) -> DeviceProfile:
    """The mean of several calls, from the events of each in any order."""
    times, seconds = Counter(), Counter()
    for event in itertools.chain.from_iterable(calls):
        times[event.name] += 1
        seconds[event.name] += event.end - event.start
    kernels = (Kernel(name, times[name] / len(calls), spent / len(calls)) for name, spent in seconds.most_common())
    return DeviceProfile(tuple(kernels), sum(map(idle, calls)) / len(calls))


def idle(events: Iterable[Event]) -> float:
    """Seconds between the first start and the last end in which no event ran."""
    gaps, done = 0.0, None
    for event in sorted(events, key=lambda event: event.start):
        if done is not None:
            gaps += max(0.0, event.start - done)
        done = event.end if done is None else max(done, event.end)
    return gaps


def trace(run: Callable[[], object], *, device: torch.device) -> list[Event]:
    """What one call runs on the device.

    Raises:
        UserError: a device that is no GPU, or a profiler that sees no kernel.
    """
    if device.type != "cuda":
        raise UserError(f"kernels are profiled on CUDA alone; the device is {device.type}")
    # CUPTI stays for the next call: newer torch shuts it down after each profile, which is slow, can coincide with the
    # start of the next one, and crashes graphs replayed under CUDA before 12.6.
    os.environ.setdefault("TEARDOWN_CUPTI", "0")
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        run()
        torch.cuda.synchronize(device)
    events = of_device(profiled.events())
    if not events:
        raise UserError(
            "torch.profiler saw no kernel of the call: it launches none, or CUPTI cannot be used here; "
            "time by the clock 'events' or 'graph'"
        )
    return events


def of_device(events: Iterable[Any], kind: DeviceType = DeviceType.CUDA) -> list[Event]:
    """The `FunctionEvent`s of torch.profiler that ran on a kind of device, without ranges that users named."""
    return [
        Event(event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in events
        if event.device_type == kind and not event.is_user_annotation
    ]
