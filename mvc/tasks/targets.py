"""The objects of an image that a detector learns from: boxes, classes and masks, also from COCO's annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.arguments import require
from mvc.errors import UserError
from mvc.tasks.packages import optional


class Target(NamedTuple):
    """The objects of an image."""

    boxes: Tensor
    """(objects, 4), float: x1, y1, x2, y2 in pixels."""
    labels: Tensor
    """(objects,), int64: classes from 0 on."""
    masks: Tensor
    """(objects, height, width), bool: the pixels of each; the size is the image's, or that of its padded batch."""


def from_coco(annotations: Sequence[Mapping[str, Any]], *, size: tuple[int, int], categories: Sequence[int]) -> Target:
    """The target of an image from its annotations in COCO's format.

    Crowds are left out, as published, and so are objects whose box has no pixel within the image or is narrower or
    lower than one.

    Args:
        annotations: those of one image, with `bbox`, `category_id`, `segmentation` (polygons or run lengths) and,
            where there is one, `iscrowd`.
        size: (height, width) of the image.
        categories: the identifiers of the categories in the order of the model's classes.

    Raises:
        UserError: pycocotools is missing, or an annotation is of a category that is not among `categories`, or its
            segmentation cannot be read.
    """
    labels_of = {category: label for label, category in enumerate(categories)}
    boxes, labels, masks = [], [], []
    for annotation in annotations:
        if annotation["category_id"] not in labels_of:
            raise UserError(
                f"annotation {annotation.get('id')} has category_id={annotation['category_id']}, which is not among "
                f"the {len(categories)} categories; give the identifiers of all that the model has classes for"
            )
        x, y, width, height = annotation["bbox"]
        right, bottom = min(x + width, size[1]), min(y + height, size[0])
        if annotation.get("iscrowd") or width < 1 or height < 1 or right <= max(x, 0) or bottom <= max(y, 0):
            continue
        boxes.append((x, y, x + width, y + height))
        labels.append(labels_of[annotation["category_id"]])
        masks.append(_bitmap(annotation, size))
    return Target(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *size, dtype=torch.bool),
    )


def _bitmap(annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """The pixels (height, width), bool, of polygons or of run lengths, in full or compressed."""
    mask = optional("pycocotools.mask")
    try:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            runs = mask.merge(mask.frPyObjects(segmentation, *size))
        elif isinstance(segmentation["counts"], list):
            runs = mask.frPyObjects(segmentation, *size)
        else:
            runs = segmentation
        pixels = mask.decode(runs).astype(bool)
    except Exception as error:  # pycocotools raises whatever its first use of a malformed entry does
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"annotation {annotation.get('id')} has no segmentation that can be read ({reason}); "
            "give polygons of at least three corners, or run lengths"
        ) from error
    if pixels.shape != tuple(size):
        found, wanted = (" x ".join(map(str, shape)) for shape in (pixels.shape, size))
        raise UserError(
            f"annotation {annotation.get('id')} has a mask of {found} pixels for an image of {wanted}; "
            "give the image's own annotations and its (height, width)"
        )
    return pixels


def fitted(targets: Sequence[Target], images: Tensor, *, num_classes: int) -> list[Target]:
    """The targets on the images' device, with masks of the padded size and boxes in float32 at least.

    Args:
        images: (batch, channels, height, width).

    Raises:
        UserError: the parts of a target do not fit each other, the images or the classes.
    """
    if len(targets) != len(images):
        raise UserError(f"targets are {len(targets)} for {len(images)} images; give one for each")
    return [_fitted(f"targets[{index}]", each, images, num_classes) for index, each in enumerate(targets)]


def _fitted(name: str, target: Target, images: Tensor, num_classes: int) -> Target:
    fits = isinstance(target, tuple) and len(target) == 3 and all(isinstance(part, Tensor) for part in target)
    if not fits:
        raise UserError(f"{name} is a {type(target).__name__}; give a Target of three tensors: boxes, labels, masks")
    (boxes, labels, masks), (height, width) = target, images.shape[2:]
    whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
    require(whole, f"{name}.labels", labels.dtype, "of whole numbers, as int64")
    require(masks.dtype == torch.bool, f"{name}.masks", masks.dtype, "torch.bool, as of `masks > 0`")
    count = len(boxes)
    require(tuple(boxes.shape) == (count, 4), f"{name}.boxes", tuple(boxes.shape), "of the shape (objects, 4)")
    require(tuple(labels.shape) == (count,), f"{name}.labels", tuple(labels.shape), f"of the shape ({count},)")
    fits = masks.ndim == 3 and len(masks) == count and masks.shape[1] <= height and masks.shape[2] <= width
    require(fits, f"{name}.masks", tuple(masks.shape), f"of the shape ({count}, at most {height}, at most {width})")
    known = ((labels >= 0) & (labels < num_classes)).all()
    require(known, f"{name}.labels", labels.tolist(), f"from 0 to {num_classes - 1}, the classes of the model")
    area = (boxes[:, 2:] > boxes[:, :2]).all() and boxes.isfinite().all()
    require(area, f"{name}.boxes", boxes.tolist(), "finite x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    masks = F.pad(masks.to(images.device), (0, width - masks.shape[2], 0, height - masks.shape[1]))
    wide = torch.promote_types(images.dtype, torch.float32)
    return Target(boxes.to(images.device, wide), labels.to(images.device), masks)
