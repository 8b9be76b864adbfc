"""How far a result is from what is expected, and how far it may be: one measure and one form of budget for all judges.

The check of compiled models (`mvc.compile.compiler`), the replay of generated GPU code (`mvc.offline.replay`) and the
verifier of passes (`mvc.passes.verify`) measure with `relative_error`. What each of them allows stands here, too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

TINY = torch.finfo(torch.float64).tiny


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the error of a tensor may be, as a sum of two parts.

    Attributes:
        eager_errors: so many times the error that eager arithmetic has in the same dtype.
        roundings: so many roundings of the dtype.
    """

    eager_errors: float
    roundings: float

    def tolerance(self, rounding: float, *, eager_error: float = 0.0, typical: float = 0.0) -> float:
        """The largest relative error that is allowed.

        Args:
            rounding: of the dtype, as `rounding` returns it.
            eager_error: of eager arithmetic, in this tensor.
            typical: the same in the median tensor; the larger of the two counts.
        """
        return self.eager_errors * max(eager_error, typical) + self.roundings * rounding


COMPILED = Budget(eager_errors=4, roundings=1)
REPLAYED = Budget(eager_errors=2, roundings=1)
# Of scores in float32, where constants are checked: float16 does not show that one has changed by some permille.
REPLAYED_FLOAT32_SCORES = 1e-5
# A scan in another order adds about ten roundings in float32 over thousands of steps, a loop that rounds its state to
# bfloat16 in every step about eight.
REWRITTEN = Budget(eager_errors=0, roundings=32)


class Check(NamedTuple):
    """One tensor of a compared run, and how far that run and eager are from an oracle of higher precision.

    Attributes:
        tensor: its name.
        error, eager_error: relative errors, as `relative_error` measures them.
        tolerance: what `error` may be.
    """

    tensor: str
    error: float
    eager_error: float
    tolerance: float

    def __str__(self) -> str:
        error, eager, tolerance = (
            f"{each:.2e}" if math.isfinite(each) else "not finite"
            for each in (self.error, self.eager_error, self.tolerance)
        )
        return f"{self.tensor} error {error}, eager's own {eager}, tolerance {tolerance}"

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; never where one of them is not finite."""
        return self.error <= self.tolerance < math.inf

    @property
    def strain(self) -> float:
        """The error as a share of the tolerance; infinite where one of them is not finite."""
        finite = math.isfinite(self.error) and math.isfinite(self.tolerance)
        return self.error / self.tolerance if finite else math.inf


def worst(checks: Iterable[Check]) -> Check:
    """The check that fails, else the one nearest to its tolerance, first among those whose eager figure means something
    (a gradient that is zero but for rounding has an error above 1)."""
    return max(checks, key=lambda check: (not check.passed, check.eager_error < 1, check.strain))


def rounding(dtype: torch.dtype) -> float:
    """The relative size of one rounding of a dtype; zero for what is not floating point."""
    return torch.finfo(dtype).eps if dtype.is_floating_point or dtype.is_complex else 0.0


def relative_error(
    actual: Tensor | None, expected: Tensor, *, least: float = 0.0, same_nonfinite: bool = False
) -> float:
    """The distance of two tensors over the norm of the expected one, both Euclidean and in float64.

    It is infinite where the actual tensor is absent or has another shape, and NaN where values are NaN.

    Args:
        least: root mean square that the expected elements count as having at least.
        same_nonfinite: NaN and infinities that stand in the same places in both count as equal; where they do not, the
            error is infinite.
    """
    if actual is None or actual.shape != expected.shape:
        return math.inf
    actual, expected = _wide(actual), _wide(expected)
    if same_nonfinite:
        finite = expected.isfinite()
        if not (actual.isnan() & expected.isnan() | (actual == expected) | finite).all():
            return math.inf
        actual, expected = actual[finite], expected[finite]
    norm = max(float(expected.norm()), least * math.sqrt(expected.numel()), TINY)
    return float((actual - expected).norm()) / norm


def relative_errors(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, share: float = 0.0
) -> dict[str, float]:
    """`relative_error` of each expected tensor, by name.

    Args:
        share: the elements of each tensor count as at least this share of the root mean square of all tensors together.
            A tensor that is zero but for rounding, such as the gradient of a bias before a BatchNorm, is so compared
            with the others.
    """
    least = share and share * root_mean_square(expected.values())
    return {name: relative_error(actual.get(name), each, least=least) for name, each in expected.items()}


def root_mean_square(tensors: Iterable[Tensor]) -> float:
    """Of all elements together; those that are not finite count as zero."""
    wide = [_wide(each).nan_to_num(0, 0, 0) for each in tensors]
    count = sum(each.numel() for each in wide)
    return math.sqrt(sum(float(each.square().sum()) for each in wide) / count) if count else 0.0


def _wide(tensor: Tensor) -> Tensor:
    """In float64, complex numbers as pairs."""
    return torch.view_as_real(tensor.resolve_conj()).double() if tensor.is_complex() else tensor.double()
