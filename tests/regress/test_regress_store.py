"""Recordings as files: whole or absent, readable by pytest-benchmark, and refused in one sentence."""

import dataclasses
import functools
import json
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mvc import files
from mvc.errors import UserError
from mvc.measure.environment import Environment
from mvc.regress.cases import Case
from mvc.regress.recordings import store
from mvc.regress.recordings.recording import COMPARABLE, RecordedCase, Recording, differences, unknown
from mvc.regress.sources.version import Version, checkout
from mvc.regress.worker import Facts

FACTS = dict.fromkeys(COMPARABLE) | {
    "date": "2026-01-02T03:04:05+00:00",
    "load": 0.1,
    "frequency_mhz": None,
    "device": "cpu: A B",
    "threads": 2,
    "platform": "Linux x86_64",
    "python": "3.11.2",
}
ENVIRONMENT = Environment.from_json(FACTS)
VERSION = Version(
    asked="installed", commit="0123456789abcdef", time="2026-01-02T03:00:00+00:00", dirty=False, branch="main"
)


def recording(seconds: float = 0.01) -> Recording:
    case = Case("scan", kind="scan")
    facts = Facts(exact={}, seconds=seconds, peak_bytes=10**9)
    runs = [{"time": [seconds * factor for factor in (1.0, 1.1, 0.9, 1.0, 5.0)]} for _ in range(2)]
    return Recording(ENVIRONMENT, VERSION, {"scan": RecordedCase(case, {"time": "wall"}, runs, [facts, facts])})


def test_what_is_written_is_read(tmp_path):
    path = store.write(recording(), tmp_path / "new" / "a.json")
    read = store.read(path)
    assert read.cases == recording().cases
    assert dataclasses.replace(read.version, asked="installed") == VERSION
    assert read.environment == ENVIRONMENT
    assert differences(read, recording()) == []


def test_pytest_benchmark_reads_it(tmp_path):
    path = store.write(recording(), tmp_path / "a.json")
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(path), "--columns=median,rounds,outliers"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    row = next(line for line in printed.splitlines() if line.startswith("scan"))
    assert row.split()[2:] == ["10.0000", "10", "2;2"]


def test_statistics_are_those_of_pytest_benchmark(tmp_path):
    from pytest_benchmark.stats import Stats

    theirs, seconds = Stats(), [0.3, 0.1, 0.2, 0.21, 0.22, 9.0, 0.19, 0.2]
    for each in seconds:
        theirs.update(each)
    ours = store._stats(seconds)
    for name in (
        "min",
        "max",
        "mean",
        "stddev",
        "median",
        "rounds",
        "total",
        "ops",
        "q1",
        "q3",
        "outliers",
        "ld15iqr",
        "hd15iqr",
    ):
        assert ours[name] == pytest.approx(getattr(theirs, name)), name


def test_github_action_benchmark_finds_its_fields(tmp_path):
    facts = json.loads(store.write(recording(), tmp_path / "a.json").read_text())
    (benchmark,) = facts["benchmarks"]
    assert benchmark["fullname"] == "mvc.regress::scan"
    assert {"ops", "mean", "stddev", "rounds"} <= benchmark["stats"].keys()
    assert {"id", "time"} <= facts["commit_info"].keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON, or is cut off; record it anew"),
        ("[1, 2]", "is not a recording of `python -m mvc.regress record`"),
        ('{"benchmarks": [], "version": "5.1.0"}', "is not a recording of `python -m mvc.regress record`"),
        ('{"format": "mvc.regress/99"}', "is not a recording of `python -m mvc.regress record`"),
        (f'{{"format": "{store.FORMAT}"}}', "lacks parts of a recording"),
        (f'{{"format": "{store.FORMAT}", "benchmarks": 3}}', "lacks parts of a recording"),
        (f'{{"format": "{store.FORMAT}", "benchmarks": [[]], "machine_info": []}}', "lacks parts of a recording"),
        (f'{{"format": "{store.FORMAT}", "benchmarks": [], "machine_info": {{}}}}', r"lacks .* \(no case\)"),
    ],
    ids=["empty", "other-json", "foreign-benchmark", "newer", "nothing-else", "wrong-type", "wrong-types", "no-case"],
)
def test_foreign_files_are_refused_in_one_sentence(text, message, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as refusal:
        store.read(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


def test_every_truncation_is_refused(tmp_path):
    path = store.write(recording(), tmp_path / "a.json")
    text = path.read_bytes()
    for length in range(0, len(text) - 2, 97):
        path.write_bytes(text[:length])
        with pytest.raises(UserError, match=r"cut off"):
            store.read(path)


@pytest.mark.parametrize(
    "damage",
    [
        ("runs", []),
        ("runs", [{}]),
        ("runs", [[0.01], [0.01]]),
        ("runs", [{"time": []}]),
        ("runs", [{"time": [0.0]}]),
        ("runs", [{"time": [float("nan")]}]),
        ("clocks", {}),
        ("clocks", {"time": "graph", "call time": "wall"}),
        ("clocks", {"speed": "wall"}),
        ("case", {"speed": 1}),
        ("facts", 3),
        ("facts", []),
        ("facts", [{}, {}]),
        ("facts", [{"exact": {"graphs": "1"}}] * 2),
        ("facts", [{"exact": {}, "peak_bytes": 0}] * 2),
    ],
)
def test_damaged_parts_are_refused(damage, tmp_path):
    path = store.write(recording(), tmp_path / "a.json")
    facts = json.loads(path.read_text())
    facts["benchmarks"][0]["extra_info"][damage[0]] = damage[1]
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="lacks parts of a recording"):
        store.read(path)


def _write(path: Path, seconds: float) -> None:
    store.write(recording(seconds), path)


def test_writers_at_once_lose_nothing(tmp_path):
    seconds = [0.01 * (1 + writer) for writer in range(6)]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path / "a.json", each)) for each in seconds]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.json", "a-2.json", "a-3.json", "a-4.json", "a-5.json", "a-6.json"}
    assert sorted(store.read(tmp_path / name).cases["scan"].runs[0]["time"][0] for name in names) == seconds


KILLED = """
import os, signal, sys
from pathlib import Path
from mvc import files

def write_text(self, text, encoding):
    with open(self, "w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

Path.write_text = write_text
getattr(files, sys.argv[1])(Path(sys.argv[2]), "0123456789")
"""


@pytest.mark.parametrize("way", ["add", "replace"])
def test_a_kill_while_writing_leaves_what_was_there(way, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    done = subprocess.run([sys.executable, "-c", KILLED, way, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "before"
    assert list(tmp_path.glob("*.json")) == [path]


def test_replace_leaves_no_other_file(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one", "two"):
        files.replace(path, text)
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        store.write(recording(), tmp_path / "file" / "a.json")


def test_baselines_are_named_by_device_date_and_commit(tmp_path):
    path = store.baseline_path(tmp_path, recording())
    assert path.relative_to(tmp_path).as_posix() == "cpu-a-b-2-threads/2026-01-02T030405-0123456789ab.json"
    dirty = recording()._replace(version=dataclasses.replace(VERSION, dirty=True))
    assert store.baseline_path(tmp_path, dirty).stem.endswith("-dirty")


def test_sources_outside_of_git_have_no_commit(tmp_path):
    assert checkout(tmp_path, "installed") == Version(asked="installed", folder=str(tmp_path))
    assert checkout(None, "installed") == Version(asked="installed")


@pytest.mark.parametrize("part", ["machine_info", "commit_info"])
def test_lost_parts_are_refused(part, tmp_path):
    path = store.write(recording(), tmp_path / "a.json")
    facts = json.loads(path.read_text())
    for key in ("date", "load", "time"):
        lacking = {**facts, part: {name: value for name, value in facts[part].items() if name != key}}
        path.write_text(json.dumps(lacking))
        if key in facts[part]:
            with pytest.raises(UserError, match=rf"lacks parts of a recording \('{key}'\)"):
                store.read(path)


def test_a_pipe_is_written_to_and_stays(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = multiprocessing.get_context("fork").Pool(1)
    text = reader.apply_async(path.read_text)
    files.replace(path, "through it")
    assert text.get(timeout=30) == "through it"
    assert path.is_fifo()
    reader.terminate()


def older(path, format):
    """The file as an earlier version wrote it."""
    facts = json.loads(path.read_text())
    facts["format"] = format
    facts.pop("accepted")
    for field in store.NEWER_FIELDS:
        facts["machine_info"].pop(field)
    for each in facts["benchmarks"]:
        each["extra_info"]["case"]["slowdown"] = 0.0
        each["extra_info"]["case"].pop("states")
        if format == store.OF_CALLS:
            each["extra_info"].pop("clocks")
            each["extra_info"]["runs"] = [run["time"] for run in each["extra_info"]["runs"]]
    path.write_text(json.dumps(facts))
    return store.read(path)


@pytest.mark.parametrize("format", store.OLDER)
def test_older_formats_are_read_and_what_they_lack_is_unknown(format, tmp_path):
    path = store.write(recording(), tmp_path / "a.json")
    read = older(path, format)
    assert read.cases["scan"]._replace(unsaid=frozenset()) == recording().cases["scan"]
    assert read.cases["scan"].unsaid == {"states"}
    assert differences(read, recording()) == []


def places(value, path=()):
    """The keys that lead to every value in nested dicts and lists, of lists to their first."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*path, key)
        yield from places(each, (*path, key))


def test_what_is_read_can_be_used_wherever_a_file_is_damaged(tmp_path):
    good = recording()
    good.cases["scan"].facts[0].gpu = {"sm_clock_mhz": [1, 2, 3]}
    path = store.write(good._replace(accepted={"scan": ["meant"]}), tmp_path / "a.json")
    text, read = path.read_text(), 0
    for *before, last in places(json.loads(text)):
        for value in (None, 3, -1.5, "x", [], {}, True):
            facts = json.loads(text)
            functools.reduce(operator.getitem, before, facts)[last] = value
            path.write_text(json.dumps(facts))
            try:
                damaged = store.read(path)
            except UserError:
                continue
            read += 1
            assert isinstance(differences(good, damaged) + unknown(good, damaged), list)
            assert str(damaged.environment)
            assert str(damaged.version)
            assert store.baseline_path(tmp_path, damaged)
            assert store.as_dict(damaged)
            assert hash((damaged.version, damaged.environment))
    assert read > 100, "of facts that nothing is made of, and of values that are right"


def test_a_field_of_a_newer_version_is_named(tmp_path):
    path = store.write(recording(), tmp_path / "a.json")
    facts = json.loads(path.read_text())
    facts["benchmarks"][0]["extra_info"]["case"]["warp"] = 9
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="'warp' of a case is not known to this version of mvc"):
        store.read(path)
