"""Batches of images: prepared as published, of one shape, with what cannot be read named."""

import functools

import pytest
import torch
from image_folders import image_folder

from mvc.errors import UserError
from mvc.images.folder import list_images
from mvc.images.loading import Images, read
from mvc.model.config import get_config
from mvc.model.image import load_image, preprocess

Image = pytest.importorskip("PIL.Image", reason="reading images needs Pillow")
SHAPE = (3, 3, 64, 64)


@pytest.fixture
def images(tmp_path):
    folder = list_images(image_folder(tmp_path, {"a": 3, "b": 2}))
    return Images(folder, (7, 4), functools.partial(preprocess, config=get_config("tiny")))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_prepared_images_and_zeros(images, workers):
    batches = [*read(images, [range(3), range(3, 5)], shape=SHAPE, workers=workers, pin=False)]
    assert [batch.labels.tolist() for batch in batches] == [[7, 7, 7], [4, 4, 0]]
    assert [batch.present.tolist() for batch in batches] == [[True] * 3, [True, True, False]]
    for index in range(5):
        expected = preprocess(load_image(images.folder.file(index)), get_config("tiny"))[0]
        assert torch.equal(batches[index // 3].images[index % 3], expected), index
    assert not batches[1].images[2].any()


@pytest.mark.parametrize("variant", ["T", "T2", "S", "L2-512-21K"])
def test_images_are_prepared_as_timm_prepares_them(images, variant):
    """At every published crop: the pixels that timm's validation feeds its models."""
    data = pytest.importorskip("timm.data", reason="timm, of the extra `timm`, is missing")
    config = get_config(variant)
    theirs = data.create_transform(
        (3, config.image_size, config.image_size),
        interpolation="bicubic",
        mean=config.mean,
        std=config.std,
        crop_pct=config.crop,
        crop_mode=config.crop_mode,
    )
    prepared = Images(images.folder, (0, 1), functools.partial(preprocess, config=config))
    for index in range(5):
        with Image.open(images.folder.file(index)) as image:
            torch.testing.assert_close(prepared[index].pixels[0], theirs(image.convert("RGB")), rtol=0, atol=3e-7)


def test_pixels_are_those_stored(images):
    """The published accuracies ignore the orientation that a camera wrote down."""
    path = images.folder.file(0)
    with Image.open(path) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    stored = preprocess(load_image(path, upright=False), get_config("tiny"))
    assert torch.equal(images[0].pixels, stored)
    assert not torch.equal(stored, preprocess(load_image(path), get_config("tiny")))


def test_what_cannot_be_read_is_named(images):
    whole = images.folder.file(1).read_bytes()
    images.folder.file(1).write_bytes(whole[: len(whole) // 2])
    images.folder.file(2).write_text("no image")
    images.folder.file(4).unlink()
    first, second = read(images, [range(3), range(3, 5)], shape=SHAPE, workers=0, pin=False)
    assert first.present.tolist() == [True, False, False]
    assert second.present.tolist() == [True, False, False]
    found = [*first.unreadable, *second.unreadable]
    assert [each.path for each in found] == ["a/01.png", "a/02.png", "b/01.png"]
    for each, reason in zip(found, ("damaged or cut short", "not an image", "No such file"), strict=True):
        assert reason in each.reason


def end(image):
    """As the system ends a process for want of memory."""
    import os

    os._exit(1)


def lack(image):
    """As torch does where shared memory is full."""
    raise RuntimeError("unable to write to file </torch_17_1>: No space left on device (28)")


def fail(image):
    raise RuntimeError("a fault of the program")


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (end, UserError, r"^DataLoader worker .*; use fewer --workers"),
        (
            lack,
            UserError,
            r"^RuntimeError: unable to write .* \(28\); use fewer --workers, .* \(shared\) memory",
        ),
        (fail, RuntimeError, r"(?s)^Caught RuntimeError .*a fault of the program$"),
    ],
    ids=["ended", "no shared memory", "a fault"],
)
def test_what_a_worker_lacks_is_said_and_a_fault_is_none(images, prepare, error, message):
    images.prepare = prepare
    with pytest.raises(error, match=message) as caught:
        next(read(images, [range(3)], shape=SHAPE, workers=1, pin=False))
    assert isinstance(caught.value, UserError) is (error is UserError)
