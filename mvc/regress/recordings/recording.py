"""What a recording holds, and what two of them must have in common."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from mvc.errors import UserError
from mvc.measure.environment import Environment
from mvc.regress.cases import FIELDS, Case
from mvc.regress.sources.version import Version
from mvc.regress.worker import Facts

# The fields in which two recordings must agree for their times to be compared.
OF_A_GPU = (
    *("driver", "sm_clock_mhz", "memory_clock_mhz", "gpu_memory_bytes", "power_limit_watts", "clocks_locked", "ecc"),
    "mig",
)
OF_A_HOST = ("cpu", "threads", "affinity", "nominal_mhz", "cache_bytes", "memory_bytes")
OF_SOFTWARE = ("platform", "compiler", "torch", "triton", "python")
COMPARABLE = ("device", *OF_A_GPU, *OF_A_HOST, *OF_SOFTWARE)
CLOCKS_APART = 0.05  # the share by which the highest clocks of equal GPUs do not differ
OPTIONAL = ("compiler", "triton")  # None means that there is none, where torch is known


class Recording(NamedTuple):
    """The contents of one file.

    Attributes:
        environment: of the machine when the recording began.
        version: of the sources that were measured.
        cases: by name.
        accepted: the slowdowns that those sources accept, by the case's name; see `mvc.regress.accepted`.
    """

    environment: Environment
    version: Version
    cases: dict[str, RecordedCase]
    accepted: dict[str, list[str]] = {}  # noqa: RUF012 - never written to

    @property
    def device(self) -> str:
        """The kind of device, "cpu" or "cuda", of all cases."""
        return next(iter(self.cases.values())).case.device

    def with_cases(self, names: Collection[str]) -> Recording:
        """The recording with those of its cases alone that have one of these names."""
        return self._replace(cases={name: case for name, case in self.cases.items() if name in names})


class RecordedCase(NamedTuple):
    """The measurements of a case.

    Attributes:
        clocks: the clock that measured each time: "time", and on CUDA "call time".
        runs: the seconds of one call by the same names, for each process.
        facts: for each process.
        unsaid: fields of the case that an older recording does not tell.
    """

    case: Case
    clocks: dict[str, str]
    runs: list[dict[str, list[float]]]
    facts: list[Facts]
    unsaid: frozenset[str] = frozenset()


def is_time(seconds: object) -> bool:
    """Whether a call can take so long: a number of seconds, and not one that no clock and no patience can have."""
    return isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 1e-12 < seconds < 1e9


def known_case(facts: Mapping[str, Any]) -> tuple[Case, frozenset[str]]:
    """The case that a recording describes, and the names of the fields of its kind that it does not tell, which have
    their defaults.

    Raises:
        ValueError: it has a field that this version does not know.
    """
    fields = {field.name for field in dataclasses.fields(Case)}
    told = {key: value for key, value in facts.items() if key != "slowdown" or value}  # formats 1 and 2 had a zero
    if foreign := told.keys() - fields:
        raise ValueError(f"{min(foreign)!r} of a case is not known to this version of mvc")
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    case = Case(**told)
    return case, frozenset(FIELDS.get(case.kind, ())) - facts.keys()


def merged(recordings: Sequence[Recording]) -> Recording:
    """Recordings of one version on one machine as one, which has the processes of all.

    Raises:
        UserError: they are of several versions or machines, or a case differs among them.
    """
    first, *others = recordings
    cases = dict(first.cases)
    for other in others:
        pair = f"{first.version.asked} and {other.version.asked}"
        if lines := [*_other_version(first.version, other.version), *differences(first, other)]:
            raise UserError(f"{pair} are not processes of one recording: {'; '.join(lines)}")
        for name, recorded in other.cases.items():
            if name not in cases:
                cases[name] = recorded
                continue
            ours = cases[name]
            if (ours.case, ours.clocks) != (recorded.case, recorded.clocks):
                raise UserError(f"{pair} measure {name} with other inputs or clocks; leave one out")
            cases[name] = ours._replace(
                runs=[*ours.runs, *recorded.runs],
                facts=[*ours.facts, *recorded.facts],
                unsaid=ours.unsaid | recorded.unsaid,
            )
    return first._replace(cases=cases)


def _other_version(first: Version, other: Version) -> list[str]:
    return [] if (first.commit, first.dirty) == (other.commit, other.dirty) else [f"{first.name} against {other.name}"]


def only(recording: Recording, names: Sequence[str]) -> Recording:
    """The recording with the cases of these names; with all cases where no name is passed.

    Raises:
        UserError: a name that was not recorded.
    """
    if unknown := [name for name in names if name not in recording.cases]:
        raise UserError(f"--only has {unknown[0]!r}; recorded are {', '.join(recording.cases)}")
    return recording.with_cases(names or recording.cases)


def differences(base: Recording, head: Recording, across: Collection[str] = ()) -> list[str]:
    """Why the times of two recordings cannot be compared, a line for each field; empty if they can. What one of them
    does not know is no difference: see `unknown`.

    Args:
        across: fields that may differ.
    """
    return [f"{key}: {ours} against {theirs}" for key, ours, theirs in _differing(base, head) if key not in across]


def ignored(base: Recording, head: Recording, across: Collection[str] = ()) -> list[str]:
    """What differs and may, a line for each field: "torch 2.14.1 → 2.15.0"."""
    return [f"{key} {ours} → {theirs}" for key, ours, theirs in _differing(base, head) if key in across]


def unknown(base: Recording, head: Recording) -> list[str]:
    """What decides speed and is not known of both machines, so that it may differ; a line for each side.

    NVML does not tell whether clocks are locked. Where neither side knows, the highest clocks that were seen while both
    were measured tell whether they may be.
    """
    missing = [{key for key in _applicable(base, head) if not _known(each, key)} for each in (base, head)]
    clocks = (_highest_clock(base), _highest_clock(head))
    lines = []
    if None not in clocks:
        for keys in missing:
            keys.discard("clocks_locked")
        if abs(math.log(clocks[0] / clocks[1])) > math.log(1 + CLOCKS_APART):
            lines.append(f"the GPU reached {clocks[0]} MHz in base and {clocks[1]} MHz in head: clocks may be locked")
    sides = {"both sides": missing[0] & missing[1], "base": missing[0] - missing[1], "head": missing[1] - missing[0]}
    lines += [
        f"not known of {side}: {', '.join(key for key in COMPARABLE if key in keys)}"
        for side, keys in sides.items()
        if keys
    ]
    return lines


def _highest_clock(recording: Recording) -> int | None:
    """MHz of the GPU's multiprocessors that were seen while cases were measured; None where that is not known."""
    seen = [facts.gpu for recorded in recording.cases.values() for facts in recorded.facts]
    ranges = [gpu.get("sm_clock_mhz") for gpu in seen if isinstance(gpu, Mapping)]
    return max((range_[2] for range_ in ranges if range_), default=None)


def fields_across(text: str) -> frozenset[str]:
    """The fields that a list such as "torch,driver" names.

    Raises:
        UserError: an unknown name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if wrong := [name for name in names if name not in COMPARABLE]:
        raise UserError(f"--across has {wrong[0]!r}; it may name {', '.join(COMPARABLE)}")
    return frozenset(names)


def _differing(base: Recording, head: Recording) -> list[tuple[str, str, str]]:
    """The fields that both know and in which they differ, with both values for people."""
    return [
        (key, _shown(base, key), _shown(head, key))
        for key in _applicable(base, head)
        if _known(base, key) and _known(head, key) and getattr(base.environment, key) != getattr(head.environment, key)
    ]


def _applicable(base: Recording, head: Recording) -> list[str]:
    on_a_gpu = any(each.environment.device.startswith("cuda") for each in (base, head))
    return [key for key in COMPARABLE if on_a_gpu or key not in OF_A_GPU]


def _known(recording: Recording, key: str) -> bool:
    machine = recording.environment
    return getattr(machine, key) is not None or (key in OPTIONAL and machine.torch is not None)


def _shown(recording: Recording, key: str) -> str:
    value = getattr(recording.environment, key)
    if value is None:
        return "none"
    return f"{value / 2**20:,.0f} MiB" if key.endswith("_bytes") and isinstance(value, int) else str(value)


def recorded_at(recording: Recording) -> datetime:
    """When the recording began."""
    return moment(recording.environment.date)


def order(recording: Recording) -> tuple[datetime, datetime]:
    """What sorts recordings by time: that of the commit, so that an older commit that is recorded later finds its
    place, and then that of recording."""
    date = recorded_at(recording)
    return (moment(recording.version.time) if recording.version.time else date), date


def moment(text: str) -> datetime:
    """The moment that a text in ISO format names, in UTC where it names no time zone.

    Raises:
        ValueError: it names none.
    """
    read = datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 does not know Z, which newer gits write
    return read if read.tzinfo else read.replace(tzinfo=timezone.utc)


def fingerprint(environment: Environment) -> str:
    """The folder's name for recordings of one kind of machine, for people who look for one. Where a recording lies does
    not matter to what reads it, which compares the machines."""
    facts = [environment.device]
    if environment.threads is not None:
        facts.append(f"{environment.threads} threads")
    if environment.gpu_memory_bytes:
        facts.append(f"{environment.gpu_memory_bytes >> 30} GiB")
    if environment.power_limit_watts:
        facts.append(f"{environment.power_limit_watts} W")
    if environment.affinity not in (None, environment.threads):
        facts.append(f"{environment.affinity} processors")
    words = re.findall(r"[a-z0-9]+", " ".join(facts).lower())
    return "-".join(words)
