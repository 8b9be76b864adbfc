"""How far an evaluation came, in a file from which the next run goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from mvc import files
from mvc.errors import UserError
from mvc.evaluate.counts import Counts
from mvc.images.loading import Unreadable

FORMAT = 1
OPAQUE = {"weights", "images"}  # settings whose values tell people nothing


@dataclasses.dataclass
class State:
    """What is known of the first images of a folder.

    Attributes:
        done: how many they are.
        counts: of those that could be read.
        unreadable: the others.
        seconds: that it took, without the compilation.
    """

    done: int
    counts: Counts
    unreadable: list[Unreadable]
    seconds: float

    @classmethod
    def start(cls, classes: int) -> State:
        return cls(0, Counts.none(classes), [], 0.0)


def save(state: State, setting: dict[str, str], path: Path) -> None:
    """Write the state; the file is that of before until the new one is whole.

    Args:
        setting: what the counts depend on, as a text for each of its parts.

    Raises:
        UserError: the file cannot be written.
    """
    contents = {
        "format": FORMAT,
        "setting": setting,
        "done": state.done,
        "counts": state.counts.tensors(),
        "unreadable": [tuple(each) for each in state.unreadable],
        "seconds": state.seconds,
    }
    try:
        with files.replacing(path) as partial:
            torch.save(contents, partial)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's writer met a full disk
        raise UserError(f"cannot write --state {path}: {error}; make room, or name another file") from error


def load(setting: dict[str, str], path: Path) -> State:
    """Read a state of the same setting.

    Raises:
        UserError: the file cannot be read, is no such state, or is one of another setting; the message says what
            differs.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
        found = contents["setting"], contents["format"]
        state = State(
            contents["done"],
            Counts(**contents["counts"]),
            [Unreadable(*each) for each in contents["unreadable"]],
            contents["seconds"],
        )
    except OSError as error:
        raise UserError(
            f"cannot read --state {path}: {error.strerror}; make it readable, or name another file"
        ) from error
    except Exception as error:  # a file of another kind can make torch's reader raise anything
        raise UserError(f"--state {path} is no state of an evaluation; remove it, or name another file") from error
    there, version = found
    if version != FORMAT or there.keys() != setting.keys():
        raise UserError(f"--state {path} is of another version of mvc; remove it, or name another file")
    differing = [_difference(name, there[name], here) for name, here in setting.items() if there[name] != here]
    if differing:
        raise UserError(
            f"--state {path} is of another evaluation: {'; '.join(differing)}; name another file, or remove this one"
        )
    return state


def _difference(name: str, there: str, here: str) -> str:
    return f"other {name}" if name in OPAQUE else f"{name} is {there} there and {here} here"
