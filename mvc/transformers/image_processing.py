"""Images for the models, with the published preprocessing."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from mvc.arguments import is_number, require, require_choice
from mvc.errors import UserError
from mvc.model.config import CROP_MODES
from mvc.model.image import crop_offsets, resized_size, to_rgb
from mvc.transformers.configuration import MambaVisionConfig


class MambaVisionImageProcessorKwargs(ImagesKwargs, total=False):
    """What a call may change: the arguments of all image processors, and these.

    crop_pct (`float`): share of the resized image that is kept.
    crop_mode (`str`): "center" resizes the shorter side and crops; "squash" resizes both sides.
    """

    crop_pct: float
    crop_mode: str


class MambaVisionImageProcessor(PilBackend):
    """Resizes, crops and normalises images as the published evaluation does, by `mvc.model.image`.

    `size` is the height and width of the result, which `do_resize` makes by a resize and a crop; `crop_pct` and
    `crop_mode` are those of `mvc.MambaVisionConfig`. Transparency is laid over white. Pillow resizes 8-bit images;
    transformers' own steps rescale and normalise them.
    """

    valid_kwargs = MambaVisionImageProcessorKwargs
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    size = {"height": 224, "width": 224}  # noqa: RUF012 - transformers copies and completes the defaults of the class
    crop_pct = 1.0
    crop_mode = "center"
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD

    @classmethod
    def from_config(cls, config: MambaVisionConfig, **changes: Any) -> MambaVisionImageProcessor:
        """The image processor of a model's configuration, for repositories without one of their own, as the published
        ones are; `changes` are fields of the image processor."""
        given = {
            "size": {"height": config.image_size, "width": config.image_size},
            "crop_pct": config.crop_pct,
            "crop_mode": config.crop_mode,
            "image_mean": list(config.mean),
            "image_std": list(config.std),
        }
        return cls(**{**given, **changes})

    def convert_to_rgb(self, image: Any, **options: Any) -> np.ndarray:
        if isinstance(image, np.ndarray):
            return super().convert_to_rgb(image, **options)
        return np.array(to_rgb(image))

    def _preprocess(
        self,
        images: list[np.ndarray],
        *,
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling | None,
        crop_pct: float,
        crop_mode: str,
        **options: Any,
    ) -> BatchFeature:
        if do_resize:
            images = [self._resized_and_cropped(image, size, resample, crop_pct, crop_mode) for image in images]
        return super()._preprocess(images, do_resize=False, size=size, resample=resample, **options)

    def _resized_and_cropped(
        self, image: np.ndarray, size: SizeDict, resample: PILImageResampling | None, crop_pct: float, crop_mode: str
    ) -> np.ndarray:
        """An image (channels, height, width) with the height and width of `size`."""
        require_choice("crop_mode", crop_mode, CROP_MODES)
        require(is_number(crop_pct) and 0 < crop_pct <= 1, "crop_pct", crop_pct, "a number above 0 and at most 1")
        if not (size.height and size.width):
            raise UserError(f"size is {dict(size)}; it must have a height and a width")
        target = (size.height, size.width)
        height, width = resized_size(image.shape[1:], target, crop_pct, crop_mode)
        top, left = crop_offsets((height, width), target)
        image = self.resize(image, SizeDict(height=height, width=width), resample=resample)
        return image[:, top : top + target[0], left : left + target[1]]
