"""The rates that the machine's libraries reach, with which a model's rate is compared."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from mvc.measure.flops import count
from mvc.measure.profiler import Timing
from mvc.measure.stopwatch import Function
from mvc.model.config import MambaVisionConfig


def compute(
    config: MambaVisionConfig, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device, flops: int
) -> dict[str, tuple[Function, int]]:
    """Calls to measure the machine's ceiling with: a large matrix product, and the 3x3 convolutions of stages 1 and 2.

    Each is repeated to about a fifth of the model's `flops`, so that it is timed over a comparable span.

    Returns:
        by name, a callable and its floating-point operations.
    """
    largest = 8192 if device.type == "cuda" else 2048
    size = min(largest, max(256, int((0.1 * flops) ** (1 / 3))))  # size³ multiply-adds are 0.2 flops
    left, right = torch.randn(2, size, size, dtype=dtype, device=device)
    singles: dict[str, Function] = {"matrix_product": lambda: left @ right}
    for stage in (0, 1):
        singles[f"convolution_stage_{stage + 1}"] = _convolution(config, shape, stage, dtype, device)
    repeated = {}
    for name, single in singles.items():
        work = count(single)
        times = max(1, round(0.2 * flops / work))
        repeated[name] = (_repeat(single, times), work * times)
    return repeated


def copy(device: torch.device) -> tuple[Function, int]:
    """A copy between two buffers larger than any cache, and the bytes that it reads and writes."""
    size = 2**30 if device.type == "cuda" else 2**28
    source, target = torch.ones(2, size, dtype=torch.int8, device=device)
    return lambda: target.copy_(source), 2 * size


def rates(ceilings: Mapping[str, tuple[Function, int]], timings: Mapping[str, Timing]) -> dict[str, float]:
    """FLOP/s of each of `ceilings`, by their median times; the highest is what a model's rate is compared with."""
    return {name: work / timings[name].median for name, (_, work) in ceilings.items()}


def _convolution(
    config: MambaVisionConfig, shape: tuple[int, ...], stage: int, dtype: torch.dtype, device: torch.device
) -> Function:
    """A 3x3 convolution like those in the blocks of stage 0 or 1, channels_last."""
    batch, channels = shape[0], config.channels(stage)
    height, width = (math.ceil(size / 2 ** (stage + 2)) for size in shape[2:])
    x = torch.randn(batch, height, width, channels, dtype=dtype, device=device).permute(0, 3, 1, 2)
    kernel = torch.randn(channels, channels, 3, 3, dtype=dtype, device=device).to(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, kernel, padding=1)


def share(flops: int, seconds: float, ceiling: float) -> float | None:
    """Rate over ceiling; None for a time that is not positive, because as much was subtracted from it."""
    return flops / seconds / ceiling if seconds > 0 else None


def _repeat(run: Function, times: int) -> Function:
    def repeated(*_: object) -> None:
        for _ in range(times):
            run()

    return repeated
