"""The example repository from a fresh copy, as its README has it: record, a slower commit, compare, report, bisect."""

import json
import shutil
import subprocess
import sys

import pytest
from git_repository import SETTINGS, Repository
from places import ROOT

SLOWER = "\n\n_once = rotate\n\n\ndef rotate(*args):\n    _once(*args)\n    return _once(*args)\n"


@pytest.mark.slow
def test_the_example_repository_is_walked_through(tmp_path, monkeypatch):
    pytest.importorskip("ruptures", reason="ruptures, of the extra `history`, is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of several that wait for each other, the times scatter
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(ROOT / "examples" / "regress", tmp_path / "rotary")
    repository = Repository(tmp_path / "rotary")
    cases = repository.folder / "cases.toml"
    cases.write_text(cases.read_text().replace("effect = 0.05", "effect = 0.4"))  # decided soon on a busy machine too
    source = repository.folder / "src" / "rotary" / "__init__.py"
    good = repository.commit(message="as it is")

    def gate(*arguments, expected):
        command = [sys.executable, "-m", "mvc.regress", *arguments]
        done = subprocess.run(command, cwd=repository.folder, capture_output=True, text=True)
        assert done.returncode == expected, done.stdout + done.stderr
        return done.stdout

    chosen = ["--cases", "cases.toml", "--only", "queries", "--rounds", "10", "--quiet"]
    said = gate("record", *chosen, "--baselines", tmp_path / "baselines", expected=0)
    assert good[:12] in said
    repository.commit({"NOTES": "nothing that runs"}, "words")
    slow = repository.commit({str(source): source.read_text() + SLOWER}, "slower")
    repository.commit({"NOTES": "nothing either"}, "more words")
    gate("compare", f"{good}...HEAD", *chosen, "--json", tmp_path / "out.json", expected=1)
    facts = json.loads((tmp_path / "out.json").read_text())
    assert [case["verdict"] for case in facts["cases"]] == ["regression"]
    assert facts["cases"][0]["runs"][0]["head_facts"]["source"].endswith("src/rotary/cases.py")
    page = tmp_path / "page.html"
    gate("report", tmp_path / "baselines", "--comparison", tmp_path / "out.json", "--output", page, expected=0)
    assert "queries" in page.read_text()
    said = gate("bisect", good, "HEAD", *chosen, expected=1)
    assert f"the first slow commit is {slow[:12]} slower" in said
