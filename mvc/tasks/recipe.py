"""How the published detectors and segmenters were trained: optimiser, weight decay and learning rates, as data.

The figures are those of the published configurations of MambaVision (mmdet 3.3, mmseg 1.2). What a recipe leaves out is
the same for all: AdamW with betas 0.9 and 0.999, and no clipping of gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mvc.arguments import require_whole
from mvc.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The training of one variant.

    Attributes:
        rate: the highest learning rate, for `images` in a step.
        decay: weight decay of AdamW.
        images: in a step, of all GPUs together.
        warm_up: the steps over which the rate rises linearly, from the share `warm_up_from` of it.
        after: "drops" divides the rate by ten after 27 and again after 33 of 36 epochs; "linear" lets it fall to 0.
        epochs, steps: the length of the training, in one unit or in the other.
        float16: whether it was trained in mixed precision, with a dynamic loss scale.
        crop: height and width of segmentation's crops, in pixels.
    """

    rate: float
    decay: float
    images: int = 16
    warm_up: int
    warm_up_from: float
    after: Literal["drops", "linear"]
    epochs: int | None = None
    steps: int | None = None
    float16: bool = True
    crop: int | None = None


def _detection(rate: float) -> Recipe:
    return Recipe(rate=rate, decay=0.05, warm_up=1000, warm_up_from=1e-3, after="drops", epochs=36)


def _segmentation(rate: float, **changes: float) -> Recipe:
    settings = {"decay": 0.01, "crop": 512, **changes}
    return Recipe(rate=rate, warm_up=1500, warm_up_from=1e-6, after="linear", steps=160_000, **settings)


DETECTION = {"T": _detection(1e-4), "S": _detection(1e-4), "B": _detection(2e-4)}
SEGMENTATION = {
    "T": _segmentation(5e-5),
    "S": _segmentation(6e-5),
    "B": _segmentation(5e-5),
    "L3": _segmentation(8e-5, decay=0.05, crop=640, float16=False),  # float16 was unstable
}
DROPS = (27 / 36, 33 / 36)  # of the training, where "drops" divides the rate by ten


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """The parameters of a detector or a segmenter as groups for AdamW, decayed and not.

    As published, those of the backbone's norms that are called norm (`norm1`, `norm2`, `outnorm0` and so on) are alone
    in having no weight decay, weights and biases alike: the norms of the stem and of the heads, all other biases,
    `A_log` and `D` are decayed.

    Raises:
        UserError: the model has no part called backbone.
    """
    if not isinstance(getattr(model, "backbone", None), nn.Module):
        raise UserError(f"model is a {type(model).__name__} without a part `backbone`; give a detector or a segmenter")
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    norms = [parameter for name, parameter in named if name.startswith("backbone.") and "norm" in name]
    others = [parameter for name, parameter in named if not (name.startswith("backbone.") and "norm" in name)]
    return [{"params": others, "weight_decay": recipe.decay}, {"params": norms, "weight_decay": 0.0}]


def optimizer(model: nn.Module, recipe: Recipe) -> AdamW:
    """AdamW over `parameter_groups`, at the recipe's highest rate."""
    return AdamW(parameter_groups(model, recipe), lr=recipe.rate, betas=(0.9, 0.999), weight_decay=recipe.decay)


def rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """The share of the recipe's rate at a step, counted from 0, of a training of so many steps."""
    if step < recipe.warm_up:
        return recipe.warm_up_from + (1 - recipe.warm_up_from) * step / recipe.warm_up
    if recipe.after == "linear":
        return max(0.0, (steps - step) / (steps - recipe.warm_up))
    return 0.1 ** sum(step >= drop * steps for drop in DROPS)


def schedule(optimizer: Optimizer, recipe: Recipe, *, steps: int) -> LambdaLR:
    """The learning rates of a training of so many steps; call its `step` after each.

    Raises:
        UserError: the training is not longer than the recipe's warm-up.
    """
    require_whole("steps", steps, recipe.warm_up + 1)
    return LambdaLR(optimizer, lambda step: rate_factor(recipe, step, steps))
