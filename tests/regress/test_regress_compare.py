"""`python -m mvc.regress`: what it decides, prints and writes, on processes that are stood for."""

import dataclasses
import json
import re
from xml.etree import ElementTree

import pytest
import torch
from fake_worker import fake

from mvc.errors import UserError
from mvc.measure import nvml
from mvc.regress import cases, compare
from mvc.regress.__main__ import main
from mvc.regress.recordings import store
from mvc.regress.recordings.recording import OF_A_HOST, OF_SOFTWARE
from mvc.regress.run import Rounds
from mvc.regress.sources.revisions import Pair, Sources, resolve
from mvc.regress.sources.version import Version

CASES = '[thresholds]\nrounds = [5, 20]\n[cases.scan]\nkind = "scan"\n[cases.T]\n'


@pytest.fixture
def cases_file(tmp_path):
    path = tmp_path / "cases.toml"
    path.write_text(CASES)
    return path


@pytest.fixture
def run(tmp_path, cases_file, monkeypatch, capsys):
    """Runs the command on the cases of CASES with two revisions that are folders; status and output."""
    for name in ("base", "head"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text('[project]\ndependencies = ["torch"]\n')
    versions = {name: Version(asked=name, commit=8 * name, dirty=False) for name in ("base", "head")}
    monkeypatch.setattr(compare, "resolve", lambda base, head: Pair(versions[base], versions[head], tmp_path, []))
    monkeypatch.setattr(compare, "sources", lambda version, _: Sources(version.asked, tmp_path / version.asked, []))

    def run(*arguments, command="compare"):
        positional = ["base", "head"] if command == "compare" else []
        status = main([command, *positional, "--cases", str(cases_file), "--quiet", *map(str, arguments)])
        return status, capsys.readouterr()

    return run


def test_equal_revisions_exit_with_0(run, monkeypatch):
    fake(monkeypatch)
    status, printed = run()
    assert status == 0
    assert "no change for the worse" in printed.out


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
    assert "improvement" in printed.out


def test_noise_exits_with_2_and_says_how_many_rounds_would_settle_it(run, monkeypatch):
    fake(monkeypatch, noise=0.5)
    status, printed = run("--only", "scan")
    assert status == 2
    assert "more than 10,000 more rounds would settle it: it is about the effect looked for, 5%" in printed.out
    fake(monkeypatch, noise=0.2)
    status, printed = run("--only", "scan")
    assert status == 2
    assert re.search(r"about \d+ more rounds would settle it \(with --rounds \d+\)", printed.out)


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


def test_junit_takes_coloured_messages(run, monkeypatch, tmp_path):
    fake(monkeypatch, broken={"head"}, message="\x1b[31mno such variant\x1b[0m")
    run("--junit", tmp_path / "junit.xml")
    assert len(list(ElementTree.parse(tmp_path / "junit.xml").iter("error"))) == 2


def test_markdown_and_junit_say_the_same(run, monkeypatch, tmp_path):
    fake(monkeypatch, slowness={"head": 1.2}, broken=set())
    run("--markdown", tmp_path / "summary.md", "--junit", tmp_path / "junit.xml")
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("## Latency: a regression\n")
    assert "| scan" in text
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert suite.attrib | {"tests": "2", "failures": "2", "errors": "0", "skipped": "0"} == suite.attrib
    assert [case.get("name") for case in suite.iter("testcase")] == ["scan", "T"]
    assert all("regression" in failure.get("message") for failure in suite.iter("failure"))


def test_junit_has_errors_for_what_cannot_be_compared(run, monkeypatch, tmp_path):
    fake(monkeypatch, broken={"head"})
    run("--junit", tmp_path / "junit.xml")
    errors = list(ElementTree.parse(tmp_path / "junit.xml").iter("error"))
    assert ["head: no such variant" in error.get("message") for error in errors] == [True, True]


@pytest.fixture
def recorded(run, tmp_path, monkeypatch):
    """Records under a name, with the processes of the rules given."""

    def recorded(name, **rules):
        fake(monkeypatch, **rules)
        path = tmp_path / f"{name}.json"
        assert run("--output", path, command="record")[0] == 0
        return path

    return recorded


def compared(base, head, cases_file, *options):
    return main(["compare", str(base), str(head), "--cases", str(cases_file), *options])


def test_recordings_are_compared_case_for_case(recorded, cases_file):
    base, same, slower = (
        recorded(name, slowness={"installed": slowness}) for name, slowness in (("a", 1.0), ("b", 1.0), ("c", 1.2))
    )
    assert compared(base, same, cases_file) == 0
    assert compared(base, slower, cases_file) == 1
    assert compared(slower, base, cases_file) == 0


def test_what_two_processes_of_one_recording_differ_by_decides_nothing(recorded, cases_file, capsys):
    base, head = recorded("a"), recorded("b", slowness={"installed": 1.2})
    facts = json.loads(base.read_text())
    for benchmark in facts["benchmarks"]:
        runs = benchmark["extra_info"]["runs"]
        runs[1] = {"time": [1.2 * seconds for seconds in runs[1]["time"]]}
    base.write_text(json.dumps(facts))
    assert compared(base, head, cases_file) == 2
    printed = capsys.readouterr().out
    assert "recorded at different times" in printed
    assert "the processes of one recording differ by as much" in printed
    assert " 20 + 20 " in printed, "each process counts once"


@pytest.mark.parametrize("option", [["--exact"], ["--device", "cpu"], ["--rounds", "9"]], ids=lambda option: option[0])
def test_options_of_revisions_are_refused_with_recordings(recorded, cases_file, option, capsys):
    base = recorded("a")
    assert compared(base, base, cases_file, *option) == 64
    assert f"{option[0]} is for git revisions" in capsys.readouterr().err


def test_some_cases_of_recordings(recorded, cases_file, capsys):
    base, head = recorded("a"), recorded("b")
    assert main(["compare", str(base), str(head), "--cases", str(cases_file), "--only", "T", "--json", "-"]) == 0
    assert [each["case"]["name"] for each in json.loads(capsys.readouterr().out)["cases"]] == ["T"]
    assert main(["compare", str(base), str(head), "--cases", str(cases_file), "--only", "S"]) == 64
    assert "--only has 'S'; recorded are scan, T" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["device", *OF_A_HOST, *OF_SOFTWARE])
def test_recordings_of_other_machines_are_not_compared(recorded, cases_file, field, capsys):
    base, head = recorded("a"), recorded("b")
    for path, value in ((base, "one"), (head, "another")):
        facts = json.loads(path.read_text())
        facts["machine_info"][field] = value
        path.write_text(json.dumps(facts))
    assert compared(base, head, cases_file) == 3
    assert f"not comparable: {field}: " in capsys.readouterr().out


def test_recordings_with_other_inputs_are_not_compared(recorded, cases_file, capsys):
    base = recorded("a")
    cases_file.write_text(CASES + "batch = 2\n[cases.S]\n")
    head = recorded("b")
    assert compared(base, head, cases_file) == 3
    printed = capsys.readouterr().out
    assert "T: batch 1 against 2" in printed
    assert "S: only" in printed


def test_the_newest_baseline_of_this_device_is_compared_with(run, recorded, cases_file, tmp_path, monkeypatch):
    for slowness in (2.0, 1.0):
        fake(monkeypatch, slowness={"installed": slowness})
        assert run("--baselines", tmp_path / "baselines", command="record")[0] == 0
    head = recorded("head")
    assert compared(tmp_path / "baselines", head, cases_file) == 0
    ours = store.read(head)
    other = dataclasses.replace(ours.environment, device="cuda: another")
    with pytest.raises(store.UserError, match="has no recording for"):
        store.newest(tmp_path / "baselines", ours._replace(environment=other))
    latest = max((tmp_path / "baselines").rglob("*.json"))
    facts = json.loads(latest.read_text())
    facts["machine_info"]["torch"] = "another"
    latest.write_text(json.dumps(facts))
    assert store.newest(tmp_path / "baselines", ours) < latest, "the newest that can be compared with"


def test_a_case_that_cannot_be_recorded_leaves_the_others(run, tmp_path, monkeypatch):
    fake(monkeypatch, broken={"installed"})
    status, printed = run("--output", tmp_path / "none.json", command="record")
    assert status == 3
    assert "not recorded: T: installed: no such variant" in printed.err
    assert not (tmp_path / "none.json").exists()


def test_selftest_counts_false_alarms(run, monkeypatch):
    fake(monkeypatch)
    status, printed = run("--comparisons", 3, command="selftest")
    assert status == 0
    case, slower, _, *counts = printed.out.splitlines()[2].split()
    assert [case, slower, *counts[:4]] == ["scan", "0%", "3", "3", "0", "0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "no-such-revision", "HEAD"], "'no-such-revision' is no file and no commit"),
        (["compare", __file__, __file__], "is no JSON"),
        (["compare", __file__, "HEAD"], "one is a file; give two recordings, or two git revisions"),
        (["compare", "HEAD", "HEAD", "--only", "X"], "--only has 'X'; the cases are"),
        (["compare", "HEAD", "HEAD", "--cases", "no-such.toml"], "--cases no-such.toml cannot be read"),
        (["compare", "HEAD", "HEAD", "--rounds", "4"], "5 <= least <= most"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unusable_input_exits_with_64(arguments, message, capsys):
    assert main([*arguments]) == 64
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["compare"], ["record"], ["compare", "a", "b", "--rounds", "x"]])
def test_wrong_usage_exits_with_64_too(arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 64


def test_outside_git_recordings_are_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="not a git repository"):
        resolve("HEAD", "HEAD")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no cases"),
        ("[", "is no TOML file"),
        ("x = 1\n[cases.a]", "has 'x'"),
        ("[cases.a]\nspeed = 1", "'speed' is unknown; known are name, kind"),
        ('[cases.a]\nkind = "train"', "kind is 'train'; it must be model or scan"),
        ("[cases.a]\nbatch = 0", "batch is 0; it must be at least 1"),
        ('[cases.a]\nbatch = "2"', "batch is '2'; it must be of type int"),
        ("[cases.a]\nbatch = true", "batch is True; it must be of type int"),
        ('[cases.a]\ntraining = "false"', "training is 'false'; it must be true or false"),
        ('[cases.a]\nmode = "fast"', "mode is 'fast'; it must be default or"),
        ("[cases.a]\n[thresholds]\nrounds = [20.5, 60]", r"rounds is \[20\.5, 60\]; it must be \[int, int\]"),
        ("[cases.a]\n[thresholds]\neffect = 5", "effect is 5; it must lie between 0 and 1"),
        ("[cases.a]\n[thresholds]\nconfidence = 1.5", "confidence is 1.5"),
        ('[cases.a]\n[cases.b]\ndevice = "cuda"', "cases are on cpu and cuda"),
    ],
)
def test_a_wrong_cases_file_is_one_sentence(text, message, tmp_path):
    path = tmp_path / "cases.toml"
    path.write_text(text)
    with pytest.raises(cases.UserError, match=message):
        cases.load(path)


def test_the_default_cases_are_those_under_bench():
    suite = cases.load()
    assert {"scan", "T"} <= {case.name for case in suite.cases}
    assert suite.thresholds == cases.Thresholds()
