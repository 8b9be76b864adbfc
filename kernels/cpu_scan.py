"""Builds the C++ kernels, once for each machine and torch, and loads them.

They are `mvc::selective_scan_cpu` and `mvc::linear_recurrence_cpu`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import torch

from mvc.kernels import cache
from mvc.kernels.recurrence import ops as recurrence_ops
from mvc.kernels.scan import fast_path
from mvc.kernels.scan.rules import register_fakes, register_rules
from mvc.kernels.schemas import op

OP = "selective_scan_cpu"
SOURCES = Path(__file__).parent / "csrc"
# What at::vec needs for vectors of the processor's width; except on x86, they are the compiler's default.
VECTOR_FLAGS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
}
# What the system's loader compares with the processor before it runs any of the library's code.
NEEDED_LEVELS = {"AVX512": ["-Wl,-z,x86-64-v4"], "AVX2": ["-Wl,-z,x86-64-v3"]}
# Runs in a process of its own, so that torch's build state and PATH here stay as they are.
BUILD = "import json, sys; from torch.utils.cpp_extension import load; load(**json.loads(sys.argv[1]))"

_loading = threading.Lock()


class BuildError(RuntimeError):
    """The library could not be built; the message says why in one line."""


@functools.cache
def available() -> bool:
    """Whether `mvc::selective_scan_cpu` can be called; loads it when first asked, warns once where that fails."""
    try:
        load()
    except (BuildError, OSError) as error:
        why = f"the C++ scan cannot be used ({error}); the chunked scan runs in its place, correct but slower"
        warnings.warn(why, stacklevel=2)
        return False
    return True


def load() -> None:
    """Define `mvc::selective_scan_cpu`, its backward and `mvc::linear_recurrence_cpu` in this process, with all that
    their Python users need.

    Raises:
        BuildError: there is no library yet and it cannot be built. OSError: it cannot be loaded.
    """
    with _loading:
        _load_once()


@functools.cache
def _load_once() -> None:
    if not hasattr(torch.ops.mvc, OP):  # someone may have loaded the file already
        torch.ops.load_library(library_path())
    register_fakes(OP)
    register_rules(OP)
    fast_path.register(OP, op(OP), op(OP, backward=True))
    recurrence_ops.register_fake("linear_recurrence_cpu", "cpp")
    recurrence_ops.register_rules("linear_recurrence_cpu")


def library_path(capability: str | None = None) -> Path:
    """The shared library's file, built if it is not there yet.

    It lies in the folder of `mvc.kernels.cache` and needs torch alone: a process that loads it with
    `torch.ops.load_library` can call the ops, or run an AOTInductor package that does.

    Args:
        capability: "AVX512", "AVX2" or "DEFAULT", as `torch.backends.cpu.get_cpu_capability` names what a processor
            has; None is this one's. The system's loader refuses the library on a processor that has less.

    Raises:
        BuildError: there is none yet and it cannot be built.
    """
    name = f"selective_scan-{_key(capability)}.so"
    for path in cache.find(name):
        return path
    try:
        return cache.update(name, functools.partial(_build_once, capability=capability))
    except OSError as error:
        raise BuildError(f"the cache {cache.folder()} cannot be written: {error}; set MVC_CACHE_DIR") from error


def soname(capability: str | None = None) -> str:
    """The name by which other libraries link the library; one that a process has loaded serves them all."""
    return f"libmvc-{_key(capability)}.so.1"


def _flags(capability: str | None = None) -> list[str]:
    capability = capability or torch.backends.cpu.get_cpu_capability()
    defines = [f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}"]
    common = ["-O3", "-fopenmp", "-ffp-contract=off", "-fvisibility=hidden"]
    return [*common, *defines, *VECTOR_FLAGS.get(capability, [])]


def _compiler() -> list[str]:
    """The program and its arguments, from CXX as a shell would take it apart: "ccache g++", "g++ -pipe"."""
    value = os.environ.get("CXX", "")
    try:
        return shlex.split(value) or ["c++"]
    except ValueError as error:
        raise BuildError(f"CXX is {value!r}, which is no command: {error}") from error


def _key(capability: str | None = None) -> str:
    """What decides whether a library fits: its sources, torch, and the flags, CXX's too, with the processor's
    capability. Which compiler it was does not: its code computes the same."""
    own = [*itertools.dropwhile(lambda argument: not argument.startswith("-"), _compiler())]
    digest = hashlib.sha256(json.dumps([_flags(capability), own, torch.__version__]).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _build_once(path: Path, *, capability: str | None) -> None:
    if os.access(path, os.R_OK):
        return  # another process has built it while this one waited for the lock
    for stale in path.parent.glob(f"{path.stem}-build-*"):  # of builders that were killed: the lock is ours
        shutil.rmtree(stale, ignore_errors=True)
    print("mvc: building the C++ scan, once (less than a minute) ...", file=sys.stderr, flush=True)
    compile_library(SOURCES / "selective_scan.cpp", path, capability=capability, soname=soname(capability))


def compile_library(source: Path, path: Path, *, capability: str | None = None, soname: str = "library.so") -> None:
    """Compile `source` as the scan is, its headers at hand, into the shared library `path`.

    It is built in a folder beside `path` and then renamed: a process that is killed leaves no half-written library.

    Args:
        capability: as of `library_path`.
        soname: the name by which other libraries link it.

    Raises:
        BuildError: there is no compiler, or it fails.
    """
    import ninja

    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        raise BuildError(f"there is no C++ compiler {compiler[0]!r}; install g++ or clang, or set CXX")
    capability = capability or torch.backends.cpu.get_cpu_capability()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.stem}-build-") as folder:
        options = {
            "name": "library",
            "sources": [str(source)],
            "extra_cflags": _flags(capability),
            "extra_include_paths": [str(SOURCES)],
            "extra_ldflags": [
                *("-fopenmp", "-Wl,--as-needed"),  # not libtorch_python, which torch adds
                *(f"-Wl,-soname,{soname}", "-Wl,-z,nodelete"),  # its ops stay when a package that linked it goes
                *NEEDED_LEVELS.get(capability, []),
            ],
            "build_directory": folder,
            "is_python_module": False,
        }
        environment = {
            **os.environ,
            "CXX": _as_one_program(compiler, Path(folder)),
            "PATH": os.pathsep.join((ninja.BIN_DIR, os.environ.get("PATH", ""))),
        }
        command = [sys.executable, "-c", BUILD, json.dumps(options)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        built = Path(folder) / "library.so"
        if done.returncode or not built.exists():
            raise BuildError(f"its build failed: {_cause(done.stdout + done.stderr)}")
        cache.replace(built, path)


def _as_one_program(command: list[str], folder: Path) -> str:
    """torch's builds take the whole of CXX for a program's name: where it has arguments, a script in `folder`."""
    if len(command) == 1:
        return command[0]
    script = folder / "compiler"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    return str(script)


def _cause(output: str) -> str:
    """The line of a failed build that says most."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = (line for word in ("error: ", "Error") for line in lines if word in line)  # a compiler's, then Python's
    return next(named, lines[-1] if lines else "no output")
