"""mvc → passes → kernels, never back, and no optimised scan imports the reference."""

from __future__ import annotations

import ast
import graphlib
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


def imports(tree: ast.AST, package: str = "") -> set[str]:
    """Every module or member that the code imports, by its full name.

    Args:
        package: of the code, where its imports may be relative to it.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= bool(package), f"line {node.lineno}: import by the full name"
            source = ".".join([package] * node.level + [node.module] * bool(node.module))
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


# The process of a case is imported under another name, beside another mvc.
RELATIVE = ROOT / "mvc" / "regress" / "process"


def package_of(path: Path) -> str:
    return module(path.parent) if path.parent == RELATIVE else ""


def of_file(path: Path) -> set[str]:
    return imports(ast.parse(path.read_text(encoding="utf-8")), package_of(path))


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
ROOMS = {"graph": (), "raising": ("graph",), "fusing": ("graph",), "lowering": ("graph",), "frozen": ("graph",)}


@pytest.mark.parametrize("path", [p for p in PASSES if p.parent.name in ROOMS], ids=lambda path: path.stem)
def test_passes_import_what_their_folder_may(path):
    room = path.parent.name
    others = [f"mvc.passes.{each}" for each in ROOMS if each != room and each not in ROOMS[room]]
    assert {name for name in of_file(path) if within(name, *others)} == set()


def test_every_folder_of_passes_has_a_rule():
    folders = {path.parent.name for path in PASSES if path.parent != ROOT / "passes"}
    assert folders == ROOMS.keys()


def test_only_a_public_function_imports_its_reference():
    references = [path for path in KERNELS if path.stem == "reference"]
    assert references
    for reference in references:
        users = [p for p in MVC + KERNELS + PASSES if any(within(n, f"mvc.{module(reference)}") for n in of_file(p))]
        assert users == [reference.with_name("api.py")]


def at_import(path: Path) -> set[str]:
    """What a module imports when it is imported itself."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    nodes = (node for node in body if not isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    return set().union(*(imports(node, package_of(path)) for node in nodes))


@pytest.mark.parametrize("path", sorted(RELATIVE.glob("*.py")), ids=lambda path: path.stem)
def test_the_process_of_a_case_needs_mvc_for_its_own_cases_alone(path):
    """Others' sources, and an older mvc's, have none that it knows."""
    found = {name for name in of_file(path) if within(name, "mvc") and not within(name, module(RELATIVE))}
    assert found == ({"mvc"} if path.stem == "models" else set())
    assert not {name for name in at_import(path) if within(name, "mvc") and not within(name, module(RELATIVE))}


def test_no_module_of_the_kernels_needs_itself():
    """Each can be imported first; a package of another folder counts among what a module needs."""
    files = {f"mvc.{module(path)}": path for path in KERNELS}
    needs = {name: set() for name in files}
    for name, path in files.items():
        for other in at_import(path):
            found = next((each for each in (other, other.rpartition(".")[0]) if each in files), None)
            package = found and found.rpartition(".")[0]
            needs[name] |= {each for each in (found, package) if each in files and not within(name, each)}
    graphlib.TopologicalSorter(needs).prepare()


@pytest.mark.parametrize("path", [path for path in MVC + KERNELS + PASSES if path not in TRITON], ids=lambda p: p.stem)
def test_backends_are_loaded_late(path):
    """reference.py never; others but the backends' own modules not when they are imported."""
    names = of_file(path) if path.stem == "reference" else at_import(path)
    assert {name for name in names if within(name, *BACKENDS)} == set()


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
