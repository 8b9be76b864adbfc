"""ADE20K's classes, and its annotations."""

from __future__ import annotations

import functools
import importlib.resources
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mvc.errors import UserError
from mvc.tasks.segmentation import IGNORED

if TYPE_CHECKING:
    from PIL import Image


@functools.cache
def class_names() -> tuple[str, ...]:
    """The 150 classes in the order of the published segmenters' labels, from `mvc/tasks/data/ade20k_classes.txt`."""
    text = importlib.resources.files("mvc.tasks.data").joinpath("ade20k_classes.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def labels_in(annotation: Image.Image) -> Tensor:
    """What a segmenter learns of an annotation, whose pixels are 1 to 150, or 0 where none of the classes is: int64
    (height, width), from 0, and 255 for none, as published. So are the label maps of `python -m mvc.segment` read.

    Raises:
        UserError: pixels of more than one value, or beyond 150.
    """
    pixels = np.asarray(annotation)
    if pixels.ndim != 2 or pixels.max(initial=0) > len(class_names()):
        seen = f"up to {pixels.max()}" if pixels.ndim == 2 else f"of mode {annotation.mode}"
        raise UserError(f"the annotation has pixels {seen}; it must have the classes 1 to 150, and 0 for none")
    labels = torch.from_numpy(pixels.astype(np.int64)) - 1
    return labels.masked_fill(labels < 0, IGNORED)
