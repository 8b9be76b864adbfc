"""The augmentation of an image and its labels, held against OpenCV's colours and torchvision's sizes."""

from __future__ import annotations

import colorsys

import pytest
import torch

from mvc.errors import UserError
from mvc.tasks import segmentation_augment as augment
from mvc.tasks.photographs import MEAN, STD
from mvc.tasks.recipe import SEGMENTATION
from mvc.tasks.segmentation import IGNORED

# Red, green and blue, and what OpenCV 4.14's cvtColor makes of them in COLOR_RGB2HSV.
OPENCV = [
    ((0, 0, 0), (0, 0, 0)),
    ((255, 255, 255), (0, 0, 255)),
    ((128, 128, 128), (0, 0, 128)),
    ((255, 0, 0), (0, 255, 255)),
    ((0, 255, 0), (60, 255, 255)),
    ((0, 0, 255), (120, 255, 255)),
    ((255, 255, 0), (30, 255, 255)),
    ((255, 0, 1), (0, 255, 255)),
    ((11, 161, 3), (59, 250, 161)),
    ((217, 163, 130), (11, 102, 217)),
    ((69, 78, 10), (34, 222, 78)),
    ((19, 4, 44), (131, 232, 44)),
    ((208, 166, 233), (139, 73, 233)),
    ((186, 161, 139), (14, 64, 186)),
    ((8, 195, 186), (89, 245, 195)),
    ((216, 44, 22), (3, 229, 216)),
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hue_saturation_and_value_are_those_of_opencv():
    colours, expected = (torch.tensor(each, dtype=torch.float32).T[:, None] for each in zip(*OPENCV, strict=True))
    assert torch.equal(torch.stack(augment.to_hsv(colours)), expected)


def test_the_way_back_is_the_one_of_colorsys():
    hsv = torch.stack([torch.randint(most, (1, 500), generator=seeded(0)) for most in (180, 256, 256)]).float()
    found = augment.to_rgb(*hsv)
    exact = [colorsys.hsv_to_rgb(h / 180, s / 255, v / 255) for h, s, v in hsv[:, 0].T.tolist()]
    short = 255 * torch.tensor(exact).T[:, None] - found
    assert short.min() > -1e-3
    assert short.max() < 1.001  # the lower of two levels


@pytest.mark.parametrize("bounds", [(41, 62), (500, 120), (30, 20)])
def test_resize(bounds):
    pytest.importorskip("torchvision", reason="the comparison is with torchvision")
    from torchvision.transforms.v2 import functional as v2

    image = torch.randint(256, (3, 60, 90), generator=seeded(0)).float()
    labels = torch.randint(5, (60, 90), generator=seeded(1))
    found, seen = augment.resize(image, labels, bounds=bounds)
    size = list(found.shape[1:])
    assert (max(size) == max(bounds), min(size) == min(bounds)).count(True) >= 1
    assert torch.equal(found, v2.resize(image, size, antialias=False).round())
    assert torch.equal(seen, v2.resize(labels[None], size, interpolation=v2.InterpolationMode.NEAREST)[0])


def test_a_crop_holds_more_than_one_class():
    """Of a map where one place in four would do, so that eleven draws find none once in 24 times."""
    labels = torch.zeros(64, 300, dtype=torch.long)
    labels[:, 180:] = 1
    labels[:8] = IGNORED
    mixed = 0
    for seed in range(100):
        rows, columns = augment.mixed_crop(labels, 100, seeded(seed))
        assert (rows.stop - rows.start, columns.stop - columns.start) == (100, 100)
        share = (labels[8:, columns] == 0).float().mean()
        mixed += bool(0.25 < share < 0.75)
    assert 90 <= mixed < 100


@pytest.mark.parametrize("value", [3, IGNORED])
def test_a_crop_of_one_class_is_taken_at_last(value):
    labels = torch.full((64, 300), value)
    places = {augment.mixed_crop(labels, 50, seeded(seed))[1].start for seed in range(20)}
    assert len(places) > 10
    assert min(places) >= 0
    assert max(places) <= 250


@pytest.mark.parametrize("size", [(150, 200), (40, 300), (120, 1000)])
def test_images_and_labels_stay_together(size):
    """Of a dark class and a bright one in stripes, whatever the size, crop, flip and colour."""
    labels = (torch.arange(size[1]) // 25 % 2).expand(size).clone()
    image = (64.0 + 128 * labels).expand(3, *size)
    crop, padded = SEGMENTATION["T"].crop, []
    for seed in range(8):
        pixels, found = augment.training_crop(image, labels, crop=crop, generator=seeded(seed))
        again = augment.training_crop(image, labels, crop=crop, generator=seeded(seed))
        assert all(torch.equal(*pair) for pair in zip((pixels, found), again, strict=True))
        assert (pixels.shape, pixels.dtype) == ((3, crop, crop), torch.float32)
        assert (found.shape, found.dtype) == ((crop, crop), torch.int64)
        known = found != IGNORED
        assert (pixels[:, ~known] == 0).all()
        red = pixels[0] * STD[0] + MEAN[0]
        middle = (red[known].max() + red[known].min()) / 2
        assert ((red > middle) == (found == 1))[known].float().mean() > 0.97  # but for edges between stripes
        padded.append(not known.all())
    assert any(padded)  # an image at half the size is smaller than the crop


def test_flips_come_every_second_time():
    labels = (torch.arange(600) // 100).expand(600, 600)
    image = torch.full((3, 600, 600), 128.0)
    found = [augment.training_crop(image, labels, crop=512, generator=seeded(seed))[1][0] for seed in range(60)]
    flipped = sum(bool((row[row != IGNORED].diff() < 0).any()) for row in found)
    assert 20 <= flipped <= 40


def test_colours_change_within_the_published_limits():
    grey = torch.full((3, 1, 1), 100.0)
    found = torch.stack([augment.recolour(grey, generator=seeded(seed)) for seed in range(600)])
    assert (found.amax(1) == found.amin(1)).all()  # grey stays grey
    assert 34 <= found.min() < 45  # (100 - 32) / 2
    assert 185 < found.max() <= 198  # (100 + 32) * 1.5
    assert 0.2 < (found == 100).float().mean() < 0.3  # neither brightness nor contrast

    red = torch.tensor([200.0, 50, 50]).view(3, 1, 1)
    found = torch.stack([augment.recolour(red, generator=seeded(seed)) for seed in range(600)])
    assert 0.04 < (found == red).flatten(1).all(1).float().mean() < 0.09  # a sixteenth has no change at all
    hues = torch.stack([augment.to_hsv(each)[0] for each in found]).flatten()
    hues = torch.where(hues > 90, hues - 180, hues)
    assert -23 <= hues.min() <= -16  # of dark colours, hues are rounded by some steps
    assert 15 <= hues.max() <= 22
    assert 0.4 < (hues == 0).float().mean() < 0.6


PICTURE, CLASSES = torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.int64)
WRONG = {
    "no colours": (PICTURE[:1], CLASSES, 4, r"image is \(1, 8, 8\); it must be of the shape"),
    "bytes": (PICTURE.byte(), CLASSES, 4, r"image is torch.uint8; it must be floating-point levels"),
    "other labels": (PICTURE, CLASSES[:7], 4, r"labels is \(7, 8\); it must be of the image's height and width"),
    "labels in float32": (PICTURE, CLASSES.float(), 4, "labels is torch.float32; it must be torch.int64"),
    "no crop": (PICTURE, CLASSES, 0, "crop is 0; it must be a whole number of at least 1"),
}


@pytest.mark.parametrize(("image", "labels", "crop", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_sentence(image, labels, crop, message):
    with pytest.raises(UserError, match=message):
        augment.training_crop(image, labels, crop=crop)
