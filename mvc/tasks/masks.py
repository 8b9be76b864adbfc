"""Masks of regions, brought to the picture's size."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def paste(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], *, threshold: float = 0.5) -> Tensor:
    """The masks of the whole picture, bool (n, height, width): where the probability is at least the threshold.

    Each pixel's centre is looked up in its box's mask, bilinearly and with zeros around it, without rounding the box
    (torchvision resizes the mask to a box of whole pixels). As published for a CPU, nothing further than a pixel or two
    around the box is set.

    Args:
        probabilities: (n, side, side), of the detected class.
        boxes: (n, 4) in the picture's pixels.
        size: (height, width) of the picture.
    """
    height, width = size
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    for mask, probability, box, sides in zip(masks, probabilities, boxes, boxes.tolist(), strict=True):
        x0, y0 = (max(math.floor(side) - 1, 0) for side in sides[:2])
        x1, y1 = (max(min(math.ceil(side) + 1, most), 0) for side, most in zip(sides[2:], (width, height), strict=True))
        x, y = (_centres(*ends, *box[axis::2]) for axis, ends in enumerate(((x0, x1), (y0, y1))))
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        if grid.numel():
            there = F.grid_sample(probability[None, None].to(grid), grid[None], align_corners=False)[0, 0]
            mask[y0:y1, x0:x1] = there >= threshold
    return masks


def _centres(first: int, last: int, low: Tensor, high: Tensor) -> Tensor:
    """Where the centres of pixels first to last - 1 lie between low and high, which become -1 and 1."""
    centres = torch.arange(first, max(last, first), device=low.device, dtype=low.dtype) + 0.5
    # Of a box without an extent every pixel is its middle.
    return torch.nan_to_num((centres - low) / (high - low) * 2 - 1, posinf=0.0, neginf=0.0)
