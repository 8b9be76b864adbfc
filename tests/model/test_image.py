"""Reading photographs, preparing them as timm does, and naming classes."""

from __future__ import annotations

import dataclasses
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from places import DATA

from mvc.errors import UserError
from mvc.model.config import VARIANTS, get_config
from mvc.model.image import class_names, load_image, preprocess, to_rgb, top_classes

Image = pytest.importorskip("PIL.Image", reason="reading images needs Pillow")
PHOTO = DATA / "chelsea.png"
ORIENTATION = 0x0112  # the EXIF tag
GREY = np.array([[0, 64, 128], [192, 255, 10]], np.uint8)


def three_channels(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


def saved(tmp_path: Path, image: Image.Image, suffix: str, **options: object) -> Path:
    path = tmp_path / f"image{suffix}"
    image.save(path, **options)
    return path


def png_16_bit_rgb(pixels: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.versions
def test_photograph_is_read_unchanged():
    image = load_image(PHOTO)
    assert (image.mode, image.size) == ("RGB", (451, 300))
    np.testing.assert_array_equal(np.array(image), np.array(Image.open(PHOTO)))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    # The camera's sensor sees the picture turned by the inverse of what the tag tells viewers to do.
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose of the stored pixels, by orientation
    upright = Image.new("RGB", (48, 32), "black")
    upright.paste("white", (0, 0, 16, 16))
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = load_image(saved(tmp_path, stored, suffix, exif=exif, quality=100))
    assert image.size == (48, 32)
    np.testing.assert_allclose(np.array(image, float), np.array(upright, float), atol=8)  # JPEG and WebP are lossy


@pytest.mark.parametrize(
    ("mode", "suffix", "atol"),
    [("L", ".png", 0), ("LA", ".png", 0), ("P", ".gif", 0), ("CMYK", ".tif", 1), ("L", ".jpg", 2), ("CMYK", ".jpg", 2)],
)
def test_opaque_images_keep_their_grey(tmp_path, mode, suffix, atol):
    image = load_image(saved(tmp_path, Image.fromarray(GREY).convert(mode), suffix, quality=100))
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.array(image, float), three_channels(GREY), atol=atol)


def test_bilevel_image_is_black_and_white(tmp_path):
    image = load_image(saved(tmp_path, Image.fromarray(GREY >= 128), ".png"))
    np.testing.assert_array_equal(np.array(image), three_channels(np.where(GREY >= 128, 255, 0)))


def test_colour_of_cmyk(tmp_path):
    image = load_image(saved(tmp_path, Image.new("CMYK", (1, 1), (0, 255, 255, 0)), ".tif"))
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_over_white(mode):
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 255, 51)):
        image.putpixel((x, 0), (0, 0, 0, alpha))
    rgb = to_rgb(image.convert(mode))
    assert [rgb.getpixel((x, 0))[0] for x in range(3)] == [255, 0, 204]


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_transparent_colour_of_a_png_becomes_white(tmp_path, mode):
    """PNG and GIF can declare one colour, or entries of the palette, transparent."""
    transparent = {"L": 0, "RGB": (0, 0, 0), "P": 0}[mode]
    stored = Image.fromarray(np.array([[0, 128]], np.uint8))
    stored = stored.quantize(2) if mode == "P" else stored.convert(mode)
    if mode == "P":
        transparent = stored.getpixel((0, 0))
    image = load_image(saved(tmp_path, stored, ".png", transparency=transparent))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (128, 128, 128)]


@pytest.mark.versions
@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (GREY.astype(np.uint16) * 257, ".png"),
        (GREY.astype(np.uint16) * 257, ".tif"),
        (GREY.astype(np.int32) * 257, ".pgm"),
        (GREY.astype(np.int32) * 257, ".tif"),
        (GREY.astype(np.int32), ".tif"),
        (GREY.astype(np.float32), ".tif"),
        (GREY.astype(np.float32) / 255, ".tif"),
        (GREY.astype(np.float32) * 257, ".tif"),
    ],
    ids=["16bit-png", "16bit-tif", "16bit-pgm", "int-65535", "int-255", "float-255", "float-1", "float-65535"],
)
def test_deep_greyscale_is_scaled_to_8_bit(tmp_path, values, suffix):
    image = load_image(saved(tmp_path, Image.fromarray(values), suffix))
    np.testing.assert_array_equal(np.array(image), three_channels(GREY))


def test_dark_16_bit_image_stays_dark(tmp_path):
    image = load_image(saved(tmp_path, Image.fromarray(np.full((2, 2), 257, np.uint16)), ".png"))
    assert image.getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.versions
def test_float_image_with_overshoot_and_nan():
    values = np.array([[-0.1, 0.5, 1.05, np.nan, np.inf]], np.float32)
    np.testing.assert_array_equal(np.array(to_rgb(Image.fromarray(values)))[0, :, 0], [0, 128, 255, 0, 0])


def test_16_bit_rgb_png(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(png_16_bit_rgb(three_channels(GREY).astype(np.uint16) * 257))
    np.testing.assert_array_equal(np.array(load_image(path)), three_channels(GREY))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.png", None, "No such file"),
        ("note.txt", b"not an image", "not an image in a format"),
        ("empty.jpg", b"", "not an image in a format"),
        ("cut.png", PHOTO.read_bytes()[:5000], "damaged or cut short"),
        ("header.png", PHOTO.read_bytes()[:30], "not an image in a format"),
    ],
)
def test_unreadable_file_is_one_sentence_with_its_path(tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_jpeg(tmp_path):
    content = io.BytesIO()
    load_image(PHOTO).save(content, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(content.getvalue()[:-5000])
    with pytest.raises(UserError, match=r"cut\.jpg.*damaged or cut short"):
        load_image(path)


def test_directory(tmp_path):
    with pytest.raises(UserError, match="cannot read image"):
        load_image(tmp_path)


def test_decompression_bomb(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"chelsea\.png.*more than 2,000 pixels"):
        load_image(PHOTO)


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=r"pip install 'mvc-mambavision\[image\]'"):
        load_image(PHOTO)


SETTINGS = {(c.image_size, c.crop, c.crop_mode): c for c in VARIANTS.values()}


def assert_agrees_with_timm(image: Image.Image, config, size: tuple[int, int] | None = None) -> None:
    """Equal within 1/255 of the pixel range, before normalisation."""
    transforms = pytest.importorskip("timm.data", reason="the reference transform is timm's")
    height, width = size or (config.image_size, config.image_size)
    reference = transforms.create_transform(
        input_size=(3, height, width),
        crop_pct=config.crop,
        crop_mode=config.crop_mode,
        interpolation="bicubic",
        mean=config.mean,
        std=config.std,
        is_training=False,
    )
    actual, expected = preprocess(image, config, size=size), reference(image).unsqueeze(0)
    assert actual.shape == expected.shape == (1, 3, height, width)
    assert actual.dtype == torch.float32
    assert actual.is_contiguous()
    std = torch.tensor(config.std).view(3, 1, 1)
    torch.testing.assert_close(actual * std, expected * std, rtol=0, atol=1 / 255)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", [(451, 300), (300, 451), (20, 30), (224, 224), (641, 97)], ids=str)
def test_agrees_with_timm(setting, shape):
    assert_agrees_with_timm(load_image(PHOTO).resize(shape), SETTINGS[setting])


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(192, 320), (255, 97)], ids=str)
def test_agrees_with_timm_at_sizes_that_are_not_square(crop_mode, size):
    assert_agrees_with_timm(load_image(PHOTO), get_config("S", crop_mode=crop_mode), size=size)


def test_preprocess_accepts_other_modes():
    photo = load_image(PHOTO)
    opaque = photo.convert("RGBA")
    torch.testing.assert_close(preprocess(opaque, VARIANTS["T"]), preprocess(photo, VARIANTS["T"]), rtol=0, atol=0)


def test_preprocess_refuses_what_the_model_does_not_take():
    photo = load_image(PHOTO)
    with pytest.raises(UserError, match="in_chans is 4"):
        preprocess(photo, dataclasses.replace(VARIANTS["T"], in_chans=4))
    with pytest.raises(UserError, match=r"size is \(16, 64\)"):
        preprocess(photo, VARIANTS["T"], size=(16, 64))


def test_class_names():
    names = class_names()
    assert len(names) == len({name.casefold() for name in names}) == 1000
    assert all(name == name.strip() != "" for name in names)
    known = {0: "tench", 207: "golden retriever", 281: "tabby", 282: "tiger cat", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known


@pytest.mark.parametrize("shape", [(1000,), (1, 1000)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_top_classes_of_imagenet(shape, dtype):
    scores = torch.full((1000,), -100.0, dtype=dtype)
    scores[281], scores[282] = 1.0, 0.0
    (first, p_first), (second, p_second) = top_classes(scores.reshape(shape), count=2)
    assert (first, second) == ("tabby", "tiger cat")
    assert p_first == pytest.approx(torch.tensor(1.0).sigmoid().item())
    assert p_first + p_second == pytest.approx(1.0)


def test_top_classes_of_other_data_are_numbered():
    assert [name for name, _ in top_classes(torch.arange(3.0))] == ["class 2", "class 1", "class 0"]


@pytest.mark.parametrize("shape", [(2, 1000), (1, 1, 1000), ()], ids=str)
def test_top_classes_wants_scores_of_one_image(shape):
    with pytest.raises(UserError, match="got"):
        top_classes(torch.zeros(shape))
