"""Recurrences that others published: what is raised of each, why others are not, and what the table says of them."""

from __future__ import annotations

import functools
import json
import re

import pytest
from places import ROOT

from bench import recurrences
from bench.zoo import page
from bench.zoo.catalogue import ENTRIES, is_installed
from bench.zoo.entry import SMALL
from bench.zoo.trial import raised

found = functools.cache(lambda name: raised(ENTRIES[name], SMALL))


def installed(name):
    if not is_installed(ENTRIES[name]):
        pytest.skip(f"{ENTRIES[name].needs} is not installed")
    return found(name)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_same_as_eager(name):
    """Results and gradients, within the budget of compiled models; and no pass fails."""
    made, checks = installed(name)
    assert [str(check) for check in checks if not check.passed] == []
    assert max(check.eager_error for check in checks) < 1e-3, "the oracle computes the same"
    assert not [reason for reason in made.reasons if "failed:" in reason]


@pytest.mark.parametrize("name", [n for n, e in ENTRIES.items() if e.recurrences])
def test_raised(name):
    made, _ = installed(name)
    assert made.count >= ENTRIES[name].recurrences, made.reasons


@pytest.mark.parametrize("name", [n for n, e in ENTRIES.items() if e.recurrences == 0])
def test_not_raised(name):
    made, _ = installed(name)
    assert made.count == 0


@pytest.mark.parametrize("name", [n for n, e in ENTRIES.items() if e.cause])
def test_left_with_a_reason(name):
    made, _ = installed(name)
    assert made.count or any(re.search(ENTRIES[name].cause, reason) for reason in made.reasons), made.reasons


def test_entries():
    assert sum(bool(each.recurrences) for each in ENTRIES.values()) >= 35
    for entry in ENTRIES.values():
        assert entry.source
        assert not (entry.recurrences and entry.cause), "a cause is of what may be left alone"


def test_command_tells_what_it_found(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text(f"# Title\n{page.BEGIN}\nold\n{page.END}\nlast\n")
    output = tmp_path / "found"
    arguments = ["--quick", "--only", "Leaky integrator", "IndRNN", "--output", str(output), "--page", str(path)]
    assert recurrences.main(arguments) == 0
    facts = json.loads(output.with_suffix(".json").read_text())
    integrator, ind_rnn = facts["rows"]
    assert (integrator["ops"], ind_rnn["ops"]) == ({"mvc.linear_recurrence": 1}, {})
    assert integrator["forward"]["passed"]
    assert "relu" in page.verdict(ind_rnn)
    assert page.table(facts) == capsys.readouterr().out == output.with_suffix(".md").read_text()
    assert path.read_text() == f"# Title\n{page.BEGIN}\n\n{page.table(facts)}\n{page.END}\nlast\n"


def test_a_page_without_marks_is_refused(tmp_path, capsys):
    (tmp_path / "page.md").write_text("# Title\n")
    assert recurrences.main(["--quick", "--page", str(tmp_path / "page.md")]) == 2
    assert "the page has no line" in capsys.readouterr().err
    assert recurrences.main(["--quick", "--page", str(tmp_path / "none.md")]) == 2
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"wanted": 2, "ops": {"mvc.linear_recurrence": 2}, "reasons": ["x"]}, "2 linear_recurrence"),
        ({"wanted": 2, "ops": {"mvc.linear_recurrence": 1}, "reasons": ["x"]}, "1 linear_recurrence of 2: x"),
        ({"wanted": 1, "ops": {}, "reasons": []}, "left, no reason given"),
        ({"wanted": 0, "ops": {}, "reasons": [], "loop": False}, "no loop over time"),
        (
            {"wanted": None, "ops": {}, "inference_ops": {"mvc.selective_scan": 1}, "reasons": ["x"]},
            "1 selective_scan in inference; in training: x",
        ),
        ({"wanted": None, "ops": {"mvc.selective_scan": 1}, "reasons": []}, "1 selective_scan"),
        ({"wanted": 1, "failed": {"rewritten": "TypeError: x"}}, "fails: TypeError: x"),
    ],
)
def test_verdict(row, said):
    assert page.verdict({"failed": {}, "loop": True, **row}) == said


def test_the_page_has_the_table_that_is_committed():
    results = ROOT / "bench" / "results" / "recurrences.json"
    table = page.table(json.loads(results.read_text(encoding="utf-8")))
    assert results.with_suffix(".md").read_text(encoding="utf-8") == table
    assert table in (ROOT / "docs" / "recurrences.md").read_text(encoding="utf-8")
