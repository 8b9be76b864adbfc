"""How close results are that only differ by the order of their sums."""

import torch
from torch import Tensor


def assert_close(name: str, actual: Tensor, expected: Tensor, roundings: int = 64) -> None:
    """Equal but for sums taken in another order: so many roundings of the largest value."""
    error = (actual - expected).abs().max().item()
    budget = roundings * torch.finfo(expected.dtype).eps * expected.abs().max().item()
    assert error <= budget, f"{name} is off by {error:.3g}, budget {budget:.3g}"
