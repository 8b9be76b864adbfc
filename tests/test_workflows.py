"""The workflows under .github: GitHub's schema, and commands that this checkout understands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from mvc.regress import cases
from mvc.regress.__main__ import _parser

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request):
    return request.param


def check(path: Path) -> subprocess.CompletedProcess:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema, of the extra `test`, is not installed")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def test_fits_the_schema(workflow):
    done = check(workflow)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("damage", [("runs-on", "runs_on"), ("steps:", "stages:"), ("uses:", "use:")])
def test_the_schema_sees_a_wrong_key(damage, tmp_path):
    path = tmp_path / "broken.yml"
    path.write_text(WORKFLOWS[0].read_text().replace(*damage))
    assert check(path).returncode == 1


def test_commands_of_the_gate_are_understood():
    found = 0
    for path in WORKFLOWS:
        for command in re.findall(r"-m mvc\.regress ((?:\\\n|[^\n|])+)", path.read_text()):
            _parser().parse_args(shlex.split(command.replace("\\\n", " ")))
            found += 1
    assert found == 2


def test_the_gpu_runner_measures_the_cases_for_gpus():
    text = (ROOT / ".github" / "workflows" / "gpu.yml").read_text()
    (path,) = re.findall(r"--cases (\S+)", text)
    assert {case.device for case in cases.load(ROOT / path).cases} == {"cuda"}


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_targets_of_make_and_scripts_exist(path):
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^(?:.*run: )?make (\S+)", path.read_text(), re.MULTILINE)
    scripts = re.findall(r"run: (\.\S+)$", path.read_text(), re.MULTILINE)
    assert targets or scripts
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK), script
