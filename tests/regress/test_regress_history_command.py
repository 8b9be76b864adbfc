"""`python -m mvc.regress history` over folders of made-up recordings."""

import dataclasses
import json
import sys

import pytest
from test_regress_history import nightly, stepped

from mvc.regress.__main__ import main
from mvc.regress.recordings import store

pytest.importorskip("ruptures", reason="ruptures, of the extra `history`, is not installed")


def kept(folder, recordings):
    for each in recordings:
        store.write(each, store.baseline_path(folder, each))
    return str(folder)


def named(recordings, **fields):
    return [each._replace(version=dataclasses.replace(each.version, **fields)) for each in recordings]


def test_a_slowdown_that_stands_fails(tmp_path, capsys):
    drivers = ["570"] * 14 + ["580"] * 14
    folder = kept(tmp_path / "baselines", nightly(stepped(28, 14, 1.3), driver=drivers))
    written = tmp_path / "history.json"
    assert main(["history", folder, "--json", str(written), "--markdown", str(tmp_path / "history.md")]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("scan: +30.0% (")
    assert "driver 580 (was 570)" in printed.splitlines()[0]
    assert (tmp_path / "history.md").read_text().startswith("**scan: +30.0% (")
    facts = json.loads(written.read_text())
    (series,) = facts["series"]
    (change,) = series["changes"]
    assert facts["exit_status"] == 1
    assert len(series["points"]) == 28
    assert change["alarm"]
    assert change["before"]["date"] == "2026-01-14T03:00:00+00:00"
    assert change["causes"] == ["driver 580 (was 570)"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ([], 1),
        (["--effect", "0.2"], 0),
        (["--since", "2026-01-15"], 1),
        (["--since", "2026-01-16"], 0),
        (["--since", "014014"], 1),
        (["--since", "015015"], 0),
        (["--since", "soon"], 64),
        (["--only", "scan"], 1),
        (["--only", "other"], 64),
    ],
)
def test_what_counts_can_be_chosen(tmp_path, options, status, capsys):
    assert main(["history", kept(tmp_path, nightly(stepped(28, 14, 1.1))), *options]) == status


def test_a_file_of_cases_has_the_effect(tmp_path):
    cases = tmp_path / "cases.toml"
    cases.write_text('[cases.scan]\nkind = "scan"\n[cases.scan.thresholds]\neffect = 0.2\n')
    folder = kept(tmp_path / "baselines", nightly(stepped(28, 14, 1.1)))
    assert main(["history", folder, "--cases", str(cases)]) == 0


def test_what_does_not_tell_of_main_is_left_out_and_told(tmp_path, capsys):
    folder = kept(tmp_path, nightly([0.001] * 14))
    later = nightly(stepped(28, 14, 1.5))[14:]
    kept(tmp_path, named(later[:7], dirty=True))
    kept(tmp_path, named(later[7:], branch="faster"))
    (tmp_path / "foreign.json").write_text("{}")
    assert main(["history", folder]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("no slowdown stands in 1 series")
    assert "7 recordings left out: of a tree with changes that were not committed" in printed
    assert "7 recordings left out: of the branch faster" in printed
    assert "foreign.json is not a recording" in printed
    assert main(["history", folder, "--allow-dirty", "--main-branch", "*"]) == 1


def test_too_few_recordings_are_not_judged(tmp_path, capsys):
    assert main(["history", kept(tmp_path, nightly(stepped(5, 2, 1.5)))]) == 3
    printed = capsys.readouterr().out
    assert printed.startswith("nothing can be judged")
    assert "+50.0%" in printed


def test_without_ruptures_the_remedy_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ruptures", None)
    assert main(["history", kept(tmp_path, nightly([0.001] * 8))]) == 64
    assert "pip install 'mvc-mambavision[history]'" in capsys.readouterr().err
