"""Photographs as the input of a detector or a segmenter, prepared as the published configurations do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.arguments import require
from mvc.model.image import to_rgb
from mvc.tasks.sizes import Size, padded_size

if TYPE_CHECKING:
    from PIL import Image

# (most pixels of the long side, most pixels of the short side)
DETECTION_BOUNDS = (1333, 800)
SEGMENTATION_BOUNDS = (2048, 512)
# Of pixel values from 0 to 255.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def bounded_size(size: tuple[int, int], bounds: tuple[int, int]) -> tuple[int, int]:
    """The largest (height, width) of the same aspect ratio whose long and short sides keep within the bounds; smaller
    pictures are enlarged."""
    factor = min(max(bounds) / max(size), min(bounds) / min(size))
    height, width = (max(int(side * factor + 0.5), 1) for side in size)
    return height, width


def prepare(image: Image.Image, bounds: tuple[int, int]) -> Tensor:
    """A photograph at the size that a detector or segmenter reads, normalised: float32 (3, height, width).

    Args:
        image: a Pillow image of any mode, brought to RGB by `mvc.model.image.to_rgb`.
        bounds: DETECTION_BOUNDS or SEGMENTATION_BOUNDS.

    Raises:
        UserError: not a Pillow image, or one without pixels.
    """
    pixels = levels(image)
    return normalised(resized(pixels, bounded_size((pixels.shape[1], pixels.shape[2]), bounds)))


def levels(image: Image.Image) -> Tensor:
    """A photograph's pixels as they are: float32 (3, height, width) of levels from 0 to 255.

    Args, Raises: as for `prepare`.
    """
    return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1).float()


def resized(pixels: Tensor, size: Size) -> Tensor:
    """Pixels (3, height, width) with values from 0 to 255 at another (height, width).

    It is done as OpenCV does, whose bilinear interpolation does not average the pixels that it skips (Pillow's does),
    to whole levels.
    """
    return F.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0].round()


def normalised(pixels: Tensor) -> Tensor:
    """Pixels (..., 3, height, width) with values from 0 to 255 as the models read them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def padded(
    pictures: Sequence[Tensor], *, multiple: int = 32, buckets: Sequence[Size] | None = None
) -> tuple[Tensor, list[Size]]:
    """One batch of pictures of several sizes, with zeros right and below, and the (height, width) of each.

    Args:
        pictures: (channels, height, width) each, normalised.
        multiple, buckets: what the batch's height and width are, as for `padded_size`.

    Returns:
        (pictures, channels, height, width), and the sizes without the padding.
    """
    require(len(pictures) > 0, "pictures", pictures, "at least one picture")
    sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
    height, width = padded_size(sizes, multiple=multiple, buckets=buckets)
    batch = pictures[0].new_zeros(len(pictures), pictures[0].shape[0], height, width)
    for target, picture, (rows, columns) in zip(batch, pictures, sizes, strict=True):
        target[:, :rows, :columns] = picture
    return batch, sizes
