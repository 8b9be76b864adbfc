"""Folders of small images, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def image_folder(root: Path, counts: Mapping[str, int]) -> Path:
    """Write so many images of noise around a shade of its own for each class; their sizes differ."""
    from PIL import Image

    generator = np.random.default_rng(len(counts))
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            shape = (66 + number, 90 - label, 3)
            noise = generator.integers(0, 128, shape, dtype=np.uint8)
            shade = np.array([label * 37 % 128, label * 91 % 128, 64], dtype=np.uint8)
            Image.fromarray(noise + shade).save(root / name / f"{number:02}.png")
    return root
