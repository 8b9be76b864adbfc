"""One training: a small model from random weights, by AdamW with a warm-up and a cosine, and its test."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.ablation.designs import small
from bench.ablation.images import Images
from mvc import create_model

WARM_UP = 0.1  # the share of the steps over which the learning rate rises
TESTED = 100  # images in a batch of the test


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How each model is trained.

    Attributes:
        steps: of the optimiser.
        batch: images in a step.
        dim: the width of the model, as for `designs.small`.
        learning_rate: the highest.
        weight_decay: of every parameter.
    """

    steps: int
    batch: int
    dim: int
    learning_rate: float = 2e-3
    weight_decay: float = 0.05


def train(name: str, seed: int, images: Images, recipe: Recipe, say: Callable[[str], None]) -> dict[str, Any]:
    """Train a design and test it. The seed decides the split, the weights, the order of the images, and "random".

    Two designs of one seed see the same images in the same order.

    Returns:
        the test's accuracy in per cent and mean cross-entropy in nats, the mean loss of the last tenth of the steps,
        the number of parameters, seconds, and those of processors, which other work on the machine does not lengthen.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    training, testing = images.split(seed)
    torch.manual_seed(seed)
    model = create_model(small(name, classes=images.classes, dim=recipe.dim, seed=seed))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, recipe.steps))
    losses = []
    for step, chosen in enumerate(batches(training, recipe, seed)):
        loss = F.cross_entropy(model(normalised(model, images.pixels[chosen])), images.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if (step + 1) % max(recipe.steps // 4, 1) == 0:
            say(f"{name}, seed {seed}: step {step + 1} of {recipe.steps}, loss {loss.item():.3f}")
    last = losses[-max(recipe.steps // 10, 1) :]
    return {
        **test(model, images, testing),
        "training_loss": math.fsum(last) / len(last),
        "parameters": sum(each.numel() for each in model.parameters()),
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
    }


def rate(step: int, steps: int) -> float:
    """The share of the highest learning rate in a step: up in a line, then down to 0 by half a cosine."""
    rising = max(1, round(WARM_UP * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1, steps - rising))


def batches(training: Tensor, recipe: Recipe, seed: int) -> list[Tensor]:
    """The indices of each step's images: every image once, in a new order, before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-recipe.steps * recipe.batch // len(training))
    order = torch.cat([training[torch.randperm(len(training), generator=generator)] for _ in range(rounds)])
    return list(order[: recipe.steps * recipe.batch].split(recipe.batch))


def normalised(model: nn.Module, pixels: Tensor) -> Tensor:
    """uint8 (batch, 3, side, side) -> float32, by the mean and the deviation of the model's configuration."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (model.config.mean, model.config.std))
    return (pixels / 255 - mean) / std


@torch.no_grad()
def test(model: nn.Module, images: Images, testing: Tensor) -> dict[str, float]:
    model.eval()
    right, loss = 0, 0.0
    for chosen in testing.split(TESTED):
        scores, labels = model(normalised(model, images.pixels[chosen])), images.labels[chosen]
        right += int((scores.argmax(1) == labels).sum())
        loss += F.cross_entropy(scores, labels, reduction="sum").item()
    return {"accuracy": 100 * right / len(testing), "loss": loss / len(testing)}
