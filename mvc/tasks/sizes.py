"""Sizes of a detector's or segmenter's input: how pictures are padded to one batch, and to few sizes for compiled code.

A compiled model has one graph for each size of its input or, with sizes that may vary (`dynamic=True`), one for each
pattern of windows. With buckets, pictures of any size come in a few sizes: as many graphs, each made for its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from mvc.arguments import is_whole, require
from mvc.errors import UserError
from mvc.model.config import MIN_IMAGE_SIZE

Size = tuple[int, int]  # (height, width) in pixels

# One of them holds every picture within `photographs.DETECTION_BOUNDS`; the first does, of wide ones, up to 4:3.
DETECTION_BUCKETS: tuple[Size, ...] = ((800, 1088), (800, 1344), (1344, 800))
# The same for SEGMENTATION_BOUNDS; the first holds pictures of up to 3:2, upright or not.
SEGMENTATION_BUCKETS: tuple[Size, ...] = ((768, 768), (512, 2048), (2048, 512))


def padded_size(sizes: Sequence[Size], *, multiple: int = 32, buckets: Sequence[Size] | None = None) -> Size:
    """The (height, width) of a batch that holds pictures of these sizes.

    Args:
        multiple: of which height and width are, without buckets; they are at least the 32 that the model needs.
        buckets: the sizes to choose from: the one of the least pixels that holds all pictures.

    Raises:
        UserError: no pictures, or none of the buckets holds them.
    """
    require(len(sizes) > 0, "sizes", sizes, "those of at least one picture")
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    if buckets is None:
        height, width = (math.ceil(max(side, MIN_IMAGE_SIZE) / multiple) * multiple for side in (height, width))
        return height, width
    holding = [bucket for bucket in buckets if bucket[0] >= height and bucket[1] >= width]
    if not holding:
        known = ", ".join(f"{rows} x {columns}" for rows, columns in buckets)
        raise UserError(f"none of the buckets {known} holds pictures of {height} x {width}; add one that does")
    return min(holding, key=math.prod)


def check_images(images: Tensor) -> None:
    """Raise UserError unless images are a tensor (batch, 3, height, width)."""
    require(isinstance(images, Tensor), "images", images, "a tensor (batch, 3, height, width)")
    if images.ndim != 4:
        raise UserError(f"images is of shape {tuple(images.shape)}; it must be (batch, 3, height, width)")


def check_sizes(images: Tensor, image_sizes: Sequence[Size], original_sizes: Sequence[Size]) -> None:
    """Raise UserError where images (batch, 3, height, width), the sizes of their pictures without padding, and those of
    the photographs do not fit together."""
    check_images(images)
    for name, sizes in (("image_sizes", image_sizes), ("original_sizes", original_sizes)):
        if len(sizes) != len(images):
            raise UserError(f"{name} has {len(sizes)} sizes for {len(images)} images; give (height, width) of each")
        for size in sizes:
            fits = len(size) == 2 and all(is_whole(side, 1) for side in size)
            require(fits, name, tuple(size), "(height, width) for each image, whole numbers of at least 1")
    height, width = images.shape[2:]
    for size in image_sizes:
        fits = size[0] <= height and size[1] <= width
        require(fits, "image_sizes", tuple(size), f"within the batch's height and width, {height} x {width}")
