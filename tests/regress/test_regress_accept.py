"""Slowdowns that are meant: the file that a review sees, and who may write what into it."""

import pytest
from git_repository import Repository

from mvc.errors import UserError
from mvc.regress import accepted
from mvc.regress.__main__ import main


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    repository = Repository(tmp_path / "checkout")
    repository.commit({"cases.toml": '[cases.scan]\nkind = "scan"\n[cases.T]\n'})
    monkeypatch.chdir(repository.folder)
    return repository.folder


def accept(*arguments):
    return main(["accept", *arguments, "--cases", "cases.toml"])


def test_entries_are_added_and_read(checkout, capsys):
    path = checkout / "cases.accepted.toml"
    assert accept("scan", "--reason", 'sums in "float32",\n  exact') == 0
    assert capsys.readouterr().out == f"wrote {path}: commit it with the change that makes scan slower\n"
    assert accept("scan", "--reason", "again") == accept("T", "--reason", "Δ is wider") == 0
    read = accepted.read(path)
    assert [each.partition(": ")[2] for each in read["scan"]] == ['sums in "float32", exact', "again"]
    assert read["T"][0].endswith(": Δ is wider")
    assert path.read_text().startswith("# Slowdowns that are meant")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["S", "--reason", "because"], "--only has 'S'; the cases are T, scan"),
        (["scan", "--reason", "  "], "--reason is ''; say in words why"),
        (["scan", "--reason", "a\x1b[31m"], "say in words why"),
    ],
)
def test_what_says_nothing_is_refused(arguments, message, checkout, capsys):
    assert accept(*arguments) == 64
    assert message in capsys.readouterr().err
    assert not (checkout / "cases.accepted.toml").exists()


def test_the_cases_of_another_place_are_not_changed(checkout, capsys):
    assert main(["accept", "scan", "--reason", "because"]) == 64
    assert "lies outside of this checkout; give your repository's cases with --cases" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["accepted = 3", "[[accepted]]\ncase = 'scan'", "[[", "[[accepted]]\ncase = 3"])
def test_a_damaged_file_is_refused_and_stays(text, checkout):
    path = checkout / "cases.accepted.toml"
    path.write_text(text)
    with pytest.raises(UserError, match="is no file of accepted slowdowns"):
        accepted.read(path)
    assert accept("scan", "--reason", "because") == 64
    assert path.read_text() == text


def test_only_what_is_new_is_news():
    base, head = {"scan": ["a"]}, {"scan": ["a", "b", "c"], "T": ["d"]}
    assert accepted.news(base, head, "scan") == "b; c"
    assert accepted.news(base, head, "T") == "d"
    assert accepted.news(head, base, "scan") is None
