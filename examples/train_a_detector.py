"""Train a small Cascade Mask R-CNN on drawn shapes: circles, rectangles and triangles over noise, with known masks."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mvc.tasks.coco import results, run_lengths
from mvc.tasks.detection import Detector, Selection, create_detector
from mvc.tasks.metrics import coco_average_precision
from mvc.tasks.photographs import levels, normalised
from mvc.tasks.pictures import draw_detections
from mvc.tasks.recipe import DETECTION, Recipe, optimizer, schedule
from mvc.tasks.targets import Target

CLASSES = ("circle", "rectangle", "triangle")
SIZE = (128, 160)  # height and width in pixels
SMALL = {"width": 32, "window_sizes": (8, 5), "drop_path_rate": 0.0}  # of the heads, and of the backbone


def photograph(draw: np.random.Generator) -> tuple[Image.Image, Target]:
    """Noise of several scales and colours, and over it some shapes, of which later ones hide parts of earlier ones."""
    image = Image.new("RGB", SIZE[::-1])
    for cells, share in ((3, 1.0), (8, 0.5), (24, 0.3), (SIZE[0], 0.15)):
        noise = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        image = Image.blend(image, noise.resize(image.size, Image.Resampling.BICUBIC), share)
    image = Image.blend(image, Image.new("RGB", image.size, "grey"), 0.5)
    labels, masks = [], []
    for _ in range(draw.integers(1, 5)):
        label, shape = draw.integers(len(CLASSES)), Image.new("L", image.size)
        outline(ImageDraw.Draw(shape), CLASSES[label], draw)
        image.paste(tuple(draw.integers(0, 256, 3).tolist()), mask=shape)
        pixels = np.array(shape) > 0
        masks = [mask & ~pixels for mask in masks] + [pixels]
        labels.append(label)
    seen = [index for index, mask in enumerate(masks) if mask.sum() >= 100]
    masks = torch.from_numpy(np.stack([masks[index] for index in seen]))
    return image, Target(boxes_around(masks), torch.tensor([labels[index] for index in seen]), masks)


def outline(canvas: ImageDraw.ImageDraw, name: str, draw: np.random.Generator) -> None:
    """Fill a shape somewhere within the canvas."""
    width, height = draw.integers(18, 65, 2)
    if name == "circle":
        height = width
    x, y = draw.integers(0, SIZE[1] - width), draw.integers(0, SIZE[0] - height)
    if name == "circle":
        canvas.ellipse((x, y, x + width, y + width), fill=255)
    elif name == "rectangle":
        canvas.rectangle((x, y, x + width, y + height), fill=255)
    else:
        canvas.polygon([(x, y + height), (x + width, y + height), (x + draw.integers(width + 1), y)], fill=255)


def boxes_around(masks: Tensor) -> Tensor:
    """(n, 4) of bitmaps (n, height, width): the edges of their outermost pixels."""
    return torch.stack([torch.cat([(at := mask.nonzero().flip(1)).amin(0), at.amax(0) + 1]) for mask in masks]).float()


def batch(draw: np.random.Generator, count: int) -> tuple[Tensor, list[Target], list[Image.Image]]:
    """Normalised images (count, 3, height, width), their targets, and the pictures themselves."""
    images, targets = zip(*(photograph(draw) for _ in range(count)), strict=True)
    pixels = torch.stack([levels(image) for image in images])
    return normalised(pixels), list(targets), list(images)


def fit(model: nn.Module, recipe: Recipe, losses: Callable[[], dict[str, Tensor]], *, steps: int) -> None:
    """Train by a recipe on the sum of the losses that each call gives."""
    adam = optimizer(model, recipe)
    rates = schedule(adam, recipe, steps=steps)
    start = time.perf_counter()
    for step in range(steps):
        loss = sum(losses().values())
        adam.zero_grad()
        loss.backward()
        adam.step()
        rates.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step:4}: loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s", flush=True)


def train(model: Detector, *, steps: int, images: int, seed: int) -> None:
    """On new pictures in each step, by the published recipe with another rate and warm-up, and with fewer boxes."""
    draw, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    recipe = dataclasses.replace(DETECTION["T"], rate=1e-3, warm_up=min(50, steps - 1))
    learning = dataclasses.replace(model.learning, samples=64, candidates=500, proposals=300)

    def losses() -> dict[str, Tensor]:
        pixels, targets, _ = batch(draw, images)
        return model.losses(pixels, [SIZE] * images, targets, learning=learning, generator=generator)

    fit(model, recipe, losses, steps=steps)


def evaluate(model: Detector, *, images: int, seed: int) -> tuple[list[dict], dict]:
    """What the model finds in new pictures, and what is there, both in COCO's formats."""
    draw, found, there = np.random.default_rng(seed), [], []
    for image in range(images):
        pixels, (target,), _ = batch(draw, 1)
        (detections,) = model.predict(pixels, [SIZE])
        found += results(image, detections, range(len(CLASSES)))
        for box, label, mask in zip(target.boxes, target.labels, target.masks, strict=True):
            x1, y1, x2, y2 = box.tolist()
            what = {"id": len(there) + 1, "image_id": image, "category_id": label.item(), "iscrowd": 0}
            where = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": mask.sum().item(), "segmentation": run_lengths(mask)}
            there.append(what | where)
    facts = {
        "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in range(images)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(CLASSES)],
        "annotations": there,
    }
    return found, facts


def picture(model: Detector, *, seed: int) -> Image.Image:
    """What the model is sure of in the first six pictures of the test, at twice their size."""
    pixels, _, images = batch(np.random.default_rng(seed), 6)
    height, width = 2 * SIZE[0], 2 * SIZE[1]
    found = model.predict(pixels, [SIZE] * 6, [(height, width)] * 6, select=Selection(score=0.5))
    sheet = Image.new("RGB", (3 * width, 2 * height))
    for index, (image, detections) in enumerate(zip(images, found, strict=True)):
        drawn = draw_detections(image.resize((width, height), Image.Resampling.NEAREST), detections, CLASSES)
        sheet.paste(drawn, (index % 3 * width, index // 3 * height))
    return sheet.quantize(128, dither=Image.Dither.NONE)  # noise makes large files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--images", type=int, default=4, help="pictures in a step")
    parser.add_argument("--test", type=int, default=100, help="pictures for the average precision")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="draw what is found in six pictures into this file")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = create_detector("tiny", num_classes=len(CLASSES), **SMALL)
    train(model, steps=options.steps, images=options.images, seed=options.seed)
    found, truth = evaluate(model.eval(), images=options.test, seed=options.seed + 1)
    for kind, figures in coco_average_precision(truth, found).items():
        print(f"{kind}:", ", ".join(f"{name} {100 * figures[name]:.1f}" for name in ("AP", "AP50", "AP75")))
    if options.plot:
        picture(model, seed=options.seed + 1).save(options.plot, optimize=True)


if __name__ == "__main__":
    main()
