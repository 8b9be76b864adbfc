"""A roofline over the launches: what each would take on the card, by its bytes and FLOPs. An estimate, not measured."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mvc.offline.manifest import Launch, Manifest
from mvc.offline.targets import Target, find


class Efficiency(NamedTuple):
    """The share of the card's specification that a kind of launch reaches, and where the figure is from."""

    bandwidth: float
    flops: float
    source: str


EFFICIENCIES = {
    "triton": Efficiency(0.90, 1.0, "assumed, no source"),
    "scan": Efficiency(0.50, 1.0, "assumed, no source: a step waits for the one before"),
    "convolution": Efficiency(0.80, 0.45, "assumed, no source: few channels fill the tiles of tensor cores badly"),
    "attention": Efficiency(
        0.80,
        0.40,
        "assumed, below the 0.5 to 0.73 that FlashAttention-2 (arXiv 2307.08691) reports of an A100's peak, forward, "
        "for longer sequences",
    ),
    "matrix product": Efficiency(0.85, 0.70, "assumed, no source"),
}
GAP = 2e-6  # seconds between two launches that the host has queued; assumed, no source


@dataclasses.dataclass(frozen=True)
class Cost:
    """One launch.

    Attributes:
        seconds: estimated.
        floor: seconds without gap and at the full specification; of a generated kernel, for its share of
            `Floor.triton_bytes` alone.
    """

    launch: Launch
    seconds: float
    floor: float


class Floor(NamedTuple):
    """What generated code launches and moves with one read and one write around each library call and scan.

    What a call gives and generated code takes is read once, and what a call takes from generated code is written once,
    however often the kernels that are there do so. Everything else is above the floor: parameters and arguments, and
    what generated kernels pass to each other or read again. Residual sums are of these: each call that one passes costs
    at least one more read, so that a network with residual sums cannot reach the floor.

    Attributes:
        launches: the calls in their order, and the fewest kernels between them: each computes what it reads into what
            it writes as the generated ones do, after the calls that it depends on and before those that take it.
        triton_bytes: of generated kernels: for each buffer, what they read of what a call wrote, or write of what a
            call reads, and no more than the call's part.
        parameter_bytes: that generated kernels read besides, of parameters and arguments.
    """

    launches: int
    triton_bytes: int
    parameter_bytes: int


def costs(manifest: Manifest) -> list[Cost]:
    """Of every launch, in order."""
    target, dtype = find(manifest.target), manifest.model["dtype"]
    shares = _shares(manifest.launches)
    return [_cost(launch, target, dtype, share) for launch, share in zip(manifest.launches, shares, strict=True)]


def floor(manifest: Manifest) -> Floor:
    phases: dict[str, list[Launch]] = {}
    for launch in manifest.launches:
        phases.setdefault(launch.phase, []).append(launch)
    triton_bytes = sum(
        share for launch, share in zip(manifest.launches, _shares(manifest.launches), strict=True) if _generated(launch)
    )
    return Floor(sum(map(_least_launches, phases.values())), triton_bytes, sum(map(_parameter_bytes, phases.values())))


def _generated(launch: Launch) -> bool:
    return launch.kind == "triton"


def _least_launches(launches: Sequence[Launch]) -> int:
    """The calls of one phase, and kernels as late as possible: one ahead of a call that takes from generated code what
    depends on a call since the last kernel, and one at the end for what is not taken by a call."""
    depends = {}  # of buffers that generated code wrote last: the number of calls when it could be computed
    given = {}  # of buffers that a call wrote last: the number of calls then
    calls = kernels = 0
    newest = last = -1  # of all kernels: the number of calls when it can run; when the last of the fewest runs
    for launch in launches:
        if _generated(launch):
            ready = max((depends.get(name, given.get(name, 0)) for name in launch.reads), default=0)
            newest = max(newest, ready)
            depends.update(dict.fromkeys(launch.writes, ready))
            continue
        if any(depends.get(name, -1) > last for name in launch.reads):
            kernels, last = kernels + 1, calls
        calls += 1
        for name in launch.writes:
            depends.pop(name, None)
            given[name] = calls
    return calls + kernels + (newest > last)


def _parameter_bytes(launches: Sequence[Launch]) -> int:
    """What generated kernels of one phase read of buffers that no launch writes."""
    made = {name for launch in launches for name in launch.writes}
    return sum(
        size for launch in filter(_generated, launches) for name, size in launch.reads.items() if name not in made
    )


def _shares(launches: Sequence[Launch]) -> list[int]:
    """The bytes of each launch that `Floor` holds: all of a call; of a generated kernel, of each buffer what none
    before it has read or written."""
    taken, given = Counter(), Counter()  # what calls read and write, by phase and name
    for launch in launches:
        if not _generated(launch):
            for left, accesses in ((taken, launch.reads), (given, launch.writes)):
                for name, size in accesses.items():
                    left[launch.phase, name] = max(left[launch.phase, name], size)
    return [_claimed(launch, taken, given) if _generated(launch) else launch.bytes_moved for launch in launches]


def _claimed(launch: Launch, taken: Counter, given: Counter) -> int:
    """What is left of what this kernel reads and writes; it is then no longer left."""
    claimed = 0
    for left, accesses in ((given, launch.reads), (taken, launch.writes)):
        for name, size in accesses.items():
            part = min(size, left[launch.phase, name])
            left[launch.phase, name] -= part
            claimed += part
    return claimed


def _cost(launch: Launch, target: Target, dtype: str, share: int) -> Cost:
    efficiency = EFFICIENCIES[_kind(launch)]
    peak = target.matrix_flops[dtype]
    seconds = max(
        launch.bytes_moved / (target.bandwidth * efficiency.bandwidth), launch.flops / (peak * efficiency.flops)
    )
    return Cost(launch, GAP + seconds, max(share / target.bandwidth, launch.flops / peak))


def _kind(launch: Launch) -> str:
    if launch.kind != "extern":
        return launch.kind
    return next((kind for kind in ("convolution", "attention") if kind in launch.name), "matrix product")
