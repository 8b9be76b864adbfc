"""`python -m mvc.regress bisect`, on processes that are stood for."""

import json
import tempfile

import pytest
from fake_worker import fake
from git_repository import Repository

from mvc.regress.__main__ import main

CASES = '[thresholds]\nrounds = [5, 20]\n[cases.scan]\nkind = "scan"\n[cases.other]\nkind = "scan"\n'


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """The current folder."""
    made = Repository(tmp_path / "repository")
    made.write({"cases.toml": CASES, "pyproject.toml": "[project]\ndependencies = []\n"})
    monkeypatch.chdir(made.folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a run of the gate elsewhere is not waited for
    return made


@pytest.fixture
def history(repository):
    """Its commits, as the gate names them."""
    return [repository.commit(message=f"change {i}")[:12] for i in range(8)]


def bisect(*arguments):
    return main(["bisect", *arguments, "--cases", "cases.toml", "--quiet"])


def test_the_first_slow_commit_is_named_and_what_was_skipped_is_told(history, monkeypatch, capsys):
    fake(monkeypatch, slowness=dict.fromkeys(history[6:], 1.3), broken=set(history[3:5]), message="does not parse")
    assert bisect(history[0], history[-1], "--json", "found.json") == 1
    printed = capsys.readouterr().out
    assert f"the first slow commit is {history[6]} change 6 (tests, 20" in printed
    skipped = [line for line in printed.splitlines() if line.startswith(tuple(history[3:5]))]
    assert skipped
    assert all("not decided" in line and "does not parse" in line for line in skipped)
    with open("found.json") as file:
        facts = json.load(file)
    assert facts["first_slow"]["id"].startswith(history[6])
    assert facts["good"]["commit"].startswith(history[0])
    answers = {each["commit"]["id"][:12]: each["answer"] for each in facts["tried"]}
    assert answers.items() >= {history[6]: "bad", history[7]: "bad"}.items()
    assert "skip" in answers.values()
    for each in facts["tried"]:
        if each["answer"] != "skip":
            expected = 1.3 if each["answer"] == "bad" else 1.0
            assert each["cases"][0]["ratio"]["median"] == pytest.approx(expected, rel=0.05)


def test_a_commit_beside_one_that_cannot_be_measured_is_one_of_several(history, monkeypatch, capsys):
    fake(monkeypatch, slowness=dict.fromkeys(history[5:], 1.3), broken={history[4]})
    assert bisect(history[0], history[-1]) == 2
    printed = capsys.readouterr().out
    listed = printed.partition("could be any of these")[2].splitlines()[1:]
    assert [line.split()[0] for line in listed] == history[4:6]


@pytest.mark.parametrize(
    ("rules", "status", "message"),
    [
        ({}, 0, "not slower, so there is nothing to look for"),
        ({"noise": 0.5}, 2, "neither a change nor its absence is sure"),
        ({"broken": "bad"}, 3, "not comparable, so nothing can be looked for"),
    ],
)
def test_without_a_slowdown_there_is_nothing_to_look_for(history, monkeypatch, capsys, rules, status, message):
    fake(monkeypatch, **{key: {history[-1]} if value == "bad" else value for key, value in rules.items()})
    assert bisect(history[0], history[-1], "--only", "scan") == status
    assert f"{history[-1]} against {history[0]}: {message}" in capsys.readouterr().out


def test_a_slowdown_that_is_meant_is_found_too(history, repository, monkeypatch, capsys):
    accepted = '[[accepted]]\ncase = "scan"\ndate = "2026-01-01"\nreason = "more exact"\n'
    slow = repository.commit({"cases.accepted.toml": accepted}, message="more exact")[:12]
    last = repository.commit(message="later")[:12]
    fake(monkeypatch, slowness=dict.fromkeys((slow, last), 1.3))
    assert bisect(history[0], last, "--only", "scan") == 1
    assert f"the first slow commit is {slow} more exact" in capsys.readouterr().out


def test_a_case_that_the_good_commit_lacks_is_not_green(repository, history, monkeypatch, capsys):
    last = repository.commit({"cases.toml": f'{CASES}[cases.new]\nkind = "scan"\n'})[:12]
    fake(monkeypatch, broken={history[0]})
    assert bisect(history[0], last, "--only", "new") == 3
    assert f"new: cannot run in {history[0]}" in capsys.readouterr().out


def test_the_working_tree_is_no_commit(history, capsys):
    assert bisect(history[0], ".") == 64
    assert "'.' is no commit; commit the changes and name HEAD" in capsys.readouterr().err
