"""The images of a study: scikit-learn's digits, or a folder of images, all in memory at one size."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mvc.errors import UserError
from mvc.images.folder import list_images
from mvc.model.image import load_image, to_rgb

if TYPE_CHECKING:
    from PIL import Image

DIGITS = "scikit-learn's digits"
LEAST = 20  # images: fewer are not worth a split


class Images(NamedTuple):
    """Images and their classes.

    Attributes:
        source: for people.
        pixels: uint8 (images, 3, side, side).
        labels: int64 (images,).
        classes: how many there are.
    """

    source: str
    pixels: Tensor
    labels: Tensor
    classes: int

    def described(self) -> dict[str, object]:
        """What tells these images from others: source, number, and a hash of all pixels and labels."""
        found = hashlib.sha256(self.pixels.numpy().tobytes())
        found.update(self.labels.numpy().tobytes())
        return {"data": self.source, "images": len(self.labels), "pixels": found.hexdigest()[:16]}

    def split(self, seed: int) -> tuple[Tensor, Tensor]:
        """The indices of the images to train with and of those to test with, each one half, drawn from the seed."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
        return order[: len(order) // 2], order[len(order) // 2 :]


def read(folder: Path | None, *, side: int, most: int) -> Images:
    """Read images and bring them to `side` x `side` pixels by bicubic interpolation.

    Args:
        folder: one folder for each class, or None for scikit-learn's 1,797 digits of 8 x 8.
        most: where there are more images, so many are drawn, always the same.

    Raises:
        UserError: scikit-learn or Pillow is not installed, or the folder or an image cannot be used.
    """
    source, load, labels = _digits() if folder is None else _folder(folder)
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:most].sort().values.tolist()
    labels = [labels[index] for index in drawn]
    if len(labels) < LEAST or len(set(labels)) < 2:
        raise UserError(f"{source}: {len(labels)} images of {len(set(labels))} classes; a study needs {LEAST} of two")
    pixels = torch.from_numpy(np.stack([_resized(load(index), side) for index in drawn]))
    return Images(source, pixels.permute(0, 3, 1, 2).contiguous(), torch.tensor(labels), max(labels) + 1)


def _resized(image: Image.Image, side: int) -> np.ndarray:
    """uint8 (side, side, 3)."""
    from PIL import Image

    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def _digits() -> tuple[str, Callable[[int], Image.Image], list[int]]:
    try:
        from PIL import Image
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            f"the built-in images are scikit-learn's digits, and {error.name} is not installed: "
            "pip install 'mvc-mambavision[studies]', or give a folder of images by --data"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    grey = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return DIGITS, lambda index: to_rgb(Image.fromarray(grey[index])), labels.tolist()


def _folder(root: Path) -> tuple[str, Callable[[int], Image.Image], list[int]]:
    found = list_images(root)
    return root.name, lambda index: load_image(found.file(index)), list(found.labels)
