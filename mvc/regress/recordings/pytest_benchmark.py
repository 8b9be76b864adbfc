"""pytest-benchmark's JSON, of any project, as a recording of one process."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from mvc.errors import UserError
from mvc.measure import machine
from mvc.measure.environment import Environment
from mvc.regress.cases import RECORDED, Case
from mvc.regress.recordings.recording import COMPARABLE, RecordedCase, Recording, is_time, known_case
from mvc.regress.sources.version import Version
from mvc.regress.worker import Facts

NOT_KNOWN = ("unversioned", "(unknown)", "(detached head)")  # pytest-benchmark's words
CLOCKS = {"perf_counter": "wall"}  # timers that are ours, by pytest-benchmark's name; another keeps its name


class NoTimes(UserError):
    """The file lacks what is compared, or has times that cannot be; the message names the remedy."""


def wrote(facts: object) -> bool:
    """Whether pytest-benchmark wrote these contents of a JSON file. The recordings of this package, which are in the
    same format, say so."""
    return isinstance(facts, Mapping) and "format" not in facts and {"benchmarks", "machine_info"} <= facts.keys()


def recording(facts: Mapping[str, Any], path: str) -> Recording:
    """The recording. Of the machine it holds what pytest-benchmark tells, and each field of `Environment` that the
    project added to "machine_info".

    Raises:
        NoTimes: the single times are not in it, or some are zero or not finite.
        KeyError, TypeError, ValueError, AttributeError: parts are missing or damaged.
    """
    recorded = [_recorded(each, path) for each in facts["benchmarks"]]
    cases = {each.case.name: each for each in recorded}
    if not cases or len(cases) < len(recorded):
        raise ValueError("a benchmark twice" if cases else "no benchmark")
    devices = {each.case.device for each in cases.values()}
    if len(devices) > 1:
        raise ValueError("benchmarks of several devices")
    return Recording(_environment(facts, devices.pop()), _version(facts["commit_info"], path), cases)


def _environment(facts: Mapping[str, Any], device: str) -> Environment:
    told, processor = facts["machine_info"], facts["machine_info"].get("cpu") or {}
    name = processor.get("brand_raw")
    size = processor.get("l3_cache_size")
    known = {
        "device": f"{device}: {name or 'unknown'}",
        "cpu": name,
        "python": told.get("python_version"),
        "platform": f"{told['system']} {told['machine']}",
        "nominal_mhz": name and machine.named_frequency(name),
        "cache_bytes": size if type(size) is int else None,
    }
    added = {key: told[key] for key in COMPARABLE if isinstance(told.get(key), str | int | float)}
    return Environment(date=facts["datetime"], **known | added)


def _version(commit: Mapping[str, Any], path: str) -> Version:
    known = {key: None if value in NOT_KNOWN else value for key, value in commit.items()}
    if known.get("id") is None:
        return Version(asked=path)
    return Version(asked=path, commit=known["id"], **{key: known.get(key) for key in ("time", "dirty", "branch")})


def _recorded(benchmark: Mapping[str, Any], path: str) -> RecordedCase:
    name, stats, extra = benchmark["fullname"], benchmark["stats"], benchmark.get("extra_info") or {}
    if not stats.get("data"):
        raise NoTimes(
            f"{path} lacks the single times of {name}; write it with --benchmark-json, or with --benchmark-save-data"
            " beside --benchmark-save or --benchmark-autosave"
        )
    if wrong := [each for each in stats["data"] if not is_time(each)]:
        raise NoTimes(f"{path}: a time of {name} is {wrong[0]!r}, in seconds; measure more iterations in a round")
    seconds = [float(each) for each in stats["data"]]
    timer = str(benchmark["options"]["timer"])
    # `make bench` adds the case that it measured and what its process told.
    ours = extra if "case" in extra else {}
    case, unsaid = known_case(ours["case"]) if ours else (Case(name, kind=RECORDED), frozenset())
    told = Facts.from_json({"exact": {}, "seconds": statistics.median(seconds), **ours})
    return RecordedCase(case, {"time": CLOCKS.get(timer, timer)}, [{"time": seconds}], [told], unsaid)
