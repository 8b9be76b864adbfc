"""Masks of regions, brought to the picture's size."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def paste(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], *, threshold: float = 0.5) -> Tensor:
    """The masks of the whole picture, bool (n, height, width): where the probability is at least the threshold.

    Each pixel's centre is looked up in its box's mask, bilinearly and with zeros around it, without rounding the box
    (torchvision resizes the mask to a box of whole pixels). No pixel whose centre is outside its box is set.

    Args:
        probabilities: (n, side, side), of the detected class.
        boxes: (n, 4) in the picture's pixels.
        size: (height, width) of the picture.
    """
    height, width = size
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    for mask, probability, box, sides in zip(masks, probabilities, boxes, boxes.tolist(), strict=True):
        x0, y0 = (max(math.ceil(side - 0.5), 0) for side in sides[:2])
        x1, y1 = (min(math.floor(side + 0.5), most) for side, most in zip(sides[2:], (width, height), strict=True))
        if x0 < x1 and y0 < y1:
            x, y = (_centres(*ends, *box[axis::2]) for axis, ends in enumerate(((x0, x1), (y0, y1))))
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
            there = F.grid_sample(probability[None, None].to(grid), grid[None], align_corners=False)[0, 0]
            mask[y0:y1, x0:x1] = there >= threshold
    return masks


def _centres(first: int, last: int, low: Tensor, high: Tensor) -> Tensor:
    """Where the centres of pixels first to last - 1 lie between low and high, which become -1 and 1."""
    centres = torch.arange(first, last, device=low.device, dtype=low.dtype) + 0.5
    return (centres - low) / (high - low) * 2 - 1
