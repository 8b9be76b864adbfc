"""mvc → passes → kernels, never back, and no optimised scan imports the reference."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

KERNELS = sorted((ROOT / "kernels").rglob("*.py"))
PASSES = sorted((ROOT / "passes").rglob("*.py"))
MVC = sorted((ROOT / "mvc").rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TRITON = [path for path in KERNELS if path.stem.startswith("triton_")]
# Imported on first use, inside a function.
BACKENDS = ("triton", "torch.utils.cpp_extension", "mvc.kernels.cpu_scan", *(f"mvc.{module(p)}" for p in TRITON))


def imports(tree: ast.AST) -> set[str]:
    """Every module or member that the code imports, by its full name."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import by the full name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def of_file(path: Path) -> set[str]:
    return imports(ast.parse(path.read_text(encoding="utf-8")))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_imports_are_found():
    assert imports(ast.parse("import a.b\ndef f():\n  from mvc.kernels.scan import reference as r")) == {
        "a.b",
        "mvc.kernels.scan.reference",
    }
    assert KERNELS
    assert PASSES


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels_import_no_other_layer(path):
    assert {name for name in of_file(path) if within(name, "mvc") and not within(name, "mvc.kernels")} == set()


@pytest.mark.parametrize("path", PASSES, ids=lambda path: path.stem)
def test_passes_import_kernels_at_most(path):
    allowed = ("mvc.kernels", "mvc.passes")
    assert {name for name in of_file(path) if within(name, "mvc") and not within(name, *allowed)} == set()


# What the modules of each folder of passes may import of the others: what is known of graphs stands below all passes,
# and what is fused does not depend on how scans are raised.
ROOMS = {"graph": (), "raising": ("graph",), "fusing": ("graph",), "frozen": ("graph",)}


@pytest.mark.parametrize("path", [p for p in PASSES if p.parent.name in ROOMS], ids=lambda path: path.stem)
def test_passes_import_what_their_folder_may(path):
    room = path.parent.name
    others = [f"mvc.passes.{each}" for each in ROOMS if each != room and each not in ROOMS[room]]
    assert {name for name in of_file(path) if within(name, *others)} == set()


def test_every_folder_of_passes_has_a_rule():
    folders = {path.parent.name for path in PASSES if path.parent != ROOT / "passes"}
    assert folders == ROOMS.keys()


@pytest.mark.parametrize("path", MVC + KERNELS + PASSES, ids=lambda path: path.stem)
def test_only_the_public_function_imports_the_reference(path):
    users = {name for name in of_file(path) if within(name, "mvc.kernels.scan.reference")}
    assert not users or path == ROOT / "kernels" / "scan" / "api.py"


@pytest.mark.parametrize("path", [path for path in MVC + KERNELS + PASSES if path not in TRITON], ids=lambda p: p.stem)
def test_backends_are_loaded_late(path):
    """reference.py never; others but the backends' own modules not when they are imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_import = imports(tree) if path.stem == "reference" else set()
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            at_import |= imports(node)
    assert {name for name in at_import if within(name, *BACKENDS)} == set()


def test_the_ops_load_without_a_backend():
    """Registering, and running what needs none, works where none can be imported."""
    code = f"""
import sys
sys.modules |= dict.fromkeys({BACKENDS!r})
import mvc, mvc.kernels.ops, mvc.kernels.scan, torch
u, A, B = torch.ones(1, 3, 2, dtype=torch.float64), torch.ones(2, 4), torch.ones(1, 3, 4)
mvc.kernels.scan.selective_scan(u, u, A, B, B)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
