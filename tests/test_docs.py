"""What the documents name exists."""

import re
import shlex

import pytest
from places import ROOT

from mvc.passes.pipeline import PASSES
from mvc.regress import cases
from mvc.regress.__main__ import COMMANDS, _parser

PAGES = [ROOT / "README.md", ROOT / "DESIGN.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "mvc|kernels|passes|tests|bench|docs|examples"


def named(text: str) -> set[str]:
    """Files and folders in backticks, by their path from the root, and the targets of links."""
    paths = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    return {*paths, *links}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    missing = {
        path for path in named(page.read_text()) if not ((ROOT / path).exists() or (page.parent / path).exists())
    }
    assert missing == set()


def test_every_pass_is_described():
    page = (ROOT / "docs" / "backend.md").read_text()
    order = [page.find(f"`{name}`") for name in PASSES]
    assert -1 not in order
    assert order == sorted(order), "in the order in which they run"


def test_names_are_found():
    assert named("`mvc/a.py` and `python bench/b.py` in [c](docs/c.md#d)") == {"mvc/a.py", "docs/c.md"}


def commands(text: str) -> list[list[str]]:
    """The commands of the gate in a page, in blocks and in lines, as words."""
    found = re.findall(r"-m mvc\.regress ((?:[^\n`|\\]|\\\n)+)", text)
    return [shlex.split(each.replace("\\\n", " "), comments=True) for each in found]


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "examples" / "regress" / "README.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_commands_of_the_gate_are_understood(page):
    for words in commands(page.read_text()):
        if words[0] != "COMMAND":
            _parser().parse_args(words)


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_examples_in_the_help_are_understood(module):
    examples = [line.partition("  ")[0] for line in module.EXAMPLES.replace("\n  ", "\n").splitlines()]
    found = commands("\n".join(examples))
    assert len(found) >= 2
    for words in found:
        assert _parser().parse_args(words).run is module.run


def test_commands_are_found():
    text = "`python -m mvc.regress a b` and\n```sh\npython -m mvc.regress c \\\n  --d    # e\n```\n"
    assert commands(text) == [["a", "b"], ["c", "--d"]]


def test_cases_in_a_page_are_read(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "regress.md").read_text(), re.DOTALL)
    (tmp_path / "cases.toml").write_text(text)
    assert {case.kind for case in cases.load(tmp_path / "cases.toml").cases} == {"call"}
