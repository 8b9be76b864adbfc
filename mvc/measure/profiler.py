"""Latency of callables, measured side by side. This module measures and never judges."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mvc.arguments import is_number, require, require_flag, require_whole
from mvc.compile import torch_private
from mvc.errors import UserError
from mvc.measure import nvml
from mvc.measure.paired import Ratio, paired_ratio
from mvc.measure.stopwatch import CacheFlush, Clock, Function, WallClock, for_all, for_calls, stopwatch

WINDOW = 3  # calls whose median is compared with that of the calls before them
WARM = 0.1  # a callable is warm once the two differ by no more than this share
WARMUP_SECONDS = 20.0  # it is measured after that long at the latest, and said not to be warm
HOST_LIMIT = 1.2  # a call that takes more than this many times its time on the device is limited by the host


class Spread(NamedTuple):
    """The median of one callable's times, and the times that 10 % and 90 % of the rounds stayed below."""

    median_seconds: float
    p10_seconds: float
    p90_seconds: float


class Timing(NamedTuple):
    """The seconds of one callable in each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def percentile(self, share: float) -> float:
        """The time that a `share` of the rounds, from 0 to 1, stayed below; linear between neighbouring samples.

        Raises:
            UserError: another share.
        """
        require(is_number(share) and 0 <= share <= 1, "share", share, "a number from 0 to 1")
        return float(np.quantile(self.seconds, share))

    @property
    def spread(self) -> Spread:
        return Spread(self.median, self.percentile(0.1), self.percentile(0.9))

    def ratio_to(self, other: Timing) -> Ratio:
        """The ratio of this time to the other's in the same round: the median over the rounds and its 90 % interval."""
        return paired_ratio(self.seconds, other.seconds)


class Measurement(NamedTuple):
    """The results of `measure`.

    Attributes:
        timings: by name, the times of the rounds that were kept, as measured by `clock`.
        calls: where `clock` leaves the host out: by name, the times between device events around one call in the same
            rounds, launches included; otherwise None.
        discarded: rounds that were not kept, by reason.
        clock: how all callables were timed, one of `stopwatch.MEANINGS`.
        clock_reason: why the clock was not the replay of CUDA graphs, where that is the default.
        flushed: whether the GPU's L2 cache was overwritten before each call.
        not_warm: callables whose time had not settled when the rounds began.
        gpu: what NVML reported meanwhile, or None on a CPU.
    """

    timings: dict[str, Timing]
    calls: dict[str, Timing] | None
    discarded: dict[str, int]
    clock: Clock
    clock_reason: str | None
    flushed: bool
    not_warm: tuple[str, ...]
    gpu: nvml.Summary | None

    @property
    def limited_by_host(self) -> tuple[str, ...]:
        """The callables that wait for the host: a call takes more than `HOST_LIMIT` times its time on the device."""
        calls = self.calls or {}
        return tuple(name for name in calls if calls[name].median > HOST_LIMIT * self.timings[name].median)


def measure(
    runs: Mapping[str, Function],
    *,
    rounds: int,
    device: torch.device,
    inputs: Sequence[tuple[Any, ...]] = ((),),
    clock: Clock | None = None,
    flush: bool = False,
    seed: int = 0,
) -> Measurement:
    """Time every callable once in each round, in an order drawn anew for the round.

    A drift on a shared machine then changes all times alike. Each callable is called beforehand until its time settles.
    On a GPU, rounds in which it was throttled, or ran below 90 % of the highest clock seen, are discarded for all.

    Args:
        runs: the callables to time, by name.
        rounds: how many rounds to time.
        inputs: arguments for the callables. Each call, of whichever callable, gets the next, so that it does not find
            its input in a cache: that was last read as many calls ago as there are inputs.
        clock: one of `stopwatch.MEANINGS`, for all callables. By default on CUDA the device's time: "graph", or
            "kernels" where a callable cannot be captured in a CUDA graph; elsewhere "wall".
        flush: overwrite the GPU's L2 cache before each call.
        seed: for the order of the callables.

    Raises:
        UserError: an argument that cannot be used, a clock or a flush that the device does not have, a callable that
            cannot be captured where "graph" was asked for, or no round that could be kept.
    """
    fits = isinstance(runs, Mapping) and len(runs) > 0 and all(map(callable, runs.values()))
    require(fits, "runs", runs, "a mapping of names to callables, at least one")
    require_whole("rounds", rounds, 1)
    require(isinstance(device, torch.device), "device", device, "a torch.device")
    fits = (
        isinstance(inputs, (list, tuple))
        and len(inputs) > 0
        and all(isinstance(each, (list, tuple)) for each in inputs)
    )
    require(fits, "inputs", inputs, "a list of tuples of arguments, at least one")
    require_flag("flush", flush)
    require_whole("seed", seed, 0)
    chosen, calls = stopwatch(clock, device), for_calls(device)
    before = CacheFlush(device) if flush else _nothing
    not_warm = tuple(name for name, run in runs.items() if not _warm(run, inputs, calls))
    chosen, clock_reason = for_all(chosen, runs, inputs, required=clock is not None)
    clocks = (chosen, calls) if chosen.of_device else (chosen,)
    order, generator = list(runs), random.Random(seed)
    taken: list[dict[tuple[str, Clock], float]] = []
    spans: list[tuple[float, float]] = []
    arguments = itertools.cycle(inputs)
    with nvml.Watch(device) as watch:
        for _ in range(rounds):
            generator.shuffle(order)
            start, seconds = time.perf_counter(), {}
            for name, each in itertools.product(order, clocks):
                call = each.bind(runs[name], next(arguments))
                before()
                seconds[name, each.name] = each.seconds(call)
            taken.append(seconds)
            spans.append((start, time.perf_counter()))
    reasons = nvml.discards(spans, watch.samples)
    kept = [seconds for seconds, reason in zip(taken, reasons, strict=True) if reason is None]
    discarded = dict(Counter(reason for reason in reasons if reason is not None))
    if not kept:
        raise UserError(f"all {rounds} rounds were discarded ({', '.join(discarded)}); let the GPU cool, or free it")
    timings = {
        each.name: {name: Timing(tuple(seconds[name, each.name] for seconds in kept)) for name in runs}
        for each in clocks
    }
    return Measurement(
        timings[chosen.name],
        timings[calls.name] if chosen.of_device else None,
        discarded,
        chosen.name,
        clock_reason,
        flush,
        not_warm,
        nvml.summary(watch) if device.type == "cuda" else None,
    )


def _nothing() -> None:
    pass


def _warm(run: Function, inputs: Sequence[tuple[Any, ...]], clock: WallClock) -> bool:
    """Call until the medians of two consecutive windows of `WINDOW` calls agree; whether they did in time."""
    started, arguments = time.perf_counter(), itertools.cycle(inputs)

    def window() -> float:
        return statistics.median(clock.seconds(clock.bind(run, next(arguments))) for _ in range(WINDOW))

    last = window()
    while time.perf_counter() - started < WARMUP_SECONDS:
        now = window()
        if abs(now - last) <= WARM * last:
            return True
        last = now
    return False


def scan_replay(model: nn.Module, x: torch.Tensor) -> Function:
    """A callable that repeats the scans of one forward pass on the same inputs, with their backward in training.

    Raises:
        UserError: `model` is not a module.
    """
    require(isinstance(model, nn.Module), "model", model, "a torch.nn.Module")
    op = torch.ops.mvc.selective_scan.default
    with torch_private.recorded_calls(op) as calls:
        model(x)
    if not model.training:
        return lambda *_: [op(*call) for call in calls]
    leaves = [[t.detach().requires_grad_() if isinstance(t, torch.Tensor) else t for t in call] for call in calls]

    def replay(*_: object) -> None:
        for call in leaves:
            y, _ = op(*call)
            torch.autograd.grad(y, [t for t in call if isinstance(t, torch.Tensor)], torch.ones_like(y))

    return replay
