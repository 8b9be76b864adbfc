"""Train a small UPerNet, from nothing, to tell the drawn shapes of train_a_detector.py from the noise under them.

With `--kinds` it also learns which kind of shape each is, which takes more steps.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from train_a_detector import CLASSES, SIZE, SMALL, batch, fit

from mvc.tasks.metrics import class_counts, mean_iou
from mvc.tasks.pictures import draw_segments
from mvc.tasks.recipe import SEGMENTATION
from mvc.tasks.segmentation import Segmenter, create_segmenter
from mvc.tasks.targets import Target


def labels_of(targets: list[Target], names: tuple[str, ...]) -> Tensor:
    """The class of every pixel (pictures, height, width): 0 where there is no shape, otherwise 1, or the shape's kind
    where `names` has the kinds."""
    labels = torch.zeros(len(targets), *SIZE, dtype=torch.long)
    for picture, target in zip(labels, targets, strict=True):
        for label, mask in zip(target.labels, target.masks, strict=True):
            picture[mask] = label + 1
    return labels.clamp_max(len(names) - 1)


def train(model: Segmenter, names: tuple[str, ...], *, steps: int, images: int, seed: int) -> None:
    """On new pictures in each step, by the published recipe with another rate and warm-up."""
    draw = np.random.default_rng(seed)
    recipe = dataclasses.replace(SEGMENTATION["T"], rate=4e-3, warm_up=min(50, steps - 1))

    def losses() -> dict[str, Tensor]:
        pixels, targets, _ = batch(draw, images)
        return model.losses(pixels, labels_of(targets, names))

    fit(model, recipe, losses, steps=steps)


def evaluate(model: Segmenter, names: tuple[str, ...], *, images: int, seed: int) -> tuple[float, Tensor]:
    """The mean intersection over union in new pictures, and that of each class."""
    draw, counts = np.random.default_rng(seed), torch.zeros(3, len(names), dtype=torch.long)
    for _ in range(images):
        pixels, targets, _ = batch(draw, 1)
        counts += class_counts(torch.stack(model.predict(pixels)), labels_of(targets, names), len(names))
    return mean_iou(counts)


def picture(model: Segmenter, names: tuple[str, ...], *, seed: int) -> Image.Image:
    """The first six pictures of the test, at twice their size, and what the model sees in each pixel."""
    pixels, _, images = batch(np.random.default_rng(seed), 6)
    height, width = 2 * SIZE[0], 2 * SIZE[1]
    found = model.predict(pixels, None, [(height, width)] * len(images))
    drawn = []
    for image, labels in zip(images, found, strict=True):
        image = image.resize((width, height), Image.Resampling.NEAREST)
        drawn.append(draw_segments(image, labels, names))
    tall = max(each.height for each in drawn)
    sheet = Image.new("RGB", (3 * width, 2 * tall), "white")
    for index, each in enumerate(drawn):
        sheet.paste(each, (index % 3 * width, index // 3 * tall))
    return sheet.quantize(64, dither=Image.Dither.NONE)  # noise makes large files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--kinds", action="store_true", help="a class for each kind of shape")
    parser.add_argument("--images", type=int, default=4, help="pictures in a step")
    parser.add_argument("--test", type=int, default=100, help="pictures for the mean intersection over union")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="draw what is found in six pictures into this file")
    options = parser.parse_args()
    names = ("background", *(CLASSES if options.kinds else ("shape",)))
    torch.manual_seed(options.seed)
    model = create_segmenter("tiny", num_classes=len(names), **SMALL)
    train(model, names, steps=options.steps, images=options.images, seed=options.seed)
    mean, of_class = evaluate(model.eval(), names, images=options.test, seed=options.seed + 1)
    each = ", ".join(f"{name} {100 * share:.1f}" for name, share in zip(names, of_class.tolist(), strict=True))
    print(f"mean IoU {100 * mean:.1f} ({each})")
    if options.plot:
        picture(model, names, seed=options.seed + 1).save(options.plot, optimize=True)


if __name__ == "__main__":
    main()
