"""The recipe: every value that decides what a training computes, with its published default and the source of that.

The published configurations are `mambavision/configs/mambavision_*_1k.yaml` of the repository NVlabs/MambaVision, which
hold the arguments of the training runs; they are called "configurations" here. Where all of them agree, the default is
theirs; values that differ between variants are in `BY_VARIANT`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from mvc.arguments import is_number, is_whole, require
from mvc.model.config import MambaVisionConfig

PUBLISHED_BATCH = 4096
CONFIGURATIONS = "configurations"


def value(default: Any, meaning: str, source: str = CONFIGURATIONS) -> Any:
    """A field of the recipe, with what it means and where its default is published."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "source": source})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a training computes; the number of processes and their machines is no part of it.

    Raises:
        UserError: a value that cannot be used; the message names the option.
    """

    epochs: int = value(
        310, "epochs until the end of the cosine, warm-up included", f"{CONFIGURATIONS}; paper, section 4"
    )
    warmup_epochs: int = value(20, "first epochs, in which the rate rises linearly", f"{CONFIGURATIONS} (B: 35)")
    cooldown_epochs: int = value(10, "epochs at the lowest rate after the cosine")
    batch: int = value(
        PUBLISHED_BATCH,
        "images of an update, of all processes together",
        f"{CONFIGURATIONS} for 128 on each GPU; paper, section 4, for 32 GPUs",
    )
    optimizer: str = value("lamb", "timm's name of the optimiser", f"{CONFIGURATIONS}; paper, section 4")
    lr: float = value(0.005, "highest learning rate", f"{CONFIGURATIONS}; paper, section 4")
    warmup_lr: float = value(1e-6, "learning rate at the start of the warm-up")
    min_lr: float = value(5e-6, "learning rate at the end of the cosine")
    weight_decay: float = value(0.05, "of tensors with two axes and more", f"{CONFIGURATIONS} (B: 0.075; L, L2: 0.12)")
    eps: float = value(1e-8, "added to the optimiser's denominator")
    clip_grad: float = value(5.0, "highest norm of all gradients together; timm's LAMB clips to 1 itself")
    drop_path: float = value(
        0.2,
        "stochastic depth at the last block",
        "the models' own defaults, which the configurations leave (T to S: 0.2; B, L, L2: 0.3; L3: 0.5)",
    )
    smoothing: float = value(0.1, "label smoothing")
    mixup: float = value(0.8, "mixup's alpha; 0 for none")
    cutmix: float = value(1.0, "cutmix's alpha; 0 for none")
    mix_probability: float = value(1.0, "share of the batches that are mixed")
    mix_switch: float = value(0.5, "share of cutmix where there is mixup too")
    randaugment: str = value("rand-m9-mstd0.5-inc1", "timm's name of the policy; an empty one for none")
    color_jitter: float = value(0.4, "brightness, contrast and saturation, where there is no policy")
    flip: float = value(0.5, "share of the images that are mirrored")
    erasing: float = value(0.25, "share of the images of which a rectangle becomes noise")
    least_area: float = value(0.08, "smallest share of an image that a random crop keeps")
    aspect: float = value(4 / 3, "largest ratio of the sides of a random crop")
    ema_decay: float = value(0.9998, "of the moving average of the weights, at each update")
    mesa: float = value(
        0.5,
        "weight of the distance from the average's scores; 0 for none",
        f"{CONFIGURATIONS} (T2: 0.75; S, B: 1; L, L2: 6)",
    )
    mesa_start: float = value(0.25, "share of the epochs without that distance", f"{CONFIGURATIONS} (B: 0.3)")
    crop: float = value(
        1.0,
        "share of the resized image that validation keeps",
        "the published evaluations (T2: 0.98; S and 512 pixels: 0.93); the configurations have 1 (S: 0.875)",
    )
    seed: int = value(31, "of weights, order and augmentation")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            self._require(is_whole(getattr(self, name), 1), name, "a whole number of at least 1")
        for name in ("warmup_epochs", "cooldown_epochs"):
            self._require(is_whole(getattr(self, name), 0), name, "a whole number of at least 0")
        seed = is_whole(self.seed, 0) and self.seed < 2**63  # as torch's generators take it
        self._require(seed, "seed", "a whole number from 0 to 2^63 - 1")
        self._require(self.warmup_epochs < self.epochs, "warmup_epochs", f"below --epochs, which is {self.epochs}")
        for name in ("lr", "warmup_lr", "min_lr", "eps", "clip_grad"):
            self._require(self._number(name, 0) and getattr(self, name) > 0, name, "a number above 0")
        for name in ("weight_decay", "mixup", "cutmix", "mesa", "color_jitter"):
            self._require(self._number(name, 0), name, "a number of at least 0")
        for name in ("smoothing", "drop_path", "ema_decay"):
            self._require(self._number(name, 0) and getattr(self, name) < 1, name, "a number from 0 to below 1")
        for name in ("mix_probability", "mix_switch", "flip", "erasing", "mesa_start"):
            self._require(self._number(name, 0, 1), name, "a number from 0 to 1")
        for name in ("least_area", "crop"):
            self._require(self._number(name, 0, 1) and getattr(self, name) > 0, name, "a number above 0 and at most 1")
        self._require(self._number("aspect", 1), "aspect", "a number of at least 1")

    def _number(self, name: str, least: float, most: float = math.inf) -> bool:
        seen = getattr(self, name)
        return is_number(seen) and least <= seen <= most

    def _require(self, holds: bool, name: str, wanted: str) -> None:
        require(holds, option(name), getattr(self, name), wanted)

    @property
    def all_epochs(self) -> int:
        """Epochs with the cool-down."""
        return self.epochs + self.cooldown_epochs

    @property
    def mixes(self) -> bool:
        return self.mix_probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def distils(self, epoch: int) -> bool:
        """Whether the loss of this epoch, counted from 0, holds the distance from the average's scores."""
        return self.mesa > 0 and epoch / self.epochs > self.mesa_start


# Published for the six variants trained on ImageNet-1K alone. The others take the values of the nearest of them.
BY_VARIANT: dict[str, dict[str, Any]] = {
    "T": {},
    "T2": {"mesa": 0.75},
    "S": {"mesa": 1.0},
    "B": {"mesa": 1.0, "mesa_start": 0.3, "weight_decay": 0.075, "warmup_epochs": 35},
    "L": {"mesa": 6.0, "weight_decay": 0.12},
    "L2": {"mesa": 6.0, "weight_decay": 0.12},
}
NEAREST = {"B-21K": "B", "L-21K": "L", "L2-512-21K": "L2", "L3-256-21K": "L2", "L3-512-21K": "L2", "tiny": "T"}


def option(name: str) -> str:
    """The command's option that sets a field."""
    return f"--{name.replace('_', '-')}"


def recipe_of(config: MambaVisionConfig, given: dict[str, Any]) -> Recipe:
    """The recipe of a variant with what a user gave.

    The published rate is for 4,096 images; unless it is given, another batch takes it times the square root of the
    ratio, the rule of timm's training script for LAMB and other adaptive optimisers.

    Args:
        config: its `name`, `drop_path_rate` and `crop` are used.
        given: fields of `Recipe` by name.

    Raises:
        UserError: a value that cannot be used.
    """
    own = BY_VARIANT[NEAREST.get(config.name, config.name)]
    recipe = Recipe(**{"drop_path": config.drop_path_rate, "crop": config.crop, **own, **given})
    if "lr" in given:
        return recipe
    return dataclasses.replace(recipe, lr=recipe.lr * math.sqrt(recipe.batch / PUBLISHED_BATCH))
