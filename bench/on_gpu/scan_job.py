"""Times of the selective scan, row by row, in one process: ours in both memory orders, and mamba-ssm's."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import published_scan
from bench.on_gpu import worker
from mvc import selective_scan
from mvc.cli import DTYPES
from mvc.measure import ceilings, profiler

ROTATED_BYTES, CALLS = 2e8, 8  # of all inputs together, where six of them are fewer; of one timed replay
CHECKED_STEPS = 64
FORWARD, STEP = "forward", "forward and backward"
EXPONENTIALS = 16  # a clock and multiprocessor, reciprocals among them


class Shape(NamedTuple):
    batch: int
    dim: int
    length: int
    states: int
    dtype: str

    def __str__(self) -> str:
        return f"({self.batch}, {self.dim}, {self.length}) N {self.states} {self.dtype}"


def inputs(shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
    """u, delta (batch, length, dim), A, B, C (batch, length, N), D and delta_bias, with steps of about 0.01."""
    batch, dim, length, states, name = shape
    draw = functools.partial(torch.randn, device=device, dtype=DTYPES[name])
    A = -torch.arange(1.0, states + 1, device=device).repeat(dim, 1)
    D, bias = torch.ones(dim, device=device), torch.full((dim,), -4.6, device=device)
    return (
        draw(batch, length, dim),
        draw(batch, length, dim),
        A,
        draw(batch, length, states),
        draw(batch, length, states),
        D,
        bias,
    )


def ours(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor, **options: Any) -> Tensor:
    return selective_scan(u, delta, A, B, C, D=D, delta_bias=bias, delta_softplus=True, **options)


def along_length(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same numbers with the steps of a channel next to each other in memory."""
    return tuple(t.mT.contiguous().mT if t.dim() == 3 else t for t in tensors)


def turned(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same numbers in mamba-ssm's layout, (batch, dim, length)."""
    return tuple(t.mT.contiguous() if t.dim() == 3 else t for t in tensors)


def ways() -> dict[str, tuple[Callable[..., Tensor], Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]]]:
    """By name, a scan and the function that arranges its inputs."""
    found = {"along channels": (ours, lambda tensors: tensors), "along length": (ours, along_length)}
    if importlib.util.find_spec(published_scan.EXTENSION):
        found["mamba-ssm"] = (published_scan.find("mamba-ssm"), turned)
    return found


def work(asked: dict[str, Any], answer: worker.Answer) -> None:
    device = torch.device(asked["device"])
    torch.manual_seed(0)
    rows = [(Shape(*shape), direction) for shape, direction in asked["rows"]]
    if not asked["timed"]:  # only compiled: the next process finds the kernels in the cache
        for shape, direction in rows:
            for run in runs(shape, direction, device)[0].values():
                run()
        answer({"ready": True})
        return
    rates = {"bytes": copy_rate(device), "exponentials": exponential_rate(device, asked["clock_mhz"])}
    answer({"rates": rates})
    alone = worker.Alone(Path(asked["lock"]))
    for shape, direction in rows:
        with alone():
            answer(row(shape, direction, device, rates, asked["rounds"]))


def row(
    shape: Shape, direction: str, device: torch.device, rates: dict[str, float | None], rounds: int
) -> dict[str, Any]:
    """Seconds of each way, the limits, and the share of the nearest limit that our best way reaches."""
    error, allowed = check(shape, device)
    if not error <= allowed:
        raise RuntimeError(
            f"the forward differs from the recurrence in float64 by {error:.1e}; {allowed:.1e} is allowed"
        )
    timed, calls = runs(shape, direction, device)
    measured = profiler.measure(timed, rounds=rounds, device=device)
    seconds = {
        name: [timing.percentile(share) / calls for share in (0.1, 0.5, 0.9)]
        for name, timing in measured.timings.items()
    }
    limits = {name: work / rates[name] for name, work in needed(shape, direction).items() if rates[name]}
    best = min(times[1] for name, times in seconds.items() if name != "mamba-ssm")
    return {
        "shape": shape,
        "direction": direction,
        "clock": measured.clock,
        "clock_reason": measured.clock_reason,
        "call_seconds": {name: timing.median / calls for name, timing in (measured.calls or {}).items()},
        "seconds": seconds,
        "limits": limits,
        "share": max(limits.values()) / best,
        "error": error,
        "discarded": measured.discarded,
        "not_warm": measured.not_warm,
    }


def runs(shape: Shape, direction: str, device: torch.device) -> tuple[dict[str, Callable[[], object]], int]:
    """By name, a function that makes several calls in turns over inputs that together are larger than a cache."""
    size = shape.batch * shape.length * (2 * shape.dim + 2 * shape.states) * DTYPES[shape.dtype].itemsize
    count = max(1, min(6, math.ceil(ROTATED_BYTES / size)))
    times = max(1, CALLS // count)
    sets = [inputs(shape, device) for _ in range(count)]
    forward = direction == FORWARD

    def bound(scan: Callable[..., Tensor], given: list[tuple[Tensor, ...]]) -> Callable[[], object]:
        if forward:
            return torch.no_grad()(lambda: [scan(*each) for _ in range(times) for each in given])
        leaves = [tuple(t.detach().requires_grad_() for t in each) for each in given]
        grads = [torch.randn_like(each[0]) for each in given]

        def step() -> None:
            for _ in range(times):
                for each, grad in zip(leaves, grads, strict=True):
                    torch.autograd.grad(scan(*each), each, grad)

        return step

    bound_runs = {name: bound(scan, [order(each) for each in sets]) for name, (scan, order) in ways().items()}
    return bound_runs, count * times


def check(shape: Shape, device: torch.device) -> tuple[float, float]:
    """The largest relative error of all ways over the first steps, which later steps cannot change; and the error that
    is allowed: one rounding of the dtype, and 16 of the sums."""
    tensors = inputs(shape._replace(length=min(shape.length, CHECKED_STEPS)), device)
    expected = ours(*(t.double() for t in tensors), impl="reference")
    errors = []
    for name, (scan, order) in ways().items():
        y = scan(*order(tensors)).double()
        y = y.mT if name == "mamba-ssm" else y
        errors.append(((y - expected).norm() / expected.norm()).item())
    return max(errors), torch.finfo(DTYPES[shape.dtype]).eps + 16 * torch.finfo(torch.float32).eps


def needed(shape: Shape, direction: str) -> dict[str, float]:
    """The bytes that have to be moved, and the exponentials and reciprocals: for each step and channel, one for each
    state and two for softplus. The backward computes them again, reads the inputs and a gradient, and writes four
    gradients."""
    channels, states = shape.batch * shape.length * shape.dim, shape.batch * shape.length * shape.states
    moved = (3 * channels + 2 * states) + (0 if direction == FORWARD else 5 * channels + 4 * states)
    special = channels * (shape.states + 2) * (1 if direction == FORWARD else 2)
    return {"bytes": float(moved * DTYPES[shape.dtype].itemsize), "exponentials": float(special)}


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a copy reads and writes."""
    copy, moved = ceilings.copy(device)
    timing = profiler.measure({"copy": copy}, rounds=7, device=device).timings["copy"]
    return moved / timing.median


def exponential_rate(device: torch.device, clock_mhz: float | None) -> float | None:
    """Exponentials a second at the card's highest clock; None on a CPU.

    Args:
        clock_mhz: as NVML reports it; None uses CUDA's own figure.
    """
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return EXPONENTIALS * properties.multi_processor_count * (clock_mhz or properties.clock_rate / 1e3) * 1e6


if __name__ == "__main__":
    worker.serve(work)
