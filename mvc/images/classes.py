"""Which class score of a model belongs to which class folder."""

from __future__ import annotations

import difflib
import functools
import importlib.resources
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mvc.errors import UserError
from mvc.files import encodable
from mvc.images.folder import listed
from mvc.model.image import class_names


@functools.cache
def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1K's classes in index order, from `mvc/model/data/imagenet_synsets.txt`."""
    text = importlib.resources.files("mvc.model.data").joinpath("imagenet_synsets.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of class folders in the order of a model's scores, from a text file with one to a line.

    Raises:
        UserError: the file cannot be read, or names a class twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # with Windows' mark of byte order or without
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"cannot read --classes {path}: {reason}; give a text file with one name to a line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"--classes {path} names {listed(twice)} more than once; a name stands for one class")
    return names


def class_order(folders: Sequence[str], num_classes: int, names: Sequence[str] | None = None) -> tuple[int, ...]:
    """The class index of each class folder.

    Folders may be a part of the classes where the classes have names: those of `names`, or the WordNet ids of ImageNet
    for a model with a thousand classes. Without names, the folders are the classes in sorted order, as torchvision and
    a training on such folders have it.

    Args:
        folders: the names of the class folders, sorted.
        num_classes: of the model.
        names: all folders' names in the order of the model's scores.

    Raises:
        UserError: the names are not as many as the classes, a folder's name is not among them, or the number of
            unnamed folders is not the model's.
    """
    if names is not None and len(names) != num_classes:
        raise UserError(f"--classes names {len(names)} classes and the weights have {num_classes}; name each once")
    if names is None and num_classes == len(imagenet_synsets()):
        names = imagenet_synsets()
    if names is None:
        if len(folders) != num_classes:
            raise UserError(
                f"there are {len(folders)} class folders ({listed([*folders])}) and the weights have {num_classes} "
                "classes; give the folders that the model was trained on, or name the classes by --classes FILE"
            )
        return tuple(range(num_classes))
    index = {name: position for position, name in enumerate(names)}
    if unknown := [name for name in folders if name not in index]:
        raise UserError(_unknown(unknown, [*folders], names))
    return tuple(index[name] for name in folders)


def shown_names(names: Sequence[str], indices: Sequence[int], num_classes: int) -> tuple[str, ...]:
    """What all classes of the model are called in tables: in English where folders have ImageNet's ids, otherwise as
    their folder (bytes that are no UTF-8 as escapes), or as their index where they have none.

    Args:
        names, indices: of the class folders.
    """
    if all(name in imagenet_synsets() for name in names) and num_classes == len(class_names()):
        return class_names()
    shown = {index: encodable(name) for name, index in zip(names, indices, strict=True)}
    return tuple(shown.get(index, str(index)) for index in range(num_classes))


def _unknown(unknown: list[str], folders: list[str], names: Sequence[str]) -> str:
    """Why folders have no class, and the remedy."""
    found = f"{len(unknown)} of {len(folders)} class folders are none of the {len(names)} classes ({listed(unknown)})"
    if names is not imagenet_synsets():
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{found}; {hint}--classes must name each folder as it is called"
    return (
        f"{found}; weights with 1,000 classes are taken for ImageNet's, whose folders are called by WordNet ids such "
        f"as {names[0]}; call them so, or name the folders in the order of the model's scores by --classes FILE"
    )
