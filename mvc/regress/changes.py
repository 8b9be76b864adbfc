"""Steps and creeps in a series of times, told apart from noise, outliers and each other.

The logarithms of the times are modelled as a level, a jump at each step, and a straight rise over each creep:

1. Excursions that come back within a week or so are left out.
2. PELT of the package ruptures proposes steps: the borders of the cheapest division into straight lines.
3. Ramps are added as long as one explains a clear part of what the steps leave, so that a slope is not cut into steps.
4. The weakest step is dropped and the ramps are searched anew, until all steps are clear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mvc.errors import UserError

FEWEST = 6  # points that are judged
SIDE = 3  # points on each side of a step at least: fewer are not told from outliers
AROUND = 14  # points on each side that tell an excursion; two weeks of nights
SHORTEST_CREEP = 21  # points
LEAST_NOISE = 0.001  # of a time, which no clock and no machine goes below from day to day
CHANCE = 1e-5  # of a change in noise alone, for each test of one
STRAY = 0.2  # of the points near a step, the share that may lie on the wrong side of its middle


class Found(NamedTuple):
    """A change of the level.

    Attributes:
        start: index of the first point after a step, or of the first on a creep.
        end: index of the last point on a creep; that of a step is its start.
        rise: of the logarithm of the time, by the whole change.
        error: the standard error of the rise.
    """

    kind: Literal["step", "creep"]
    start: int
    end: int
    rise: float
    error: float


class Fitted(NamedTuple):
    """The model of a series: its changes in the order of time, and the level, in seconds, at each point."""

    changes: list[Found]
    level: np.ndarray


def fitted(seconds: Sequence[float], *, effect: float) -> Fitted:
    """The changes in a series of at least `FEWEST` times.

    Args:
        effect: the smallest change that counts. What reaches half of it and is clear of noise is found.

    Raises:
        UserError: ruptures is not installed.
    """
    least = math.log1p(effect) / 2
    logs = np.log(np.asarray(seconds, dtype=float))
    values = _without_excursions(logs)
    steps, ramps = _borders(values), []
    while True:
        ramps = _ramps(values, steps, least)
        steps = _placed(logs, steps, ramps, values)
        model = _Regression(values, steps, ramps)
        doubts = {start: doubt for start in steps if (doubt := model.doubt(start, logs, least))}
        if not doubts:
            return Fitted(model.changes(), np.exp(model.level))
        steps.remove(max(doubts, key=doubts.get))


def _noise(values: np.ndarray) -> float:
    """The standard deviation from one point to the next, whatever steps, slopes and outliers there are."""
    return max(LEAST_NOISE, 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2))


def _without_excursions(values: np.ndarray) -> np.ndarray:
    """The values, of which those beyond both the `AROUND` before and the `AROUND` after are put at the nearer median.

    Outliers and disturbances of up to a half of `AROUND` are thus left out, and the points between two steps are not.
    The first and the last point have one side, whose three nearest points stand for the other.
    """
    reach, made = 3 * _noise(values), values.copy()
    for i, value in enumerate(values):
        before, after = values[max(0, i - AROUND) : i], values[i + 1 : i + 1 + AROUND]
        sides = [before if len(before) else after[:3], after if len(after) else before[-3:]]
        low, high = sorted(float(np.median(side)) for side in sides)
        if not low - reach <= value <= high + reach:
            made[i] = min(max(value, low), high)
    return made


def _borders(values: np.ndarray) -> list[int]:
    """Where straight lines that follow each other begin, but the first."""
    try:
        import ruptures
    except ImportError as error:
        raise UserError(
            f"a history needs the package ruptures; pip install 'mvc-mambavision[history]' ({error})"
        ) from error
    count = len(values)
    signal = np.column_stack([values, np.ones(count), np.arange(count)])
    # A further line costs as much as by Schwarz's criterion: its level, its slope and its border.
    penalty = 3 * math.log(count) * _noise(values) ** 2
    search = ruptures.Pelt(model="linear", min_size=SIDE, jump=1).fit(signal)
    return search.predict(penalty)[:-1]


def _ramp(count: int, start: int, end: int) -> np.ndarray:
    return np.clip((np.arange(count) - start) / (end - start), 0.0, 1.0)


def _ramps(values: np.ndarray, steps: list[int], least: float) -> list[tuple[int, int]]:
    """The creeps beside the steps, as the last point before and the last point of each; the clearest is found first."""
    count = len(values)
    grid = range(0, count, max(1, count // 60))
    ends = sorted({*grid, count - 1})
    candidates = [(start, end) for start in grid for end in ends if end - start >= SHORTEST_CREEP]
    found: list[tuple[int, int]] = []
    while candidates:
        model = _Regression(values, steps, found)
        shapes = np.column_stack([_ramp(count, *each) for each in candidates])
        rest = shapes - model.basis @ (model.basis.T @ shapes)
        weight = (rest**2).sum(axis=0)
        known = weight < 1e-6  # the steps and the creeps that were found have this shape
        rise = np.where(known, 0.0, rest.T @ model.residual / np.where(known, 1.0, weight))
        gain = np.where(np.abs(rise) >= least, rise**2 * weight, 0.0)
        best = int(np.argmax(gain))
        if gain[best] == 0 or math.sqrt(gain[best]) < model.clear * model.noise:
            break
        found.append(candidates[best])
    return found


def _placed(logs: np.ndarray, steps: list[int], ramps: list[tuple[int, int]], values: np.ndarray) -> list[int]:
    """The steps where the absolute differences from the model are least, each with the others held."""
    model, index = _Regression(values, steps, ramps), np.arange(len(logs))
    level, placed = model.level.copy(), list(steps)
    for i, (start, rise) in enumerate(zip(steps, model.rises, strict=False)):
        rest = logs - level + rise * (index >= start)
        bounds = [0, *placed[:i], start, *placed[i + 1 :], len(logs)]
        choices = range(max(bounds[i] + SIDE, start - 7), min(bounds[i + 2] - SIDE, start + 7) + 1)
        placed[i] = min(choices, key=lambda at: float(np.abs(rest - rise * (index >= at)).sum()))
        level += rise * ((index >= placed[i]).astype(float) - (index >= start))
    return placed


class _Regression:
    """Least squares of a level, steps and ramps.

    Attributes:
        noise: the standard deviation of a point.
        clear: how many standard errors are clear of chance.
    """

    def __init__(self, values: np.ndarray, steps: list[int], ramps: list[tuple[int, int]]) -> None:
        from scipy.stats import t  # ruptures needs it

        self.steps, self.ramps = steps, ramps
        index = np.arange(len(values))
        columns = [
            np.ones(len(values)),
            *(index >= start for start in steps),
            *(_ramp(len(values), *each) for each in ramps),
        ]
        design = np.column_stack(columns).astype(float)
        self.basis, triangle = np.linalg.qr(design)
        inverse = np.linalg.pinv(triangle)
        self.rises = (inverse @ (self.basis.T @ values))[1:]
        self.level = self.basis @ (self.basis.T @ values)
        self.residual = values - self.level
        freedom = max(1, len(values) - design.shape[1] - len(steps))  # the place of a step is fitted too
        self.noise = max(_noise(values), math.sqrt(float(self.residual @ self.residual) / freedom))
        self.errors = self.noise * np.sqrt((inverse**2).sum(axis=1))[1:]
        self.clear = float(t.isf(CHANCE / 2, freedom))

    def doubt(self, start: int, logs: np.ndarray, least: float) -> float:
        """How far a step is from being clear; 0 for one that is."""
        place = self.steps.index(start)
        rise = self.rises[place]
        edges = [0, *self.steps, len(logs)]
        before = slice(max(edges[place], start - 15), start)
        after = slice(start, min(edges[place + 2], start + 15))
        spread = [np.var(self.residual[side], ddof=1) / (side.stop - side.start) for side in (before, after)]
        error = max(self.errors[place], math.sqrt(sum(spread)))
        ratio = min(abs(rise) / (self.clear * error), abs(rise) / least)
        # Without the step and what else the model has, one side of it lies at -rise / 2 and the other at rise / 2.
        apart = (logs - self.level) * math.copysign(1, rise)
        half = abs(rise) / 2
        strays = [np.mean(apart[before] > half), np.mean(apart[after] < -half)]
        if max(strays) > STRAY:
            ratio = min(ratio, 0.5)
        return max(0.0, 1 - ratio)

    def changes(self) -> list[Found]:
        """What was fitted, in the order of time."""
        kinds = [("step", start, start) for start in self.steps] + [("creep", a + 1, b) for a, b in self.ramps]
        made = [
            Found(*kind, float(rise), float(error))
            for kind, rise, error in zip(kinds, self.rises, self.errors, strict=True)
        ]
        return sorted(made, key=lambda change: change.start)
