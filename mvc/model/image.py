"""Photographs in, class names out: the steps before and after the network when its input is a real image.

Pillow is optional (the `image` extra) and is imported when a photograph is read.
"""

from __future__ import annotations

import functools
import importlib.resources
import math
import os
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch

from mvc.arguments import is_whole, require, require_tensor, require_whole
from mvc.errors import UserError
from mvc.model.config import MIN_IMAGE_SIZE, MambaVisionConfig

if TYPE_CHECKING:
    from PIL import Image

MAX_SIDE = 2**15  # pixels; more is a slip, and would not fit in memory


def load_image(path: str | os.PathLike[str], *, upright: bool = True) -> Image.Image:
    """Read an image file as 8-bit RGB, upright.

    The EXIF orientation is applied, transparency is laid over white, 16-bit and float greyscale is scaled to 8 bit. Of
    an animation, the first frame is read.

    Args:
        upright: False leaves the pixels as they are stored, as timm and torchvision read the images of a data set.

    Raises:
        UserError: Pillow is not installed; or the file is missing, unreadable, not an image, damaged or too large.
    """
    pil = import_pillow()
    require(isinstance(path, (str, os.PathLike)), "path", path, "the path of an image file")
    try:
        with pil.Image.open(path) as image:
            read = pil.ImageOps.exif_transpose(image) if upright else image.copy()
    except Exception as error:  # a damaged file makes decoders raise nearly anything: SyntaxError, struct.error, ...
        raise UserError(f"cannot read image path {os.fspath(path)!r}: {_reason(error)}") from error
    return to_rgb(read)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB; opaque 8-bit ones come out as from `image.convert("RGB")`.

    Transparency is laid over white, as viewers show it: the colours hidden under it are arbitrary, often black. Pillow
    would drop it, and would clip greyscale that is deeper than 8 bit ("I;16", "I", "F") to white.

    Raises:
        UserError: no Pillow image, or one without pixels.
    """
    pil = import_pillow()
    require(isinstance(image, pil.Image.Image), "image", image, "a Pillow image, as of load_image(path)")
    require(min(image.size) > 0, "image", image.size, "an image of at least one pixel")
    if image.mode.startswith(("I", "F")):
        return _deep_grey_to_8_bit(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return pil.Image.alpha_composite(pil.Image.new("RGBA", image.size, "white"), image).convert("RGB")


def preprocess(image: Image.Image, config: MambaVisionConfig, *, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Resize, crop and normalise an image exactly as timm's evaluation transform does for the variant.

    Args:
        image: a Pillow image of any mode, brought to RGB by `to_rgb`.
        config: its `image_size`, `crop`, `crop_mode`, `mean` and `std` are used.
        size: (height, width) of the result; the config's square `image_size` if None.

    Returns:
        float32 (1, 3, height, width), contiguous.

    Raises:
        UserError: not a Pillow image, a config whose `in_chans` is not 3, or a `size` that cannot be used.
    """
    require(isinstance(config, MambaVisionConfig), "config", config, "a MambaVisionConfig, as of get_config('T')")
    if size is None:
        size = (config.image_size, config.image_size)
    pair = isinstance(size, (tuple, list)) and len(size) == 2
    fits = pair and all(is_whole(side, MIN_IMAGE_SIZE, MAX_SIDE) for side in size)
    require(fits, "size", size, f"(height, width), whole numbers from {MIN_IMAGE_SIZE} to {MAX_SIDE}")
    if config.in_chans != 3:
        raise UserError(f"in_chans is {config.in_chans}, but a photograph has 3 channels; use a model with in_chans=3")
    cropped = np.array(_resize_and_crop(to_rgb(image), size, config.crop, config.crop_mode))
    pixels = torch.from_numpy(cropped).permute(2, 0, 1).contiguous()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return ((pixels / 255 - mean) / std).unsqueeze(0)


@functools.cache
def class_names() -> tuple[str, ...]:
    """The 1,000 class names of ImageNet-1K in index order, from `mvc/model/data/imagenet_classes.txt`."""
    text = importlib.resources.files("mvc.model.data").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def top_classes(scores: torch.Tensor, *, count: int = 5) -> list[tuple[str, float]]:
    """The `count` most probable classes (all, if there are fewer), as pairs of name and probability, best first.

    Args:
        scores: (classes,) or (1, classes), any float dtype and device. A model with 1,000 classes is taken for an
            ImageNet-1K one; the classes of any other are called "class 17".

    Raises:
        UserError: scores that are no such tensor, or a count that is no whole number.
    """
    require_tensor("scores", scores)
    require(scores.is_floating_point() and not scores.is_meta, "scores", scores.dtype, "of a float dtype, with values")
    require_whole("count", count, 0)
    if scores.ndim not in (1, 2) or scores.shape[:-1].numel() != 1:
        raise UserError(f"scores must be of one image, (classes,) or (1, classes); got {tuple(scores.shape)}")
    probabilities = scores.detach().flatten().float().softmax(0)
    best = probabilities.topk(min(count, len(probabilities)))
    names = class_names()
    known = len(probabilities) == len(names)
    return [
        (names[index] if known else f"class {index}", probability)
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def import_pillow() -> ModuleType:
    """Pillow, with the modules that are used here; raises UserError where it is missing."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise UserError("reading an image needs Pillow: pip install 'mvc-mambavision[image]'") from error
    return PIL


def _reason(error: Exception) -> str:
    """Why Pillow did not read a file, and the remedy."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is not an image in a format that Pillow reads; convert it to JPEG or PNG"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; scale it down"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}; give the path of an image file"
    return f"it is damaged or cut short ({type(error).__name__}: {error}); fetch or save it again"


def _deep_grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Greyscale of mode "I;16", "I" or "F" as mode "L", scaled by its white level; not-finite pixels become black."""
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    values[~np.isfinite(values)] = 0
    white = 65535 if image.mode.startswith("I;16") else _guess_white(values.max())
    return Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8))


def _guess_white(brightest: float) -> float:
    """The white level of an image whose mode does not tell: the usual one that its brightest pixel fits.

    Up to twice a white level still fits it, since resampling overshoots: one pixel of 1.01 does not turn an image of
    [0, 1] black.
    """
    return next((white for white in (1, 255, 65535, 2**31 - 1) if brightest <= 2 * white), brightest)


def _resize_and_crop(image: Image.Image, size: tuple[int, int], crop: float, crop_mode: str) -> Image.Image:
    """Bicubic."""
    from PIL.Image import Resampling

    height, width = resized_size((image.height, image.width), size, crop, crop_mode)
    top, left = crop_offsets((height, width), size)
    resized = image.resize((width, height), Resampling.BICUBIC)
    return resized.crop((left, top, left + size[1], top + size[0]))


def resized_size(size: tuple[int, int], target: tuple[int, int], crop: float, crop_mode: str) -> tuple[int, int]:
    """The (height, width) that an image of `size` is resized to before `target` is cut out of its middle.

    `target` is the share `crop` of it, and with `crop_mode` "center" it has the image's aspect ratio.
    """
    height, width = (math.floor(side / crop) for side in target)
    return _covering_size(*size, height, width) if crop_mode == "center" else (height, width)


def crop_offsets(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The (top, left) of `target` in the middle of `size`.

    An odd margin is halved with round(), to the even side, as in timm.
    """
    return round((size[0] - target[0]) / 2), round((size[1] - target[1]) / 2)


def _covering_size(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int]:
    """The smallest size of the image's aspect ratio that covers the target, rounded as timm does."""
    if target_height == target_width:  # by torchvision's Resize, which rounds down
        short = min(height, width)
        return target_height * height // short, target_width * width // short
    ratio = min(height / target_height, width / target_width)  # by timm's ResizeKeepRatio, which rounds to nearest
    return round(height / ratio), round(width / ratio)
