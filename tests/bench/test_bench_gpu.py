"""`python bench/gpu.py`: processes, order and limits, what is written, and what is told; sizes that need no GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from places import ROOT

from bench import gpu, published_scan
from bench.on_gpu import children, gate, models, scan_job, tests, torch_private, turns, worker
from bench.on_gpu.children import Children, Failed, first
from bench.on_gpu.jobs import Job, choosing_within
from bench.on_gpu.scan_job import FORWARD, STEP, Shape
from bench.on_gpu.session import Limits, Session
from mvc.passes import measured_choice
from mvc.regress import cases


@pytest.fixture
def session(tmp_path):
    with Children(tmp_path, compile_threads=1) as children:
        yield Session(
            device=torch.device("cpu"),
            quick=True,
            folder=tmp_path,
            scratch=tmp_path,
            children=children,
            limits=Limits(alive=4, compiling=2, compile_threads=1),
            start=time.monotonic(),
            end=time.monotonic() + 60,
            facts={"environment": {"sm_clock_mhz": None}},
        )


def written(session: Session) -> dict:
    return json.loads((session.folder / "results.json").read_text())


def test_the_file_holds_at_every_moment_what_was_found_and_what_was_not_run(session):
    session.plan("models", ["a", "b", "c", "d"])
    session.add("models", "a", seconds=1.0)
    session.add("models", "a", seconds=2.0)  # a later round
    session.skip("models", "b", "timm is not installed")
    session.fail("models", "c", "disagrees with eager")
    facts = written(session)
    assert facts["rows"] == [{"part": "models", "name": "a", "seconds": 2.0}]
    assert facts["failed"] == [{"part": "models", "name": "c", "why": "disagrees with eager"}]
    assert {each["name"]: each["why"] for each in facts["not_run"]} == {
        "b": "timm is not installed",
        "d": "the time was up",
    }


def test_a_figure_that_is_no_number_costs_no_other(session):
    session.add("models", "a", seconds=float("nan"), ratios=[1.0, float("inf")])
    session.add("models", "b", seconds=2.0)
    first, second = written(session)["rows"]
    assert (first["seconds"], first["ratios"], second["seconds"]) == (None, [1.0, None], 2.0)


def script(session: Session, text: str):
    return session.children.start_command(["-c", text], name="script")


def test_a_child_that_fails_says_why(session):
    child = script(session, "import sys; print('one', flush=True); sys.exit('no such kernel')")
    assert child.answer(time.monotonic() + 20) == "one"
    with pytest.raises(Failed, match="no such kernel"):
        child.answer(time.monotonic() + 20)


def test_a_child_is_waited_for_by_the_clock_and_ended_whole(session):
    forks = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    child, quiet = script(session, forks), script(session, "import time; time.sleep(60)")
    assert first([quiet, child], time.monotonic() + 20) is child
    grandchild = int(child.take())
    with pytest.raises(TimeoutError):
        quiet.answer(time.monotonic() + 0.1)
    session.children.end([child])
    until = time.monotonic() + 10  # a killed process goes when the machine comes to it
    while running(grandchild) and time.monotonic() < until:
        time.sleep(0.05)
    assert not running(grandchild)


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


JOBS = [Job("T", how, 1) for how in ("inductor", "mvc", "mvc, frozen", "eager")]


@pytest.mark.parametrize(
    ("comparisons", "alive", "expected"),
    [
        ([JOBS], 4, [[JOBS]]),
        ([JOBS], 3, [[JOBS[:3]], [[JOBS[0], JOBS[3]]]]),
        ([JOBS[:1]], 2, [[JOBS[:1]]]),
        ([JOBS[:2], JOBS[2:]], 4, [[JOBS[:2], JOBS[2:]]]),
        ([JOBS[:2], JOBS[2:]], 3, [[JOBS[:2]], [JOBS[2:]]]),
        ([JOBS[:2], JOBS[:3]], 3, [[JOBS[:2], JOBS[:3]]]),  # jobs in common count once
    ],
    ids=["fits", "cut", "alone", "two", "two-apart", "common"],
)
def test_as_many_jobs_at_once_as_may_be_alive(comparisons, alive, expected):
    batches = list(models.packed([tuple(each) for each in comparisons], alive))
    assert batches == [[tuple(each) for each in batch] for batch in expected]
    assert all(len(models.names(batch)) <= alive for batch in batches)


@pytest.mark.parametrize(("room", "side_by_side"), [(True, [2, 2, 1]), (False, [1, 1, 1])], ids=["room", "full"])
def test_as_many_compile_side_by_side_as_memory_allows(room, side_by_side, session, monkeypatch):
    child = type("Started", (), {"take": lambda self: {"peak_bytes": 1}})
    seen: list[int] = []

    def answer(children, until):
        seen.append(len(children))
        return next(iter(children))

    monkeypatch.setattr(session.children, "start", lambda *_, **__: child())
    monkeypatch.setattr(session, "has_room", lambda: room)
    monkeypatch.setattr(turns, "first", answer)
    monkeypatch.setattr(session.children, "end", lambda ended: None)
    ready = turns.compiled(session, "models", JOBS[:3], time.monotonic() + 30)
    assert seen == side_by_side
    assert [each.job for each in ready] == JOBS[:3]


def test_no_part_writes_over_the_rows_of_another():
    for quick in (True, False):
        names = [(part.name, name) for part in gpu.PARTS for name in part.names(quick)]
        assert len(names) == len(set(names))


def test_what_cannot_be_run_is_said(session, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(published_scan, "best", lambda device: "naive")
    monkeypatch.setattr(turns, "measure", lambda *_, **__: pytest.fail("there is nothing to measure"))
    comparison = (Job("ConvNeXt-T", "inductor", 1), Job("published T", "inductor", 1, "autocast", training=True))
    session.plan("models", models.names([comparison]))
    models.run(session, "models", [comparison], time.monotonic())
    why = [each["why"] for each in written(session)["not_run"]]
    assert why == ["timm is not installed", "mamba-ssm is not installed, and the naive scan has no backward"]


def test_the_limits_of_a_scan_row():
    shape = Shape(128, 160, 196, 8, "float16")
    steps = 128 * 160 * 196
    needed = scan_job.needed(shape, FORWARD)
    assert needed == {"bytes": 2 * (3 * steps + 2 * 128 * 196 * 8), "exponentials": 10 * steps}
    assert scan_job.needed(shape, STEP)["exponentials"] == 20 * steps
    assert scan_job.needed(shape, STEP)["bytes"] == 2 * (8 * steps + 6 * 128 * 196 * 8)


@pytest.mark.parametrize(
    ("shape", "microseconds"),
    [((128, 160, 196, 8), 9.6), ((128, 320, 49, 8), 4.8), ((8, 1536, 2048, 16), 108), ((1, 512, 65536, 16), 144)],
    ids=str,
)
@pytest.mark.parametrize("clock_mhz", [1980, None], ids=["by NVML", "by CUDA"])
def test_the_exponentials_of_an_h200_take_so_long(shape, microseconds, clock_mhz, monkeypatch):
    card = types.SimpleNamespace(multi_processor_count=132, clock_rate=1_980_000)  # kHz
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    rate = scan_job.exponential_rate(torch.device("cuda"), clock_mhz)
    needed = scan_job.needed(Shape(*shape, "float16"), FORWARD)
    assert needed["exponentials"] / rate == pytest.approx(microseconds * 1e-6, rel=0.01)


def test_a_scan_that_is_wrong_is_not_timed(monkeypatch):
    shape = Shape(1, 4, 70, 2, "float32")
    error, allowed = scan_job.check(shape, torch.device("cpu"))
    assert error <= allowed
    monkeypatch.setattr(scan_job, "along_length", lambda tensors: tuple(1.001 * t for t in tensors))
    with pytest.raises(RuntimeError, match="differs from the recurrence"):
        scan_job.row(shape, FORWARD, torch.device("cpu"), {"bytes": 1e9, "exponentials": None}, 3)


def test_the_orders_of_memory_hold_the_same_numbers():
    tensors = scan_job.inputs(Shape(2, 3, 5, 4, "float32"), torch.device("cpu"))
    other = scan_job.along_length(tensors)
    assert tensors[0].is_contiguous()
    assert other[0].mT.is_contiguous()
    torch.testing.assert_close(other, tensors, rtol=0, atol=0)


def test_the_gates_cases_are_those_of_its_file():
    names = {case.name for case in cases.load(device="cuda").cases}
    assert set(gate.planned(quick=False)) == names


def test_inductor_tunes_alone(tmp_path):
    lock, seen = tmp_path / "lock", []

    class Tuner(torch_private.CachingAutotuner):
        def __init__(self) -> None: ...

    def benchmark(self, *args):
        seen.append(subprocess.run(["flock", "-n", lock, "true"]).returncode)
        return args

    before = torch_private.CachingAutotuner.benchmark_all_configs
    try:
        torch_private.CachingAutotuner.benchmark_all_configs = benchmark
        alone = worker.Alone(lock)
        with torch_private.tuning_within(alone), alone():  # a backward's kernels are tuned while it is checked
            assert Tuner().benchmark_all_configs(1, 2) == (1, 2)
    finally:
        torch_private.CachingAutotuner.benchmark_all_configs = before
    assert seen == [1]  # the lock was held


def test_passes_choose_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MVC_CACHE_DIR", str(tmp_path / "cache"))
    lock, seen = tmp_path / "lock", set()

    def build():
        seen.add(subprocess.run(["flock", "-n", lock, "true"]).returncode)
        return {"library": lambda: None, "own": lambda: None}

    with choosing_within(worker.Alone(lock)):
        measured_choice.fastest(str(tmp_path), build)
    assert seen == {1}  # the lock was held


TESTS = """
import os, time

def test_passes(): pass
def test_fails(): assert 1 == 2, "the whole message\\nof two lines"
def test_hangs(): time.sleep(60)
def test_dies(): os._exit(3)
def test_is_last(): pass
"""


def test_each_test_is_named_first_and_ended_after_its_limit(session, monkeypatch, capsys):
    path = session.folder / "test_given.py"
    path.write_text(TESTS)
    monkeypatch.setattr(children, "ROOT", session.folder)  # where its processes run
    (session.folder / "test_broken.py").write_text("import no_such_package")
    (session.folder / "test_absent.py").write_text("import pytest\npytest.importorskip('no_such_package')")
    monkeypatch.setattr(tests, "QUICK", [path.name, "test_broken.py", "test_absent.py"])
    monkeypatch.setattr(tests, "TEST_SECONDS", 4.0)
    session.limits = session.limits._replace(compiling=1)
    session.plan("tests", [tests.ALL])
    tests.run(session, time.monotonic() + 100)

    facts = written(session)
    names = [row["name"].rpartition("::")[2] for row in facts["rows"] if row["outcome"] == "passed"]
    failed = {each["name"].rpartition("::")[2]: each["why"] for each in facts["failed"]}
    assert names == ["test_passes", "test_is_last"]
    assert failed.keys() == {"test_fails", "test_hangs", "test_dies", "test_broken.py"}
    assert "No module named 'no_such_package'" in failed["test_broken.py"]
    assert "the whole message" in failed["test_fails"]
    assert "of two lines" in failed["test_fails"]
    assert failed["test_hangs"] == "ended after its limit of 4 s"
    assert "its process ended" in failed["test_dies"]
    assert [each["name"] for each in facts["not_run"]] == ["test_absent.py"]
    assert "could not import 'no_such_package'" in facts["not_run"][0]["why"]
    said = capsys.readouterr().out
    assert said.index("test_hangs ...") < said.index("test_hangs: FAILED")


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "bench" / "gpu.py"), "--output", str(folder), *options]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "cpu"], "add --quick"),
        (["--only", "scan,latencies"], "'latencies' is none of the parts"),
        (["--minutes", "0"], "'0' is not a number of minutes"),
    ],
    ids=["cpu", "only", "minutes"],
)
def test_unusable_input(options, said, tmp_path):
    done = subprocess.run(command(tmp_path, *options), capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.slow
def test_the_command_ends_by_its_clock_and_lists_what_it_did_not_come_to(tmp_path):
    """Without timm, tabulate, safetensors and NVML, and in less time than its compiling takes."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('timm', 'tabulate', 'safetensors', 'pynvml'): sys.modules[name] = None\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    options = ["--device", "cpu", "--quick", "--minutes", "0.5", "--only", "models", "scan"]
    start = time.monotonic()
    done = subprocess.run(command(tmp_path / "out", *options), capture_output=True, text=True, env=environment)
    assert time.monotonic() - start < 45
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "out" / "results.json").read_text())
    why = {each["name"]: each["why"] for each in facts["not_run"]}
    assert why["test_resnet, eager, batch 4, float32"] in ("timm is not installed", "the time was up")
    assert "not run: models: test_resnet" in done.stdout
    assert facts["environment"]["torch"] == torch.__version__
    assert "timm (no other backbones)" in facts["absent"]


@pytest.mark.slow
def test_an_interrupt_leaves_the_file_whole_and_no_process(tmp_path):
    options = ["--device", "cpu", "--quick", "--only", "latency"]
    marked = {**os.environ, "MVC_TEST_MARK": str(tmp_path)}
    process = subprocess.Popen(command(tmp_path, *options), stdout=subprocess.PIPE, text=True, env=marked)
    for line in process.stdout:
        if "s at most" in line:
            break
    time.sleep(2)
    assert len(of_mark(str(tmp_path))) > 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 130
    facts = json.loads((tmp_path / "results.json").read_text())
    assert facts["ended"] == "interrupted"
    assert facts["not_run"]
    until = time.monotonic() + 10
    while of_mark(str(tmp_path)) and time.monotonic() < until:
        time.sleep(0.05)
    assert of_mark(str(tmp_path)) == []


def of_mark(mark: str) -> list[str]:
    """Processes that were started with the variable MVC_TEST_MARK of that value."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"MVC_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:  # gone, or another user's
            continue
    return found
