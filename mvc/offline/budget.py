"""Budgets: exactly what generated code may launch, move and need: a file for an architecture, an entry for a model."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from filelock import FileLock

from mvc import files
from mvc.errors import UserError
from mvc.offline import targets
from mvc.offline.manifest import Launch, Manifest, Request

FORMAT = "mvc.budget/2"
Entry = dict[str, Any]  # what `measured` returns
ENFORCED = ("torch", "triton")  # other versions of these generate other code
MOVED = tuple(f"{kind} bytes" for kind in ("triton", "own", "extern"))
COUNTED = (*MOVED, "kernels", "largest registers", "spills")
LINE = re.compile(r"(\w\.py):\d+:")


def key(model: Request) -> str:
    """The name of an entry: "T, inference, batch 128, 224 x 224, float16, passes all, frozen"."""
    work = "training step" if model.training else "inference"
    dtype = f"{model.dtype} by autocast" if model.autocast else model.dtype
    size = f"batch {model.batch}, {model.height} x {model.width}"
    passes = model.passes if isinstance(model.passes, str) else " ".join(model.passes)
    frozen = ", frozen" if model.frozen else ""
    kernels = "" if model.kernels == "own" else f", kernels {model.kernels}"
    recompute = "" if model.recompute is None else f", recompute {model.recompute}"
    builder = "" if model.builder == "mvc:create_model" else f", by {model.builder}"
    return f"{model.variant}, {work}, {size}, {dtype}, passes {passes}{frozen}{kernels}{recompute}{builder}"


def measured(manifest: Manifest) -> Entry:
    """The budget entry for a manifest."""
    moved = Counter(dict.fromkeys(MOVED, 0))
    for launch in manifest.launches:
        moved[f"{launch.kind} bytes"] += launch.bytes_moved
    return {
        "model": dataclasses.asdict(manifest.model),
        "versions": {name: manifest.versions[name] for name in ENFORCED},
        "launches": dict(sorted(Counter(map(_described, manifest.launches)).items())),
        **moved,
        "kernels": len({(launch.phase, launch.name) for launch in manifest.launches if launch.kind != "extern"}),
        "largest registers": max((kernel.registers for kernel in manifest.kernels.values()), default=0),
        "spills": sum(kernel.spills for kernel in manifest.kernels.values()),
    }


def _described(launch: Launch) -> str:
    """A launch by its kind and the source of its result, without line numbers, which any edit moves."""
    source = LINE.sub(r"\1:", next(iter(launch.source), "unknown"))
    name = re.sub(r"_\d+$", "", launch.name)
    return f"{launch.phase} {launch.kind} {name} from {source}"


def find(folder: Path, target: str, model: Request) -> Entry:
    """The budget entry for a model.

    Args:
        target: the target's name.

    Raises:
        UserError: no budget for this model and the target's architecture, or one with other keys than `measured` has.
    """
    path, name = _path(folder, target), key(model)
    entries = _read(path)
    if name not in entries:
        raise UserError(f"{path} has no budget for {name!r}; write one with --update-budget")
    if unknown := entries[name].keys() ^ {"model", "versions", "launches", *COUNTED}:
        differing = ", ".join(sorted(unknown))
        raise UserError(f"{path}: the budget for {name!r} differs in {differing}; write it anew with --update-budget")
    return entries[name]


def compare(manifest: Manifest, allowed: Entry) -> list[str]:
    """The differences of the manifest from its entry, which `find` returns, a line each; empty where there are none."""
    seen = measured(manifest)
    before, after = Counter(allowed["launches"]), Counter(seen["launches"])
    where = {_described(launch): ", ".join(launch.source) for launch in manifest.launches}
    lines = [f"{count} more: {name} ({where[name]})" for name, count in sorted((after - before).items())]
    lines += [f"{count} fewer: {name}" for name, count in sorted((before - after).items())]
    if before.total() != after.total():
        lines.insert(0, f"launches: {before.total()} allowed, {after.total()} generated")
    for name in COUNTED:
        if allowed[name] != seen[name]:
            lines.append(f"{name}: {allowed[name]:,} allowed, {seen[name]:,} generated")
    return lines


def other_versions(manifest: Manifest, allowed: Entry) -> str | None:
    """Why the entry does not apply to this machine's torch and triton, in one sentence; None where it applies."""
    differing = [name for name in ENFORCED if allowed["versions"][name] != manifest.versions[name]]
    if not differing:
        return None
    held = " and ".join(f"{name} {allowed['versions'][name]}" for name in differing)
    return f"the budget holds for {held}; here is {' and '.join(f'{n} {manifest.versions[n]}' for n in differing)}"


def update(manifest: Manifest, folder: Path) -> Path:
    """Write the manifest's entry, and keep the others of its architecture.

    Raises:
        UserError: the file is no budget, or cannot be written.
    """
    path = _path(folder, manifest.target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            entries = _read(path) if path.exists() else {}
            entries[key(manifest.model)] = measured(manifest)
            facts = {"format": FORMAT, "models": dict(sorted(entries.items()))}
            files.replace(path, json.dumps(facts, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"the budget {path} cannot be written: {error.strerror}") from error
    return path


def _path(folder: Path, target: str) -> Path:
    return folder / f"{targets.find(target).architecture}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise KeyError("format")
        return facts["models"]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); write it with --update-budget") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no budget of format {FORMAT}; write it anew with --update-budget") from error
