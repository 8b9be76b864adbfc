"""Estimates each launch's time on a card from its bytes and FLOPs, by a roofline fitted to measured kernels."""

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
OWN_ASSUMED = (
    "products, convolutions and attention by kernels of mvc, none of which the fit has seen, are assumed to reach the "
    "library's shares of the card's rates"
)
OUTSIDE_TENSOR_CORES = ("depthwise convolution", "scan")


class Efficiency(NamedTuple):
    """How efficiently launches of one family run, relative to the card's specification.

    Attributes:
        fixed: seconds of each launch.
        bandwidth, flops: the shares of the card's rates that are reached; 1.0 where the other one decides.
        step: seconds for each of the steps that a program computes one after another.
    """

    fixed: float
    bandwidth: float = 1.0
    flops: float = 1.0
    step: float = 0.0


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The fitted constants, the kernels that they were fitted to, and the error for models that the fit has not seen.

    Attributes:
        card: the card that ran the kernels, all of inference, as `Target.card` names it.
        dtype: the dtype of the kernels' models.
        efficiencies: by family.
        errors: by model, the estimated time over the measured time of all kernels, minus one.
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
    """The cost of one launch.

    Attributes:
        seconds: the estimated time.
        floor: seconds at the card's full rates; for a generated kernel, counting only its share of
            `Floor.triton_bytes`.
    """

    launch: Launch
    seconds: float
    floor: float


class Floor(NamedTuple):
    """The launches and bytes of generated code with only one read and one write around each call: of a library, or of a
    kernel that the graph holds.

    A call's result that generated code uses is read once, and a call's input that generated code computes is written
    once, however often the actual kernels do so. Everything else is above the floor: parameters and arguments, and data
    that generated kernels pass to each other or read again, such as residual sums. A residual sum costs at least one
    more read for each call that it bypasses, so that a network with residual sums cannot reach the floor.

    Attributes:
        launches: the number of the calls and of the fewest kernels between them, where each kernel runs after the calls
            that it depends on and before those that use its result.
        triton_bytes: the bytes of generated kernels: of each buffer, what they read of a call's result, or write of a
            call's input, and at most the call's part.
        parameter_bytes: the bytes of parameters and arguments that generated kernels read besides.
    """

    launches: int
    triton_bytes: int
    parameter_bytes: int


def costs(manifest: Manifest) -> list[Cost]:
    """The cost of every launch, in order."""
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
    """The estimated time of one launch: its fixed time, its steps, and the longer of the times for its bytes and FLOPs.

    Args:
        dtype: the model's dtype.
        efficiencies: by family, as `family` returns it.
    """
    reached = efficiencies[family(launch)]
    moving = launch.bytes_moved / (target.bandwidth * reached.bandwidth)
    computing = launch.flops / (_peak(launch, target, dtype) * reached.flops)
    return reached.fixed + launch.steps * reached.step + max(moving, computing)


def family(launch: Launch) -> str:
    """The family, among those that were fitted, to which a launch belongs."""
    if launch.groups > 1:
        return "depthwise convolution"
    named = families.family(launch.name)
    if launch.kind == "extern" and named not in ("convolution", "attention"):
        named = "matrix product" if launch.flops else "other"
    return "generated: other" if named == "other" else named  # ATen's own kernels are much like generated ones


def basis(manifest: Manifest) -> str:
    """The basis of the estimates and their error, in a phrase to print beside each of them."""
    known, model = calibration(), manifest.model
    fitted = find(manifest.target).card == known.card and model.dtype == known.dtype and not model.training
    errors = ", ".join(
        f"{abs(error):.0%} too {'long' if error > 0 else 'short'} for {name}" for name, error in known.errors.items()
    )
    unseen = any(launch.kind == "own" and family(launch) != "scan" for launch in manifest.launches)
    assumed = f"; {OWN_ASSUMED}" if unseen else ""
    return (
        f"estimate, not measured: {'fitted to' if fitted else 'extrapolated from'} {known.dtype} inference on an "
        f"{known.card}, where it is {errors}, which the fit has not seen{assumed}"
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
    """The number of calls in one phase plus the fewest kernels, each as late as possible: one before a call whose input
    from generated code depends on a call since the last kernel, and one at the end for results that no call uses."""
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
    """The bytes that generated kernels of one phase read from buffers that no launch writes."""
    made = {name for launch in launches for name in launch.writes}
    return sum(
        size for launch in filter(_generated, launches) for name, size in launch.reads.items() if name not in made
    )


def _shares(launches: Sequence[Launch]) -> list[int]:
    """The bytes of each launch that count for `Floor`: all bytes of a call; for a generated kernel, of each buffer what
    no earlier one has read or written."""
    taken, given = Counter(), Counter()  # what calls read and write, by phase and name
    for launch in launches:
        if not _generated(launch):
            for left, accesses in ((taken, launch.reads), (given, launch.writes)):
                for name, size in accesses.items():
                    left[launch.phase, name] = max(left[launch.phase, name], size)
    return [_claimed(launch, taken, given) if _generated(launch) else launch.bytes_moved for launch in launches]


def _claimed(launch: Launch, taken: Counter, given: Counter) -> int:
    """Claim for this kernel what is left of the bytes that it reads and writes, and return how many those are."""
    claimed = 0
    for left, accesses in ((given, launch.reads), (taken, launch.writes)):
        for name, size in accesses.items():
            part = min(size, left[launch.phase, name])
            left[launch.phase, name] -= part
            claimed += part
    return claimed


def _peak(launch: Launch, target: Target, dtype: str) -> float:
    """FLOP/s of the units that a launch uses."""
    return target.matrix_flops["float32" if family(launch) in OUTSIDE_TENSOR_CORES else dtype]
