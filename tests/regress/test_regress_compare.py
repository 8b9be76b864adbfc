"""`python -m mvc.regress compare` of revisions: what it decides, prints and writes, on processes that are stood for."""

import dataclasses
import itertools
import json
import re
from xml.etree import ElementTree

import pytest
import torch
from conftest import CASES
from fake_worker import FakeWorker, fake

from mvc.measure import nvml
from mvc.regress import compare
from mvc.regress.accepted import add, path_for
from mvc.regress.commands import compare as command
from mvc.regress.run import Rounds
from mvc.regress.sources.revisions import Sources


def test_equal_revisions_exit_with_0(run, monkeypatch):
    fake(monkeypatch)
    status, printed = run()
    assert status == 0
    assert printed.out.startswith("2 cases unchanged\n")


def throttled(monkeypatch, *rounds):
    """Lets rounds be judged as on a GPU that was throttled in those of these indices."""
    reason = "throttled: power cap"
    monkeypatch.setattr(
        "mvc.measure.nvml.discards", lambda spans, samples: [reason if i in rounds else None for i in range(len(spans))]
    )


def test_throttled_rounds_are_measured_anew_and_counted(run, monkeypatch):
    fake(monkeypatch)
    throttled(monkeypatch, 0, 2, 3)
    status, printed = run("--only", "scan", "--json", "-")
    assert status == 0
    (case,) = json.loads(printed.out)["cases"]
    assert case["runs"][0]["discarded"] == 3
    assert len(case["runs"][0]["times"]["time"]["head_seconds"]) in (5, 7, 10, 15, 20)
    assert case["remarks"] == ["3 rounds were measured anew, the GPU was throttled"]


def test_a_gpu_that_stays_throttled_is_not_comparable(run, monkeypatch):
    fake(monkeypatch)
    throttled(monkeypatch, *range(1000))
    status, printed = run("--only", "scan")
    assert status == 3
    assert "20 rounds one after the other were discarded (throttled: power cap)" in printed.out


def test_a_clock_that_rises_later_shows_that_earlier_rounds_were_slow(monkeypatch):
    taken = iter([[2.0]] * 45 + [[1.0]] * 50)
    rounds = Rounds(taken.__next__, nvml.Watch(torch.device("cpu")))
    slow = lambda spans, samples: ["clock" if len(spans) > 45 and i < 45 else None for i in range(len(spans))]  # noqa: E731
    monkeypatch.setattr("mvc.measure.nvml.discards", slow)
    assert rounds.up_to(45) == [[2.0]] * 45
    assert rounds.up_to(46) == [[1.0]] * 46
    assert rounds.discarded == 45


def test_a_slower_head_exits_with_1_after_two_runs(run, monkeypatch):
    fake(monkeypatch, slowness={"head": 1.2})
    status, printed = run("--json", "-")
    facts = json.loads(printed.out)
    assert status == facts["exit_status"] == 1
    assert [(each["case"]["name"], each["verdict"], len(each["runs"])) for each in facts["cases"]] == [
        ("scan", "regression", 2),
        ("T", "regression", 2),
    ]
    times = facts["cases"][0]["runs"][0]["times"]
    assert list(times) == ["time"], "on a CPU a call's time is the only one"
    assert times["time"]["clock"] == "wall"
    assert times["time"]["ratio"]["median"] == pytest.approx(1.2, rel=0.05)


def test_a_faster_head_exits_with_0(run, monkeypatch):
    fake(monkeypatch, slowness={"head": 0.8})
    status, printed = run()
    assert status == 0
    assert re.match(r"scan: 2\d % faster, 10\.0 to 8\.\d\d ms; T: ", printed.out)


def test_noise_exits_with_2_and_asks_for_a_quieter_machine(run, monkeypatch):
    fake(monkeypatch, noise=0.5)
    status, printed = run("--only", "scan")
    assert status == 2
    assert "rounds scatter by more than is looked for; compare again on a quieter machine" in printed.out


def test_a_case_that_cannot_run_exits_with_3_and_says_why(run, monkeypatch):
    fake(monkeypatch, broken={"base"})
    status, printed = run()
    assert status == 3
    assert "not comparable: scan: base: no such variant" in printed.out


def test_other_dependencies_are_not_comparable(run, monkeypatch, tmp_path):
    fake(monkeypatch)
    (tmp_path / "head/pyproject.toml").write_text('[project]\ndependencies = ["torch", "numpy<1"]\n')
    status, printed = run()
    assert status == 3
    assert "head needs numpy<1 (installed is " in printed.out


def test_slow_compilation_is_a_regression_of_its_own_where_it_is_judged(run, monkeypatch, cases_file):
    fake(monkeypatch, compile_seconds={"base": 20.0, "head": 30.0})
    status, printed = run("--only", "T")
    assert status == 0
    assert "compile time" not in printed.out
    cases_file.write_text(CASES + "thresholds = {compile_effect = 0.25}")  # of its last case, which is T
    status, printed = run("--only", "T")
    assert status == 1
    assert "compile time: regression (1.50 times and 1.50 times)" in printed.out


@pytest.mark.parametrize(
    ("name", "head", "status"),
    [
        ("launches", 39, 1),
        ("launches", 37, 0),
        ("graph breaks", 39, 1),
        ("recompiles", 37, 0),
        ("matches of raise_loop", 37, 1),
        ("peak bytes", 39, 1),
        ("scans", 39, 0),
    ],
)
def test_exact_numbers_are_judged_without_times(run, monkeypatch, name, head, status):
    fake(monkeypatch, exact={"base": {name: 38}, "head": {name: head, "new": 1}})
    monkeypatch.setattr("fake_worker.FakeWorker.time", lambda self, calls, clock: pytest.fail("timed"))
    found, printed = run("--exact")
    assert found == status
    assert f"{name}: {head}, was 38" in printed.out
    assert "scan " not in printed.out, "it has no such numbers"


def test_a_pass_that_is_gone_is_a_regression(run, monkeypatch):
    fake(monkeypatch, exact={"base": {"graphs": 1, "matches of raise_loop": 2}, "head": {"graphs": 1}})
    status, printed = run("--exact")
    assert status == 1
    assert "matches of raise_loop: 0, was 2" in printed.out


def test_exact_comparisons_need_something_to_compare(run, monkeypatch):
    fake(monkeypatch)
    assert run("--exact")[0] == 3
    status, printed = run("--exact", "--only", "scan")
    assert status == 64
    assert "--exact compares compiled models, and the cases have none" in printed.err


def test_a_defect_of_the_gate_is_no_regression(run, monkeypatch):
    monkeypatch.setattr(compare, "sources", lambda version, _: 1 / 0)
    status, printed = run()
    assert status == 70
    assert "ZeroDivisionError" in printed.err


@pytest.mark.parametrize("option", ["--json", "--junit", "--markdown"])
def test_a_result_that_cannot_be_written_is_said_first(run, monkeypatch, option):
    monkeypatch.setattr(compare, "sources", lambda version, _: pytest.fail("measured"))
    status, printed = run(option, "nowhere/result")
    assert status == 64
    assert f"cannot write {option} nowhere/result: there is no folder nowhere" in printed.err
    other = "--json" if option != "--json" else "--junit"
    status, printed = run(option, "result", other, "./result")
    assert status == 64
    assert "both name" in printed.err


def test_junit_takes_coloured_messages(run, monkeypatch, tmp_path):
    fake(monkeypatch, broken={"head"}, message="\x1b[31mno such variant\x1b[0m")
    run("--junit", tmp_path / "junit.xml")
    assert len(list(ElementTree.parse(tmp_path / "junit.xml").iter("error"))) == 2


def test_markdown_and_junit_say_the_same(run, monkeypatch, tmp_path):
    fake(monkeypatch, slowness={"head": 1.2})
    run("--markdown", tmp_path / "comment.md", "--junit", tmp_path / "junit.xml", "--json", tmp_path / "out.json")
    facts = json.loads((tmp_path / "out.json").read_text())
    assert re.fullmatch(r"scan: (19|20|21) % slower, (9\.9\d|10\.\d) to 1[12]\.\d ms; T: .*", facts["headline"])
    text = (tmp_path / "comment.md").read_text()
    assert text.splitlines()[0] == facts["headline"]
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:] == ["scan", "T"]
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert suite.attrib | {"tests": "2", "failures": "2", "errors": "0", "skipped": "0"} == suite.attrib
    assert [case.get("name") for case in suite.iter("testcase")] == ["scan", "T"]
    said = [failure.get("message") for failure in suite.iter("failure")]
    assert "; ".join(said) == facts["headline"]


def test_every_result_names_the_commits_and_whether_they_were_dirty(run, monkeypatch, tmp_path, sides):
    fake(monkeypatch)
    changed = sides._replace(head=dataclasses.replace(sides.head, asked=".", dirty=True, folder="/here"))
    monkeypatch.setattr(command, "resolve", lambda base, head: changed)
    monkeypatch.setattr(compare, "sources", lambda version, _: Sources(version.asked, tmp_path / "head", []))
    outputs = {name: tmp_path / name for name in ("out.json", "out.md", "out.xml")}
    _, printed = run(*itertools.chain(*zip(("--json", "--markdown", "--junit"), outputs.values(), strict=True)))
    for text in (printed.out, *(path.read_text() for path in outputs.values())):
        assert "basebasebase"[:12] in text
        assert "headheadhead"[:12] in text
        assert "changes that are not committed" in text or '"dirty": true' in text
        assert "/here" in text


def test_junit_has_errors_for_what_cannot_be_compared(run, monkeypatch, tmp_path):
    fake(monkeypatch, broken={"head"})
    run("--junit", tmp_path / "junit.xml")
    errors = list(ElementTree.parse(tmp_path / "junit.xml").iter("error"))
    assert ["head: no such variant" in error.get("message") for error in errors] == [True, True]


def test_selftest_counts_false_alarms(run, monkeypatch):
    fake(monkeypatch)
    status, printed = run("--comparisons", 3, command="selftest")
    assert status == 0
    case, slower, _, *counts = printed.out.splitlines()[2].split()
    assert [case, slower, *counts[:4]] == ["scan", "0%", "3", "3", "0", "0"]


def test_results_are_kept_after_each_case(run, monkeypatch, tmp_path):
    """What is still to come is an obstacle, so that no file of a run that was killed is green."""
    seen = []

    class Stopped(FakeWorker):
        def wait_until_ready(self):
            seen.append(json.loads((tmp_path / "out.json").read_text()))
            return self

    fake(monkeypatch)
    for module in ("run", "compare"):
        monkeypatch.setattr(f"mvc.regress.{module}.Worker", Stopped)
    status, _ = run("--json", tmp_path / "out.json")
    assert status == 0
    first, second = seen[0], seen[-1]
    assert (first["exit_status"], first["not_comparable"]) == (3, ["scan: not measured yet", "T: not measured yet"])
    assert (second["exit_status"], second["not_comparable"]) == (3, ["T: not measured yet"])
    assert [each["verdict"] for each in second["cases"]] == ["no change"]


def test_a_full_disk_loses_a_file_and_no_verdict(run, monkeypatch, tmp_path):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mvc.files.replace", full)
    for slowness, expected in ((1.2, 1), (1.0, 73)):
        fake(monkeypatch, slowness={"head": slowness})
        status, printed = run("--only", "scan", "--json", tmp_path / "out.json", "--junit", tmp_path / "out.xml")
        assert status == expected
        assert printed.err.count("No space left on device") == 2, "each file is told once"
        assert "scan" in printed.out


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_scan_that_fell_back_is_not_comparable(run, monkeypatch, side):
    fake(monkeypatch, implementations={side: ["chunked"]}, warnings={side: ["UserWarning: the cache cannot be used"]})
    status, printed = run("--only", "scan")
    assert status == 3
    assert f"scan: {side}: scan: chunked ran, cpp is expected" in printed.out


def test_warnings_of_the_processes_reach_the_output(run, monkeypatch):
    fake(monkeypatch, warnings={"base": ["UserWarning: old"], "head": ["UserWarning: old", "UserWarning: new"]})
    _, printed = run("--only", "scan")
    assert "scan: warning in base and head: UserWarning: old" in printed.out
    assert "scan: warning in head: UserWarning: new" in printed.out


def test_other_software_is_refused_unless_it_is_asked_for(run, monkeypatch):
    fake(monkeypatch, versions={"base": {"torch": "2.14.1"}, "head": {"torch": "2.15.0"}}, slowness={"head": 1.3})
    status, printed = run("--only", "scan")
    assert status == 3
    assert "torch 2.14.1 against 2.15.0; compare all the same with --across torch" in printed.out
    status, printed = run("--only", "scan", "--across", "torch")
    assert status == 1
    assert printed.out.startswith("Across torch 2.14.1 against 2.15.0: scan: ")


def declare(tmp_path, side, names, accepted=()):
    """Writes a side's own files of cases and of accepted slowdowns."""
    text = "".join(f'[cases.{name}]\nkind = "scan"\n' for name in names)
    (tmp_path / side / "cases.toml").write_text(text)
    for reason in accepted:
        add(path_for(tmp_path / side / "cases.toml"), "scan", reason)


def test_a_new_case_that_base_cannot_run_is_told(run, monkeypatch, tmp_path):
    fake(monkeypatch, broken={"base"})
    declare(tmp_path, "base", ["T", "old"])
    declare(tmp_path, "head", ["scan", "T"])
    status, printed = run("--only", "scan")
    assert status == 0
    assert "scan: added, and base cannot run it (base: no such variant)" in printed.out
    assert "old: deleted from the cases, and not measured" in printed.out
    fake(monkeypatch, broken={"base", "head"})
    assert run("--only", "scan")[0] == 3


def test_a_slowdown_that_head_accepts_passes_once(run, monkeypatch, tmp_path):
    fake(monkeypatch, slowness={"head": 1.3})
    declare(tmp_path, "base", ["scan"])
    declare(tmp_path, "head", ["scan"], ["sums in float32 now"])
    status, printed = run("--only", "scan")
    assert status == 0
    assert "% slower" in printed.out
    assert "sums in float32 now)" in printed.out
    declare(tmp_path, "base", ["scan"], ["sums in float32 now"])
    assert run("--only", "scan")[0] == 1, "base is as slow already"


def fake_in_turn(monkeypatch, *slowness):
    """Processes that are so slow, in the order in which they start: base's and head's of each run."""
    turns = iter(slowness)

    class InTurn(FakeWorker):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.slowness = {self.side.name: next(turns)}

    fake(monkeypatch)
    monkeypatch.setattr("mvc.regress.run.Worker", InTurn)


def test_runs_that_disagree_ask_for_new_ones_and_not_for_rounds(run, monkeypatch):
    fake_in_turn(monkeypatch, 1.0, 1.3, 1.0, 1 / 1.3)
    status, printed = run("--only", "scan")
    assert status == 2
    assert "its runs, in processes of their own, disagree; compare again" in printed.out
    assert "more rounds" not in printed.out


def test_the_change_that_is_shown_is_that_of_the_runs_that_decided(run, monkeypatch):
    fake_in_turn(monkeypatch, 1.0, 3.0, 1.0, 1.0)  # a process of the first run is held up for all its life
    status, printed = run("--only", "scan", "--json", "-")
    assert status == 0
    (case,) = json.loads(printed.out)["cases"]
    assert len(case["runs"]) == 2
    assert case["changes"]["time"]["high"] < 1.05
