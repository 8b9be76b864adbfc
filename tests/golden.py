"""The weights and images on which the golden figures in data/golden were computed, rebuilt from tensor names alone.

The arithmetic must stay as it is: another order of the random draws makes other weights.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import torch
from places import DATA
from torch import Tensor

from mvc.model.module import MambaVision, create_model

FOLDER = DATA / "golden"
VARIANTS = ("T", "T2", "S", "B")
SAMPLES = 256


def spec(name: str) -> dict[str, list[int]]:
    """Names and shapes of the published checkpoint, in its order."""
    return json.loads((FOLDER / f"official_{name}.spec.json").read_text(encoding="utf-8"))


def weights(variant: str) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(tensor(name, shape))) for name, shape in spec(variant).items()}


def save_published(state: dict[str, Tensor], path: Path) -> Path:
    """Write a torch file in the form of the published ones: a training state with an argparse.Namespace."""
    training = {"epoch": 310, "arch": "mamba_vision_T", "args": argparse.Namespace(lr=5e-4, opt="lamb"), "metric": 82.3}
    torch.save({**training, "optimizer": {"state": {}, "param_groups": [{"lr": 5e-4}]}, "state_dict": state}, path)
    return path


@functools.lru_cache(maxsize=1)
def model(variant: str) -> MambaVision:
    """The variant on its golden weights, in evaluation mode; tests must not change it."""
    module = create_model(variant, device="meta").eval().requires_grad_(False)
    module.load_state_dict(weights(variant), strict=True, assign=True)
    return module.to(memory_format=torch.channels_last)


def image(batch: int, height: int, width: int) -> Tensor:
    """Standard normal, keyed by its shape."""
    values = rng(f"image-{batch}x{height}x{width}").normal(0.0, 1.0, (batch, 3, height, width))
    return torch.from_numpy(values.astype(np.float32))


@functools.cache
def figures(name: str) -> dict[str, Tensor]:
    """What the published model computed: arrays named as in data/README.md."""
    with np.load(FOLDER / f"official_{name}.npz") as arrays:
        return {array: torch.from_numpy(arrays[array]) for array in arrays.files}


def cases() -> list[tuple[str, tuple[int, int, int]]]:
    """Every variant with every (batch, height, width) that it has figures for."""
    return [
        (variant, tuple(map(int, match.groups())))
        for variant in VARIANTS
        for name in figures(variant)
        if (match := re.fullmatch(r"logits_(\d+)x(\d+)x(\d+)", name))
    ]


def sampled(values: Tensor, count: int = SAMPLES) -> Tensor:
    """The `count` values of a map that the figures hold; all, if there are no more."""
    count = min(count, values.numel())
    return values.flatten()[torch.from_numpy(np.linspace(0, values.numel() - 1, count).astype(np.int64))]


def rng(name: str) -> np.random.Generator:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(key=key))


def tensor(name: str, shape: list[int]) -> np.ndarray:
    draw = rng(name)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.array(1, dtype=np.int64)
    if leaf == "running_var":
        values = draw.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean":
        values = draw.normal(0.0, 0.1, shape)
    elif leaf == "A_log":
        values = np.log(np.arange(1, shape[1] + 1, dtype=np.float64))[None, :] + draw.normal(0.0, 0.2, shape)
    elif leaf == "D":
        values = draw.normal(1.0, 0.2, shape)
    elif leaf.startswith("gamma"):
        values = draw.uniform(0.2, 1.0, shape)
    elif name.endswith("dt_proj.bias"):  # softplus of it is a step between 0.001 and 0.1
        step = np.exp(draw.uniform(math.log(1e-3), math.log(1e-1), shape))
        values = step + np.log(-np.expm1(-step))
    elif leaf == "weight" and len(shape) == 1:  # a norm's scale
        values = draw.uniform(0.5, 1.5, shape)
    elif leaf == "bias":
        values = draw.normal(0.0, 0.1, shape)
    else:
        values = draw.normal(0.0, 1.0, shape) / math.sqrt(int(np.prod(shape[1:])))
    return values.astype(np.float32)
