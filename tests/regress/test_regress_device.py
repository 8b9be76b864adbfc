"""What the gate decides on CUDA: the device's time and the call's, each for itself. Processes and device are stood for,
but for the tests at the end."""

import contextlib
import dataclasses
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from fake_worker import fake
from test_regress_store import ENVIRONMENT

from mvc.measure import nvml
from mvc.regress import cases, compare
from mvc.regress.__main__ import main
from mvc.regress.recordings import store
from mvc.regress.selftest import trial
from mvc.regress.worker import Side


@pytest.fixture
def run(sides, monkeypatch, capsys):
    """Runs the command on the cases for GPUs, on folders in place of revisions; status and output."""
    unwatched = nvml.Watch(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nvml, "Watch", lambda device: unwatched)
    on_cuda = dataclasses.replace(ENVIRONMENT, device="cuda: stood for")
    for module in ("compare", "record", "commands.selftest"):
        monkeypatch.setattr(f"mvc.regress.{module}.environment", lambda device: on_cuda)
        monkeypatch.setattr(f"mvc.regress.{module}.device_lock", lambda *_, **__: contextlib.nullcontext())
    for module in ("compare", "record"):
        monkeypatch.setattr(f"mvc.regress.{module}.other_processes", lambda device: [])

    def run(command, *arguments, only=("scan-model",)):
        positional = ["base", "head"] if command == "compare" else []
        chosen = ["--device", "cuda", "--only", *only, "--quiet"]
        status = main([command, *positional, *chosen, *map(str, arguments)])
        return status, capsys.readouterr()

    return run


def compared(run):
    """The result of one case, with the exit status."""
    status, printed = run("compare", "--json", "-")
    facts = json.loads(printed.out)
    assert facts["exit_status"] == status
    return status, facts["cases"][0]


def test_gpus_have_cases_of_their_own():
    suite = cases.load(device="cuda")
    assert {case.device for case in suite.cases} == {"cuda"}
    assert suite.thresholds.effect == 0.02
    assert {(case.kind, case.batch, case.training) for case in suite.cases} == {
        *(("scan", batch, training) for batch in (8, 128) for training in (False, True)),
        *(("model", batch, False) for batch in (1, 128)),
    }
    assert {(case.mode, case.frozen) for case in suite.cases if case.kind == "model" and case.batch == 1} == {
        ("reduce-overhead", True)
    }


def test_equal_sides_show_both_times(run, monkeypatch):
    fake(monkeypatch)
    status, printed = run("compare")
    assert status == 0
    rows = [line.split() for line in printed.out.splitlines()[4:6]]
    assert rows[0][0] == "scan-model"
    assert rows[1][:3] == ["scan-model,", "call", "time"]
    assert "graph: device time of a call, by the replay of a CUDA graph; wall: time of a call until" in printed.out
    assert "limited by the host" not in printed.out


def test_device_work_that_hides_behind_the_host_is_a_regression(run, monkeypatch):
    fake(monkeypatch, slowness={"head": 1.05}, host=2.5)
    status, case = compared(run)
    assert status == 1
    assert case["verdicts"]["time"] == "regression"
    assert case["verdicts"]["call time"] == "no change"
    assert case["host_limited"]
    assert case["call_over_device"] == [pytest.approx(2.5, rel=0.02), pytest.approx(2.5 / 1.05, rel=0.02)]
    (remark,) = case["remarks"]
    assert remark.startswith("limited by the host: a call takes 2.5")


def test_a_slower_call_is_a_regression_of_its_own(run, monkeypatch, tmp_path):
    fake(monkeypatch, host_slowness={"head": 1.2}, host=2.0)
    markdown, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    status, printed = run("compare", "--markdown", markdown, "--junit", junit)
    assert status == 1
    first, second = printed.out.splitlines()[4:6]
    assert first.endswith("regression (call time)")
    assert second.endswith(" regression")
    assert "| scan-model, call time | 20." in " ".join(markdown.read_text().split())
    (failure,) = ElementTree.parse(junit).iter("failure")
    assert re.fullmatch(r"scan-model: call time (19|20|21) % slower, 20\.\d to 2[345]\.\d ms", failure.get("message"))


@pytest.mark.parametrize(("slowdown", "expected"), [(0.0, "no change"), (0.05, "regression")])
def test_two_times_are_no_second_chance_to_err(run, monkeypatch, slowdown, expected):
    """The device's time varies by 0.4 % from round to round, the call's by 4 %."""
    fake(monkeypatch, noise=0.004, call_noise=0.04, host=3.0)
    suite = cases.load(device="cuda").only(["scan-model"])
    (case,) = suite.cases
    sides = (Side("base", None, Path()), Side("head", None, Path()))
    trials = [trial(case, slowdown, lambda: sides, suite.thresholds, seed=seed) for seed in range(60)]
    assert [each.verdict for each in trials].count(expected) >= 59
    assert {each.by_metric["call time"] for each in trials} == {"no change"}


def test_the_call_has_an_effect_of_its_own(run, monkeypatch):
    fake(monkeypatch, host_slowness={"head": 1.05}, host=2.0)
    status, case = compared(run)
    assert status == 0
    assert set(case["verdicts"].values()) == {"no change"}


def test_what_one_side_cannot_capture_is_timed_by_kernels_on_both(run, monkeypatch):
    fake(monkeypatch, clocks={"base": ["kernels"]})
    status, case = compared(run)
    assert status == 0
    assert {each["times"]["time"]["clock"] for each in case["runs"]} == {"kernels"}
    assert "no CUDA graph of it is timed: it synchronizes" in case["remarks"]


def test_runs_by_different_clocks_are_not_comparable(run, monkeypatch):
    fake(monkeypatch, slowness={"head": 1.1})
    worker = compare.Worker
    started = []

    def start(case, side, **options):
        started.append(side)
        made = worker(case, side, **options)
        made.facts.clocks = ["graph", "kernels"] if len(started) <= 2 else ["kernels"]
        return made

    monkeypatch.setattr("mvc.regress.run.Worker", start)
    status, printed = run("compare")
    assert status == 3
    assert "scan-model: its runs were timed by different clocks, graph and kernels" in printed.out


@pytest.fixture
def recorded(run, tmp_path, monkeypatch):
    def recorded(name, **rules):
        fake(monkeypatch, **rules)
        path = tmp_path / f"{name}.json"
        assert run("record", "--output", path)[0] == 0
        return path

    return recorded


def test_recordings_hold_both_times_and_take_the_thresholds_for_gpus(recorded, capsys):
    base, head, call = (
        recorded("a"),
        recorded("b", slowness={"installed": 1.05}),
        recorded("c", host_slowness={"installed": 1.2}),
    )
    recording = store.read(base).cases["scan-model"]
    assert recording.clocks == {"time": "graph", "call time": "wall"}
    assert [{name: len(times) for name, times in run.items()} for run in recording.runs] == [
        {"time": 60, "call time": 60}
    ] * 2
    assert main(["compare", str(base), str(head)]) == 1
    assert "regression\n" in capsys.readouterr().out
    assert main(["compare", str(base), str(call)]) == 1
    assert "regression (call time)\n" in capsys.readouterr().out


def test_recordings_by_different_clocks_are_not_compared(recorded, capsys):
    base, head = recorded("a"), recorded("b", clocks={"installed": ["kernels"]})
    assert main(["compare", str(base), str(head)]) == 3
    assert (
        "scan-model: time by graph and call time by wall against time by kernels and call time by wall"
        in capsys.readouterr().out
    )


def older(path):
    """As it was when all times were those of calls."""
    facts = json.loads(path.read_text())
    facts["format"] = "mvc.regress/1"
    for benchmark in facts["benchmarks"]:
        extra = benchmark["extra_info"]
        del extra["clocks"]
        extra["runs"] = [run.get("call time", run["time"]) for run in extra["runs"]]
    path.write_text(json.dumps(facts))
    return path


def test_older_recordings_are_of_calls(recorded, capsys):
    assert main(["compare", str(older(recorded("a"))), str(recorded("b"))]) == 3
    assert "time by wall against time by graph and call time by wall" in capsys.readouterr().out


def test_older_recordings_of_a_cpu_are_compared(tmp_path):
    from test_regress_store import recording

    base, head = (store.write(recording(), tmp_path / name) for name in ("a.json", "b.json"))
    new, old = store.read(head), store.read(older(base))
    assert old == new._replace(version=old.version)


@pytest.mark.parametrize(
    ("rules", "status", "equal", "slower"),
    [
        ({}, 0, "right", "right"),
        ({"slowness": {"head": 1.1}}, 1, "wrong", "right"),
        ({"slowness": {"head": 1 / 1.05}}, 1, "wrong", "wrong"),
        ({"noise": 0.3}, 2, "inconclusive", "inconclusive"),
    ],
    ids=["right", "false alarm", "inserted work not found", "inconclusive"],
)
def test_selftest_finds_inserted_work_and_nothing_else(run, monkeypatch, rules, status, equal, slower):
    fake(monkeypatch, **rules)
    found, printed = run("selftest", "--comparisons", 2, "--slowdown", 0.05)
    assert found == status
    columns = ["right", "inconclusive", "wrong"]
    for line, share, outcome in zip(printed.out.splitlines()[2:4], ["0%", "5%"], [equal, slower], strict=True):
        assert line.split()[1] == share
        assert [int(each) for each in line.split()[4:7]] == [2 * (outcome == column) for column in columns]
    assert "scan-model: device time by graph; a call takes 1.0" in printed.out


def test_selftest_does_not_try_another_scan_than_the_case_names(run, monkeypatch):
    fake(monkeypatch, implementations={"head": ["chunked"]})
    status, printed = run("selftest", "--comparisons", 1)
    assert status == 3
    assert "not tried: scan-model: scan: chunked ran, triton is expected" in printed.err


def test_selftest_as_json_names_what_could_not_be_tried(run, monkeypatch):
    fake(monkeypatch, broken={"head"})
    status, printed = run("selftest", "--comparisons", 1, "--json", "-")
    assert status == 3
    assert json.loads(printed.out)["not_comparable"] == ["scan-model: head: no such variant"]
    fake(monkeypatch)
    status, printed = run("selftest", "--comparisons", 1, "--slowdown", 0.05, "--json", "-")
    facts = json.loads(printed.out)
    assert status == facts["exit_status"] == 0
    assert [(each["slowdown"], each["outcome"], each["clock"]) for each in facts["trials"]] == [
        (0.0, "right", "graph"),
        (0.05, "right", "graph"),
    ]


@pytest.mark.parametrize("share", ["0", "1", "much"])
def test_a_wrong_share_is_refused(share, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["selftest", "--slowdown", share])
    assert exit.value.code == 64
    assert "--slowdown" in capsys.readouterr().err
