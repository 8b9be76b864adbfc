"""One run of the command: its clock, its results, and the file that holds them at every moment."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.on_gpu.children import Children
from mvc import files
from mvc.measure import machine

SCHEMA = "mvc.gpu/1"
# What a process may need: machine memory for its compiler and libraries, GPU memory for its context and one batch.
HOST_BYTES, DEVICE_BYTES = 2 * 2**30, 6 * 2**30


class Limits(NamedTuple):
    """How many processes there may be.

    Attributes:
        alive: processes that hold a model, to be timed in turns.
        compiling: processes that compile at the same time.
        compile_threads: Inductor's threads in each process.
    """

    alive: int
    compiling: int
    compile_threads: int


def limits(device: torch.device) -> Limits:
    """The limits, from the processors, the machine's free memory and the device's free memory."""
    processors = machine.processors()
    alive = max(2, _room(device))
    compiling = min(alive, max(2, processors))
    return Limits(alive, compiling, max(1, 3 * processors // compiling if processors > 2 else 1))


def _room(device: torch.device) -> int:
    """How many more processes the free memory has room for."""
    room = _available_memory() // HOST_BYTES
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        room = min(room, free // DEVICE_BYTES)
    return room


def _available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of the machine's free memory; what eight processes need where the system does not tell."""
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 8 * HOST_BYTES)


def _finite(facts: Any) -> Any:
    """The facts with None for numbers that JSON cannot hold, so that one of them does not cost the others."""
    if isinstance(facts, dict):
        return {key: _finite(value) for key, value in facts.items()}
    if isinstance(facts, (list, tuple)):
        return [_finite(value) for value in facts]
    return None if isinstance(facts, float) and not math.isfinite(facts) else facts


class Session:
    """What the parts of the command share.

    Attributes:
        device: the device that is measured.
        quick: whether sizes are those of a trial of the command itself.
        folder: the folder for results.json and the report.
        scratch: a folder that is removed at the end.
        children: the processes that the parts start.
        limits: the limits on these processes.
        end: when the command stops measuring, by `time.monotonic`.
        facts: the contents of results.json.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        quick: bool,
        folder: Path,
        scratch: Path,
        children: Children,
        limits: Limits,
        start: float,
        end: float,
        facts: dict[str, Any],
    ) -> None:
        self.device, self.quick, self.folder, self.scratch = device, quick, folder, scratch
        self.children, self.limits = children, limits
        self._start, self.end = start, end
        self._planned: dict[tuple[str, str], str] = {}
        self.facts = {"schema": SCHEMA, **facts, "rows": [], "failed": [], "not_run": [], "gpu": {}}

    @property
    def lock(self) -> Path:
        """The lock file of the process that has the GPU to itself."""
        return self.scratch / "gpu.lock"

    def has_room(self) -> bool:
        """Whether the memory that is free now suffices for one more process."""
        return _room(self.device) > 0

    @property
    def left(self) -> float:
        """Seconds until the command ends."""
        return self.end - time.monotonic()

    def say(self, text: str) -> None:
        """Print at once, with the seconds since the start."""
        print(f"[{time.monotonic() - self._start:5.0f} s] {text}", flush=True)

    def plan(self, part: str, names: Sequence[str], *, instead_of: str | None = None) -> None:
        """Note what is going to be run. It counts as not run until it has a row or has failed."""
        self._planned.pop((part, instead_of), None)
        self._planned.update({(part, name): "the time was up" for name in names})
        self._write()

    def skip(self, part: str, name: str, why: str) -> None:
        """Say why something planned cannot be run."""
        self._planned[part, name] = why
        self.say(f"{part}: {name}: not run: {why}")
        self._write()

    def add(self, part: str, name: str, **figures: Any) -> None:
        """Add a row, in place of an earlier one of that name."""
        self._planned.pop((part, name), None)
        rows = self.facts["rows"]
        row = {"part": part, "name": name, **figures}
        same = [index for index, each in enumerate(rows) if (each["part"], each["name"]) == (part, name)]
        if same:
            rows[same[0]] = row
        else:
            rows.append(row)
        self._write()

    def fail(self, part: str, name: str, why: str) -> None:
        """Note that something did not yield its figures. The rest goes on."""
        self._planned.pop((part, name), None)
        self.facts["failed"].append({"part": part, "name": name, "why": why})
        self.say(f"{part}: {name}: FAILED: {why}")
        self._write()

    def close(self, ended: str) -> None:
        """Note how the run ended, and after how long."""
        self.facts |= {"ended": ended, "seconds": round(time.monotonic() - self._start, 1)}
        self._write()

    def _write(self) -> None:
        self.facts["not_run"] = [
            {"part": part, "name": name, "why": why} for (part, name), why in self._planned.items()
        ]
        text = json.dumps(_finite(self.facts), indent=1, ensure_ascii=False, allow_nan=False)
        files.replace(self.folder / "results.json", text + "\n")
