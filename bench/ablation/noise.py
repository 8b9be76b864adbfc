"""Whether models differ by more than their seeds: the analysis of a design in randomised blocks.

Each seed is a block: all models of it see the same images in the same order. An accuracy is taken for the sum of what
its model gives, what its seed gives, and noise of one variance for all models. Source: R. A. Fisher, The Design of
Experiments (1935); the intervals hold together by Bonferroni's inequality.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

from mvc.errors import UserError

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """How much a model's mean lies above the reference's, and its interval, which holds for all models together."""

    mean: float
    low: float
    high: float

    @property
    def is_resolved(self) -> bool:
        """Whether it is larger than the noise of seeds: its interval has no zero."""
        return self.low > 0 or self.high < 0


class Analysis(NamedTuple):
    """What the seeds tell.

    Attributes:
        seeds: those of which every model was trained.
        noise: the standard deviation of a model's accuracy once what its seed gives to all models is taken away.
        smallest: the difference of two means from which on it would be resolved.
        p: of as large differences between models, if no model differed from another (F test).
        differences: of each other model from the reference.
    """

    seeds: tuple[int, ...]
    noise: float
    smallest: float
    p: float
    differences: dict[str, Difference]


def analyse(values: Mapping[str, Mapping[int, float]], reference: str) -> Analysis | None:
    """Compare models with a reference.

    Args:
        values: by model and seed.
        reference: one of the models.

    Returns:
        None where there are fewer than two models, or two seeds that all models have.

    Raises:
        UserError: scipy is not installed.
    """
    seeds = tuple(sorted(set.intersection(*(set(each) for each in values.values())))) if values else ()
    if reference not in values or len(values) < 2 or len(seeds) < 2:
        return None
    stats = scipy_stats()
    table = [[each[seed] for seed in seeds] for each in values.values()]
    means = {name: statistics.fmean(row) for name, row in zip(values, table, strict=True)}
    freedom = (len(table) - 1) * (len(seeds) - 1)
    noise = math.sqrt(_left(table) / freedom)
    others = [name for name in values if name != reference]
    quantile = stats.t.isf((1 - CONFIDENCE) / (2 * len(others)), freedom)
    smallest = float(quantile) * noise * math.sqrt(2 / len(seeds))
    between = len(seeds) * statistics.variance(means.values())
    p = float(stats.f.sf(between / noise**2, len(table) - 1, freedom)) if noise > 0 else 0.0 if between > 0 else 1.0
    apart = {name: means[name] - means[reference] for name in others}
    return Analysis(
        seeds, noise, smallest, p, {name: Difference(d, d - smallest, d + smallest) for name, d in apart.items()}
    )


def _left(table: Sequence[Sequence[float]]) -> float:
    """The sum of squares that neither the model nor the seed explains."""
    rows = [statistics.fmean(row) for row in table]
    columns = [statistics.fmean(column) for column in zip(*table, strict=True)]
    whole = statistics.fmean(rows)
    return math.fsum(
        (value - row - column + whole) ** 2
        for row, line in zip(rows, table, strict=True)
        for column, value in zip(columns, line, strict=True)
    )


def scipy_stats() -> ModuleType:
    """The module of distributions.

    Raises:
        UserError: scipy is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise UserError("intervals need scipy; pip install 'mvc-mambavision[studies]'") from error
    return stats
