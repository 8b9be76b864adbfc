"""The workflows under .github: GitHub's schema, linters, and commands that this checkout understands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from mvc.regress import cases
from mvc.regress.__main__ import _parser

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCRIPTS = sorted((GITHUB / "scripts").glob("*.sh"))
# A title that a stranger wrote becomes a part of a command, and an expansion lacks its quotes.
UNSAFE = """on: pull_request
permissions: {}
jobs:
  job:
    runs-on: ubuntu-latest
    steps:
      - run: echo ${{ github.event.pull_request.title }}
      - run: rm -r $HOME/*
"""


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request):
    return request.param


def check(path: Path) -> subprocess.CompletedProcess:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema, of the extra `test`, is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def linter(name: str) -> str:
    """The program, as the extra `test` installs it beside this Python where its wheel exists, or of the system."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def actionlint(*paths: Path) -> subprocess.CompletedProcess:
    command = [linter("actionlint"), "-shellcheck", linter("shellcheck"), "-pyflakes", ""]
    command += ["-config-file", str(GITHUB / "actionlint.yaml"), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True)


def zizmor(*paths: Path) -> subprocess.CompletedProcess:
    command = [linter("zizmor"), "--offline", "--no-progress", "--config", str(GITHUB / "zizmor.yml"), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True)


def test_fits_the_schema(workflow):
    done = check(workflow)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("damage", [("runs-on", "runs_on"), ("steps:", "stages:"), ("uses:", "use:")])
def test_the_schema_sees_a_wrong_key(damage, tmp_path):
    path = tmp_path / "broken.yml"
    path.write_text(WORKFLOWS[0].read_text().replace(*damage))
    assert check(path).returncode == 1


@pytest.mark.parametrize("lint", [actionlint, zizmor])
def test_linters_find_nothing(lint):
    done = lint(*WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_linters_see_what_is_unsafe(tmp_path):
    path = tmp_path / ".github" / "workflows" / "unsafe.yml"
    path.parent.mkdir(parents=True)
    path.write_text(UNSAFE)
    found = actionlint(path).stdout
    assert "potentially untrusted" in found
    assert "SC2086" in found
    assert "template-injection" in zizmor(path).stdout


def test_scripts_are_sound():
    done = subprocess.run([linter("shellcheck"), *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_commands_of_the_gate_are_understood():
    found = set()
    for path in WORKFLOWS:
        for command in re.findall(r"-m mvc\.regress ((?:\\\n|[^\n|])+)", path.read_text()):
            words = shlex.split(command.replace("\\\n", " "))
            _parser().parse_args(words)
            found.add(words[0])
    assert found == {"compare", "record", "report", "history"}


@pytest.mark.parametrize("name", ["gpu.yml", "nightly.yml"])
def test_gpu_runners_measure_the_cases_for_gpus(name):
    (path,) = re.findall(r"--cases (\S+)", (GITHUB / "workflows" / name).read_text())
    assert {case.device for case in cases.load(ROOT / path).cases} == {"cuda"}


def test_one_device_has_one_job():
    groups = {path.name: re.findall(r"group: gpu$", path.read_text(), re.MULTILINE) for path in WORKFLOWS}
    runs = {path.name: re.findall(r"runs-on: .*\bgpu\b", path.read_text()) for path in WORKFLOWS}
    assert {name: len(each) for name, each in groups.items()} == {name: len(each) for name, each in runs.items()}
    assert sum(map(len, runs.values())) == 2


def test_comments_follow_workflows_that_exist():
    (names,) = re.findall(r"workflows: \[(.*)\]", (GITHUB / "workflows" / "comment.yml").read_text())
    titles = {re.search(r"^name: (.*)$", path.read_text(), re.MULTILINE)[1] for path in WORKFLOWS}
    assert {name.strip() for name in names.split(",")} <= titles


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_targets_of_make_and_scripts_exist(path):
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^(?:.*run: )?make (\S+)", path.read_text(), re.MULTILINE)
    scripts = re.findall(r"(?:run: (?:python3 )?|^ +)(\.(?:ci|github)/\S+)", path.read_text(), re.MULTILINE)
    assert targets or scripts
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK if script.endswith((".sh", "/run")) else os.R_OK), script
