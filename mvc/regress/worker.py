"""The driver's end of a process that runs one case."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mvc.errors import UserError
from mvc.regress.cases import Case
from mvc.regress.process import workload


class Side(NamedTuple):
    """One of the two versions that are compared.

    Attributes:
        name: for people: a revision, or "installed".
        tree: folder of the sources, or None for the installed mvc.
        caches: folder for what its processes compile.
    """

    name: str
    tree: Path | None
    caches: Path


class CaseFailed(UserError):
    """A version cannot run a case; the message says why."""


@dataclasses.dataclass
class Facts:
    """What the process of a case reports, and what was seen while it was recorded; None where it is not known.

    Attributes:
        exact: numbers that do not vary from run to run, by name.
        source: file of the mvc that runs.
        seconds: of one call.
        clocks: clocks of `mvc.regress.process.workload` that can measure the case's time, the best first.
        no_graph: why the replay of CUDA graphs is not among the clocks.
        discarded: how many rounds were measured anew.
        gpu: what NVML reported meanwhile, as plain types that JSON can hold.
    """

    exact: dict[str, int]
    source: str | None = None
    seconds: float | None = None
    clocks: list[str] | None = None
    no_graph: str | None = None
    compile_seconds: float | None = None
    peak_bytes: int | None = None
    discarded: int | None = None
    gpu: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Facts:
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: fact for name, fact in facts.items() if name in known})

    def as_dict(self) -> dict[str, Any]:
        """The known facts, as plain types that JSON can hold."""
        return {name: fact for name, fact in dataclasses.asdict(self).items() if fact is not None}


class Worker:
    """A process that imports torch at once. `wait_until_ready` has it build a case and warm it up if it is to be timed;
    it then times the case whenever it is told to.

    Attributes:
        facts: what the process reported when it was ready.
    """

    facts: Facts

    def __init__(self, case: Case, side: Side, *, timed: bool = True) -> None:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(side.caches)}
        if side.tree is not None:
            environment["PYTHONPATH"] = str(side.tree)
        elif path := os.environ.get("PYTHONPATH"):  # the process has another working folder
            environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
        self._side = side
        self._case = {"case": case.as_dict(), "timed": timed}
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", Path(workload.__file__).read_text(encoding="utf-8")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            cwd=side.caches,
            env=environment,
            text=True,
        )

    def wait_until_ready(self) -> Worker:
        self._send(self._case)
        answer = self._receive()
        if "error" in answer:
            self.close()
            raise CaseFailed(f"{self._side.name}: {answer['error']}")
        self.facts = Facts.from_json(answer["ready"])
        source, tree = Path(self.facts.source).resolve(), self._side.tree
        if tree is not None and not source.is_relative_to(tree.resolve()):
            self.close()
            raise CaseFailed(f"{self._side.name}: imports mvc from {source.parent}; {tree} holds none at its top")
        return self

    def time(self, calls: int, clock: str) -> float:
        """Seconds of one call by a clock of `mvc.regress.process.workload`: the median over a turn of `calls` calls."""
        self._send({"calls": calls, "clock": clock})
        return statistics.median(self._receive()["seconds"])

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # what a dead process was sent and did not read
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._messages.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        return json.loads(line)

    def _died(self) -> CaseFailed:
        self._process.wait()
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        return CaseFailed(f"{self._side.name}: the process ended with status {self._process.returncode}"
                          f" ({lines[-1] if lines else 'no message'})")  # fmt: skip
