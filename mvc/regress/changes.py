"""Steps and creeps in a series of times, told apart from noise, from outliers and from each other.

The logarithms of the times are modelled as a level, a jump at each step and a straight rise over each creep:

1. Excursions that come back within a week or so are left out.
2. PELT of the package ruptures proposes steps: the borders of the cheapest division into lines, which rise slowly.
3. Ramps are added as long as one explains a clear part of what the steps leave.
4. Steps are dropped, or put in the place of a ramp, while that makes the model better.
5. The weakest step is dropped and the ramps are searched anew, until all steps are clear of noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from mvc.errors import UserError

FEWEST = 6  # points that are judged
SIDE = 3  # points on each side of a step at least: fewer are not told from outliers
AROUND = 14  # points on each side that tell an excursion; two weeks of nights
SHORTEST_CREEP = 35  # points, in which a creep rises by the effect at most: five weeks of nights
LEAST_STEP, LEAST_CREEP = 2 / 3, 1 / 2  # of the effect, what is found
PRICE = 2  # of a border, in logarithms of the number of points: Schwarz's criterion, for a place and a level
LEAST_NOISE = 0.001  # of a time, which no machine goes below from day to day
CHANCE = 1e-5  # of a change in noise alone, for each that is tried
FEW, STRAY = 7, 0.2  # of so few points on one side of a step, the share that may lie beyond its middle


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
        effect: the smallest change that counts. Steps of two thirds of it and creeps of half of it are found, if
            they are clear of noise.

    Raises:
        UserError: ruptures is not installed.
    """
    logs, bound = np.log(np.asarray(seconds, dtype=float)), math.log1p(effect)
    points = _Points(len(logs), *_without_excursions(logs))
    model = _improved(_model(points, _borders(points, slope=bound / (4 * SHORTEST_CREEP)), bound), bound)
    while True:
        doubts = {start: doubt for start in model.steps if (doubt := model.doubt(start, LEAST_STEP * bound)) > 0}
        if not doubts:
            return Fitted(model.changes(LEAST_STEP * bound), np.exp(model.level()))
        weakest = max(doubts, key=doubts.get)
        model = _model(points, [start for start in model.steps if start != weakest], bound)


class _Points(NamedTuple):
    """The points of a series of `count` that the model is fitted to: their places in it, and their logarithms."""

    count: int
    at: np.ndarray
    values: np.ndarray

    @property
    def noise(self) -> float:
        return _noise(self.values)


def _noise(values: np.ndarray) -> float:
    """The standard deviation from one point to the next, whatever steps, slopes and outliers there are."""
    return max(LEAST_NOISE, 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2))


def _without_excursions(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places and values of the points that do not lie beyond both the `AROUND` before and the `AROUND` after.

    Outliers and disturbances of up to a half of `AROUND` are thus left out, and the points between two steps are not.
    The first and the last point have one side, whose three nearest points stand for the other.
    """
    reach, kept = 3 * _noise(values), np.ones(len(values), dtype=bool)
    for i, value in enumerate(values):
        before, after = values[max(0, i - AROUND) : i], values[i + 1 : i + 1 + AROUND]
        sides = [before if len(before) else after[:3], after if len(after) else before[-3:]]
        low, high = sorted(float(np.median(side)) for side in sides)
        kept[i] = low - reach <= value <= high + reach
    return np.flatnonzero(kept), values[kept]


def _borders(points: _Points, *, slope: float) -> list[int]:
    """Where lines that follow each other begin, but the first.

    Args:
        slope: for each point, that a line has for nothing; a steeper one costs more.
    """
    try:
        import ruptures
    except ImportError as error:
        raise UserError(f"this needs the package ruptures ({error}); pip install 'mvc-mambavision[history]'") from error
    cost = _lines(points.noise / slope)
    search = ruptures.Pelt(custom_cost=cost, min_size=SIDE, jump=1).fit(points.values / points.noise)
    found = search.predict(PRICE * math.log(len(points.values)))  # Schwarz's criterion: a level and a border
    return [int(points.at[border]) for border in found[:-1]]


def _lines(stiffness: float) -> Any:
    """The cost of a part of a series for ruptures: the squares of what a line leaves, and that of its slope times
    `stiffness`."""
    from ruptures.base import BaseCost

    class Lines(BaseCost):
        model, min_size = "lines", SIDE

        def fit(self, signal: np.ndarray) -> Lines:
            self.signal = signal.reshape(-1, 1)
            x = np.arange(len(signal)) - len(signal) / 2
            columns = np.column_stack([x, x * x, signal, x * signal, signal * signal])
            self.sums = np.vstack([np.zeros(5), np.cumsum(columns, axis=0)]).tolist()
            return self

        def error(self, start: int, end: int) -> float:
            count = end - start
            x, xx, y, xy, yy = (b - a for a, b in zip(self.sums[start], self.sums[end], strict=True))
            along = (xy - x * y / count) ** 2 / (xx - x * x / count + stiffness**2)
            return max(0.0, yy - y * y / count - along)

    return Lines()


def _ramp(at: np.ndarray, start: Any, end: Any) -> np.ndarray:
    return np.clip((at - start) / (end - start), 0.0, 1.0)


def _ramps(points: _Points, steps: list[int], bound: float) -> list[tuple[int, int]]:
    """The creeps beside the steps, as the last point before and the last point of each; the clearest is found first."""
    grid = range(0, points.count, max(1, points.count // 60))
    ends = sorted({*grid, points.count - 1})
    candidates = [(start, end) for start in grid for end in ends if end - start >= SHORTEST_CREEP]
    if not candidates:
        return []
    starts, stops = np.array(candidates).T
    shapes = _ramp(points.at[:, None], starts, stops)
    squares = (shapes**2).sum(axis=0)
    apart, found = np.ones(len(candidates), dtype=bool), []
    while True:
        model = _Model(points, steps, found)
        weight = squares - ((model.basis.T @ shapes) ** 2).sum(axis=0)
        usable = apart & (weight > 1e-6)  # the steps do not have this shape
        rise = (shapes.T @ model.residual) / np.where(usable, weight, 1.0)
        usable &= (np.abs(rise) >= LEAST_CREEP * bound) & (np.abs(rise) <= bound * (stops - starts) / SHORTEST_CREEP)
        gain = np.where(usable, rise**2 * weight, 0.0)
        best = int(np.argmax(gain))
        if math.sqrt(gain[best]) <= model.clear * model.noise:
            return found
        found.append(candidates[best])
        apart &= (stops <= starts[best]) | (starts >= stops[best])


def _model(points: _Points, steps: list[int], bound: float) -> _Model:
    """The model with these steps, each moved a little to where it fits best, and the ramps beside them."""
    ramps = _ramps(points, steps, bound)
    return _Model(points, _placed(points, steps, ramps), ramps)


def _improved(model: _Model, bound: float) -> _Model:
    """The model after steps were dropped, or put in the place of a ramp, as long as that makes it better."""
    while True:
        steps = model.steps
        trials = [[each for each in steps if each != step] for step in steps]
        for ramp in model.ramps:
            rest = _Model(model.points, steps, [each for each in model.ramps if each != ramp])
            trials += [sorted([*steps, start]) for start in rest.best_step()]
        better = min(
            (_model(model.points, trial, bound) for trial in trials), key=lambda each: each.cost, default=model
        )
        if better.cost >= model.cost - 1e-6:
            return model
        model = better


def _placed(points: _Points, steps: list[int], ramps: list[tuple[int, int]]) -> list[int]:
    """The steps, each moved to where the model leaves least while the others are held."""
    placed = list(steps)
    for i, start in enumerate(steps):
        first, last = [-1, *placed][i] + SIDE, [*placed, points.count][i + 1] - SIDE
        near = range(max(first, start - SIDE), min(last, start + SIDE) + 1)
        left = {at: _Model(points, [*placed[:i], at, *placed[i + 1 :]], ramps).squares for at in near}
        placed[i] = min(left, key=left.get, default=start)
    return placed


class _Model:
    """Least squares of a level, steps and ramps.

    Attributes:
        basis: orthonormal columns that span the model.
        squares: the sum of the squares that it leaves.
        noise: the standard deviation of a point.
    """

    def __init__(self, points: _Points, steps: list[int], ramps: list[tuple[int, int]]) -> None:
        self.points, self.steps, self.ramps = points, steps, ramps
        self.basis, triangle = np.linalg.qr(self._design(points.at))
        inverse = np.linalg.pinv(triangle)
        self.weights = inverse @ (self.basis.T @ points.values)
        self.residual = points.values - self.basis @ (self.basis.T @ points.values)
        self.squares = float(self.residual @ self.residual)
        self.freedom = max(1, len(points.at) + 1 - 2 * len(self.weights))  # a change has a rise and a place
        self.noise = max(points.noise, math.sqrt(self.squares / self.freedom))
        self.errors = self.noise * np.sqrt((inverse**2).sum(axis=1))

    def _design(self, at: np.ndarray) -> np.ndarray:
        jumps = [(at >= start).astype(float) for start in self.steps]
        return np.column_stack([np.ones(len(at)), *jumps, *(_ramp(at, *each) for each in self.ramps)])

    @property
    def cost(self) -> float:
        """By Schwarz's criterion: a change has a place and a rise."""
        return self.squares / self.points.noise**2 + 2 * (len(self.steps) + len(self.ramps)) * math.log(
            len(self.points.at)
        )

    def best_step(self) -> list[int]:
        """The place at which a further step explains most, if there is one."""
        at = self.points.at
        taken = [0, *self.steps, self.points.count]
        places = [int(a) for a in at if min(abs(a - each) for each in taken) >= SIDE]
        shapes = (at[:, None] >= np.array(places)).astype(float)
        weight = (shapes**2).sum(axis=0) - ((self.basis.T @ shapes) ** 2).sum(axis=0)
        gain = np.where(weight > 1e-6, (shapes.T @ self.residual) ** 2 / np.maximum(weight, 1e-6), 0.0)
        return [places[int(np.argmax(gain))]] if places else []

    def level(self) -> np.ndarray:
        """The logarithm of the level at every point of the series."""
        return self._design(np.arange(self.points.count)) @ self.weights

    @property
    def clear(self) -> float:
        """How many standard errors are clear of chance."""
        from scipy.special import stdtrit  # ruptures needs scipy; Student's quantile

        return -float(stdtrit(self.freedom, CHANCE / 2))

    def doubt(self, start: int, least: float) -> float:
        """How far a step is from being clear; 0 or less for one that is."""
        place, at = self.steps.index(start), self.points.at
        edges, rise, error = [-1, *self.steps, self.points.count], self.weights[place + 1], self.errors[place + 1]
        before = (at >= max(edges[place], start - AROUND)) & (at < start)
        after = (at >= start) & (at < min(edges[place + 2], start + AROUND))
        sides = [self.residual[before], self.residual[after]]
        if min(map(len, sides)) < SIDE:
            return 1.0
        spread = math.sqrt(sum(np.var(side, ddof=1) / len(side) for side in sides))
        middle = abs(rise) / 2
        # A few outliers in a row look like a step at the end of a series, but not all of them are as far.
        strays = [np.sum(sides[0] * np.sign(rise) > middle), np.sum(sides[1] * np.sign(rise) < -middle)]
        few = any(len(side) <= FEW and stray > STRAY * len(side) for side, stray in zip(sides, strays, strict=True))
        sureness = min(abs(rise) / (self.clear * max(error, spread)), abs(rise) / least)
        return max(0.5 * few, 1 - sureness)

    def changes(self, least: float) -> list[Found]:
        """What was fitted, in the order of time, without steps that are taken back within a week or so."""
        places = [("step", start, start) for start in self.steps] + [("creep", a + 1, b) for a, b in self.ramps]
        rises = zip(places, self.weights[1:].tolist(), self.errors[1:].tolist(), strict=True)
        found = [Found(*place, rise, error) for place, rise, error in rises]
        steps = sorted(each for each in found if each.kind == "step")
        for up, down in itertools.pairwise(steps):
            if down.start - up.start <= AROUND // 2 and abs(up.rise + down.rise) < least:
                found = [each for each in found if each not in (up, down)]  # a bad week
        return sorted(found, key=lambda change: change.start)
