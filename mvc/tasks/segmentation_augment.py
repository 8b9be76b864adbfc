"""The published segmenters' augmentation of an image and its labels: many sizes, crops, flips and colours.

All numbers are those of the published configurations (mmseg 1.2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.arguments import require, require_whole
from mvc.tasks import draws
from mvc.tasks.photographs import SEGMENTATION_BOUNDS, bounded_size, normalised, resized
from mvc.tasks.segmentation import IGNORED

SCALES = (0.5, 2.0)  # of SEGMENTATION_BOUNDS
LARGEST_SHARE = 0.75  # of one class among the pixels of a crop that have one
CROPS = 11  # drawn at most, until one class has less than that
BRIGHTNESS = 32  # levels of 255, more or less
CONTRAST = SATURATION = (0.5, 1.5)  # factors
HUE = (-18, 17)  # steps of two degrees


def training_crop(
    image: Tensor, labels: Tensor, *, crop: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """What a segmenter learns of an image in one step: a square of it, resized, flipped and recoloured at random.

    Args:
        image: (3, height, width), float, of values from 0 to 255.
        labels: (height, width), int64, and 255 where no class is known, as of `mvc.tasks.ade20k.labels_in`.
        crop: side of the square; the recipe's `crop`. An image that is smaller is padded.
        generator: on the CPU; what is drawn with. torch's own if None.

    Returns:
        the image (3, crop, crop), normalised, with zeros for padding, and its labels (crop, crop), with 255.

    Raises:
        UserError: the image or its labels are of other shapes or dtypes, or the crop has no pixel.
    """
    require_whole("crop", crop, 1)
    require(image.ndim == 3 and image.shape[0] == 3, "image", tuple(image.shape), "of the shape (3, height, width)")
    require(labels.shape == image.shape[1:], "labels", tuple(labels.shape), "of the image's height and width")
    require(image.is_floating_point(), "image", image.dtype, "floating-point levels, as of `photographs.levels`")
    require(labels.dtype == torch.int64, "labels", labels.dtype, "torch.int64")
    scale = draws.real(*SCALES, generator)
    long, short = (int(most * scale) for most in SEGMENTATION_BOUNDS)
    image, labels = resize(image, labels, bounds=(long, short))
    rows, columns = mixed_crop(labels, crop, generator)
    image, labels = image[:, rows, columns], labels[rows, columns]
    if draws.coin(generator):
        image, labels = image.flip(-1), labels.flip(-1)
    image = normalised(recolour(image, generator=generator))
    missing = (0, crop - image.shape[2], 0, crop - image.shape[1])
    return F.pad(image, missing), F.pad(labels, missing, value=IGNORED)


def resize(image: Tensor, labels: Tensor, *, bounds: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Bring an image within the bounds, as `bounded_size`; labels take the nearest pixel's."""
    size = bounded_size((image.shape[1], image.shape[2]), bounds)
    nearest = F.interpolate(labels[None, None].byte(), size, mode="nearest")[0, 0]
    return resized(image, size), nearest.to(labels.dtype)


def mixed_crop(labels: Tensor, crop: int, generator: torch.Generator | None) -> tuple[slice, slice]:
    """The rows and columns of a square where no class has `LARGEST_SHARE` or more, or the last of `CROPS`."""
    for _ in range(CROPS):
        starts = [draws.whole(0, max(side - crop, 0), generator) for side in labels.shape]
        rows, columns = (slice(start, start + crop) for start in starts)
        inside = labels[rows, columns]
        counts = inside[inside != IGNORED].unique(return_counts=True)[1]
        if len(counts) > 1 and counts.max() / counts.sum() < LARGEST_SHARE:
            break
    return rows, columns


def recolour(image: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Change brightness, contrast, saturation and hue of an image of levels from 0 to 255, each of them every second
    time; contrast before or after colour."""
    if draws.coin(generator):
        image = _levels(image + draws.real(-BRIGHTNESS, BRIGHTNESS, generator))
    contrast_first = draws.coin(generator)
    if contrast_first:
        image = _contrast(image, generator)
    if draws.coin(generator):
        hue, saturation, value = to_hsv(image)
        image = to_rgb(hue, _levels(saturation * draws.real(*SATURATION, generator)), value)
    if draws.coin(generator):
        hue, saturation, value = to_hsv(image)
        image = to_rgb((hue + draws.whole(*HUE, generator)) % 180, saturation, value)
    return image if contrast_first else _contrast(image, generator)


def _contrast(image: Tensor, generator: torch.Generator | None) -> Tensor:
    return _levels(image * draws.real(*CONTRAST, generator)) if draws.coin(generator) else image


def _levels(x: Tensor) -> Tensor:
    """Whole levels from 0 to 255; what is between two becomes the lower one, as published."""
    return x.clamp(0, 255).floor()


def to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue (of 180), saturation and value (of 255) of red, green and blue (3, height, width).

    They are whole numbers, rounded by OpenCV's tables, which hold 4096 times the inverse of a divisor.
    """
    red, green, blue = image
    value, least = image.amax(0), image.amin(0)
    span = value - least
    of_span, of_value = (180 / 6 * 4096 / span.clamp_min(1)).round(), (255 * 4096 / value.clamp_min(1)).round()
    among_others = torch.where(value == green, blue - red + 2 * span, red - green + 4 * span)
    sixths = torch.where(value == red, green - blue, among_others)
    return (sixths * of_span / 4096 + 0.5).floor() % 180, (span * of_value / 4096 + 0.5).floor(), value


def to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Red, green and blue (3, height, width) of what `to_hsv` returns; what is between two levels becomes the lower
    one, as in OpenCV."""
    turned = torch.stack([(hue / 30 + start) % 6 for start in (5, 3, 1)])
    return (value - value * saturation / 255 * torch.minimum(turned, 4 - turned).clamp(0, 1)).floor()
