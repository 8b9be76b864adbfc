"""Small sets of drawn images, and trainings of tiny on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mvc.images.folder import list_images
from mvc.model.config import get_config
from mvc.model.module import create_model
from mvc.processes import Processes
from mvc.train.__main__ import main
from mvc.train.loop import Sources
from mvc.train.recipe import Recipe, recipe_of
from mvc.train.step import Execution, Step

SIDE = 64
CLASSES = ("bars", "disc", "rings")
ALONE = Processes(0, 1, torch.device("cpu"))
EAGER = Execution("eager", torch.float32)
# No image is changed and no path dropped, so that an update depends on the images alone.
PLAIN = {
    "batch": 8,
    "epochs": 3,
    "warmup_epochs": 1,
    "cooldown_epochs": 0,
    "drop_path": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "randaugment": "",
    "color_jitter": 0.0,
    "erasing": 0.0,
    "flip": 0.0,
    "least_area": 1.0,
    "aspect": 1.0,
    "mesa": 0.0,
}
# As a command: small, and without a compiler.
SMALL = ("--variant", "tiny", "--backend", "eager", "--dtype", "float32", "--workers", "0", "--quiet")
SHORT = ("--batch", "8", "--epochs", "2", "--warmup-epochs", "1", "--cooldown-epochs", "0")


def drawn(kind: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 (64, 64, 3): bright figures of a class on noise."""
    y, x = np.mgrid[:SIDE, :SIDE] - rng.integers(24, 40, (2, 1, 1))
    distance = np.hypot(y, x)
    figures = {"bars": x // 5 % 2 == 0, "disc": distance < 16, "rings": distance // 5 % 2 == 0}
    pixels = rng.integers(0, 80, (SIDE, SIDE, 3))
    pixels[figures[kind]] = rng.integers(160, 256, 3)
    return pixels.astype(np.uint8)


def draw(folder: Path, *, train: int, val: int) -> Path:
    """A data set of `CLASSES` with so many images of each class."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for kind in CLASSES:
            (folder / part / kind).mkdir(parents=True)
            for serial in range(count):
                image.fromarray(drawn(kind, rng)).save(folder / part / kind / f"{serial}.png")
    return folder


def sources(folder: Path, rows: int = 4) -> Sources:
    return Sources(list_images(folder / "train"), list_images(folder / "val"), rows=rows, workers=0)


def step(execution: Execution = EAGER, processes: Processes = ALONE, updates: int = 3, **given: object) -> Step:
    """Tiny for the drawn classes, with the recipe `PLAIN` but for what is given."""
    config = get_config("tiny", num_classes=len(CLASSES))
    recipe = recipe_of(config, {**PLAIN, **given})
    torch.manual_seed(0)
    model = create_model(config, drop_path_rate=recipe.drop_path)
    return Step(model, recipe, execution, processes, updates=updates)


def plain_recipe(**given: object) -> Recipe:
    return recipe_of(get_config("tiny"), {**PLAIN, **given})


def freeze_statistics(model: nn.Module) -> None:
    """BatchNorm computes with its stored statistics and leaves them alone, also in training mode."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train = lambda mode=True, layer=layer: layer  # type: ignore[method-assign]
            layer.training = False


def run(folder: Path, output: Path, *arguments: str) -> int:
    """The command on a drawn data set; its exit status."""
    return main(["--data", str(folder), "--output", str(output), *SMALL, *SHORT, *arguments])
