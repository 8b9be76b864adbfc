"""From a request to a folder: wrappers, kernels, binaries and the manifest, made in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import torch

from mvc import __version__, files
from mvc.errors import UserError
from mvc.offline import device
from mvc.offline.codegen import Request
from mvc.offline.manifest import Kernel, Launch, Manifest
from mvc.offline.targets import Target

TIMEOUT = 1200.0  # seconds of each process


def generate(request: Request, target: Target, folder: Path, *, kernels: bool = True, sass: bool = False) -> Manifest:
    """Generate a model's code for a card and compile its kernels; the folder then holds `manifest.json` and

    `forward.py` and, in training, `backward.py`: Inductor's wrappers; `constants.py`: with frozen weights, what is
    computed once; `kernels/`: each kernel's source; `cubins/`: a binary for each of its configurations.

    Args:
        folder: made if it is not there; files of an earlier run are replaced.
        kernels: compile them too; without, the manifest has no binaries.
        sass: count the instructions of each binary.

    Raises:
        UserError: this machine cannot (`device.why_not`), or the model cannot be compiled.
    """
    import triton

    device.require()
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error.strerror}") from error
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
    manifest = Manifest(
        target=target.name,
        device=device.present(target) or "stand-in",
        model=dataclasses.asdict(request),
        versions={"torch": torch.__version__, "triton": triton.__version__, "mvc": __version__},
        launches=tuple(_with_binaries(each, binaries) for each in facts["launches"]),
        kernels=binaries,
        interfaces=facts["interfaces"],
        inputs=facts["inputs"],
    )
    files.replace(folder / "manifest.json", json.dumps(manifest.as_dict(), indent=1) + "\n")
    return manifest


def _run(module: list[str], target: Target, scratch: Path) -> None:
    stand_in = device.present(target) is None
    done = device.run(["-m", *module], target, scratch=scratch, timeout=TIMEOUT, stand_in=stand_in)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"generating code for {target.name} failed: {lines[-1]}")


def _with_binaries(facts: dict, kernels: dict[str, Kernel]) -> Launch:
    """A launch with the names of its kernel's binaries, one for each configuration that autotuning may choose."""
    names = tuple(
        name for kernel in facts["kernels"] for name in kernels if name.startswith(f"{facts['phase']}_{kernel}-")
    )
    lists = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
    return Launch(**{**facts, **lists, "kernels": names})
