"""kernels/ and passes/ are mvc.kernels and mvc.passes, however mvc is installed and wherever it is started."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from places import ROOT

import mvc

WHEEL_FOLDERS = {"mvc": "mvc", "bench/cases": "mvc/cases", "kernels": "mvc/kernels", "passes": "mvc/passes"}

# Writes where each name was found; runs as a command, as a module and as a test.
PROBE = """
import json
import os
from importlib.util import find_spec
from pathlib import Path

def test_probe():
    found = {name: find_spec(name).origin for name in ("mvc", "mvc.kernels.ops", "mvc.passes.graph.fx_utils")}
    try:
        from kernels import CUDAProperties
    except ImportError:
        CUDAProperties = None
    Path(os.environ["PROBE_REPORT"]).write_text(json.dumps(found | {"kernels.CUDAProperties": CUDAProperties}))

if __name__ == "__main__":
    test_probe()
"""

# Tries every second name of the two files that must have only one, then imports them under the right one.
REGISTRATION = """
import importlib
import sys
import torch

sys.path.append("kernels")
for name in ("kernels.ops", "ops", "mvc.mvc"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(error)
assert not hasattr(torch.ops.mvc, "selective_scan"), "a refused import registered the op"
import mvc.kernels.ops
assert hasattr(torch.ops.mvc, "selective_scan")
"""


class Installation(NamedTuple):
    install: str
    neighbour: bool
    python: Path
    site_packages: Path


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environ
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    """Runs pip without the network: what the build needs is taken from the environment that runs the tests."""
    run(sys.executable, "-m", "pip", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, which no other installation knows and whose build leaves nothing in the real one."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in WHEEL_FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, checkout, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(
    scope="module",
    params=[("editable", False), ("editable", True), ("wheel", False), ("wheel", True)],
    ids=["editable", "editable-beside-kernels", "wheel", "wheel-beside-kernels"],
)
def installation(
    request: pytest.FixtureRequest, checkout: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    """A virtual environment with mvc in it and, on request, a stand-in for Hugging Face's kernels."""
    install, neighbour = request.param
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    site_packages = next(folder.glob("lib/python*/site-packages"))
    # torch, setuptools and pytest come from the environment that runs the tests. A folder added by a .pth file is
    # searched last and its own .pth files are not read, so mvc's editable installation there stays out of sight.
    outer = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "outer.pth").write_text("\n".join(outer))
    source = ["--editable", checkout] if install == "editable" else [wheel]
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    pip("--python", python, "install", *options, *source, cwd=folder)
    (folder / "bin/pytest").write_text("import sys, pytest\nsys.exit(pytest.console_main())\n")
    if neighbour:
        (site_packages / "kernels").mkdir()
        (site_packages / "kernels/__init__.py").write_text("CUDAProperties = 'the stand-in'\n")
    return Installation(install, neighbour, python, site_packages)


@pytest.mark.parametrize("way", ["python -c", "python -m", "pytest", "python -m pytest"])
@pytest.mark.parametrize("start", ["root", "elsewhere"])
def test_every_name_means_one_file(
    installation: Installation, start: str, way: str, checkout: Path, tmp_path: Path
) -> None:
    cwd = checkout if start == "root" else tmp_path
    (cwd / "tests").mkdir(exist_ok=True)
    (cwd / "tests/test_probe.py").write_text(PROBE)
    arguments = {
        "python -c": ["-c", PROBE],
        "python -m": ["-m", "tests.test_probe"],
        "pytest": [installation.python.with_name("pytest"), "tests/test_probe.py"],
        "python -m pytest": ["-m", "pytest", "tests/test_probe.py"],
    }[way]
    report = tmp_path / "report.json"
    run(installation.python, *arguments, cwd=cwd, PROBE_REPORT=str(report), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")

    from_checkout = start == "root" or installation.install == "editable"
    home = checkout if from_checkout else installation.site_packages
    submodules = home if from_checkout else home / "mvc"
    assert json.loads(report.read_text()) == {
        "mvc": str(home / "mvc/__init__.py"),
        "mvc.kernels.ops": str(submodules / "kernels/ops.py"),
        "mvc.passes.graph.fx_utils": str(submodules / "passes/graph/fx_utils.py"),
        "kernels.CUDAProperties": "the stand-in" if installation.neighbour else None,
    }


def test_a_second_name_registers_nothing(installation: Installation, checkout: Path) -> None:
    refusals = run(installation.python, "-c", REGISTRATION, cwd=checkout).splitlines()
    kernels_ops = "No module named 'kernels.ops'" if installation.neighbour else "not as kernels.ops"
    for refusal, reason in zip(refusals, [kernels_ops, "not as ops", "not as mvc.mvc"], strict=True):
        assert reason in refusal


def test_wheel_holds_the_tree_and_nothing_else(checkout: Path, wheel: Path) -> None:
    tree = {
        f"{target}/{path.relative_to(checkout / source).as_posix()}": path.read_bytes()
        for source, target in WHEEL_FOLDERS.items()
        for path in (checkout / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    metadata = f"mvc_mambavision-{mvc.__version__}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if not name.startswith(metadata)}
    assert packed.keys() == tree.keys()
    assert packed == tree


# Run by every Python that starts: what is no core dependency cannot be imported.
CORE_ALONE = """
import sys
names = "PIL check_jsonschema huggingface_hub hypothesis matplotlib pytest pytest_benchmark timm transformers"
sys.modules.update(dict.fromkeys(names.split()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("installation", [("wheel", False)], indirect=True, ids=["wheel"])
def test_the_gate_works_from_a_wheel_with_core_dependencies_alone(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CORE_ALONE)
    gate = [installation.python, "-m", "mvc.regress"]
    recording, again, summary = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "summary.md"
    core_alone = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path)}
    for output in (recording, again):
        run(*gate, "record", "--only", "scan", "--rounds", "5", "--output", output, **core_alone)
    facts = json.loads(recording.read_text())
    assert [each["name"] for each in facts["benchmarks"]] == ["scan"]
    assert facts["commit_info"]["id"] is None
    command = [*gate, "compare", recording, again, "--markdown", summary]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True)
    assert done.returncode in (0, 1, 2), done.stderr  # other work on the machine may make either slower
    assert "| scan" in summary.read_text()
    run(installation.python, "-c", "import sys; assert sys.modules['timm'] is None", **core_alone)


def test_importing_mvc_imports_neither_torch_nor_triton() -> None:
    run(sys.executable, "-c", "import mvc, sys; assert not {'torch', 'triton'} & sys.modules.keys()", cwd=ROOT)


@pytest.mark.parametrize("name", mvc._PUBLIC)
def test_public_name_is_found_and_listed(name: str) -> None:
    assert getattr(mvc, name) is not None
    assert name in dir(mvc)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        mvc.no_such_name  # noqa: B018 - the lookup is the test
