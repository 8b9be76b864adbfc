"""Two sides are compared where what is installed satisfies both."""

import sys

import pytest

from mvc.errors import UserError
from mvc.regress.sources import dependencies
from mvc.regress.sources.dependencies import alike, requirements, unmet
from mvc.regress.sources.revisions import Sources

INSTALLED = {
    "installed": {
        "Torch": ["2.14.1", []],
        "tabulate": ["0.10.0", ["wcwidth>=1; extra == 'widechars'", "pytest; extra == 'test'", "missing"]],
        "dev": ["2.0.dev1", ["tabulate[widechars]; extra == 'all'", "dev[all]; extra == 'all'"]],
    },
    "markers": {"python_version": "3.11", "python_full_version": "3.11.4", "sys_platform": "linux"},
}


@pytest.fixture
def installed(monkeypatch):
    """Stands for what interpreters have installed."""
    monkeypatch.setattr(dependencies, "_facts", lambda python: INSTALLED if python == sys.executable else {
        **INSTALLED, "installed": {"torch": ["2.11.0", []]}
    })  # fmt: skip


@pytest.fixture
def side(tmp_path):
    """Makes the sources of a side from the text of its pyproject.toml."""

    def side(name, text):
        (tmp_path / name).mkdir(exist_ok=True)
        if text is not None:
            (tmp_path / name / "pyproject.toml").write_text(text)
        return Sources(name, tmp_path / name, [f"{name} lacks a part"])

    return side


PARTS = ["base lacks a part", "head lacks a part"]


def needing(*names):
    return f"[project]\ndependencies = {list(names)}\n"


def test_equal_dependencies_need_nothing(side, monkeypatch):
    monkeypatch.setattr(dependencies, "_facts", lambda python: pytest.fail("asked"))
    found = alike(side("base", needing("a", "b")), side("head", needing("b", "a")))
    assert found == (PARTS, [])


def test_an_edit_that_what_is_installed_satisfies_is_a_remark(side, installed):
    base, head = side("base", needing("torch", "tabulate")), side("head", needing("torch", "tabulate>=0.8"))
    remark = (
        "the dependencies differ: base asks for tabulate and head asks for tabulate>=0.8;"
        " what is installed satisfies both sides"
    )
    assert alike(base, head) == ([*PARTS, remark], [])


@pytest.mark.parametrize(
    ("text", "why"),
    [("torch>=2.15", "installed is 2.14.1"), ("triton", "not installed"), ("torch>>2", "torch>>2 (")],
)
def test_an_edit_that_it_does_not_satisfy_is_an_obstacle(side, installed, text, why):
    remarks, (obstacle,) = alike(side("base", needing("torch")), side("head", needing(text)))
    assert remarks == PARTS
    assert obstacle.startswith(f"head needs {text} (")
    assert why in obstacle


def test_each_side_has_its_own_interpreter(side, installed):
    base, head = side("base", needing("torch<2.12")), side("head", needing("torch>=2.14"))
    assert len(alike(base, head)[1]) == 1
    assert alike(base, head, pythons=("other", None))[1] == []


@pytest.mark.parametrize(
    "text",
    [None, "[", "[tool.poetry]\n", '[project]\ndynamic = ["dependencies"]\n', "[project]\ndependencies = 3\n"],
)
def test_dependencies_that_are_not_told_are_a_remark(side, text):
    base, head = side("base", text), side("head", needing("a"))
    assert requirements(base.folder) is None
    remarks, obstacles = alike(base, head)
    assert remarks == [
        *PARTS, "base tells no dependencies in a pyproject.toml: whether what is installed suits it is not known"
    ]  # fmt: skip
    assert obstacles == []


def test_a_project_without_dependencies_has_none(side):
    assert requirements(side("base", "[project]\nname = 'a'\n").folder) == []


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        ("TORCH==2.14.*", []),
        ("triton; sys_platform == 'win32'", []),
        ("triton; python_version >= '3.10'", ["triton; python_version >= '3.10' (not installed)"]),
        ("dev>=1", []),
        ("tabulate[widechars]", ["wcwidth>=1; extra == 'widechars' (not installed)"]),
        ("dev[all]", ["wcwidth>=1; extra == 'widechars' (not installed)"]),
    ],
)
def test_markers_extras_and_versions_count(installed, wanted, missing):
    assert unmet([wanted]) == missing


def test_interpreters_are_asked(tmp_path, monkeypatch):
    (tmp_path / "made_up-3.1.dist-info").mkdir()
    (tmp_path / "made_up-3.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: made_up\nVersion: 3.1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    dependencies._facts.cache_clear()
    wanted = ["Made-Up>=3", "pytest", f"no-such; python_full_version != '{sys.version.split()[0]}'"]
    assert unmet(wanted, sys.executable) == []
    assert unmet(["made-up>=4"]) == ["made-up>=4 (installed is 3.1)"]
    with pytest.raises(UserError, match=r"the interpreter .*nowhere cannot be run"):
        unmet(["a"], str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"the interpreter .*false fails: no message"):
        unmet(["a"], "/bin/false")
    dependencies._facts.cache_clear()


def test_without_packaging_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    with pytest.raises(UserError, match="pip install packaging"):
        unmet(["a"])
