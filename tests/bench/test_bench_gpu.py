"""`python bench/gpu.py`: processes, order and limits, what is written, and what is told; sizes that need no GPU."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from places import ROOT

from bench import gpu, published, published_scan
from bench.models import FORCED
from bench.on_gpu import children, gate, models, report, scan_job, tests, torch_private, turns, worker
from bench.on_gpu.children import Children, Failed, first
from bench.on_gpu.jobs import Job, choosing_within
from bench.on_gpu.scan_job import FORWARD, STEP, Shape
from bench.on_gpu.session import Limits, Session
from mvc import create_model
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


def test_rates_are_compared_round_by_round_with_the_first_that_was_measured():
    absent, base, twice = (Job("T", how, 8) for how in ("inductor", "eager", "mvc"))
    ready = [turns.Ready(job, None, {"peak_bytes": 1}, 0.0) for job in (base, twice)]
    for seconds in (0.01, 0.02, 0.04):  # the machine slows down under both
        for each, factor in zip(ready, (1, 0.5), strict=True):
            each.turns.append({"seconds": seconds * factor, "wall_seconds": seconds})
    first_row, second_row = turns.rows([(absent, base, twice)], ready)
    assert first_row["against"] is None
    assert first_row["images_per_second"] == pytest.approx(8 / 0.02)
    assert second_row["against"]["name"] == str(base)
    assert second_row["against"]["times_as_fast"] == pytest.approx([2, 2, 2])


def test_our_compiled_model_is_compared_with_all_beside_it():
    theirs, ours, forced = Job("published T", "inductor", 8), Job("T", "mvc, frozen", 8), Job("T", "inductor", 8)
    ready = [
        turns.Ready(job, None, {"peak_bytes": peak, **kernels}, 0.0)
        for job, peak, kernels in (
            (theirs, 4, {"kernel_seconds": 0.03}), (ours, 2, {"kernel_seconds": 0.01}), (forced, 8, {}),
        )
    ]  # fmt: skip
    for seconds in (0.01, 0.02, 0.04):  # the machine slows down under all
        for each, factor in zip(ready, (2, 1, 0.5), strict=True):
            each.turns.append({"seconds": seconds * factor, "wall_seconds": seconds})
    published, plain = turns.ratios([(theirs, ours, forced), (theirs, forced)], ready)
    assert published["name"] == f"{ours} over {theirs}"
    assert published["by_clock"] == pytest.approx([2, 2, 2])
    assert (published["by_kernels"], published["memory"]) == (pytest.approx(3), 0.5)
    assert plain["by_clock"] == pytest.approx([0.5, 0.5, 0.5])
    assert (plain["by_kernels"], plain["memory"]) == (None, 0.25)


def test_every_ratio_that_is_asked_of_a_card_is_measured_in_turns():
    pairs = {
        (next(job for job in comparison if job.ours), other)
        for part in (models.throughput, models.latency, models.training, models.others)
        for comparison in part(False)
        for other in comparison
    }
    t, one = Job("T", "mvc, frozen", 128), Job("T", "mvc, frozen", 1, mode="reduce-overhead")
    step = Job("T", "mvc", 128, "autocast", training=True)
    others = {
        t: ["published T", "ConvNeXt-T", "Swin-T", "MambaOut-T", "CAFormer-S18", "ResNet-50"],
        one: ["published T", "ConvNeXt-T", "Swin-T"],
        step: ["published T"],
        **{dataclasses.replace(t, model=name): [f"published {name}"] for name in ("S", "B")},
    }
    for ours, names in others.items():
        for name in names:
            assert (ours, dataclasses.replace(ours, model=name, how="inductor")) in pairs
    assert (dataclasses.replace(t, dtype="bfloat16"), t) in pairs
    for ours in (t, one):
        for how in FORCED:
            assert (ours, dataclasses.replace(ours, how=how)) in pairs


@pytest.mark.parametrize(("call", "limited"), [(0.0046, False), (0.0065, True)], ids=["device", "host"])
def test_a_call_that_waits_for_the_host_is_said_to(call, limited):
    row = next(row for row in FACTS["rows"] if row["name"] == "T, mvc") | {"median_seconds": call}
    line = turns.kernels_line(row)
    assert "4.600 ms in 150 kernels: convolution 1.300, scan 0.400, gaps 0.100" in line
    assert ("the host is the limit" in line) == limited


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


def extension():
    """mamba-ssm's, in torch's own operations."""

    def fwd(u, delta, A, B, C, D, z, bias, softplus):
        assert (z, softplus) == (None, True)
        y = published_scan.reference(u, delta, A, B[:, 0], C[:, 0], D, bias)
        return y, u.new_zeros((u.shape[0], u.shape[1], 1, 2 * A.shape[1]), dtype=torch.float32)

    def bwd(u, delta, A, B, C, D, z, bias, grad, states, y, grad_z, softplus, again):
        from mvc.kernels.scan import chunked

        turned = [u.mT, delta.mT, A, B[:, 0].mT.unsqueeze(2), C[:, 0].mT.unsqueeze(2), D, None, bias, None, None]
        last = A.new_zeros(u.shape[0], *A.shape)
        du, ddelta, dA, dB, dC, dD, _, dbias, _ = chunked.selective_scan_backward(grad.mT, last, *turned, True, False)
        dB, dC = (each[:, :, 0].mT.unsqueeze(1).contiguous() for each in (dB, dC))
        return du.mT.contiguous(), ddelta.mT.contiguous(), dA, dB, dC, dD, dbias

    return types.SimpleNamespace(fwd=fwd, bwd=bwd)


@pytest.fixture
def published_models(monkeypatch):
    """The published arithmetic on the recurrence and on mamba-ssm's op, with the same tensors."""
    monkeypatch.setitem(sys.modules, published_scan.EXTENSION, extension())
    torch.manual_seed(0)
    made = [published.create_model("tiny", scan=name, drop_path_rate=0.0) for name in ("reference", "mamba-ssm")]
    made[1].load_state_dict(made[0].state_dict())
    return made


@pytest.mark.parametrize("scan", published_scan.SCANS)
def test_a_published_model_can_be_copied(scan, monkeypatch):
    """As the check against eager does."""
    if scan == "naive":
        pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setitem(sys.modules, published_scan.EXTENSION, extension())
    model = copy.deepcopy(published.create_model("tiny", scan=scan))
    assert model.scan is published_scan.find(scan)


def test_the_published_arithmetic_gives_our_scores(published_models):
    ours, x = create_model("tiny"), torch.randn(2, 3, 64, 64)
    ours.load_state_dict(published_models[0].state_dict())
    with torch.no_grad():
        expected, *scores = (model.eval()(x) for model in (ours, *published_models))
    for each in scores:
        torch.testing.assert_close(each, expected)


def test_mamba_ssms_op_is_captured_and_differentiated(published_models):
    x, gradients = torch.randn(2, 3, 64, 64), []
    for model in published_models:
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if gradients else model
        run(x).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0])


FACTS = {
    "command": "python bench/gpu.py",
    "commit": "abc",
    "quick": False,
    "absent": ["timm (no other backbones)"],
    "published_scan": "naive",
    "seconds": 400.0,
    "ended": "when the time was up",
    "environment": {
        "date": "2026-11-26", "device": "cuda: a card <1>", "platform": "Linux", "python": "3", "cpu": "a processor",
        "gpu_bus_id": None, "cuda_devices": 1, "threads": 1,
        "affinity": None, "frequency_mhz": None, "load": None, "torch": "2.11", "triton": "3.6", "compiler": "g++",
        "driver": "580", "sm_clock_mhz": 1980, "memory_clock_mhz": 3201,
    },
    "rates": {"bytes": 4e12, "exponentials": 4.2e12},
    "gpu": {},
    "failed": [{"part": "tests", "name": "test_x", "why": "the whole message"}],
    "not_run": [{"part": "gate", "name": "S-batch-1", "why": "the time was up"}],
    "rows": [
        {
            "part": "scan", "name": "(1, 2, 3) N 8 float16, forward", "share": 0.25, "error": 1e-4,
            "seconds": {"along channels": [1e-6, 2e-6, 3e-6], "along length": [1e-6, 4e-6, 5e-6]},
            "limits": {"bytes": 4e-7, "exponentials": 5e-7},
        },
        {
            "part": "models", "name": "T, eager", "median_seconds": 0.01, "p10_seconds": 0.009, "p90_seconds": 0.02,
            "wall_seconds": 0.011, "images_per_second": 12800.0, "against": None, "peak_bytes": 2**30,
        },
        {
            "part": "models", "name": "T, mvc", "median_seconds": 0.005, "p10_seconds": 0.004, "p90_seconds": 0.006,
            "wall_seconds": 0.006, "images_per_second": 25600.0, "peak_bytes": 2**29, "compile_seconds": 20.0,
            "against": {"name": "T, eager", "times_as_fast": [2.0, 1.9, 2.1]}, "kernel_seconds": 0.0046,
            "families": {"convolution": 0.0013, "scan": 0.0004, "gaps": 0.0001}, "launches": 150,
            "choices": {"fuse_linear": {"rewritten": 31, "left": {"measured: the library is as fast": 17}}},
        },
        {
            "part": "ratios", "name": "T, mvc over T, eager", "by_clock": [2.0, 1.9, 2.1], "by_kernels": 1.75,
            "memory": 0.5,
        },
        {"part": "tests", "name": "test_y", "outcome": "passed", "seconds": 0.1, "message": ""},
    ],
}  # fmt: skip


def test_the_report_has_every_figure_and_charts_that_can_be_drawn(tmp_path):
    page = report.write(FACTS, tmp_path).read_text()
    for text in (
        "2.0",
        "4.0",
        "0.5",
        "25%",
        "12,800",
        "2.000 (1.900 to 2.100) as T, eager",
        "4.600",
        "0.400",
        "1.750",
        "31",
    ):
        assert f" {text} " in page, text
    for text in (
        "timm (no other backbones)",
        "the whole message",
        "S-batch-1: the time was up",
        "1 passed",
        "17: measured",
    ):
        assert text in page
    charts = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert charts == ["models-families.svg", "models.svg"]
    for name in charts:
        assert f"(./{name})" in page
        chart = ET.parse(tmp_path / name).getroot()
        assert "a card <1>" in "".join(chart.itertext())
    drawn = ET.parse(tmp_path / "models.svg").getroot().findall(".//{*}rect[@x]")
    widths = [float(each.get("width")) for each in drawn]
    assert widths == pytest.approx([max(widths), max(widths) / 2], rel=0.01)


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
