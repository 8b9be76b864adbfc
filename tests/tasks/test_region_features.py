"""Which level a region is read from, what is read, and masks on the whole picture."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mvc.tasks.masks import paste
from mvc.tasks.regions import level_of, region_features


def square(side: float, corner: float = 0.0) -> list[float]:
    return [corner, corner, corner + side, corner + side]


def test_levels_change_at_twice_the_side():
    sides = [0, 1, 111.9, 112, 223.9, 224, 447.9, 448, 5000]
    assert level_of(torch.tensor([square(side) for side in sides])).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_regions_are_read_from_their_level_and_image():
    """Maps that hold their position: a region's samples average to the centres of its bins, half a pixel less."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    maps = []
    for level, stride in enumerate((4, 8, 16, 32)):
        x = torch.arange(1024 // stride, dtype=torch.float64).expand(1024 // stride, -1)
        of_image = torch.stack([x, torch.full_like(x, level)])
        maps.append(torch.stack([of_image, of_image + 100]))
    boxes = [torch.tensor([square(64, 8), square(512, 100)]).double(), torch.tensor([square(128, 64)]).double()]
    found = region_features(maps, boxes, 4)
    assert found.shape == (3, 2, 4, 4)
    for region, box, image, level in zip(found, torch.cat(boxes), (0, 0, 1), (0, 3, 1), strict=True):
        stride = 4 * 2**level
        centres = box[0] + (box[2] - box[0]) * (torch.arange(4).double() + 0.5) / 4
        torch.testing.assert_close(region[0, 1], centres / stride - 0.5 + 100 * image)
        assert region[1].unique().tolist() == [level + 100 * image]


def test_no_regions():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    maps = [torch.ones(2, 5, 8, 8)] * 4
    assert region_features(maps, [torch.empty(0, 4)] * 2, 7).shape == (0, 5, 7, 7)


def test_a_full_mask_covers_the_pixels_whose_centres_are_in_the_box():
    (mask,) = paste(torch.ones(1, 28, 28), torch.tensor([[10.4, 5.6, 38.4, 33.6]]), (40, 50))
    x, y = torch.arange(50) + 0.5, torch.arange(40) + 0.5
    inside = ((x > 10.4) & (x < 38.4))[None] & ((y > 5.6) & (y < 33.6))[:, None]
    assert not (mask & ~inside).any()
    # At the lower left both centres lie a tenth within the edge, where a full mask is 0.6 of itself: 0.6·0.6 < 0.5.
    assert (inside & ~mask).nonzero().tolist() == [[33, 10]]


def test_masks_equal_those_looked_up_in_the_whole_picture():
    draw = torch.Generator().manual_seed(2)
    corner = torch.rand(6, 2, generator=draw) * 40
    boxes = torch.cat([corner, corner + 3 + torch.rand(6, 2, generator=draw) * 30], 1)
    probabilities = torch.rand(6, 28, 28, generator=draw)
    for mask, probability, box in zip(paste(probabilities, boxes, (60, 70)), probabilities, boxes, strict=True):
        x0, y0, x1, y1 = box
        x, y = torch.arange(70) + 0.5, torch.arange(60) + 0.5
        there = ((x - x0) / (x1 - x0) * 2 - 1, (y - y0) / (y1 - y0) * 2 - 1)
        grid = torch.stack(torch.meshgrid(*there, indexing="xy"), -1)
        whole = F.grid_sample(probability[None, None], grid[None], align_corners=False)[0, 0] >= 0.5
        assert 0 < mask.sum() < 60 * 70
        assert (mask != whole).sum() == 0


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [30, 30, 50, 60], [-20, -30, -3, -2], [0, 0, 20, 20], [-5, 3, 8, 40]])
def test_boxes_without_extent_or_beyond_the_picture(box):
    (mask,) = paste(torch.ones(1, 28, 28), torch.tensor([box], dtype=torch.float32), (20, 20))
    x, y = (torch.arange(20) + 0.5,) * 2
    expected = ((x > box[0]) & (x < box[2]))[None] & ((y > box[1]) & (y < box[3]))[:, None]
    assert not (mask & ~expected).any()
    assert (expected & ~mask).sum() <= 4 * 2


def test_the_threshold_belongs_to_the_mask():
    box = torch.tensor([[2.0, 2, 18, 18]])
    assert paste(torch.full((1, 28, 28), 0.5), box, (20, 20))[0, 10, 10]
    assert not paste(torch.full((1, 28, 28), 0.4999), box, (20, 20)).any()
    assert paste(torch.full((1, 28, 28), 0.4), box, (20, 20), threshold=0.3)[0, 10, 10]
