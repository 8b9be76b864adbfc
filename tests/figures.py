"""How results compare with the golden figures of the dense tasks, and what the largest errors were."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 2e-5  # of the largest value: nine times what float32 costs the backbone, four times the heads


def assert_figures(name: str, actual: Tensor, expected: Tensor, *, absolute: float | None = None) -> None:
    """The same shape, and values within `absolute`, or within TOLERANCE of the largest. Prints the largest error."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} for {tuple(expected.shape)}"
    error = (actual.double() - expected.double()).abs().max().item()
    budget = TOLERANCE * expected.abs().max().item() if absolute is None else absolute
    print(f"{name}: off by {error:.2e}, {error / budget * 100:.0f} % of {budget:.2e}")
    assert error <= budget, f"{name} is off by {error:.3g}, budget {budget:.3g}"


def assert_sampled(
    name: str, actual: Tensor, figures: dict[str, Tensor], tag: str, *, absolute: float | None = None
) -> None:
    """A tensor against the figures of its name: its shape and values of it at even distances, which repeat where the
    tensor has fewer."""
    expected = figures[f"{name}_{tag}"]
    assert list(actual.shape) == figures[f"{name}_shape_{tag}"].tolist(), name
    indices = np.linspace(0, actual.numel() - 1, len(expected)).astype(np.int64)
    assert_figures(name, actual.flatten()[torch.from_numpy(indices)], expected, absolute=absolute)
