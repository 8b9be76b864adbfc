"""Which boxes learn which objects: assignment by IoU, sampling, and the targets of masks.

Boxes are (x1, y1, x2, y2) in pixels, without a "+1" in widths or areas, as in mmdet 3.3. Nothing here has a gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mvc.tasks.packages import optional

NEGATIVE, NEITHER = -1, -2  # what `assign` writes in the place of an object's index


class Samples(NamedTuple):
    """What of the boxes of an image a loss is taken over."""

    positive: Tensor
    """Indices (P,) of the boxes that learn an object."""
    negative: Tensor
    """Indices (N,) of the boxes that learn the background."""


def assign(
    boxes: Tensor, objects: Tensor, *, positive: float, negative: float, least_best: float | None = None
) -> Tensor:
    """The object that each box learns, int64 (boxes,): its index, `NEGATIVE` or `NEITHER`.

    Args:
        boxes, objects: (boxes, 4) and (objects, 4).
        positive: a box learns the object that it overlaps most, from this IoU on.
        negative: a box whose IoUs are all below this one is background.
        least_best: where it is given, the boxes that overlap an object most, ties included, learn it from this IoU
            on, whatever else they overlap; of several objects the last. The RPN's low-quality matches.
    """
    if not len(objects) or not len(boxes):
        return boxes.new_full((len(boxes),), NEGATIVE, dtype=torch.int64)
    overlap = optional("torchvision.ops").box_iou(objects, boxes)
    most, found = overlap.max(dim=0)
    found[most < positive] = NEITHER
    found[most < negative] = NEGATIVE
    if least_best is not None:
        best = overlap.amax(dim=1, keepdim=True)
        chosen = (overlap == best) & (best >= least_best)
        last = len(objects) - 1 - chosen.flip(0).byte().argmax(dim=0)
        found = torch.where(chosen.any(dim=0), last, found)
    return found


def inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether each anchor lies within an image of (height, width) without its padding, bool (anchors,)."""
    height, width = size
    x1, y1, x2, y2 = anchors.unbind(dim=1)
    return (x1 >= 0) & (y1 >= 0) & (x2 < width) & (y2 < height)


def sample(assigned: Tensor, *, count: int, share: float, generator: torch.Generator | None = None) -> Samples:
    """Draw at most `count` boxes of an image, positive ones first.

    Args:
        assigned: the result of `assign`.
        share: positives are at most this share of `count`; negatives fill what they leave.
        generator: what is drawn with; torch's own if None. Only a draw from too many advances it.
    """
    positive = _draw((assigned >= 0).nonzero().flatten(), int(count * share), generator)
    negative = _draw((assigned == NEGATIVE).nonzero().flatten(), count - len(positive), generator)
    return Samples(positive, negative)


def _draw(indices: Tensor, most: int, generator: torch.Generator | None) -> Tensor:
    if len(indices) <= most:
        return indices
    device = indices.device if generator is None else generator.device
    drawn = torch.randperm(len(indices), generator=generator, device=device)[:most]
    return indices[drawn.to(indices.device)]


def mask_targets(masks: Tensor, boxes: Tensor, chosen: Tensor, *, size: int) -> Tensor:
    """The masks that boxes learn, float (boxes, size, size) of zeros and ones: RoIAlign of the bitmap, from 0.5 on.

    Args:
        masks: bitmaps (objects, height, width), bool.
        boxes: (boxes, 4), float.
        chosen: the object that each box learns, int64 (boxes,).
    """
    if not len(boxes):
        return boxes.new_zeros(0, size, size)
    rois = torch.cat([chosen[:, None].to(boxes.dtype), boxes], dim=1)
    roi_align = optional("torchvision.ops").roi_align
    covered = roi_align(masks[:, None].to(boxes.dtype), rois, size, sampling_ratio=-1, aligned=True)
    return (covered[:, 0] >= 0.5).to(boxes.dtype)
