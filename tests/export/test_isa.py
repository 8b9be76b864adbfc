"""Instruction sets of packages: what their code holds, and what is said where a processor lacks it."""

import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from export_cases import Small, example
from torch import nn

import mvc
import mvc.export
from mvc.errors import UserError
from mvc.export import isa
from mvc.kernels import cpu_scan

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets by name are x86's")

RANGE = {"batch": (1, 8)}
HASWELL = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "sse4_2"})


def test_a_processor_has_the_sets_below_its_own():
    assert isa.here(HASWELL) == "avx2"
    assert isa.here(frozenset()) == "baseline"
    assert [name for name in isa.NAMES if isa.obstacle(name, HASWELL) is None] == ["avx2", "baseline"]
    assert isa.obstacle(isa.here()) is None


def test_a_missing_set_is_refused_in_a_sentence():
    said = r"t\.pt2 cannot run here: its code needs avx512, and this processor lacks avx512bw, .*with --isa avx2, or on"
    with pytest.raises(UserError, match=said):
        isa.check("avx512", "t.pt2", HASWELL)
    with pytest.raises(UserError, match=r"its code is for aarch64, and this processor is x86_64; export it again"):
        isa.check("aarch64", "t.pt2")
    assert isa.obstacle("avx2", HASWELL, "aarch64") == "its code is for x86 with avx2, and this processor is aarch64"


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"isa is 'avx9'; it must be one of avx512, avx2, baseline"):
        mvc.export_model(Small().eval(), example(), "t.pt2", isa="avx9")


@pytest.fixture(scope="module", params=["avx2", pytest.param("baseline", marks=pytest.mark.slow)])
def package(request, tmp_path_factory) -> tuple[str, Path]:
    """A model with a scan as a package for less than most processors have."""
    if isa.obstacle(request.param):
        pytest.skip(f"needs {request.param}")
    path = tmp_path_factory.mktemp(request.param) / "small.pt2"
    mvc.export_model(Small().eval(), example(), path, dynamic=RANGE, isa=request.param)
    return request.param, path


def libraries(path: Path, folder: Path) -> list[Path]:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return [file for file in folder.rglob("*") if file.is_file() and file.read_bytes()[:4] == b"\x7fELF"]


def output(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs {command[0]}")
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


@pytest.mark.versions
def test_code_holds_no_larger_set(package, tmp_path):
    """Not in Inductor's code and not in the C++ ops beside it."""
    name, path = package
    found = libraries(path, tmp_path)
    assert len(found) == 2
    larger = {"avx2": ("%zmm", "{%k", "%ymm16", "%xmm16"), "baseline": ("%zmm", "{%k", "%ymm", "%xmm16")}[name]
    for library in found:
        code = output("objdump", "-d", "--no-show-raw-insn", library)
        assert not [register for register in larger if register in code], library.name
        assert ("%ymm" in code) == (name == "avx2"), library.name
        assert ("x86 ISA needed: x86-64-v3" in output("readelf", "-n", library)) == (name == "avx2")


@pytest.mark.slow
def test_a_model_without_a_scan_tells_its_level_too(tmp_path):
    if isa.obstacle("avx2"):
        pytest.skip("needs avx2")
    path = tmp_path / "linear.pt2"
    mvc.export_model(nn.Linear(8, 4).eval(), example(), path, dynamic=RANGE, isa="avx2", frozen=False)
    (library,) = libraries(path, tmp_path / "extracted")
    assert "x86 ISA needed: x86-64-v3" in output("readelf", "-n", library)


@pytest.mark.slow
def test_packages_of_two_sets_and_own_ops_in_one_process(package, tmp_path):
    """This process has the C++ ops of its own processor loaded; another one has those of two packages alone."""
    _, path = package
    own = tmp_path / "own.pt2"
    model = Small().eval()
    mvc.export_model(model, example(), own, dynamic=RANGE)
    assert cpu_scan.available()
    with torch.no_grad():
        expected = model(example())
    for each in (path, own):
        torch.testing.assert_close(mvc.export.load(each)(example()), expected, rtol=1e-4, atol=1e-5)
    torch.save((example(), expected), tmp_path / "call.pt")
    for order in ((path, own), (own, path)):
        command = [sys.executable, "-c", BOTH, str(tmp_path / "call.pt"), *map(str, order)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


BOTH = """
import sys, torch
sys.modules["mvc"] = None
x, expected = torch.load(sys.argv[1])
for turn in range(2):  # the first turn's are closed: what they registered stays
    for path in sys.argv[2:]:
        run = torch._inductor.aoti_load_package(path)
        torch.testing.assert_close(run(x), expected, rtol=1e-4, atol=1e-5)
        del run
"""
