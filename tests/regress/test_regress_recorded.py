"""`record`, and `compare` of recordings, on processes that are stood for."""

import dataclasses
import json

import pytest
from conftest import CASES
from fake_worker import FakeWorker, fake
from git_repository import Repository

from mvc.regress import record
from mvc.regress.__main__ import main
from mvc.regress.recordings import store
from mvc.regress.recordings.recording import OF_A_HOST, OF_SOFTWARE
from mvc.regress.sources.version import Version


def test_recordings_are_compared_case_for_case(recorded, compared):
    base, same, slower = (
        recorded(name, slowness={"installed": slowness}) for name, slowness in (("a", 1.0), ("b", 1.0), ("c", 1.2))
    )
    assert [compared(*pair)[0] for pair in ((base, same), (base, slower), (slower, base))] == [0, 1, 0]


def test_what_two_processes_of_one_recording_differ_by_decides_nothing(recorded, compared):
    base, head = recorded("a"), recorded("b", slowness={"installed": 1.2})
    facts = json.loads(base.read_text())
    for benchmark in facts["benchmarks"]:
        runs = benchmark["extra_info"]["runs"]
        runs[1] = {"time": [1.2 * seconds for seconds in runs[1]["time"]]}
    base.write_text(json.dumps(facts))
    status, printed = compared(base, head)
    assert status == 2
    assert "recorded at different times" in printed.out
    assert "the processes of base differ by as much; record anew" in printed.out
    assert "more rounds" not in printed.out


@pytest.mark.parametrize("option", [["--exact"], ["--device", "cpu"], ["--rounds", "9"]], ids=lambda option: option[0])
def test_options_of_revisions_are_refused_with_recordings(recorded, compared, option):
    base = recorded("a")
    status, printed = compared(base, base, *option)
    assert status == 64
    assert f"{option[0]} is for git revisions" in printed.err


def test_some_cases_of_recordings(recorded, compared):
    base, head = recorded("a"), recorded("b")
    status, printed = compared(base, head, "--only", "T", "--json", "-")
    assert status == 0
    assert [each["case"]["name"] for each in json.loads(printed.out)["cases"]] == ["T"]
    status, printed = compared(base, head, "--only", "S")
    assert status == 64
    assert "--only has 'S'; recorded are scan, T" in printed.err


@pytest.mark.parametrize("field", ["device", *OF_A_HOST, *OF_SOFTWARE])
def test_recordings_of_other_machines_are_not_compared(recorded, compared, field):
    base, head = recorded("a"), recorded("b")
    for number, path in enumerate((base, head), 1):
        facts = json.loads(path.read_text())
        value = number if field in ("threads", "affinity") or field.endswith(("mhz", "bytes")) else str(number)
        facts["machine_info"][field] = value
        path.write_text(json.dumps(facts))
    status, printed = compared(base, head)
    assert status == 3
    assert f"not comparable: {field}: " in printed.out


def test_recordings_with_other_inputs_are_not_compared(recorded, compared, cases_file):
    base = recorded("a")
    cases_file.write_text(CASES + "batch = 2\n[cases.S]\n")
    status, printed = compared(base, recorded("b"))
    assert status == 3
    assert "T: batch 1 against 2" in printed.out
    assert "S: added, there is no base for it" in printed.out


def test_a_folder_is_a_window_of_the_last_recordings(run, recorded, compared, tmp_path, monkeypatch):
    """The one in the middle is odd, and head is in the folder as well."""
    folder = tmp_path / "baselines"
    for index, slowness in enumerate((1.0, 1.0, 1.0, 2.0, 1.0)):
        fake(monkeypatch, slowness={"installed": slowness})
        versions = {"commit": f"{index}" * 40, "dirty": False, "branch": "main", "folder": str(tmp_path)}
        monkeypatch.setattr(record, "subject", lambda suite: Version(asked="installed", **versions))  # noqa: B023
        assert run("--baselines", folder, command="record")[0] == 0
    head = recorded("head")
    status, printed = compared(folder, head)
    assert status == 0
    monkeypatch.setattr(record, "subject", lambda suite: Version(asked="installed", commit="f" * 40, folder="."))
    slower = recorded("slower", slowness={"installed": 1.3})
    status, printed = compared(folder, slower, "--window", "4")
    assert status == 1
    assert printed.out.count("\nbase: ") == 4
    (here,) = folder.iterdir()
    for path in here.iterdir():
        facts = json.loads(path.read_text())
        facts["machine_info"]["torch"] = "2.0.0"
        path.write_text(json.dumps(facts))
    status, printed = compared(folder, slower)
    assert status == 3
    assert "no base: 5 recordings left out: torch: 2.0.0 against " in printed.out
    assert "--across torch allows it" in printed.out
    status, printed = compared(folder, slower, "--across", "torch")
    assert status == 1
    assert printed.out.startswith("Across torch 2.0.0 → ")


def test_several_files_a_side_are_several_processes(recorded, compared, tmp_path):
    """As of pytest-benchmark, whose files have one process each."""
    names = []
    for name, slowness in (("a", 1.0), ("b", 1.0), ("c", 1.3), ("d", 1.3)):
        facts = json.loads(recorded(name, slowness={"installed": slowness}).read_text())
        for benchmark in facts["benchmarks"]:
            for key in ("runs", "facts"):
                del benchmark["extra_info"][key][1:]
        names.append(tmp_path / f"{name}1.json")
        names[-1].write_text(json.dumps(facts))
    status, printed = compared(names[0], names[2])
    assert status == 2
    assert "give several files a side" in printed.out
    assert compared(f"{names[0]},{names[1]}", f"{names[2]},{names[3]}")[0] == 1
    copy = tmp_path / "copy.json"
    copy.write_bytes(names[0].read_bytes())
    for base, head in ((names[0], names[0]), (names[0], copy), (f"{names[0]},{copy}", names[2])):
        status, printed = compared(base, head)
        assert status == 64
        assert "are the same recording" in printed.err


def test_a_case_that_cannot_be_recorded_leaves_the_others(run, tmp_path, monkeypatch):
    fake(monkeypatch, broken={"installed"})
    status, printed = run("--output", tmp_path / "none.json", command="record")
    assert status == 3
    assert "not recorded: T: installed: no such variant" in printed.err
    assert not (tmp_path / "none.json").exists()


def test_what_was_recorded_is_named_and_kept_meanwhile(run, tmp_path, monkeypatch):
    kept = []

    class Looks(FakeWorker):
        def wait_until_ready(self):
            if (partial := tmp_path / "out.json.partial").is_file():
                kept.append(list(store.read(partial).cases))
            return self

    fake(monkeypatch)
    monkeypatch.setattr("mvc.regress.record.Worker", Looks)
    status, printed = run("--output", tmp_path / "out.json", command="record")
    assert status == 0
    assert kept == [["scan"], ["scan"]], "while T is recorded"
    assert not (tmp_path / "out.json.partial").exists()
    version = store.read(tmp_path / "out.json").version
    assert (
        printed.out == f"wrote {tmp_path / 'out.json'}: scan, T of {dataclasses.replace(version, asked='installed')}\n"
    )
    assert version.folder == str(record.PACKAGE.parent)


def test_a_recording_that_cannot_be_written_is_printed(run, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    fake(monkeypatch)
    monkeypatch.setattr("mvc.files.add", full)
    monkeypatch.setattr("mvc.files.replace", full)
    status, printed = run("--output", tmp_path / "out.json", command="record")
    assert status == 73
    assert "No space left on device; the recording follows" in printed.err
    (tmp_path / "saved.json").write_text(printed.out)
    assert list(store.read(tmp_path / "saved.json").cases) == ["scan", "T"]


def test_another_copy_of_mvc_than_this_checkouts_is_not_recorded(run, tmp_path, monkeypatch):
    checkout = Repository(tmp_path / "checkout")
    checkout.commit({"mvc/__init__.py": ""})
    monkeypatch.chdir(checkout.folder)
    status, printed = run("--output", tmp_path / "out.json", command="record")
    assert status == 64
    assert f"mvc is imported from {record.PACKAGE}, but this checkout has its own" in printed.err


def test_a_scan_that_fell_back_is_not_recorded(run, tmp_path, monkeypatch):
    fake(monkeypatch, implementations={"installed": ["chunked"]})
    status, printed = run("--output", tmp_path / "out.json", "--only", "scan", command="record")
    assert status == 3
    assert "not recorded: scan: installed: scan: chunked ran, cpp is expected" in printed.err


def test_recordings_on_a_branch_are_a_base_too(run, recorded, tmp_path, monkeypatch, capsys, cases_file):
    checkout = Repository(tmp_path / "checkout")
    checkout.commit({"a.py": ""})
    monkeypatch.chdir(checkout.folder)
    for number in range(3):
        fake(monkeypatch)
        version = Version(asked="installed", commit=f"{number}" * 40, dirty=False, branch="main", folder=".")
        monkeypatch.setattr(record, "subject", lambda suite: version)  # noqa: B023
        status, printed = run("--branch", "kept", "--keep", "30d", command="record")
        assert status == 0
        assert "on the branch kept: scan, T of installed" in printed.out
    assert checkout.git("status", "--porcelain") == ""
    version = Version(asked="installed", commit="f" * 40, folder=".")
    slower = recorded("slower", slowness={"installed": 1.3})
    capsys.readouterr()
    assert main(["compare", "--branch", "kept", str(slower), "--cases", str(cases_file), "--only", "T"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("T: 30 % slower")
    assert printed.count("\nbase: ") == 3


def test_a_schedule_is_for_many_recordings_and_has_a_form(run, capsys):
    status, printed = run("--keep", "30d", "--output", "a.json", command="record")
    assert status == 64
    assert "--keep is for many recordings; give --baselines or --branch" in printed.err
    with pytest.raises(SystemExit) as usage:
        run("--keep", "1y", "--branch", "kept", command="record")
    assert usage.value.code == 64
    assert "write it as 30d,26w,24m" in capsys.readouterr().err
