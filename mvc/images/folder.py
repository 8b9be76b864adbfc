"""A folder of images with one folder for each class, laid out as for torchvision's ImageFolder.

torchvision's own passes over files with other endings without a word; here they are named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from mvc.errors import UserError

# The endings of torchvision.datasets.folder.IMG_EXTENSIONS.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = {"train", "training", "val", "valid", "validation", "test"}
LISTED = 5  # names in an error


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """What lies in a folder.

    Attributes:
        root: the folder.
        names: of the class folders, sorted.
        paths: of the images from `root` on, by class and then by name, as torchvision orders them.
        labels: for each image, the index of its class folder in `names`.
        others: files that belong to no class, which lie beside the class folders, and files in these whose names do not
            end as an image's does.
    """

    root: Path
    names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    others: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        return self.root / self.paths[index]

    def bytes(self) -> int:
        """The size of all images on the disk."""
        return sum(self._size(path) for path in self.paths)

    def fingerprint(self) -> str:
        """A SHA-256 of the names and the sizes of all images; it does not read them."""
        found = hashlib.sha256()
        for path in self.paths:
            found.update(f"{path}\0{self._size(path)}\0".encode(errors="surrogateescape"))
        return found.hexdigest()

    def _size(self, path: str) -> int:
        """In bytes; 0 for what cannot be asked for it, such as a link to nothing, which is named when it is read."""
        try:
            return os.stat(self.root / path).st_size
        except OSError:
            return 0


def list_images(root: str | os.PathLike[str]) -> ImageFolder:
    """List the images of a folder, in folders below the class folders too; no image is read.

    Raises:
        UserError: there is no such folder, it has no class folders, one of these has no images or holds itself by a
            link, or they are the parts of a data set (train, val).
    """
    root = Path(root)
    names, others = _entries(root)
    paths, labels, empty = [], [], []
    for label, name in enumerate(names):
        found = _files(root, name)
        images = [path for path in found if path.lower().endswith(ENDINGS)]
        paths += images
        labels += [label] * len(images)
        others += [path for path in found if not path.lower().endswith(ENDINGS)]
        if not images:
            empty.append(name)
    if empty:
        raise UserError(
            f"{len(empty)} class folders of {root} have no image ({listed(empty)}); an image's name ends in "
            f"{', '.join(ENDINGS)}; add images, or remove the folders"
        )
    return ImageFolder(root, tuple(names), tuple(paths), tuple(labels), tuple(others))


def listed(names: list[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def _entries(root: Path) -> tuple[list[str], list[str]]:
    """The names of the class folders, and of what lies beside them."""
    if not root.is_dir():
        reason = "it is a file" if root.exists() else "there is none"
        raise UserError(f"{root} is no folder ({reason}); give a folder that has one folder of images for each class")
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot list {root}: {error.strerror}; give a folder that can be read") from error
    names = [entry.name for entry in entries if entry.is_dir()]
    others = [entry.name for entry in entries if not entry.is_dir()]
    if not names:
        loose = any(name.lower().endswith(ENDINGS) for name in others)
        found = "images, but no class folders" if loose else "no class folders"
        raise UserError(f"{root} holds {found}; put the images of each class into a folder of its own")
    if {name.lower() for name in names} <= SPLITS:
        raise UserError(f"{root} holds {listed(names)}, the parts of a data set; give one of these folders")
    return names, others


def _files(root: Path, name: str) -> list[str]:
    """All files of a class folder by their paths from the root, in torchvision's order."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot list {error.filename}: {error.strerror}; make it readable, or remove it") from error

    walked, within = [], {}
    for folder, _, files in os.walk(root / name, followlinks=True, onerror=refuse):
        real, above = os.path.realpath(folder), within.get(os.path.dirname(folder), frozenset())
        if real in above:  # it would go on until the path is too long, with each image again at every turn
            raise UserError(f"{folder} leads back to a folder that it lies in ({real}); remove the link")
        within[folder] = above | {real}
        walked.append((os.path.relpath(folder, root), sorted(files)))
    return [os.path.join(folder, file) for folder, files in sorted(walked) for file in files]
