"""What the documents name exists."""

import re

import pytest
from places import ROOT

from mvc.passes.pipeline import PASSES

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
