"""The gate with its own processes: one case of every kind, a revision that is slower, and a process that is killed."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

from mvc.regress import cases
from mvc.regress.cases import Case
from mvc.regress.process import clocks, extra_work, main
from mvc.regress.worker import CaseFailed, Side, Worker


@pytest.fixture
def side(tmp_path):
    caches = tmp_path / "caches"
    caches.mkdir()
    return Side("this", ROOT, caches)


@pytest.mark.parametrize(
    "case",
    [
        Case("scan", kind="scan", batch=1, dim=8, length=16),
        Case("scan, bfloat16, training", kind="scan", batch=1, dim=8, length=16, dtype="bfloat16", training=True),
        Case("eager", variant="tiny", size=64, backend="eager"),
        Case("eager, training", variant="tiny", size=64, backend="eager", training=True),
    ],
    ids=lambda case: case.name,
)
def test_a_process_times_its_case(case, side):
    with Worker(case, side).wait_until_ready() as worker:
        assert worker.time(calls=2, clock="wall") > 0
        assert worker.facts.clocks == ["wall"]
        assert worker.facts.peak_bytes > 2**20
        assert worker.facts.exact == {}


def test_every_default_case_can_be_built():
    """On sizes that take no time; `make bench` builds them in one process."""
    for case in (*cases.load().cases, *cases.load(device="cuda").cases):
        small = dataclasses.replace(
            case, device="cpu", variant="tiny", size=64, batch=1, dim=8, length=4, backend="eager", dtype="float32"
        )
        built = main.build(small.as_dict())
        built.run()
        assert Path(built.facts["source"]) == ROOT / "mvc" / "__init__.py"
        assert built.exact() == {}
    torch.set_grad_enabled(True)


def test_memory_is_that_of_the_process(side):
    """Not of the one that started it, which has torch and test cases in memory too."""
    ours = np.ones(2**27)  # a GiB
    with Worker(Case("scan", kind="scan", batch=1, dim=8, length=16), side).wait_until_ready() as worker:
        assert worker.facts.peak_bytes < ours.nbytes


def test_sources_that_hold_no_mvc_are_not_compared(tmp_path):
    (tmp_path / "src").mkdir()
    with pytest.raises(CaseFailed, match=r"^src: imports mvc from .*, not from .*src$"):
        Worker(Case("scan", kind="scan"), Side("src", tmp_path / "src", tmp_path)).wait_until_ready()


@pytest.mark.slow
def test_a_compiled_model_has_exact_numbers(side):
    with Worker(Case("tiny", variant="tiny", size=64), side, timed=False).wait_until_ready() as worker:
        exact, compile_seconds = worker.facts.exact, worker.facts.compile_seconds
    assert exact["graphs"] == 1
    assert exact["scans"] == exact["matches of lower_scan"] > 0
    assert exact["launches"] > 0
    assert compile_seconds > 0


@pytest.mark.slow
def test_what_is_chosen_by_its_time_is_not_exact(side):
    with Worker(Case("tiny", variant="tiny", size=64, frozen=True), side, timed=False).wait_until_ready() as worker:
        assert worker.facts.exact["graphs"] == 1
        assert not [name for name in worker.facts.exact if "prepack" in name or name == "launches"]


def test_extra_work_is_the_share_asked_for(monkeypatch):
    """A product takes 0.1 ms alone, and 0.2 ms behind the case, which takes 10 ms."""

    class Products(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten.mul_.Tensor
            return func(*args, **(kwargs or {}))

    calls = []

    def timed(run, count):
        before, ran = products.count, len(calls)
        run()
        behind = len(calls) > ran
        return [0.01 * behind + (products.count - before) * (0.0002 if behind else 0.0001)] * count

    monkeypatch.setattr(clocks, "timed", timed)
    with Products() as products:
        slowed = extra_work.slowed(lambda: calls.append(1), 0.01, 0.10)
        before, ran = products.count, len(calls)
        slowed()
    assert len(calls) == ran + 1
    assert products.count - before == 5


def test_what_a_side_cannot_run_is_said(side):
    with pytest.raises(CaseFailed, match=r"^this: .*'nosuch'"):
        Worker(Case("wrong", variant="nosuch"), side).wait_until_ready()


def test_a_process_that_dies_is_said(side):
    with Worker(Case("scan", kind="scan", batch=1, dim=8, length=16), side).wait_until_ready() as worker:
        worker._process.kill()
        with pytest.raises(CaseFailed, match="this: the process ended with status -9"):
            worker.time(calls=1, clock="wall")


CASES = '[thresholds]\nrounds = [5, 15]\n[cases.scan]\nkind = "scan"\nbatch = 4\n'


@pytest.fixture
def repository(tmp_path):
    """A git repository with the sources, committed."""
    folder = tmp_path / "repository"
    folder.mkdir()
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("mvc", "kernels", "passes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "cases.toml").write_text(CASES)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message=as it is"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def gate(*arguments, folder):
    command = [sys.executable, "-m", "mvc.regress", *arguments, "--cases", "cases.toml"]
    # One thread: on a busy machine several wait for each other, and what was made slower drowns in that.
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in background
    )


@pytest.mark.slow
def test_a_slower_checkout_is_a_regression_against_its_commit(repository):
    scan = repository / "kernels" / "scan" / "api.py"
    slow = "\n\n_fast = selective_scan\n\n\ndef selective_scan(*args, **options):\n    import time\n\n"
    scan.write_text(scan.read_text() + slow + "    time.sleep(0.01)\n    return _fast(*args, **options)\n")
    process = gate("compare", "HEAD", ".", "--json", "out.json", folder=repository)
    progress = process.communicate()[1]
    assert process.returncode == 1, progress
    facts = json.loads((repository / "out.json").read_text())
    assert facts["cases"][0]["verdicts"]["time"] == "regression"
    trees = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    assert len(trees.stdout.splitlines()) == 1, "the work tree of the revision was left behind"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_recording_that_is_killed_leaves_no_file(repository, number, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = gate("record", "--output", "out.json", "--rounds", "100000", folder=repository)
    assert "recording scan" in process.stderr.readline()
    time.sleep(1)
    os.killpg(process.pid, number)
    process.communicate(timeout=120)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert bool(list(temporary.glob("mvc-regress-*"))) == (number == signal.SIGKILL)
    assert not list(repository.glob("*.json"))
