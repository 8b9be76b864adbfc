"""What tests of the gate's commands share: revisions that are folders, processes that are stood for."""

import tempfile

import pytest
from fake_worker import fake

from mvc.regress.__main__ import main
from mvc.regress.commands import compare as command
from mvc.regress.sources.revisions import Pair, Sources
from mvc.regress.sources.version import Version

CASES = '[thresholds]\nrounds = [5, 20]\n[cases.scan]\nkind = "scan"\n[cases.T]\n'


@pytest.fixture
def cases_file(tmp_path):
    path = tmp_path / "cases.toml"
    path.write_text(CASES)
    return path


@pytest.fixture
def sides(tmp_path, monkeypatch):
    """Lets "base" and "head" name folders; a run of the gate elsewhere on this machine is not waited for."""
    for name in ("base", "head"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text('[project]\ndependencies = ["torch"]\n')
    versions = {name: Version(asked=name, commit=8 * name, dirty=False) for name in ("base", "head")}
    pair = Pair(versions["base"], versions["head"], tmp_path, [])
    monkeypatch.setattr(command, "resolve", lambda base, head: pair)
    monkeypatch.setattr(
        "mvc.regress.compare.sources", lambda version, _: Sources(version.asked, tmp_path / version.asked, [])
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return pair


@pytest.fixture
def run(sides, cases_file, capsys):
    """Runs a command on the cases of CASES; status and output."""

    def run(*arguments, command="compare"):
        positional = ["base", "head"] if command == "compare" else []
        status = main([command, *positional, "--cases", str(cases_file), "--quiet", *map(str, arguments)])
        return status, capsys.readouterr()

    return run


@pytest.fixture
def recorded(run, tmp_path, monkeypatch):
    """Records under a name, with the processes of the rules given."""

    def recorded(name, **rules):
        fake(monkeypatch, **rules)
        path = tmp_path / f"{name}.json"
        assert run("--output", path, command="record")[0] == 0
        return path

    return recorded


@pytest.fixture
def compared(cases_file, capsys):
    """Compares what is named by files; status and output."""

    def compared(base, head, *options):
        status = main(["compare", str(base), str(head), "--cases", str(cases_file), *options])
        return status, capsys.readouterr()

    return compared
