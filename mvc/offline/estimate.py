"""A roofline over the launches: what each would take on the card, by its bytes and FLOPs. An estimate, not measured."""

from __future__ import annotations

import dataclasses
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
    "triton": Efficiency(0.90, 1.0, "assumed: streaming kernels reach 0.85 to 0.93"),
    "scan": Efficiency(0.50, 1.0, "assumed: a step waits for the one before"),
    "convolution": Efficiency(0.80, 0.45, "assumed: few channels fill the tiles of tensor cores badly"),
    "attention": Efficiency(0.80, 0.40, "assumed: FlashAttention-2 reports 0.5 to 0.73, for longer sequences"),
    "matrix product": Efficiency(0.85, 0.70, "assumed: large products reach 0.7 to 0.85 in published benchmarks"),
}
GAP = 2e-6  # seconds between two launches that the host has queued; assumed


@dataclasses.dataclass(frozen=True)
class Cost:
    """One launch.

    Attributes:
        seconds: estimated.
        floor: seconds without gap and at the full specification, if generated code touched nothing but what library
            calls and scans give and take.
    """

    launch: Launch
    seconds: float
    floor: float


@dataclasses.dataclass(frozen=True)
class Floor:
    """The least that code around the same library calls and scans can launch and move.

    Attributes:
        launches: the calls themselves, and one kernel for all that take the same from generated code.
        triton_bytes: of generated kernels: what the calls give and generated code takes, read once; and what they take
            from generated code, written once.
    """

    launches: int
    triton_bytes: int


def costs(manifest: Manifest) -> list[Cost]:
    """Of every launch, in order."""
    target, crossing = find(manifest.target), _crossing(manifest.launches)
    return [_cost(launch, target, manifest.model["dtype"], crossing) for launch in manifest.launches]


def floor(manifest: Manifest) -> Floor:
    crossing = _crossing(manifest.launches)
    calls = [launch for launch in manifest.launches if launch.kind != "triton"]
    made = {name for launch in manifest.launches if launch.kind == "triton" for name in launch.writes}
    feeding = {frozenset(launch.reads.keys() & made) for launch in calls} - {frozenset()}
    return Floor(len(calls) + len(feeding), sum(crossing.values()))


def _crossing(launches: Sequence[Launch]) -> dict[str, int]:
    """Bytes of the buffers that pass between generated kernels and calls, in either direction, by name."""
    sides: dict[bool, tuple[dict[str, int], dict[str, int]]] = {True: ({}, {}), False: ({}, {})}
    for launch in launches:
        reads, writes = sides[launch.kind == "triton"]
        reads.update(launch.reads)
        writes.update(launch.writes)
    (read_by_ours, written_by_ours), (read_by_calls, written_by_calls) = sides[True], sides[False]
    into = {name: size for name, size in written_by_ours.items() if name in read_by_calls}
    out_of = {name: size for name, size in read_by_ours.items() if name in written_by_calls}
    return {**{f"into {name}": size for name, size in into.items()}, **{f"of {k}": v for k, v in out_of.items()}}


def _cost(launch: Launch, target: Target, dtype: str, crossing: dict[str, int]) -> Cost:
    efficiency = EFFICIENCIES[_kind(launch)]
    peak = target.matrix_flops[dtype]
    seconds = max(
        launch.bytes_moved / (target.bandwidth * efficiency.bandwidth), launch.flops / (peak * efficiency.flops)
    )
    least = launch.bytes_moved
    if launch.kind == "triton":
        least = sum(size for name, size in launch.reads.items() if f"of {name}" in crossing)
        least += sum(size for name, size in launch.writes.items() if f"into {name}" in crossing)
    return Cost(launch, GAP + seconds, max(least / target.bandwidth, launch.flops / peak))


def _kind(launch: Launch) -> str:
    if launch.kind != "extern":
        return launch.kind
    return next((kind for kind in ("convolution", "attention") if kind in launch.name), "matrix product")
