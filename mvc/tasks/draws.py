"""What augmentation draws, from a generator on the CPU, or torch's own where it is None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def whole(least: int, most: int, generator: torch.Generator | None) -> int:
    """One of the whole numbers from `least` to `most`, both included."""
    return int(torch.randint(least, most + 1, (), generator=generator))


def real(least: float, most: float, generator: torch.Generator | None) -> float:
    """A number from `least` to `most`."""
    return least + (most - least) * float(torch.rand((), generator=generator, dtype=torch.float64))


def one_of(choices: Sequence[T], generator: torch.Generator | None) -> T:
    """One of the choices, each as likely as the others."""
    return choices[whole(0, len(choices) - 1, generator)]


def coin(generator: torch.Generator | None) -> bool:
    """Whether a tossed coin shows heads."""
    return one_of((True, False), generator)
