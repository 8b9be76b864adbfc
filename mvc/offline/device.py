"""A stand-in for one GPU, for processes that generate code: torch sees the card, and nothing can be launched on it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from mvc.errors import UserError
from mvc.kernels import cache
from mvc.offline import child
from mvc.offline.targets import Target

SOURCES = Path(__file__).parent / "csrc"
LIBRARIES = {"driver.c": "libcuda.so.1", "runtime.c": "libstandin_cudart.so"}
BUILD_TIMEOUT = 120.0  # seconds of each library
TORCH_VERSIONS = ("2.14",)  # of the versions that mvc supports, the one whose private API is used here
TRITON_VERSIONS = ("3.8",)


@functools.cache
def why_not() -> str | None:
    """Why no code can be generated on this machine, in one sentence; None where it can."""
    if not sys.platform.startswith("linux"):
        return f"the stand-in device is preloaded as on Linux; this is {sys.platform}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; install a CUDA build of torch, or triton for Linux"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build, which needs no GPU"
    import triton

    for name, version, known in (
        ("torch", torch.__version__, TORCH_VERSIONS),
        ("triton", triton.__version__, TRITON_VERSIONS),
    ):
        if not version.startswith(tuple(f"{each}." for each in known)):
            return f"{name} is {version}; offline code needs {name} {' or '.join(known)}, whose private API it uses"
    if torch.version.cuda.partition(".")[0] != (headers := _cuda_of_headers()):
        return (
            f"torch {torch.__version__} is built for CUDA {torch.version.cuda} and triton's headers are of CUDA "
            f"{headers}; install a torch for CUDA {headers}"
        )
    if shutil.which(_compiler()[0]) is None:
        return f"there is no C compiler {_compiler()[0]!r}; install gcc or clang, or set CC"
    return None


def require() -> None:
    """Refuse machines on which no code can be generated.

    Raises:
        UserError: see `why_not`.
    """
    if (reason := why_not()) is not None:
        raise UserError(reason)


def present(target: Target) -> str | None:
    """The name of this machine's GPU, if that is of the target's architecture."""
    if torch.cuda.is_available() and torch.cuda.get_device_capability() == target.capability:
        return torch.cuda.get_device_name()
    return None


def run(
    arguments: Sequence[str],
    target: Target,
    *,
    scratch: Path,
    timeout: float,
    stand_in: bool = True,
    launches: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run Python with the stand-in for a card in front of CUDA.

    The caches of Inductor and Triton are in `scratch`, since processes with a real GPU must not find what is made here.

    Args:
        arguments: for Python: -m MODULE and so on.
        scratch: a folder for the process's caches and temporary files.
        timeout: seconds.
        stand_in: use the stand-in; otherwise this machine's own GPU.
        launches: let launches on the stand-in succeed without doing anything, to measure what they cost the host.
            Otherwise they are refused. Results computed with them are meaningless.

    Raises:
        UserError: the libraries cannot be built, or the process took longer.
    """
    environment = child.environment(scratch)
    if stand_in:
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        environment.update(_stand_in(target), MVC_STANDIN_LAUNCHES=str(int(launches)))
    command = [sys.executable, *arguments]
    try:
        return child.run(command, env=environment, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"generating code took longer than {timeout:.0f} s and was stopped") from error


def toolkit(folder: Path) -> Path:
    """A folder that serves as CUDA_HOME where C++ is compiled and linked against CUDA: the headers that come with
    triton, and the stand-in's driver, which has the name of the real one.

    Args:
        folder: an empty one.
    """
    headers, library = folder / "include", folder / "lib64" / "libcuda.so"
    (headers / "nv").mkdir(parents=True)
    library.parent.mkdir()
    library.symlink_to(_libraries() / "libcuda.so.1")
    for header in _include().iterdir():
        (headers / header.name).symlink_to(header)
    (headers / "nv" / "target").symlink_to(SOURCES / "host_target.h")
    return folder


def _stand_in(target: Target) -> dict[str, str]:
    """The environment in which the stand-in for a card replaces CUDA."""
    libraries = _libraries()
    card = {
        "NAME": target.card,
        "MAJOR": target.capability[0],
        "MINOR": target.capability[1],
        "SMS": target.sms,
        "SHARED_SM": target.shared_sm,
        "SHARED_BLOCK": target.shared_block,
        "L2": target.l2,
        "MEMORY": target.memory,
    }
    return {
        **{f"MVC_STANDIN_{key}": str(value) for key, value in card.items()},
        "LD_PRELOAD": str(libraries / "libstandin_cudart.so"),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, (str(libraries), os.environ.get("LD_LIBRARY_PATH")))),
        "TRITON_LIBCUDA_PATH": str(libraries),
    }


def _cuda_of_headers() -> str:
    """The major version of the CUDA whose runtime the stand-in replaces."""
    text = (_include() / "cuda_runtime_api.h").read_text(encoding="utf-8", errors="replace")
    return str(int(re.search(r"#define CUDART_VERSION\s+(\d+)", text)[1]) // 1000)


def _include() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "include"


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def _libraries() -> Path:
    """The folder with both libraries, built once for each triton with that triton's headers."""
    require()
    import triton

    digest = hashlib.sha256(triton.__version__.encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    name = f"standin-{digest.hexdigest()[:16]}"
    try:
        folder = next(cache.find(name), None) or cache.update(name, _build)
    except OSError as error:
        raise UserError(f"the cache {cache.folder()} cannot be written: {error}; set MVC_CACHE_DIR") from error
    if re.search(r"[\s:]", str(folder)):
        raise UserError(
            f"the cache is {folder.parent}, whose name LD_PRELOAD would split; set MVC_CACHE_DIR to another"
        )
    return folder


def _build(folder: Path) -> None:
    """Build in a temporary folder, which is then renamed unless another process has built the libraries meanwhile."""
    if os.access(folder, os.R_OK):
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-build-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        for source, library in LIBRARIES.items():
            flags = ["-shared", "-fPIC", "-O1", f"-Wl,-soname,{library}", f"-I{_include()}"]
            command = [*_compiler(), *flags, "-o", str(made / library), str(SOURCES / source)]
            try:
                done = child.run(command, timeout=BUILD_TIMEOUT)
            except subprocess.TimeoutExpired as error:
                late = f"{command[0]} took longer than {BUILD_TIMEOUT:.0f} s"
                raise UserError(f"the stand-in device cannot be built: {late}") from error
            if done.returncode:
                reason = next(iter(done.stderr.strip().splitlines()), "no message")
                raise UserError(f"the stand-in device cannot be built: {reason}")
        cache.replace(made, folder)
