"""The driver's end of a process that runs one case."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mvc.errors import UserError
from mvc.offline import child
from mvc.regress import process
from mvc.regress.cases import Case

TIMEOUT = 600.0  # seconds for each answer of a process
CLOSING = 5.0  # seconds for its end
PROCESS = Path(process.__file__).parent
# Loads the files under a package name that nobody has, and leaves no folder but those of the sources to import from.
BOOT = """
import importlib.util, sys
sys.path[:] = [folder for folder in sys.path if folder]
file, name = sys.argv.pop(), "_mvc_regress_process"
spec = importlib.util.spec_from_file_location(name, file)
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])
sys.modules[name].start()
"""


class Side(NamedTuple):
    """One of the two versions that are compared.

    Attributes:
        name: for people: a revision, or "installed".
        tree: folder of the sources, or None for what is installed.
        caches: folder for what its processes compile.
        python: the interpreter that runs it; by default the one that runs this.
    """

    name: str
    tree: Path | None
    caches: Path
    python: str | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folders that its packages are imported from: the top of the sources, and "src" if they have that."""
        if self.tree is None:
            return ()
        tops = (self.tree.absolute(), self.tree.absolute() / "src")
        return tuple(top for top in tops if top == tops[0] or top.is_dir())


class CaseFailed(UserError):
    """A version cannot run a case; the message says why."""


@dataclasses.dataclass
class Facts:
    """What the process of a case reports, and what was seen while it was recorded; None where it is not known.

    Attributes:
        exact: numbers that do not vary from run to run, by name.
        source: file of the package that runs.
        seconds: of one call.
        clocks: clocks of `mvc.regress.process.clocks` that can measure the case's time, the best first.
        no_graph: why the replay of CUDA graphs is not among the clocks.
        compile_seconds: how long compiling took.
        peak_bytes: the peak of the process's memory, on a CPU.
        warnings: what Python warned of in the process, and what was logged as a warning or worse: each text once, with
            its category.
        versions: of "python", "torch" and "triton" in the process.
        implementations: those of the scan that ran in one call, by their names in `mvc.kernels.implementations`; empty
            if no operator of the scan was seen.
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
    warnings: list[str] | None = None
    versions: dict[str, str | None] | None = None
    implementations: list[str] | None = None
    discarded: int | None = None
    gpu: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Facts:
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: fact for name, fact in facts.items() if name in known})

    def as_dict(self) -> dict[str, Any]:
        """The known facts, as plain types that JSON can hold."""
        return {name: fact for name, fact in dataclasses.asdict(self).items() if fact is not None}


def unexpected(case: Case, facts: Facts) -> str | None:
    """Why what was measured is not what the case names, as a sentence, or None where it is or is not known."""
    expected, ran = case.expected_scan, facts.implementations
    if expected is None or ran is None or ran == [expected]:
        return None
    seen = f"{' and '.join(ran)} ran" if ran else "no operator of the scan was seen, as where Inductor took it apart"
    warned = f" ({'; '.join(facts.warnings[:3])})" if facts.warnings else ""
    return f"scan: {seen}, {expected} is expected{warned}; mend that, or name what is to run as `scan` of the case"


def require_expected(case: Case, side: str, facts: Facts) -> None:
    """Check that a process measured what its case names.

    Args:
        side: for people: of the process.

    Raises:
        CaseFailed: see `unexpected`.
    """
    if (reason := unexpected(case, facts)) is not None:
        raise CaseFailed(f"{side}: {reason}")


class Worker:
    """A process that imports torch at once. `wait_until_ready` has it build a case and warm it up if it is to be timed;
    it then times the case whenever it is told to.

    The process leads a session of its own, which is killed as a whole when the `with` block ends, compilers included.
    On Linux it also ends when this process or the thread that made it ends.

    Args:
        timed: without it, the process only tells its facts.
        slowdown: share of extra work to insert on purpose, for studies of the gate itself.
        timeout: seconds for each answer.

    Attributes:
        facts: what the process reported when it was ready.
    """

    facts: Facts

    def __init__(
        self, case: Case, side: Side, *, timed: bool = True, slowdown: float = 0.0, timeout: float = TIMEOUT
    ) -> None:
        self._side, self._timeout = side, timeout
        paths = [str(path) for path in side.paths]
        self._case = {"case": case.as_dict(), "timed": timed, "slowdown": slowdown, "paths": paths}
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        searched = [*paths, *(os.path.abspath(path) for path in given if path)]  # it has another working folder
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(side.caches)}
        if searched:
            environment["PYTHONPATH"] = os.pathsep.join(searched)
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                [side.python or sys.executable, "-c", BOOT, str(PROCESS / "__init__.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._messages,
                cwd=side.caches,
                env=environment,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            self._messages.close()
            raise CaseFailed(f"{side.name}: {side.python} cannot be run: {error.strerror}") from error
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_until_ready(self) -> Worker:
        """Have the process build its case, and take its facts.

        Raises:
            CaseFailed: it cannot, or does not within the time limit.
        """
        self._send(self._case)
        self.facts = Facts.from_json(self._receive("the case was made ready")["ready"])
        return self

    def time(self, calls: int, clock: str) -> float:
        """Seconds of one call by a clock of `mvc.regress.process.clocks`: the median over a turn of `calls` calls.

        Raises:
            CaseFailed: the call failed, or took longer than the time limit.
        """
        self._send({"calls": calls, "clock": clock})
        return statistics.median(self._receive("it was timed")["seconds"])

    def close(self, *, patience: float = CLOSING) -> None:
        """End the process and all others of its session.

        Args:
            patience: seconds in which it may end by itself.
        """
        if self._messages.closed:
            return
        with contextlib.suppress(BrokenPipeError):  # what a dead process was sent and did not read
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=patience)
        child.kill_session(self._process)
        self._process.wait()
        self._messages.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self.close(patience=0.0 if kind else CLOSING)

    def _read(self) -> None:
        """Hand on the lines of the process, and an empty one at its end."""
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put("")

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _receive(self, doing: str) -> dict[str, Any]:
        line = self._next_line()
        if line is None:
            self.close(patience=0.0)
            raise CaseFailed(
                f"{self._side.name}: no answer within {self._timeout:g} s while {doing}; give more with --timeout"
            )
        if not line:
            raise self._died()
        answer = json.loads(line)
        if "error" in answer:
            self.close()
            raise CaseFailed(f"{self._side.name}: {answer['error']}")
        return answer

    def _next_line(self) -> str | None:
        """The next line of the process, an empty one at its end, or None after the time limit."""
        limit = time.monotonic() + self._timeout
        while time.monotonic() < limit:
            ended = self._process.poll() is not None  # children that it forked may keep its end of the pipe
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=min(1.0, max(0.0, limit - time.monotonic())))
            if ended:
                return ""
        return None

    def _died(self) -> CaseFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=CLOSING)
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        return CaseFailed(f"{self._side.name}: the process ended with status {self._process.returncode}"
                          f" ({lines[-1] if lines else 'no message'})")  # fmt: skip
