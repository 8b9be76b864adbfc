"""Runs the tests that need a GPU: each is named before it starts, and ended after its time limit."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.checkout import ROOT
from bench.on_gpu.children import Failed, first
from bench.on_gpu.session import Session

PART, ALL = "tests", "all tests that are marked gpu"
FIRST = "tests/kernels/test_chunked.py"  # its CUDA tests have failed on a card
TEST_SECONDS, COLLECT_SECONDS, PROCESSES = 60.0, 120.0, 4
QUICK = [f"{FIRST}::test_cuda", f"{FIRST}::test_same_bits_in_every_run"]


def planned(quick: bool) -> list[str]:
    return [ALL]


def run(session: Session, until: float) -> None:
    """Collect the tests, and run them in a few processes side by side."""
    if importlib.util.find_spec("pytest") is None:
        session.skip(PART, ALL, "pytest is not installed")
        return
    try:
        ids, without = _collected(session, min(until, time.monotonic() + COLLECT_SECONDS))
    except (Failed, TimeoutError) as error:
        session.fail(PART, ALL, f"while they were collected: {error}")
        return
    session.plan(PART, ids, instead_of=ALL)
    for file, outcome, why in without:
        (session.fail if outcome == "failed" else session.skip)(PART, file, why)
    session.say(f"{PART}: {len(ids)} tests")
    count = min(PROCESSES, session.limits.compiling, len(ids))
    lanes = [Lane(session, ids[index::count]) for index in range(count)]
    try:
        while lanes and time.monotonic() < until:
            child = first([lane.child for lane in lanes], min(until, *(lane.limit for lane in lanes)))
            for lane in lanes:
                if lane.child is child:
                    lane.hear()
                elif time.monotonic() > lane.limit:
                    lane.give_up(f"ended after its limit of {TEST_SECONDS:.0f} s")
            lanes = [lane for lane in lanes if lane.ids]
    finally:
        session.children.end([lane.child for lane in lanes])


class Lane:
    """A process, and the tests that it still has to run, in order.

    Attributes:
        ids: the names of those tests.
        limit: when the running test is given up, by `time.monotonic`.
    """

    def __init__(self, session: Session, ids: Sequence[str]) -> None:
        self.ids, self._session = list(ids), session
        self._start()

    def _start(self) -> None:
        facts = {"arguments": self.ids, "collect": False}
        self.child = self._session.children.start("bench.on_gpu.pytest_lines", facts, name=PART)
        self.limit = time.monotonic() + TEST_SECONDS

    def hear(self) -> None:
        """Handle one line of the process, or its end."""
        try:
            message = self.child.take()
        except Failed as error:
            self.give_up(f"its process ended: {error}")
            return
        self.limit = time.monotonic() + TEST_SECONDS
        if "started" in message:
            self._session.say(f"{PART}: {message['started']} ...")
            return
        record(self._session, message)
        self.ids.remove(message["ended"])
        if not self.ids:
            self._session.children.end([self.child])

    def give_up(self, why: str) -> None:
        """The test that is running fails, and another process runs the rest."""
        self._session.fail(PART, self.ids.pop(0), why)
        self._session.children.end([self.child])
        if self.ids:
            self._start()


def record(session: Session, message: dict[str, Any]) -> None:
    """Record a verdict of pytest's. A failure is reported in full."""
    if message["outcome"] == "failed":
        session.fail(PART, message["ended"], message["message"])
        return
    session.add(PART, message["ended"], **{key: message[key] for key in ("outcome", "seconds", "message")})
    reason = f": {message['message']}" if message["message"] else ""
    session.say(f"{PART}: {message['ended']}: {message['outcome']} in {message['seconds']:.1f} s{reason}")


def _collected(session: Session, until: float) -> tuple[list[str], list[list[str]]]:
    """The ids of the tests in the order of running; and name, outcome and reason of files that could not be imported.

    Raises:
        Failed, TimeoutError: pytest did not collect the tests.
    """
    arguments = QUICK if session.quick else ["-m", "gpu", *_files()]
    child = session.children.start("bench.on_gpu.pytest_lines", {"arguments": arguments, "collect": True}, name=PART)
    try:
        answer = child.answer(until)
    finally:
        session.children.end([child])
    return sorted(answer["collected"], key=lambda each: not each.startswith(FIRST)), answer["without"]


def _files() -> list[str]:
    """The test files with tests for a GPU. The others are left out because importing them is slow."""
    files = sorted(Path(ROOT, "tests").glob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if "mark.gpu" in path.read_text(encoding="utf-8")]
