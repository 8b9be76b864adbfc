"""Building, caching and loading the C++ scan; the library in a process without this project."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from places import ROOT
from scan_cases import Case, make_inputs, op_arguments, require_cpp

from mvc.kernels import cpu_scan

USE = """
import warnings, torch
from mvc import selective_scan
u, A, B = torch.randn(2, 9, 5), -torch.rand(5, 3), torch.randn(2, 9, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = [selective_scan(u, u.abs(), A, B, B) for _ in range(2)][0]
torch.testing.assert_close(y, selective_scan(u, u.abs(), A, B, B, impl="reference"), rtol=1e-5, atol=1e-5)
from mvc.kernels import cpu_scan
print(cpu_scan.available(), *(str(w.message) for w in caught), sep="\\n")
"""


def start(code: str, cache: Path, **environ: str) -> subprocess.Popen[str]:
    # The private folder, below that for temporary files, may hold what an earlier process of this user built.
    places = {"MVC_CACHE_DIR": str(cache), "TMPDIR": str(cache)}
    env = {**os.environ, **places, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines()


@pytest.mark.slow
def test_killed_and_simultaneous_builders(tmp_path):
    """One builder is killed midway; two others, at once, then build the library once between them."""
    require_cpp()
    killed = start(USE, tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*-build-*/*.ninja*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list(tmp_path.glob("*.so")), "the builder was too fast to be killed"
    both = [start(USE, tmp_path) for _ in range(2)]
    assert [finish(process) for process in both] == [["True"], ["True"]]
    assert len(list(tmp_path.glob("*.so"))) == 1


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        ({"CXX": "no-such-compiler"}, "there is no C++ compiler 'no-such-compiler'"),
        ({"CXX": "no-such-launcher g++"}, "there is no C++ compiler 'no-such-launcher'"),
        ({"CXX": "g++ '-pipe"}, "which is no command: No closing quotation"),
        ({"CXX": "false"}, "build failed"),
        ({"CXX": "env g++ --no-such-option"}, "error: unrecognized command-line option"),
    ],
    ids=["no-compiler", "no-launcher", "open-quote", "failing-compiler", "wrong-flag"],
)
def test_fallback_warns_once_and_names_the_cause(environ, cause, tmp_path):
    available, warning = finish(start(USE, tmp_path, **environ))
    assert available == "False"
    assert warning.startswith("the C++ scan cannot be used (")
    assert cause in warning
    assert "chunked" in warning


def test_key_follows_sources_torch_and_capability(monkeypatch, tmp_path):
    keys = [cpu_scan._key()]
    for change in ("source", "version", "capability"):
        with monkeypatch.context() as patch:
            if change == "source":
                (tmp_path / "other.cpp").write_text("// another")
                patch.setattr(cpu_scan, "SOURCES", tmp_path)
            elif change == "version":
                patch.setattr(torch, "__version__", "0")
            else:
                patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
            keys.append(cpu_scan._key())
    assert len(set(keys)) == len(keys)
    assert cpu_scan._key() == keys[0]


def test_key_follows_the_flags_in_CXX_alone(monkeypatch):
    keys = {}
    for value in ("", "c++", "/opt/my\\ tools/g++", "ccache g++", "g++ -O0", "ccache g++ -O0", "g++ -O0 -pipe"):
        monkeypatch.setenv("CXX", value)
        keys[value] = cpu_scan._key()
    assert len({keys[value] for value in ("", "c++", "/opt/my\\ tools/g++", "ccache g++")}) == 1
    assert keys["g++ -O0"] == keys["ccache g++ -O0"]
    assert len(set(keys.values())) == 3


def test_CXX_is_taken_apart_as_a_shell_does(monkeypatch, tmp_path):
    """A launcher in a folder with a space in its name, a compiler, and flags that the source needs."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    launcher = tmp_path / "my tools" / "launch"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/launched\nexec "$@"\n')
    launcher.chmod(0o755)
    source = tmp_path / "source.cpp"
    visible = '__attribute__((visibility("default")))'
    source.write_text(
        f'#ifndef GIVEN\n#error "no flags"\n#endif\nextern "C" {visible} int given() {{ return GIVEN; }}\n'
    )
    monkeypatch.setenv("CXX", f"'{launcher}' g++ -pipe -DGIVEN='(20 + 3)'")
    cpu_scan.compile_library(source, tmp_path / "library.so")
    assert ctypes.CDLL(str(tmp_path / "library.so")).given() == 23
    assert set((tmp_path / "launched").read_text().split()) == {"g++"}


x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets by name are x86's")
SHORT = """
#include "vector_math.h"
namespace mvc {
__attribute__((visibility("default"))) void f(float* x) { softplus(Vec::loadu(x)).store(x); }
}
"""
LEVELS = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}


def run(*command: object) -> subprocess.CompletedProcess[str]:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs {command[0]}")
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def short_library(folder: Path, capability: str | None = None) -> Path:
    source, path = folder / "short.cpp", folder / "libshort.so"
    source.write_text(SHORT)
    cpu_scan.compile_library(source, path, capability=capability, soname=path.name)
    return path


@x86
@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
def test_code_for_an_instruction_set_holds_no_larger_one(capability, tmp_path):
    """What the compiler made of the scan's vectors, and what the file tells the system that it needs."""
    if capability == "AVX2" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("needs AVX2")
    path = short_library(tmp_path, capability)
    code, notes, dynamic = (
        run(*tool, path).stdout for tool in (("objdump", "-d"), ("readelf", "-n"), ("readelf", "-d"))
    )
    assert "zmm" not in code
    assert ("ymm" in code) == (capability == "AVX2")
    level = LEVELS.get(capability)
    assert f"x86 ISA needed: {level}" in notes if level else "ISA needed" not in notes
    assert "[libshort.so]" in dynamic, "no SONAME"
    assert "NODELETE" in dynamic


@x86
def test_the_system_refuses_a_library_whose_instructions_are_missing(tmp_path):
    """The note of a library, changed to a level that no processor has: a message, and no illegal instruction."""
    if (capability := torch.backends.cpu.get_cpu_capability()) not in LEVELS:
        pytest.skip("needs AVX2")
    path = short_library(tmp_path, capability)
    content = path.read_bytes()
    head = struct.pack("<II", 0xC0008002, 4)  # GNU_PROPERTY_X86_ISA_1_NEEDED and its size
    at = content.index(head) + len(head)
    path.chmod(0o600)
    path.write_bytes(content[:at] + struct.pack("<I", 1 << 30) + content[at + 4 :])
    with pytest.raises(OSError, match=r"libshort\.so: CPU ISA level is lower than required"):
        ctypes.CDLL(str(path))


@x86
@pytest.mark.parametrize(("capability", "said"), [("AVX512", "AVX-512 (F, BW, DQ, VL)"), ("AVX2", "AVX2 and FMA")])
def test_a_system_that_looks_at_no_levels_ends_with_a_sentence(capability, said, tmp_path):
    """The check before all other code of a library, as a processor meets it that has none of what is asked for."""
    source, path = tmp_path / "check.cpp", tmp_path / "check.so"
    source.write_text('#include "processor.h"\n')
    flags = (
        *cpu_scan._flags(capability),
        "-D__builtin_cpu_supports(name)=0",
        "-I",
        cpu_scan.SOURCES,
        "-fPIC",
        "-shared",
    )
    built = run("g++", *flags, source, "-o", path)
    assert built.returncode == 0, built.stderr
    code = run("objdump", "-d", path).stdout
    assert "check_processor" in run("nm", "-C", path).stdout
    assert not [register for register in ("%xmm", "%ymm", "%zmm") if register in code]
    done = run(sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", path)
    assert done.returncode == -signal.SIGABRT
    assert f"needs {said}, which this processor lacks" in done.stderr


COPIES = """
import sys, torch
for path in sys.argv[2:]:
    torch.ops.load_library(path)
arguments, expected = torch.load(sys.argv[1])
for actual, wanted in zip(torch.ops.mvc.selective_scan_cpu(*arguments), expected, strict=True):
    torch.testing.assert_close(actual, wanted)
"""


def test_two_libraries_in_one_process(tmp_path):
    """Another build, as a package brings it: the ops of the first one serve."""
    require_cpp()
    own, name = cpu_scan.library_path(), cpu_scan.soname().encode()
    other = tmp_path / "other.so"
    other.write_bytes(own.read_bytes().replace(name, name[::-1]))  # otherwise the system takes it for the same one
    arguments = op_arguments(make_inputs(Case(length=70, groups=2)))
    torch.save((arguments, torch.ops.mvc.selective_scan_cpu(*arguments)), tmp_path / "calls.pt")
    done = run(sys.executable, "-c", COPIES, tmp_path / "calls.pt", own, other)
    assert done.returncode == 0, done.stderr


ALONE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
arguments, expected = torch.load(sys.argv[2])
for actual, wanted in zip(torch.ops.mvc.selective_scan_cpu(*arguments), expected, strict=True):
    assert torch.equal(actual, wanted)
if len(sys.argv) > 3:
    y = torch._inductor.aoti_load_package(sys.argv[3])(*(t for t in arguments if isinstance(t, torch.Tensor)))
    torch.testing.assert_close(y, expected[0] + 1)
assert not any(name == "mvc" or name.startswith("mvc.") for name in sys.modules)
"""


def run_alone(folder: Path, *more: str) -> None:
    arguments = op_arguments(make_inputs(Case(length=70, groups=2)))
    expected = torch.ops.mvc.selective_scan_cpu(*arguments)
    torch.save((arguments, expected), folder / "calls.pt")
    command = [sys.executable, "-c", ALONE, str(cpu_scan.library_path()), str(folder / "calls.pt"), *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_library_in_a_process_without_mvc(tmp_path):
    require_cpp()
    run_alone(tmp_path)


class Scan(torch.nn.Module):
    def __init__(self, arguments):
        super().__init__()
        self.flags = [None if isinstance(a, torch.Tensor) else a for a in arguments]

    def forward(self, *tensors):
        given = iter(tensors)
        arguments = (next(given) if flag is None else flag for flag in self.flags)  # all tensors are there
        return torch.ops.mvc.selective_scan_cpu(*arguments)[0] + 1


@pytest.mark.slow
def test_aotinductor_package_in_a_process_without_mvc(tmp_path):
    require_cpp()
    arguments = op_arguments(make_inputs(Case(length=70, groups=2)))
    tensors = tuple(a for a in arguments if isinstance(a, torch.Tensor))
    program = torch.export.export(Scan(arguments), tensors)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "scan.pt2"))
    run_alone(tmp_path, package)
