"""Processes that answer in lines of JSON, with time limits, and are ended with all their children."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.checkout import ROOT
from mvc.offline import child

END_SECONDS = 5.0  # seconds for a killed process to end; one that the driver holds may stay


class Failed(Exception):
    """A process ended without an answer, or answered that it cannot do what it was asked; the message says why."""


class Child:
    """A process in a session of its own. It receives one JSON text as its argument and JSON lines on standard input.

    Attributes:
        name: for people.
    """

    def __init__(
        self, name: str, command: list[str], *, log: Path, env: Mapping[str, str], lines: Callable[[str], Any]
    ) -> None:
        self.name = name
        self._command, self._log, self._parse = command, log, lines
        self._unread, self._lines = b"", deque[str]()
        with log.open("wb") as messages:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                cwd=ROOT,
                env=env,
                start_new_session=True,
            )

    def ask(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the wait for the answer reports why
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self, until: float) -> Any:
        """The next line, which must come until a moment of `time.monotonic`.

        Raises:
            Failed: the process has ended.
            TimeoutError: no line came in time.
        """
        if first([self], until) is None:
            raise TimeoutError(f"{self.name} did not answer in time")
        return self.take()

    def take(self) -> Any:
        """The line that `first` found.

        Raises:
            Failed: the process has ended without a line.
        """
        if not self._lines:
            self._process.wait()
            errors = self._log.read_text(encoding="utf-8", errors="replace")
            raise Failed(child.reason(subprocess.CompletedProcess(self._command, self._process.returncode, "", errors)))
        return self._parse(self._lines.popleft())

    def rest(self, until: float) -> Iterator[Any]:
        """All lines that are still to come.

        Raises:
            TimeoutError: they did not end in time.
        """
        while first([self], until) is not None:
            if not self._lines:
                return
            yield self.take()
        raise TimeoutError(f"{self.name} did not end in time")

    def kill(self) -> None:
        """Kill all processes of the session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill all processes of the session, and wait until this one is gone and its part of the device is free."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _ready(self) -> bool:
        """Read what has come; whether a line, or the end, can be taken now."""
        while not self._lines:
            with selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ)
                if not selector.select(0):
                    return False
            read = os.read(self._process.stdout.fileno(), 2**16)
            if not read:
                return True
            *lines, self._unread = (self._unread + read).split(b"\n")
            self._lines.extend(line.decode(errors="replace") for line in lines)
        return True


def first(children: Collection[Child], until: float) -> Child | None:
    """One of the children that has a line or has ended; None if there is none until a moment of `time.monotonic`."""
    with selectors.DefaultSelector() as selector:
        for each in children:
            selector.register(each._process.stdout, selectors.EVENT_READ)
        while True:
            if (ready := next((each for each in children if each._ready()), None)) is not None:
                return ready
            left = until - time.monotonic()
            if left <= 0 or not children:
                return None
            selector.select(left)


class Children:
    """The children of one run of the command; at the end of the block none is left."""

    def __init__(self, scratch: Path, *, compile_threads: int) -> None:
        self._scratch, self._serial = scratch, 0
        self._alive: set[Child] = set()
        # Caches for this run alone, removed at its end: code that other runs compiled is not used.
        self._env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
            "TRITON_CACHE_DIR": str(scratch / "triton"),
            "TMPDIR": str(scratch),
            "TORCHINDUCTOR_COMPILE_THREADS": str(compile_threads),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, module: str, facts: Mapping[str, Any], *, name: str) -> Child:
        """`python -m module FACTS`, whose lines are JSON."""
        return self._start(name, [sys.executable, "-m", module, json.dumps(facts)], json.loads)

    def start_command(self, arguments: list[str], *, name: str) -> Child:
        """`python ARGUMENTS`, whose lines are text."""
        return self._start(name, [sys.executable, *arguments], str)

    def _start(self, name: str, command: list[str], lines: Callable[[str], Any]) -> Child:
        self._serial += 1
        log = self._scratch / f"messages-{self._serial}.txt"
        started = Child(name, command, log=log, env=self._env, lines=lines)
        self._alive.add(started)
        return started

    def end(self, ended: Collection[Child]) -> None:
        ended = list(ended)
        for each in ended:  # all at once, since the driver is slow to end each
            each.kill()
        for each in ended:
            each.end()
            self._alive.discard(each)

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end(self._alive)
