"""Tables: columns in line, numbers to the right, Markdown that GitHub shows; all cells where tabulate is missing."""

import sys

import pytest

from mvc.table import WITHOUT, tabulate

ROWS = [["short", 5, "1.50 (1 to 2)", "text"], ["a longer name", 12, "", "3 of them"]]
HEADERS = ["", "count", "ratio", "what"]


def test_numbers_end_in_line_and_text_begins_in_line():
    assert tabulate(ROWS, HEADERS).splitlines() == [
        "                 count          ratio  what",
        "-------------  -------  -------------  ---------",
        "short                5  1.50 (1 to 2)  text",
        "a longer name       12                 3 of them",
    ]


def test_markdown():
    head, rule, *rows = tabulate(ROWS, HEADERS, markdown=True).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == HEADERS
    assert set(rule) <= set("|-: ")
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == [
        [str(cell) for cell in row] for row in ROWS
    ]


@pytest.mark.parametrize("package", ["installed", "missing"])
def test_foreign_text_is_text_in_markdown(package, monkeypatch):
    if package == "missing":
        monkeypatch.setitem(sys.modules, "tabulate", None)
    row = tabulate([["a|b <i>[x](y)\n_z_ snake_case", 1]], ["a", "b"], markdown=True).splitlines()[2:]
    assert [" ".join(line.split()) for line in row] == [r"| a\|b \<i\>\[x\](y) \_z\_ snake_case | 1 |"]


def test_without_headers_or_rows():
    assert tabulate([["1.5%", "cat"], ["22.0%", "dog"]]) == " 1.5%  cat\n22.0%  dog"
    assert tabulate([], ["a", "b"]).split() == ["a", "b", "---", "---"]


def test_rows_of_other_lengths_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        tabulate([["a", "b"], ["c"]], ["1", "2"])


def test_without_tabulate_every_cell_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "tabulate", None)
    assert tabulate(ROWS, HEADERS).splitlines() == [
        WITHOUT,
        "\tcount\tratio\twhat",
        "short\t5\t1.50 (1 to 2)\ttext",
        "a longer name\t12\t\t3 of them",
    ]
    assert tabulate(ROWS, HEADERS, markdown=True).splitlines()[1:3] == [
        "| --- | --- | --- | --- |",
        "| short | 5 | 1.50 (1 to 2) | text |",
    ]
