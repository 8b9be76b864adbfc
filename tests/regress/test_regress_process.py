"""The process of a case and the driver's end of it: what it is given, what it tells, and how it ends."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from places import ROOT

from mvc.regress import cases
from mvc.regress.__main__ import main
from mvc.regress.cases import Case
from mvc.regress.process import warned
from mvc.regress.recordings import store
from mvc.regress.worker import CaseFailed, Side, Worker

EXAMPLE = ROOT / "examples" / "regress"
# Modules of names that the process's own have; one comes from PYTHONPATH.
MAIN = """
import logging, os, sys, warnings
import beside, clocks, facts

def case(device):
    for _ in range(2):
        warnings.warn("twice\\n  the same", stacklevel=1)
        logging.getLogger("apart").warning("logged %d", 3)
    logging.getLogger("apart").info("no matter")
    print("to nobody")
    assert (beside.here, clocks.here, facts.here, device, os.environ["WRAPPED"]) == (1, 2, 3, "cpu", "yes")
    assert "mvc" not in sys.modules and not any("regress" in path for path in sys.path)
    yield (lambda: None), ()
    open("torn down", "w").close()  # in the folder for what is compiled
"""
BREAKS = """
import torch

def case():
    def run(x):
        x = x + 1
        torch._dynamo.graph_break()
        return x.sin()
    return run, (torch.ones(2 + torch.initial_seed(), 3),)
"""
HANGS = """
import subprocess, time

def case():
    child = subprocess.Popen(["sleep", "600"])
    with open("pid", "w") as file:
        file.write(str(child.pid))
    return time.sleep, (600,)
"""


@pytest.fixture
def side(tmp_path):
    """Makes a side of sources that have one module, in the folder of that name."""

    def side(module, text, python=None):
        tree, caches = tmp_path / "tree", tmp_path / "caches"
        tree.mkdir()
        caches.mkdir()
        (tree / f"{module}.py").write_text(text)
        return Side("that", tree, caches, python)

    return side


def test_warnings_without_end_are_cut_with_a_word(monkeypatch):
    monkeypatch.setattr(warned.warnings, "showwarning", lambda *_: None)
    factory = logging.getLogRecordFactory()
    collected = warned.Warned()
    try:
        for index in range(50):
            logging.getLogger("apart").warning("number %d", index % 40)
    finally:
        logging.setLogRecordFactory(factory)
    assert collected.texts == [
        *(f"WARNING of apart: number {index}" for index in range(20)),
        "further warnings are not listed",
    ]


def ended(pid):
    """Whether a process has ended; a zombie, which nobody waits for, has."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "nothing happened for a minute"
        time.sleep(0.05)


@pytest.mark.versions
def test_a_process_runs_what_it_is_given_as_it_was_told(side, tmp_path, monkeypatch):
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nWRAPPED=yes exec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    that = side("main", MAIN, str(wrapper))
    (tmp_path / "extra").mkdir()
    for folder, module, number in (("extra", "beside", 1), ("tree", "clocks", 2), ("tree", "facts", 3)):
        (tmp_path / folder / f"{module}.py").write_text(f"here = {number}")
    monkeypatch.setenv("PYTHONPATH", "extra")  # of the driver's working folder
    monkeypatch.chdir(tmp_path)
    with Worker(Case("a", kind="call", call="main:case"), that).wait_until_ready() as worker:
        facts = worker.facts
        assert worker.time(calls=3, clock="wall") > 0
        assert not (that.caches / "torn down").exists()
    assert (that.caches / "torn down").exists()
    assert facts.warnings == ["UserWarning: twice the same", "WARNING of apart: logged 3"]
    assert facts.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts.versions.keys() == {"python", "torch", "triton"}
    assert facts.source == str(that.tree / "main.py")
    assert facts.exact == {"graph breaks": 0, "recompiles": 0}
    assert facts.implementations == []


@pytest.mark.versions
@pytest.mark.parametrize(
    ("exact", "expected"),
    [(None, {"graph breaks": 2, "recompiles": 2, "launches": 0}), (("recompiles",), {"recompiles": 2})],
    ids=["all", "one"],
)
def test_graph_breaks_and_recompiles_are_counted_of_all_sets(side, exact, expected):
    """Fails where another torch counts them elsewhere. The function and what follows its break are compiled for one
    length and once more for any, without code."""
    options = {"compile": {"backend": "eager"}, "inputs": 3, "exact": exact}
    with Worker(Case("a", kind="call", call="breaks:case", **options), side("breaks", BREAKS), timed=False) as worker:
        assert worker.wait_until_ready().facts.exact == expected


@pytest.mark.slow
@pytest.mark.versions
def test_launches_are_those_of_the_code_that_was_generated(tmp_path):
    """Fails where another torch counts them elsewhere."""
    (case,) = cases.load(EXAMPLE / "cases.toml").only(["queries-compiled"]).cases
    with Worker(case, Side("example", EXAMPLE, tmp_path), timed=False) as worker:
        facts = worker.wait_until_ready().facts
    assert facts.exact == {"graph breaks": 0, "recompiles": 0, "launches": 1}
    assert facts.compile_seconds > 0


def test_an_answer_has_a_time_limit_and_the_session_ends(side):
    """The limit is for the whole answer, in which torch is imported too."""
    that = side("hangs", HANGS)
    with Worker(Case("a", kind="call", call="hangs:case"), that, timeout=60.0) as worker:
        worker._send(worker._case)
        until((that.caches / "pid").exists)
        worker._timeout = 0.2
        with pytest.raises(
            CaseFailed, match=r"^that: no answer within 0\.2 s while it was timed; give more with --timeout$"
        ):
            worker.time(calls=1, clock="wall")
    pid = (that.caches / "pid").read_text()
    until(lambda: ended(pid))
    assert worker._process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="a signal at the parent's end is Linux's")
def test_a_process_ends_when_its_driver_is_killed(side):
    that = side("hangs", HANGS)
    program = f"""
from pathlib import Path
from mvc.regress.process import warned
from mvc.regress.recordings import store
from mvc.regress.worker import Side, Worker
from mvc.regress.cases import Case
side = Side("that", Path({str(that.tree)!r}), Path({str(that.caches)!r}))
with Worker(Case("a", kind="call", call="hangs:case"), side) as worker:
    print(worker._process.pid, flush=True)
    worker.wait_until_ready()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as driver:
        pid = int(driver.stdout.readline())
        until((that.caches / "pid").exists)
        assert not ended(pid)
        driver.kill()
    until(lambda: ended(pid))
    os.kill(int((that.caches / "pid").read_text()), signal.SIGKILL)  # its own children are only ended by the driver


def test_an_interpreter_that_is_not_there_is_said(side):
    with pytest.raises(CaseFailed, match=r"^that: /nowhere/python cannot be run: No such file or directory$"):
        Worker(Case("a"), side("a", "", "/nowhere/python"))


def test_the_example_is_recorded_in_a_repository_of_its_own(tmp_path, monkeypatch):
    """From its src, and without a word of mvc among its sources."""
    folder = tmp_path / "rotary"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message=as it is"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    chosen = ["--cases", "cases.toml", "--only", "queries", "--rounds", "5", "--quiet"]
    assert main(["record", *chosen, "--output", str(tmp_path / "a.json")]) == 0
    recording = store.read(tmp_path / "a.json")
    assert recording.version.dirty is False
    facts = recording.cases["queries"].facts
    assert {each.source for each in facts} == {str(folder / "src" / "rotary" / "cases.py")}
    assert {each.versions["torch"] for each in facts} == {torch.__version__}
