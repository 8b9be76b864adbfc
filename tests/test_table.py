"""Tables: columns in line, numbers to the right, Markdown that GitHub shows."""

import pytest

from mvc.table import tabulate

ROWS = [["short", 5, "1.50 (1 to 2)", "text"], ["a longer name", 12, "", "3 of them"]]
HEADERS = ["", "count", "ratio", "what"]


def test_numbers_end_in_line_and_text_begins_in_line():
    assert tabulate(ROWS, HEADERS).splitlines() == [
        "               count          ratio  what",
        "-------------  -----  -------------  ---------",
        "short              5  1.50 (1 to 2)  text",
        "a longer name     12                 3 of them",
    ]


def test_markdown():
    assert tabulate(ROWS, HEADERS, markdown=True).splitlines() == [
        "|               | count |         ratio | what      |",
        "|---------------|------:|--------------:|-----------|",
        "| short         |     5 | 1.50 (1 to 2) | text      |",
        "| a longer name |    12 |               | 3 of them |",
    ]


def test_without_headers_or_rows():
    assert tabulate([["1.5%", "cat"], ["22.0%", "dog"]]) == " 1.5%  cat\n22.0%  dog"
    assert tabulate([], ["a", "b"]) == "a  b\n-  -"


def test_rows_of_other_lengths_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        tabulate([["a", "b"], ["c"]], ["1", "2"])
