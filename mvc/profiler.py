"""Latency and memory of callables, measured side by side. It measures; it never judges."""

from __future__ import annotations

import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mvc import torch_private
from mvc.config import MambaVisionConfig

Run = Callable[[], object]


class Timing(NamedTuple):
    """Wall times in seconds of one callable, one for each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def percentile(self, share: float) -> float:
        """Linear between the neighbouring samples; `share` from 0 to 1."""
        ordered = sorted(self.seconds)
        position = share * (len(ordered) - 1)
        low, high = math.floor(position), math.ceil(position)
        return ordered[low] + (ordered[high] - ordered[low]) * (position - low)

    def ratio_to(self, other: Timing) -> float:
        """Median over the rounds of this time over the other's in the same round."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def interleave(
    runs: Mapping[str, Run], *, rounds: int, warmup: int = 2, device: torch.device, seed: int = 0
) -> dict[str, Timing]:
    """Time every callable once in each round, in an order drawn anew for the round.

    What drifts on a shared machine then meets all of them alike. On CUDA each run is timed until the device is done.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    order, generator = list(runs), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        generator.shuffle(order)
        for name in order:
            synchronize(device)
            start = time.perf_counter()
            runs[name]()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(samples)) for name, samples in seconds.items()}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(run: Run, device: torch.device) -> int:
    """Bytes: on CUDA the most that tensors took during the run, elsewhere the most that the process had resident.

    Where the system cannot reset the process's peak (Linux can), it is the peak since the process started.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5: reset VmHWM
    except OSError:
        import resource  # Unix alone

        run()
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    run()
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def count_flops(run: Run) -> int:
    """Floating-point operations of convolutions, matrix products and attention in one run; a multiply-add is two.

    The scans' are left out: what is held against a ceiling of matrix products is the rest of the model.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts().get("Global", {})
    return sum(flops for op, flops in counts.items() if not str(op).startswith("mvc."))


def ceilings(
    config: MambaVisionConfig, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device, flops: int
) -> dict[str, tuple[Run, int]]:
    """What the machine's libraries reach: a large matrix product, and the 3x3 convolutions of stages 1 and 2.

    Each is repeated to about a fifth of the model's `flops`, so that it is timed over a comparable span.

    Returns:
        by name, a callable and its floating-point operations.
    """
    largest = 8192 if device.type == "cuda" else 2048
    size = min(largest, max(256, int((0.1 * flops) ** (1 / 3))))  # size³ multiply-adds are 0.2 flops
    left, right = torch.randn(2, size, size, dtype=dtype, device=device)
    singles: dict[str, Run] = {"matrix_product": lambda: left @ right}
    for stage in (0, 1):
        singles[f"convolution_stage_{stage + 1}"] = _convolution(config, shape, stage, dtype, device)
    repeated = {}
    for name, single in singles.items():
        work = count_flops(single)
        times = max(1, round(0.2 * flops / work))
        repeated[name] = (_repeat(single, times), work * times)
    return repeated


def best_rate(ceilings: Mapping[str, tuple[Run, int]], timings: Mapping[str, Timing]) -> float:
    """The ceiling: the highest FLOP/s among `ceilings`, by their median times."""
    return max(work / timings[name].median for name, (_, work) in ceilings.items())


def _convolution(
    config: MambaVisionConfig, shape: tuple[int, ...], stage: int, dtype: torch.dtype, device: torch.device
) -> Run:
    """A 3x3 convolution as the blocks of stage 0 or 1 have it, channels_last."""
    batch, channels = shape[0], config.channels(stage)
    height, width = (math.ceil(size / 2 ** (stage + 2)) for size in shape[2:])
    x = torch.randn(batch, height, width, channels, dtype=dtype, device=device).permute(0, 3, 1, 2)
    kernel = torch.randn(channels, channels, 3, 3, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, kernel, padding=1)


def share_of_ceiling(flops: int, seconds: float, ceiling: float) -> float | None:
    """Rate over ceiling, or None for a time that is not positive: what was subtracted from it was no smaller."""
    return flops / seconds / ceiling if seconds > 0 else None


def _repeat(run: Run, times: int) -> Run:
    def repeated() -> None:
        for _ in range(times):
            run()

    return repeated


def scan_replay(model: nn.Module, x: torch.Tensor) -> Run:
    """A callable that repeats the scans of one forward pass on the same inputs, with their backward in training."""
    op = torch.ops.mvc.selective_scan.default
    with torch_private.recorded_calls(op) as calls:
        model(x)
    if not model.training:
        return lambda: [op(*call) for call in calls]
    leaves = [[t.detach().requires_grad_() if isinstance(t, torch.Tensor) else t for t in call] for call in calls]

    def replay() -> None:
        for call in leaves:
            y, _ = op(*call)
            torch.autograd.grad(y, [t for t in call if isinstance(t, torch.Tensor)], torch.ones_like(y))

    return replay


def load_average() -> float | None:
    """Processes that wanted to run over the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
