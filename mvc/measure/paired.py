"""The ratio of two callables' times, where each round timed both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Ratio(NamedTuple):
    """A median ratio and the interval that holds it with the confidence asked for."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


def paired_ratio(
    times: Sequence[float], base: Sequence[float], *, confidence: float = 0.9, resamples: int = 2000, seed: int = 0
) -> Ratio:
    """Median over the rounds of `times` over `base`, with its percentile bootstrap interval over rounds.

    A drift from round to round changes both times of a pair alike, and so hardly changes their ratio.

    Args:
        times, base: one time for each round, in the same unit, above 0.
        confidence: share of the bootstrap's medians within the interval, from 0 to 1.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: no rounds, or `times` and `base` of different lengths.
    """
    if len(times) != len(base) or not len(times):
        raise ValueError(f"{len(times)} and {len(base)} times; a ratio needs one of each for every round, and a round")
    logs = np.log(times) - np.log(base)
    draws = np.random.default_rng(seed).integers(len(logs), size=(resamples, len(logs)))
    medians = np.median(logs[draws], axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Ratio(*(float(each) for each in np.exp([np.median(logs), low, high])))
