"""The pyramid's features of regions, by RoIAlign."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvc.tasks.boxes import STRIDES, wide
from mvc.tasks.packages import optional

LEVELS = 4  # the pyramid's fifth level is for proposals alone
FINEST_SIDE = 56  # pixels: from twice this side on, a region is read from the next level


def level_of(boxes: Tensor) -> Tensor:
    """The level of the pyramid, 0 to 3, (n,) int64, from which boxes (n, 4) are read, by the root of their area.

    The logarithm is taken of 1e-6 more, as published; torchvision adds that to the logarithm.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (side / FINEST_SIDE + 1e-6).log2().floor().clamp(0, LEVELS - 1).long()


def region_features(maps: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
    """The features (boxes of all images, channels, size, size) of each image's boxes, from the level for their size.

    They are aligned to half a pixel and average as many samples as a region's extent asks for. torchvision's
    MultiScaleRoIAlign does neither, so only its `roi_align` is used.

    Args:
        maps: the pyramid, (images, channels, height, width) each; half precision is averaged in float32.
        boxes: (n, 4) for each image, in its pixels.
    """
    roi_align = optional("torchvision.ops").roi_align
    joint = torch.cat(list(boxes))
    image = torch.cat([torch.full_like(of_image[:, :1], index) for index, of_image in enumerate(boxes)])
    levels, indexed = level_of(joint), torch.cat([image, joint], 1)
    found = maps[0].new_empty(len(joint), maps[0].shape[1], size, size)
    for level in range(LEVELS):
        (at_level,) = torch.nonzero(levels == level, as_tuple=True)
        of_level = wide(maps[level])
        rois = indexed[at_level].to(of_level.dtype)
        features = roi_align(of_level, rois, size, 1 / STRIDES[level], sampling_ratio=-1, aligned=True)
        found = found.index_copy(0, at_level, features.to(found.dtype))
    return found
