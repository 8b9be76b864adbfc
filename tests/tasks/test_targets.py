"""COCO's annotations as targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvc.errors import UserError
from mvc.tasks.targets import from_coco

coco = pytest.importorskip("pycocotools.mask", reason="COCO's masks are pycocotools'")

SIZE = (8, 10)
SQUARE = {"category_id": 7, "bbox": [2, 1, 4, 3], "segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}
PIXELS = torch.zeros(SIZE, dtype=torch.bool)
PIXELS[1:4, 2:6] = True


def read(*annotations):
    return from_coco(annotations, size=SIZE, categories=(3, 7))


def in_full(pixels: torch.Tensor) -> dict[str, object]:
    """Run lengths down the columns, the first of zeros."""
    flat = pixels.T.flatten().int().numpy()
    ends = np.flatnonzero(np.diff(flat)) + 1
    return {"size": list(SIZE), "counts": np.diff([0, *ends, flat.size]).tolist()}


@pytest.mark.parametrize(
    "segmentation",
    [SQUARE["segmentation"], in_full(PIXELS), coco.encode(np.asfortranarray(PIXELS.byte().numpy()))],
    ids=["polygons", "run lengths", "compressed"],
)
def test_masks(segmentation):
    target = read({**SQUARE, "segmentation": segmentation})
    assert target.boxes.tolist() == [[2, 1, 6, 4]]
    assert target.labels.tolist() == [1]
    assert torch.equal(target.masks[0], PIXELS)


def test_several_polygons_are_one_object():
    other = [7, 5, 9, 5, 9, 7, 7, 7]
    target = read({**SQUARE, "segmentation": [*SQUARE["segmentation"], other]})
    assert target.masks.sum(dim=(1, 2)).tolist() == [12 + 4]


@pytest.mark.parametrize(
    "changes",
    [
        {"iscrowd": 1},
        {"bbox": [2, 1, 0.5, 3]},
        {"bbox": [2, 1, 4, 0]},
        {"bbox": [10, 1, 4, 3]},
        {"bbox": [2, -5, 4, 5]},
    ],
    ids=["crowd", "narrow", "flat", "right of the image", "above the image"],
)
def test_what_is_left_out(changes):
    target = read({**SQUARE, **changes})
    assert (target.boxes.shape, target.labels.shape, target.masks.shape) == ((0, 4), (0,), (0, *SIZE))
    assert len(read(SQUARE, {**SQUARE, **changes}).boxes) == 1


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "no segmentation that can be read"),
        ([[2, 1, 6, 1]], "no segmentation that can be read .*; give polygons of at least three corners"),
        (None, "no segmentation that can be read"),
        ({"size": [4, 5], "counts": [3, 17]}, "a mask of 4 x 5 pixels for an image of 8 x 10"),
    ],
    ids=["no polygon", "two corners", "nothing", "another size"],
)
def test_unusable_segmentations(segmentation, message):
    with pytest.raises(UserError, match=f"annotation 5 has {message}"):
        read({**SQUARE, "id": 5, "segmentation": segmentation})


def test_unknown_category():
    with pytest.raises(UserError, match="category_id=9, which is not among the 2 categories"):
        read({**SQUARE, "category_id": 9})
