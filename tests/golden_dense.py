"""The weights and boxes on which the golden figures of the detector and the segmenter were computed.

As in `golden.py` a tensor is a function of its own name and shape. Some of the detector's are enlarged, so that random
weights find some tens of objects of several classes on several levels of the pyramid; the segmenter's are not.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import golden
import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mvc.tasks.detection import Detector

DETECTOR_SIZE = (320, 480)  # of the picture of the detector's figures
# The end of a tensor's name, and the factor on what golden.tensor gives.
FACTORS = {
    "neck.fpn_convs.1.conv.weight": 1.8,
    "neck.fpn_convs.2.conv.weight": 2.6,
    "neck.fpn_convs.3.conv.weight": 7.0,
    "rpn_head.rpn_reg.weight": 0.15,
    "rpn_head.rpn_reg.bias": 0.15,
    ".fc_cls.weight": 8.0,
    ".fc_reg.weight": 3.0,
    ".conv_logits.weight": 6.0,
}


def weights(name: str) -> dict[str, Tensor]:
    """A published checkpoint's tensors under their published names; name: "cascade_T" or "upernet_T"."""
    return {tensor: _tensor(tensor, shape) for tensor, shape in golden.spec(name).items()}


def _tensor(name: str, shape: list[int]) -> Tensor:
    value = np.asarray(golden.tensor(name, shape))
    for factor in (factor for end, factor in FACTORS.items() if name.endswith(end)):
        value = (value * np.float32(factor)).astype(np.float32)
    return torch.from_numpy(value)


def boxes(count: int, height: int, width: int) -> Tensor:
    """(count, 4) float32 boxes x1, y1, x2, y2 within height x width pixels, from a few pixels to the whole picture."""
    draw = golden.rng(f"boxes-{count}x{height}x{width}")
    whole = np.array([[width, height]])
    scale = np.exp(draw.uniform(np.log(6.0), np.log(1.4 * max(height, width)), (count, 1)))
    size = np.minimum(scale * np.exp(draw.normal(0.0, 0.35, (count, 2))), whole - 1.5)
    corner = draw.uniform(0.25, 1.0, (count, 2)) * (whole - size - 0.5)
    return torch.from_numpy(np.concatenate([corner, corner + size], 1).astype(np.float32))


@functools.cache
def detector() -> Detector:
    """The detector on its golden weights, in evaluation mode; tests must not change it."""
    from mvc.tasks.checkpoints import load_task_weights
    from mvc.tasks.detection import create_detector

    model = create_detector("T").eval().requires_grad_(False)
    load_task_weights(model, weights("cascade_T"))
    return model


@functools.cache
def detector_maps() -> tuple[Tensor, ...]:
    """The backbone's maps of its picture, which take some ten seconds."""
    with torch.no_grad():
        return detector().backbone(golden.image(1, *DETECTOR_SIZE))
