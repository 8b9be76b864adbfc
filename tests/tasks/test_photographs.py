"""What a detector or a segmenter reads of a photograph."""

from __future__ import annotations

import pytest
import torch

from mvc.errors import UserError
from mvc.tasks.photographs import DETECTION_BOUNDS, MEAN, SEGMENTATION_BOUNDS, STD, bounded_size, padded, prepare

pil = pytest.importorskip("PIL.Image")


# By hand from side = int(side x factor + 0.5), factor = min(long / max, short / min).
@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        ((480, 640), DETECTION_BOUNDS, (800, 1067)),
        ((640, 480), DETECTION_BOUNDS, (1067, 800)),
        ((300, 1000), DETECTION_BOUNDS, (400, 1333)),
        ((375, 500), SEGMENTATION_BOUNDS, (512, 683)),
        ((1, 4000), DETECTION_BOUNDS, (1, 1333)),
    ],
)
def test_bounded_size(size, bounds, expected):
    assert bounded_size(size, bounds) == expected


def test_levels_are_normalised_without_division():
    image = pil.new("RGB", (40, 20), (10, 130, 250))
    picture = prepare(image, (80, 80))
    assert picture.shape == (3, 40, 80)
    expected = [(value - mean) / std for value, mean, std in zip((10, 130, 250), MEAN, STD, strict=True)]
    assert picture[:, 17, 31].tolist() == pytest.approx(expected, abs=1e-6)
    assert picture.flatten(1).std(1).tolist() == [0, 0, 0]


def test_skipped_pixels_are_not_averaged():
    """A row of 8 pixels at 2: bilinear at 1.5 and 5.5, halves of neighbours, where averaging would see all."""
    image = pil.new("L", (8, 8))
    image.putdata([0, 100, 0, 50, 0, 200, 0, 30] * 8)
    grey = prepare(image, (2, 2))[0, 0] * STD[0] + MEAN[0]
    assert grey.round().tolist() == [50, 100]


def test_a_batch_is_padded_right_and_below():
    pictures = [torch.ones(3, 33, 40), torch.full((3, 20, 70), 2.0)]
    batch, sizes = padded(pictures)
    assert (batch.shape, sizes) == ((2, 3, 64, 96), [(33, 40), (20, 70)])
    assert torch.equal(batch[1, :, :20, :70], pictures[1])
    assert batch[0, :, 33:].abs().sum() == batch[0, :, :, 40:].abs().sum() == 0


def test_no_pictures():
    with pytest.raises(UserError, match="at least one picture"):
        padded([])
