"""Anchors, the coding of boxes, and non-maximum suppression, with the arithmetic of the published detectors.

Boxes are float (..., 4): x1, y1, x2, y2 in pixels, with x2 - x1 as the width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mvc.tasks.packages import optional

Std = tuple[float, float, float, float]

STRIDES = (4, 8, 16, 32, 64)  # of the pyramid's levels
MAX_LOG_RATIO = math.log(1000 / 16)  # of a decoded box's side over that of its box
SPLIT_NMS = 10_000  # from so many boxes on, the groups are suppressed one after the other


def base_anchors(
    strides: Sequence[int] = STRIDES, *, scale: float = 8.0, ratios: Sequence[float] = (0.5, 1.0, 2.0)
) -> Tensor:
    """The anchors around (0, 0), float32 (levels, ratios, 4): of area (scale·stride)², with ratio as height over width.

    Unlike torchvision's they are not rounded to whole pixels.
    """
    root = torch.tensor(ratios).sqrt()
    half = torch.stack([1 / root, root], 1) * scale / 2
    return torch.tensor(strides)[:, None, None] * torch.cat([-half, half], 1)


def anchors(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int] = STRIDES,
    *,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """The anchors of each level, float32 (height·width·3, 4), in the order y, x, anchor.

    They are centred on the multiples of the stride, without an offset of half a pixel; torchvision takes the ratio of
    the picture's size to the map's for the stride, which differs where a size was rounded up.

    Args:
        map_sizes: (height, width) of each level's map.
    """
    found = []
    for (height, width), stride, base in zip(map_sizes, strides, base_anchors(strides).to(device), strict=True):
        y, x = (torch.arange(count, device=device) * stride for count in (height, width))
        centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        found.append((centre.repeat(1, 1, 2)[:, :, None] + base).reshape(-1, 4))
    return found


def encode(boxes: Tensor, targets: Tensor, std: Std) -> Tensor:
    """What turns boxes into targets, (..., 4): the shift of the centre in sides of the box and the logarithm of the
    ratio of sides, each over its `std`. The boxes must have an area."""
    centre, size = _centre_and_size(boxes)
    target_centre, target_size = _centre_and_size(targets)
    deltas = torch.cat([(target_centre - centre) / size, (target_size / size).log()], -1)
    return deltas / deltas.new_tensor(std)


def decode(boxes: Tensor, deltas: Tensor, std: Std, *, image_size: tuple[int, int] | None = None) -> Tensor:
    """The boxes (..., 4) that the deltas make of boxes; both may be broadcast over the leading dimensions.

    The logarithms of the ratios of sides are limited to ±ln(1000/16); torchvision limits them above alone.

    Args:
        image_size: (height, width) to clip to; without it nothing is clipped.
    """
    centre, size = _centre_and_size(boxes)
    deltas = deltas * deltas.new_tensor(std)
    centre = centre + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    decoded = torch.cat([centre - half, centre + half], -1)
    return decoded if image_size is None else clip(decoded, image_size)


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The boxes' part within a picture of (height, width)."""
    height, width = image_size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Indices of the boxes that no box of the same group and a higher score overlaps by an IoU above the threshold,
    the best first.

    Groups are separated as published, by moving the boxes of group g by g times the largest coordinate plus 1: in
    float32 the coordinates of a high group are rounded to as much as 1/128 of a pixel, and IoUs with them.

    Args:
        boxes: (n, 4), clipped to the picture, so that no coordinate is negative.
        scores: (n,).
        groups: (n,) whole numbers from 0: the class, or the level of the pyramid.
    """
    if not len(boxes):
        return groups.new_empty(0, dtype=torch.int64)
    nms = optional("torchvision.ops").nms
    moved = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    if len(boxes) < SPLIT_NMS:
        return nms(moved, scores, threshold)
    # The same result, without comparing all boxes with all.
    members = [torch.nonzero(groups == group).flatten() for group in groups.unique()]
    kept = torch.cat([of_group[nms(moved[of_group], scores[of_group], threshold)] for of_group in members])
    return kept[scores[kept].argsort(descending=True, stable=True)]


def wide(values: Tensor) -> Tensor:
    """Values in float32 at least, in which boxes and scores are computed."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    first, last = boxes[..., :2], boxes[..., 2:]
    return (first + last) / 2, last - first
