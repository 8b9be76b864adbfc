"""What each launch would take on a card, by its bytes and FLOPs: a roofline fitted to measured kernels."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mvc.measure import families
from mvc.offline.manifest import Launch, Manifest
from mvc.offline.targets import Target, find

CALIBRATION = Path(__file__).parent / "calibration.json"  # written by bench/calibrate.py
OUTSIDE_TENSOR_CORES = ("depthwise convolution", "scan")


class Efficiency(NamedTuple):
    """What launches of one family take, by the specification of the card.

    Attributes:
        fixed: seconds of each launch.
        bandwidth, flops: the shares that are reached; 1.0 where the other one decides.
        step: seconds of each step that a program takes after another.
    """

    fixed: float
    bandwidth: float = 1.0
    flops: float = 1.0
    step: float = 0.0


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was fitted, to which kernels, and how far it is off for models that the fit has not seen.

    Attributes:
        card: that ran the kernels, all of inference, as `Target.card` names it.
        dtype: of their models.
        efficiencies: by family.
        errors: by model, estimated over measured time of all kernels, less one.
    """

    card: str
    dtype: str
    efficiencies: dict[str, Efficiency]
    errors: dict[str, float]


@functools.cache
def calibration() -> Calibration:
    facts = json.loads(CALIBRATION.read_text(encoding="utf-8"))
    efficiencies = {family: Efficiency(**each) for family, each in facts["efficiencies"].items()}
    return Calibration(facts["card"], facts["dtype"], efficiencies, facts["errors"])


@dataclasses.dataclass(frozen=True)
class Cost:
    """One launch.

    Attributes:
        seconds: estimated.
        floor: seconds at the full specification; of a generated kernel, for its share of `Floor.triton_bytes` alone.
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
    target, dtype, efficiencies = find(manifest.target), manifest.model.dtype, calibration().efficiencies
    return [
        Cost(
            launch,
            seconds(launch, target, dtype, efficiencies),
            max(share / target.bandwidth, launch.flops / _peak(launch, target, dtype)),
        )
        for launch, share in zip(manifest.launches, _shares(manifest.launches), strict=True)
    ]


def seconds(launch: Launch, target: Target, dtype: str, efficiencies: Mapping[str, Efficiency]) -> float:
    """Of one launch, estimated: its fixed time and its steps, and what its bytes or its FLOPs take at least.

    Args:
        dtype: of the model.
        efficiencies: by family, as `family` names it.
    """
    reached = efficiencies[family(launch)]
    moving = launch.bytes_moved / (target.bandwidth * reached.bandwidth)
    computing = launch.flops / (_peak(launch, target, dtype) * reached.flops)
    return reached.fixed + launch.steps * reached.step + max(moving, computing)


def family(launch: Launch) -> str:
    """Which of the families that were fitted a launch belongs to."""
    if launch.kind == "scan":
        return "scan"
    if launch.groups > 1:
        return "depthwise convolution"
    named = families.family(launch.name)
    if launch.kind == "extern" and named not in ("convolution", "attention"):
        named = "matrix product" if launch.flops else "other"
    return "generated: other" if named == "other" else named  # ATen's own kernels are much like generated ones


def basis(manifest: Manifest) -> str:
    """What the estimates rest on, and their error, in a phrase that belongs beside each of them."""
    known, model = calibration(), manifest.model
    fitted = find(manifest.target).card == known.card and model.dtype == known.dtype and not model.training
    errors = ", ".join(
        f"{abs(error):.0%} too {'long' if error > 0 else 'short'} for {name}" for name, error in known.errors.items()
    )
    return (
        f"estimate, not measured: {'fitted to' if fitted else 'extrapolated from'} {known.dtype} inference on an "
        f"{known.card}, where it is {errors}, which the fit has not seen"
    )


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
    """The calls of one phase, and kernels as late as possible: one before a call that takes from generated code what
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


def _peak(launch: Launch, target: Target, dtype: str) -> float:
    """FLOP/s of the units that a launch computes with."""
    return target.matrix_flops["float32" if family(launch) in OUTSIDE_TENSOR_CORES else dtype]
