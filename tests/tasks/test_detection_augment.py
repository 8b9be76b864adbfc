"""The augmentation of an image and its target, held against torchvision's transforms where these compute the same."""

from __future__ import annotations

import pytest
import torch

from mvc.tasks import detection_augment as augment
from mvc.tasks.targets import Target

DRAW = torch.Generator().manual_seed(0)
HEIGHT, WIDTH = 60, 90
IMAGE = torch.randint(256, (3, HEIGHT, WIDTH), generator=DRAW).float()
BOXES = torch.tensor([[3.0, 4, 40, 30], [50, 20, 88, 59], [0, 0, 90, 60]])
LABELS = torch.tensor([2, 0, 1])


def filled(boxes: torch.Tensor, size: tuple[int, int] = (HEIGHT, WIDTH)) -> torch.Tensor:
    """Masks of whole boxes of whole coordinates."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


TARGET = Target(BOXES, LABELS, filled(BOXES))


def as_torchvision():
    """The image, and boxes and masks as torchvision's transforms know them."""
    pytest.importorskip("torchvision", reason="the comparison is with torchvision")
    from torchvision import tv_tensors

    boxes = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(HEIGHT, WIDTH))
    return IMAGE, boxes, tv_tensors.Mask(TARGET.masks)


def assert_same(found: tuple[torch.Tensor, Target], expected: list[torch.Tensor]) -> None:
    image, target = found
    torch.testing.assert_close(image, expected[0])
    torch.testing.assert_close(target.boxes, expected[1].as_subclass(torch.Tensor))
    assert torch.equal(target.masks, expected[2].as_subclass(torch.Tensor))


def test_flip():
    inputs = as_torchvision()
    from torchvision.transforms.v2 import functional as v2

    assert_same(augment.flip(IMAGE, TARGET), [v2.horizontal_flip(each) for each in inputs])


@pytest.mark.parametrize(("short", "size"), [(41, (41, 62)), (120, (120, 180))])
def test_resize(short, size):
    inputs = as_torchvision()
    from torchvision.transforms.v2 import functional as v2

    image, *others = [v2.resize(each, size, antialias=False) for each in inputs]
    assert_same(augment.resize(IMAGE, TARGET, short=short), [image.round(), *others])


def test_crop():
    inputs = as_torchvision()
    from torchvision.transforms.v2 import functional as v2

    image, target = augment.crop(IMAGE, TARGET, top=10, left=39, size=(40, 45))
    assert_same((image, target), [v2.crop(each, 10, 39, 40, 45) for each in inputs])
    assert torch.equal(target.masks, filled(target.boxes, (40, 45)))


def test_objects_outside_a_crop_are_dropped():
    image, target = augment.crop(IMAGE, TARGET, top=0, left=40, size=(20, 50))
    assert target.labels.tolist() == [1]
    assert target.boxes.tolist() == [[0, 0, 50, 20]]
    assert target.masks.shape == (1, 20, 50)
    assert image.shape == (3, 20, 50)


def test_what_rounding_leaves_nothing_of_is_dropped():
    """A crop leaves a sliver of a box, one rounding wide, whose two edges are the same pixel after enlarging."""
    sliver = torch.nextafter(torch.tensor(420.0), torch.tensor(0.0)).item()
    boxes = torch.tensor([[sliver, 0, 420, 50], [10, 0, 420, 50]])
    target = Target(boxes, LABELS[:2], torch.ones(2, 420, 420, dtype=torch.bool))
    _, found = augment.resize(torch.zeros(3, 420, 420), target, short=480)
    assert found.labels.tolist() == [0]
    assert found.boxes.shape == (1, 4)
    assert found.masks.shape == (1, 480, 480)


@pytest.mark.parametrize("size", [(427, 640), (640, 427), (300, 1200)])
def test_multi_scale(size):
    """Sizes within the published limits, all boxes around their masks, and the same again from the same seed."""
    image = torch.rand(3, *size, generator=DRAW)
    boxes = torch.tensor([[10.0, 20, 200, 280], [250, 100, 420, 290]])
    target = Target(boxes, torch.tensor([0, 1]), filled(boxes, size))
    shapes, objects = set(), set()
    for seed in range(12):
        found, seen = augment.multi_scale(image, target, generator=torch.Generator().manual_seed(seed))
        again, _ = augment.multi_scale(image, target, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(found, again)
        height, width = found.shape[1:]
        assert max(height, width) <= 1333
        assert min(height, width) in augment.SHORT_SIDES or max(height, width) == 1333
        assert seen.masks.shape[1:] == found.shape[1:]
        for box, mask in zip(seen.boxes, seen.masks, strict=True):
            rows, columns = mask.nonzero().unbind(dim=1)
            around = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (box - around).abs().max() <= 4  # pixels: two enlargements by the nearest pixel
        shapes.add((height, width))
        objects.add(len(seen.boxes))
    assert len(shapes) > 6
    assert 2 in objects
