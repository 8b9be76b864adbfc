"""Files of pytest-benchmark as recordings: those that it writes here, and what is refused of others."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from places import ROOT

from mvc.errors import UserError
from mvc.measure.environment import environment
from mvc.regress.cases import Case
from mvc.regress.recordings import store
from mvc.regress.recordings.recording import differences, merged, unknown

TESTS = """
import pytest

@pytest.mark.parametrize("n", [10, 20])
def test_sum(benchmark, n):
    benchmark.pedantic(sum, (range(n),), rounds=7, iterations=50)

def test_of_a_case(benchmark):
    benchmark.extra_info |= {"case": {"name": "T", "batch": 2}, "compile_seconds": 1.5, "source": "a/mvc/__init__.py"}
    benchmark.pedantic(sum, (range(30),), rounds=5, iterations=50)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files of one run: all times in whole.json, and the saved one without them."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "test_speed.py").write_text(TESTS)
    options = ["--benchmark-json=whole.json", "--benchmark-save=bare", "--benchmark-storage=file://saved"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # of xdist
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=environment)
    return folder


@pytest.fixture
def changed(written, tmp_path):
    """A function that writes the file with a change."""

    def change(alter):
        facts = json.loads((written / "whole.json").read_text())
        alter(facts)
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(facts))
        return path

    return change


def test_a_run_is_one_process_of_each_benchmark(written):
    recording = store.read(written / "whole.json")
    names = ["test_speed.py::test_sum[10]", "test_speed.py::test_sum[20]", "T"]
    assert list(recording.cases) == names
    facts = json.loads((written / "whole.json").read_text())
    for name, benchmark in zip(names, facts["benchmarks"], strict=True):
        assert recording.cases[name].runs == [{"time": benchmark["stats"]["data"]}]
        assert recording.cases[name].clocks == {"time": "wall"}
    assert recording.cases[names[0]].facts[0].seconds == facts["benchmarks"][0]["stats"]["median"]
    assert (recording.version.commit, recording.version.branch) == (None, None), "not a repository"
    assert recording.environment.device.startswith("cpu: ")
    assert differences(recording, recording) == []
    assert unknown(recording, recording) == [
        "not known of both sides: threads, affinity, "
        + ("nominal_mhz, " if recording.environment.nominal_mhz is None else "")
        + ("cache_bytes, " if recording.environment.cache_bytes is None else "")
        + "memory_bytes, compiler, torch, triton"
    ]


def test_what_the_benchmarks_here_add_is_read(written):
    recorded = store.read(written / "whole.json").cases["T"]
    assert recorded.case == Case("T", batch=2)
    assert "dtype" in recorded.unsaid
    assert (recorded.facts[0].compile_seconds, recorded.facts[0].source) == (1.5, "a/mvc/__init__.py")


def test_facts_that_a_project_adds_are_compared(written, changed):
    plain = store.read(written / "whole.json")
    told = store.read(changed(lambda facts: facts["machine_info"].update(torch="2.15.0", threads=4)))
    assert (told.environment.torch, told.environment.threads) == ("2.15.0", 4)
    assert differences(plain, told) == []
    other = store.read(changed(lambda facts: facts["machine_info"].update(torch="2.14.1")))
    assert differences(other, told) == ["torch: 2.14.1 against 2.15.0"]
    assert differences(other, told, across={"torch"}) == []


def test_files_of_the_benchmarks_here_know_the_machine_as_recordings_do(changed):
    path = ROOT / "bench" / "conftest.py"
    hooks = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("bench_hooks", path))
    spec.loader.exec_module(hooks)
    told = store.read(changed(lambda facts: hooks.pytest_benchmark_update_machine_info(facts["machine_info"])))
    ours = told._replace(environment=environment(torch.device("cpu")))
    assert differences(ours, told) == []
    assert unknown(ours, told) == unknown(ours, ours)


def test_without_single_times_the_remedy_is_named(written):
    (path,) = written.glob("saved/*/*_bare.json")
    with pytest.raises(UserError, match=r"lacks the single times of .*; write it with --benchmark-json, or with --b"):
        store.read(path)


@pytest.mark.parametrize("seconds", [0.0, -1e-9, float("nan"), float("inf"), 1e300, 1e-320, True, "1"])
def test_times_that_none_can_have_are_refused(changed, seconds):
    path = changed(lambda facts: facts["benchmarks"][1]["stats"]["data"].append(seconds))
    with pytest.raises(UserError, match=re.escape(f"test_sum[20] is {seconds!r}, in seconds; measure more")):
        store.read(path)


DAMAGES = {
    "no benchmark": lambda facts: facts["benchmarks"].clear(),
    "a benchmark twice": lambda facts: facts["benchmarks"].append(facts["benchmarks"][0]),
    "'datetime'": lambda facts: facts.pop("datetime"),
    "'timer'": lambda facts: facts["benchmarks"][0]["options"].pop("timer"),
    "'commit_info'": lambda facts: facts.pop("commit_info"),
    "Invalid isoformat": lambda facts: facts.update(datetime="yesterday"),
    "'speed' of a case": lambda facts: facts["benchmarks"][2]["extra_info"]["case"].update(speed=1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused(changed, damage):
    with pytest.raises(UserError, match=rf"changed.json lacks parts of a recording \({damage}"):
        store.read(changed(DAMAGES[damage]))


def test_other_timers_are_other_clocks(changed):
    recording = store.read(changed(lambda facts: facts["benchmarks"][0]["options"].update(timer="process_time")))
    assert recording.cases["test_speed.py::test_sum[10]"].clocks == {"time": "process_time"}


def test_several_files_are_several_processes(written, changed):
    one = store.read(written / "whole.json")
    both = merged([one, one])
    assert [len(each.runs) for each in both.cases.values()] == [2, 2, 2]
    assert [len(each.facts) for each in both.cases.values()] == [2, 2, 2]
    assert [len(each.runs) for each in one.cases.values()] == [1, 1, 1], "the parts stay as they are"
    fewer = store.read(changed(lambda facts: facts["benchmarks"].pop()))
    assert [len(each.runs) for each in merged([one, fewer]).cases.values()] == [2, 2, 1]
    assert [len(each.runs) for each in merged([fewer, one]).cases.values()] == [2, 2, 1]


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda facts: facts["commit_info"].update(id="b" * 40), r"installed against bbbbbbbbbbbb"),
        (lambda facts: facts["machine_info"].update(python_version="4.0"), r"python: .* against 4.0"),
        (lambda facts: facts["benchmarks"][0]["options"].update(timer="x"), r"with other inputs or clocks"),
        (lambda facts: facts["benchmarks"][2]["extra_info"]["case"].update(batch=9), r"with other inputs or clocks"),
    ],
)
def test_files_of_other_versions_and_machines_are_not_merged(written, changed, alter, message):
    with pytest.raises(UserError, match=message):
        merged([store.read(written / "whole.json"), store.read(changed(alter))])
