"""COCO's categories, and its format of results."""

from __future__ import annotations

import functools
import importlib.resources
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from mvc.tasks.packages import optional

if TYPE_CHECKING:
    from mvc.tasks.detection import Detections


class Category(NamedTuple):
    id: int  # in COCO's files
    name: str


@functools.cache
def categories() -> tuple[Category, ...]:
    """COCO's 80 categories in the order of the published detectors' classes."""
    text = importlib.resources.files("mvc.tasks.data").joinpath("coco_classes.txt").read_text(encoding="utf-8")
    pairs = (line.split(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return tuple(Category(int(number), name) for number, name in pairs)


def image_ids(paths: Sequence[Path]) -> dict[Path, int | str]:
    """What each photograph is called in results: the number that the names of COCO's photographs are, otherwise the
    name of its file; and its path, where several would be called the same."""
    ids: dict[Path, int | str] = {path: int(path.stem) if path.stem.isdecimal() else path.name for path in paths}
    counts = Counter(ids.values())
    return {path: each if counts[each] == 1 else str(path) for path, each in ids.items()}


def results(image: int | str, found: Detections, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections in COCO's format of results: boxes as x, y, width and height, and masks as compressed run lengths.

    Args:
        image: the identifier of the image.
        ids: the identifiers of the categories in the order of the model's classes.
    """
    boxes = np.concatenate([found.boxes[:, :2].cpu(), (found.boxes[:, 2:] - found.boxes[:, :2]).cpu()], 1)
    return [
        {
            "image_id": image,
            "category_id": ids[label],
            "bbox": [round(side, 2) for side in box],
            "score": round(score, 5),
            "segmentation": run_lengths(mask),
        }
        for box, score, label, mask in zip(
            boxes.tolist(), found.scores.tolist(), found.labels.tolist(), found.masks, strict=True
        )
    ]


def run_lengths(mask: Tensor) -> dict[str, Any]:
    """A mask (height, width), bool, as COCO's compressed run lengths."""
    encoded = optional("pycocotools.mask").encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
