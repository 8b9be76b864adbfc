"""Turns a request into a folder of wrappers, kernels, binaries and the manifest, made in processes of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock

from mvc import __version__
from mvc.errors import UserError
from mvc.offline import child, device
from mvc.offline.manifest import FORMAT, Kernel, Launch, Manifest, Memory, Request
from mvc.offline.targets import Target

TIMEOUT = 1200.0  # seconds of each process


def generate(request: Request, target: Target, folder: Path, *, kernels: bool = True, sass: bool = False) -> Manifest:
    """Generate a model's code for a card and compile its kernels, into a folder that holds nothing else.

    The folder then holds `manifest.json`; `forward.py` and, in training, `backward.py`: Inductor's wrappers;
    `constants.py`: with frozen weights, what is computed once; `kernels/`: each kernel's source; `cubins/`: a binary
    for each of its configurations.

    Args:
        folder: made if it does not exist. The folder of an earlier run, which is known by its manifest, is removed with
            everything in it once the new one is whole; until then, and in case of failure, it stays as it is.
        kernels: compile the kernels too; otherwise the manifest has no binaries.
        sass: count the instructions of each binary.

    Raises:
        UserError: the folder holds something else or cannot be written, this machine cannot generate code
            (`device.why_not`), or the model cannot be compiled.
    """
    _refuse_foreign(folder)
    device.require()
    with _replacing(folder.resolve()) as made:
        manifest = _generated(request, target, made, kernels=kernels, sass=sass)
        text = json.dumps(manifest.as_dict(), indent=1) + "\n"
        (made / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that cannot be replaced.

    Raises:
        UserError: the folder holds something that `generate` did not make.
    """
    try:
        here = Path.cwd()
        if folder.resolve() in (here, *here.parents):
            raise UserError(f"folder is '{folder}', in which this process runs; name another")
        if folder.exists() and any(folder.iterdir()) and not _has_manifest(folder):
            raise UserError(f"folder is '{folder}', which holds other files than generated code; name a new one")
    except OSError as error:
        raise UserError(f"folder is '{folder}', which cannot be used ({error.strerror}); name another") from error


def _has_manifest(folder: Path) -> bool:
    """Whether `generate` made the folder, in this version or another."""
    try:
        facts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return facts["format"].startswith(FORMAT.partition("/")[0] + "/")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces all of `folder` when the block ends; of several processes, the last wins.

    A process that is killed meanwhile may leave the old folder beside it, under a name that begins with a dot.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(f"folder is '{folder}', which cannot be made ({error.strerror}); name another") from error
    with beside as name:
        made = Path(name) / folder.name
        made.mkdir()
        yield made
        try:
            with FileLock(folder.with_name(f".{folder.name}.lock")):
                _take_place(made, folder)
        except OSError as error:
            raise UserError(f"folder is '{folder}', which cannot be replaced ({error.strerror})") from error


def _take_place(made: Path, folder: Path) -> None:
    _refuse_foreign(folder)  # one that has appeared meanwhile
    old = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, old)
    os.rename(made, folder)
    shutil.rmtree(old, ignore_errors=True)


def _generated(request: Request, target: Target, folder: Path, *, kernels: bool, sass: bool) -> Manifest:
    """Fill an empty folder with everything but the manifest."""
    import triton

    with tempfile.TemporaryDirectory(prefix="mvc-offline-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        asked = json.dumps(dataclasses.asdict(request))
        launches_file, kernels_file = scratch / "launches.json", scratch / "kernels.json"
        _run(["mvc.offline.codegen", asked, str(folder), str(launches_file)], target, scratch)
        binaries = {}
        if kernels:
            options = ["sass"] if sass else []
            _run(["mvc.offline.kernels", str(folder), target.name, str(kernels_file), *options], target, scratch)
            binaries = {key: Kernel(**facts) for key, facts in json.loads(kernels_file.read_text()).items()}
        facts = json.loads(launches_file.read_text())
    return Manifest(
        target=target.name,
        device=device.present(target) or "stand-in",
        model=request,
        versions={"torch": torch.__version__, "triton": triton.__version__, "mvc": __version__},
        launches=tuple(_with_binaries(each, binaries) for each in facts["launches"]),
        kernels=binaries,
        interfaces=facts["interfaces"],
        inputs=facts["inputs"],
        memory=facts["memory"] and Memory(**facts["memory"]),
    )


def _run(module: list[str], target: Target, scratch: Path) -> None:
    stand_in = device.present(target) is None
    done = device.run(["-m", *module], target, scratch=scratch, timeout=TIMEOUT, stand_in=stand_in)
    if done.returncode:
        raise UserError(f"generating code for {target.name} failed: {child.reason(done)}")


def _with_binaries(facts: dict, kernels: dict[str, Kernel]) -> Launch:
    """A launch with the names of its kernel's binaries, one for each configuration that autotuning may choose."""
    names = tuple(
        name for kernel in facts["kernels"] for name in kernels if name.startswith(f"{facts['phase']}_{kernel}-")
    )
    lists = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
    return Launch(**{**facts, **lists, "kernels": names})
