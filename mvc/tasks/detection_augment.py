"""The published detectors' augmentation of an image and its target: flips, many sizes, crops.

All numbers are those of the published configurations (mmdet 3.3); images are not normalised yet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.tasks import draws
from mvc.tasks.boxes import clip
from mvc.tasks.photographs import bounded_size, resized
from mvc.tasks.targets import Target

SHORT_SIDES = tuple(range(480, 801, 32))
LONG_SIDE = 1333
SHORT_SIDES_TO_CROP = (400, 500, 600)
CROP = (384, 600)  # the least and the most of a crop's height and width, each drawn apart


def multi_scale(image: Tensor, target: Target, *, generator: torch.Generator | None = None) -> tuple[Tensor, Target]:
    """Flip every second image and bring it to one of many sizes, every second one after a crop.

    Args:
        image: (3, height, width), float, of values from 0 to 255.
        target: of the image, with masks of its size; a crop may leave it without objects.
        generator: on the CPU; what is drawn with. torch's own if None.
    """
    if draws.coin(generator):
        image, target = flip(image, target)
    if draws.coin(generator):
        image, target = resize(image, target, short=draws.one_of(SHORT_SIDES_TO_CROP, generator))
        image, target = random_crop(image, target, generator=generator)
    return resize(image, target, short=draws.one_of(SHORT_SIDES, generator), long=LONG_SIDE)


def flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Left becomes right."""
    width = image.shape[-1]
    x1, y1, x2, y2 = target.boxes.unbind(dim=1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    return image.flip(-1), Target(boxes, target.labels, target.masks.flip(-1))


def resize(image: Tensor, target: Target, *, short: int, long: float = math.inf) -> tuple[Tensor, Target]:
    """Bring the short side of an image to `short` pixels, or the long one to `long` where it would be longer.

    Masks take the nearest pixel. Objects whose box is so thin that rounding leaves nothing of it are dropped.
    """
    before = image.shape[1], image.shape[2]
    after = bounded_size(before, (long, short))
    image = resized(image, after)
    masks = target.masks.new_zeros(0, *after)
    if len(target.masks):
        masks = F.interpolate(target.masks[None].byte(), after, mode="nearest")[0].bool()
    x, y = after[1] / before[1], after[0] / before[0]
    boxes = clip(target.boxes * target.boxes.new_tensor([x, y, x, y]), after)
    return image, _with_area(Target(boxes, target.labels, masks))


def random_crop(image: Tensor, target: Target, *, generator: torch.Generator | None = None) -> tuple[Tensor, Target]:
    """Cut a rectangle out of an image, of sides drawn within `CROP`, or the image's where that is smaller."""
    size = image.shape[1], image.shape[2]
    height, width = (draws.whole(min(CROP[0], side), min(CROP[1], side), generator) for side in size)
    top, left = draws.whole(0, size[0] - height, generator), draws.whole(0, size[1] - width, generator)
    return crop(image, target, top=top, left=left, size=(height, width))


def crop(image: Tensor, target: Target, *, top: int, left: int, size: tuple[int, int]) -> tuple[Tensor, Target]:
    """Cut `size`, (height, width), out of an image; objects without any of their box left are dropped."""
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    boxes = clip(target.boxes - target.boxes.new_tensor([left, top, left, top]), size)
    return image[:, rows, columns], _with_area(Target(boxes, target.labels, target.masks[:, rows, columns]))


def _with_area(target: Target) -> Target:
    """The objects whose box has an area."""
    kept = (target.boxes[:, 2:] > target.boxes[:, :2]).all(1)
    return Target(*(part[kept] for part in target))
