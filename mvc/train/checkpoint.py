"""Checkpoints: all that a training needs to go on as if it had not stopped, in files that are whole or absent.

A file is a dict of plain data and tensors, read with `weights_only=True`. The weights are under `state_dict` and their
moving average under `state_dict_ema`, as in published training states, so that `mvc.load_weights` reads it; the model's
configuration is under `config`, where `mvc.model.weights.stored_config` finds it.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvc import files
from mvc.errors import UserError
from mvc.train import sharding
from mvc.train.recipe import option
from mvc.train.step import Step

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
FORMAT = 1
OPAQUE = "images"  # a setting whose value tells people nothing


@dataclasses.dataclass
class Position:
    """How far a training came.

    Attributes:
        updates: that are done, over all epochs.
        log: the lengths of the log's files, as of `Log.lengths`.
        best: the highest top-1 of a validation so far, of the weights or of their average.
    """

    updates: int = 0
    log: dict[str, int] | None = None
    best: float = 0.0


def setting(step: Step, *, names: tuple[str, ...], images: str) -> dict[str, Any]:
    """What a training's results depend on: fields of the recipe and of the model, by the option that sets them.

    Args:
        names: of the classes.
        images: the fingerprint of the training images.
    """
    recipe = {option(name): value for name, value in dataclasses.asdict(step.recipe).items()}
    config = step.model.config
    dtype = str(step.execution.dtype).removeprefix("torch.")
    own = {"--variant": config.name, "--size": config.image_size, "--dtype": dtype}
    return {**recipe, **own, "classes": list(names), OPAQUE: images}


def save(folder: Path, step: Step, position: Position, given: Mapping[str, Any], *, best: bool = False) -> None:
    """Write `last.pt`; the one before becomes `previous.pt`. All processes call it, and the first one writes.

    Args:
        given: what `setting` returned.
        best: whether it becomes `best.pt` too.

    Raises:
        UserError: the file cannot be written.
    """
    processes = step.processes
    contents = {
        "format": FORMAT,
        "state_dict": sharding.model_state(step.model),
        "state_dict_ema": sharding.model_state(step.average.module),
        "config": step.model.config.to_dict(),
        "setting": dict(given),
        "optimizer": sharding.optimizer_state(step.optimizer),
        "scheduler": step.scheduler.state_dict(),
        "position": dataclasses.asdict(position),
        "random": processes.gather(random_states(processes.device)),
    }
    processes.from_first(lambda: _write(folder, contents, best=best))


def load(folder: Path, step: Step, given: Mapping[str, Any]) -> tuple[Position, list[str]]:
    """Bring a training to the state of the folder's checkpoint.

    Returns:
        how far it came, and notes for people.

    Raises:
        UserError: no checkpoint can be read, or it is of a training with another setting, which the message names.
    """
    contents, notes = _read(folder)
    _require_same(contents["setting"], given, folder)
    sharding.load_model_state(step.model, contents["state_dict"])
    sharding.load_model_state(step.average.module, contents["state_dict_ema"])
    sharding.load_optimizer_state(step.optimizer, contents["optimizer"])
    step.scheduler.load_state_dict(contents["scheduler"])
    states, processes = contents["random"], step.processes
    if len(states) == processes.count:
        set_random_states(states[processes.rank], processes.device)
    else:
        notes.append(
            f"the checkpoint is of {len(states)} processes and these are {processes.count}: the order of the images "
            "stays, but mixing and stochastic depth draw other numbers"
        )
    return Position(**contents["position"]), notes


def exists(folder: Path) -> bool:
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of the generators of python, numpy and torch in this process, as plain data and tensors."""
    array = np.random.get_state(legacy=False)
    array["state"]["key"] = array["state"]["key"].tolist()
    found = {"python": random.getstate(), "numpy": array, "torch": torch.get_rng_state()}
    return {**found, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else found


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """The inverse of `random_states`. States of a training on another kind of device leave this one's as it is."""
    array = {**states["numpy"], "state": {**states["numpy"]["state"]}}
    array["state"]["key"] = np.array(array["state"]["key"], dtype=np.uint32)
    random.setstate(states["python"])
    np.random.set_state(array)
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _write(folder: Path, contents: dict[str, Any], *, best: bool) -> None:
    last = folder / LAST
    try:
        with files.replacing(last) as partial:
            torch.save(contents, partial)
            if best:  # first: a kill after it leaves a training that comes to the same checkpoint once more
                _link(partial, folder / BEST)
            if last.exists():
                _link(last, folder / PREVIOUS)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's writer met a full disk
        raise UserError(f"cannot write {last}: {error}; make room, and go on with --resume") from error


def _link(path: Path, other: Path) -> None:
    """Make `other` the same file, or a copy where the file system has no links."""
    with files.replacing(other) as partial:
        try:
            os.link(path, partial)
        except OSError:
            shutil.copyfile(path, partial)


def _read(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The contents of the last checkpoint or, where that cannot be read, of the one before, with a note of it."""
    notes: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can make the reader raise anything
            notes.append(f"{path} cannot be read ({type(error).__name__})")
            continue
        if not (isinstance(contents, dict) and contents.get("format") == FORMAT):
            raise UserError(f"{path} is no checkpoint of this version of mvc.train; train into another folder")
        return contents, notes
    raise UserError(f"{folder} has no checkpoint to resume from; {'; '.join(notes) or 'leave out --resume'}")


def _require_same(there: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    differing = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if differing:
        found = [
            f"{name} is other than there" if name == OPAQUE else f"{name} is {here.get(name)} and was {there.get(name)}"
            for name in differing
        ]
        raise UserError(
            f"{folder} holds a training of another setting: {'; '.join(found)}; give what it was begun with, or train "
            "into another folder"
        )
