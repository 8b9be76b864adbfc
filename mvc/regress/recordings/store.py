"""Recorded runs as files in pytest-benchmark's JSON format, written without that package."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from mvc import files
from mvc.errors import UserError
from mvc.measure import nvml
from mvc.measure.environment import Environment
from mvc.regress.recordings import pytest_benchmark
from mvc.regress.recordings.recording import (
    COMPARABLE,
    RecordedCase,
    Recording,
    fingerprint,
    is_time,
    known_case,
    order,
)
from mvc.regress.recordings.types import require_types
from mvc.regress.sources.version import Version
from mvc.regress.worker import Facts

FORMAT = "mvc.regress/3"
OF_CALLS = "mvc.regress/1"  # still read; in it every time is a call's
OLDER = (OF_CALLS, "mvc.regress/2")
# What machines are told apart by since format 3.
NEWER_FIELDS = {
    *("gpu_memory_bytes", "power_limit_watts", "clocks_locked", "ecc", "mig"),
    *("nominal_mhz", "cache_bytes", "memory_bytes"),
}


def write(recording: Recording, path: Path) -> Path:
    """Write a recording as a new file, whole or not at all. An existing file is never overwritten.

    Returns:
        the file: `path`, or the same with -2, -3 and so on where that name is taken.

    Raises:
        UserError: the folder cannot be written to.
    """
    require_writable(path)
    try:
        return files.add(path, text(recording))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def text(recording: Recording) -> str:
    """The contents of a recording's file."""
    return json.dumps(as_dict(recording), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def require_writable(path: Path) -> None:
    """Refuse at once a file that could not be written after long measuring, and make its folder.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; name another folder") from error
    files.require_folder(path, "the recording")


def baseline_path(folder: Path, recording: Recording) -> Path:
    """The path of a recording among those of its kind of device: FOLDER/FINGERPRINT/DATE-COMMIT.json."""
    date = recording.environment.date.replace(":", "").removesuffix("+0000")
    return folder / fingerprint(recording.environment) / f"{date}-{recording.version.name}.json"


def as_dict(recording: Recording) -> dict[str, Any]:
    """The recording in pytest-benchmark's format."""
    environment = recording.environment
    return {
        "machine_info": {
            "node": "",
            "machine": environment.platform,
            "python_version": environment.python,
            "cpu": {"brand_raw": environment.device},
            **dataclasses.asdict(environment),
        },
        "commit_info": _commit(recording.version),
        "benchmarks": [_benchmark(name, recorded) for name, recorded in recording.cases.items()],
        "datetime": datetime.now(timezone.utc).isoformat(),
        "accepted": recording.accepted,
        "version": "5.1.0",  # of pytest-benchmark, whose format this is
        "format": FORMAT,
    }


def _commit(version: Version) -> dict[str, Any]:
    """The version as pytest-benchmark writes a commit, with what it does not know besides."""
    facts = dataclasses.asdict(version)
    return {"id": facts.pop("commit"), **facts}


def _benchmark(name: str, recorded: RecordedCase) -> dict[str, Any]:
    return {
        "group": recorded.case.kind,
        "name": name,
        "fullname": f"mvc.regress::{name}",
        "params": None,
        "param": None,
        "extra_info": {
            "case": recorded.case.as_dict(),
            "clocks": recorded.clocks,
            "runs": recorded.runs,
            "facts": [each.as_dict() for each in recorded.facts],
        },
        "options": {
            "disable_gc": False,
            "timer": recorded.clocks["time"],
            "min_rounds": 1,
            "max_time": 0,
            "warmup": True,
        },
        "stats": _stats([seconds for run in recorded.runs for seconds in run["time"]]),
    }


def _stats(seconds: Sequence[float]) -> dict[str, Any]:
    """The statistics that pytest-benchmark computes, of times in seconds."""
    q1, median, q3 = (float(each) for each in np.quantile(seconds, [0.25, 0.5, 0.75], method="hazen"))
    iqr, mean = q3 - q1, statistics.fmean(seconds)
    deviation = statistics.stdev(seconds) if len(seconds) > 1 else 0.0
    outside = sum(not q1 - 1.5 * iqr <= each <= q3 + 1.5 * iqr for each in seconds)
    far = sum(abs(each - mean) > deviation for each in seconds)
    return {
        "min": min(seconds),
        "max": max(seconds),
        "mean": mean,
        "stddev": deviation,
        "rounds": len(seconds),
        "median": median,
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": outside,
        "stddev_outliers": far,
        "outliers": f"{far};{outside}",
        "ld15iqr": min(each for each in seconds if each >= q1 - 1.5 * iqr),
        "hd15iqr": max(each for each in seconds if each <= q3 + 1.5 * iqr),
        "ops": 1 / mean,
        "total": sum(seconds),
        "data": list(seconds),
        "iterations": 1,
    }


def read(path: str | Path) -> Recording:
    """The recording in a file of `record`, of this version or an older one, or in one of pytest-benchmark's.

    A file with one damaged case is refused as a whole: it was written whole, so that someone has edited it.

    Raises:
        UserError: the file cannot be read, is not JSON, or is not a recording.
    """
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON, or is cut off; record it anew") from error
    if pytest_benchmark.wrote(facts):
        reader = pytest_benchmark.recording
    elif isinstance(facts, Mapping) and facts.get("format") in (FORMAT, *OLDER):
        reader = _recording
    else:
        raise UserError(
            f"{path} is not a recording of `python -m mvc.regress record` (format {FORMAT}) nor of pytest-benchmark;"
            " record it anew"
        )
    try:
        recording = reader(facts, str(path))
        _require_types(recording)
    except pytest_benchmark.NoTimes:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} lacks parts of a recording ({error}); record it anew") from error
    return recording


def _recording(facts: Mapping[str, Any], path: str) -> Recording:
    if facts["format"] == OF_CALLS:
        for each in facts["benchmarks"]:
            each["extra_info"]["clocks"] = {"time": "wall"}
            each["extra_info"]["runs"] = [{"time": run} for run in each["extra_info"]["runs"]]
    cases = {each["name"]: _recorded(each["extra_info"]) for each in facts["benchmarks"]}
    if not cases or len(cases) < len(facts["benchmarks"]):
        raise ValueError("no case" if not cases else "a case twice")
    machine, commit = facts["machine_info"], facts["commit_info"]
    fields = {*COMPARABLE} - (NEWER_FIELDS if facts["format"] in OLDER else set())
    if missing := {*fields, "date", "load", "frequency_mhz"} - {*machine} | {"id", "time", "dirty"} - {*commit}:
        raise KeyError(min(missing))
    version = Version(
        asked=path,
        commit=commit["id"],
        **{key: commit.get(key) for key in ("time", "dirty", "branch", "folder")},
    )
    accepted = {str(name): list(reasons) for name, reasons in facts.get("accepted", {}).items()}
    return Recording(Environment.from_json(machine), version, cases, accepted)


def _require_types(recording: Recording) -> None:
    """Check what is not measured times: whoever reads it later has nothing to check."""
    order(recording)  # its dates
    require_types(Environment, vars(recording.environment))
    require_types(Version, vars(recording.version))
    for facts in (facts for each in recording.cases.values() for facts in each.facts):
        require_types(Facts, vars(facts))
        require_types(nvml.Summary, facts.gpu or {})


def _recorded(extra: dict[str, Any]) -> RecordedCase:
    clocks = {name: str(clock) for name, clock in extra["clocks"].items()}
    if not extra["runs"] or set(clocks) not in ({"time"}, {"time", "call time"}):
        raise ValueError("clocks")
    if not all(run[name] and all(map(is_time, run[name])) for run in extra["runs"] for name in clocks):
        raise ValueError("times")
    runs = [{name: [float(seconds) for seconds in run[name]] for name in clocks} for run in extra["runs"]]
    facts = [Facts.from_json(each) for each in extra["facts"]]
    singles = [number for each in facts for number in (each.compile_seconds, each.peak_bytes) if number is not None]
    if len(facts) != len(runs) or not all(number > 0 for number in singles):
        raise ValueError("facts")
    case, unsaid = known_case(extra["case"])
    return RecordedCase(case, clocks, runs, facts, unsaid)
