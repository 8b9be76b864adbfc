"""Checks of a caller's arguments, and the sentences in which their errors say what is wanted."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable

import torch

from mvc.errors import UserError
from mvc.kernels.checks import check_tensors

_PRINTED = (bool, int, float, complex, str, bytes, tuple, list, set, dict, torch.dtype, torch.device, type(None))
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raise UserError unless `holds`. The message says what the argument `name` is and that it must be `wanted`."""
    if not holds:
        raise UserError(f"{name} is {shown(value)}; it must be {wanted}")


def shown(value: object) -> str:
    """The value itself where people can read it, otherwise its type."""
    return _short.repr(value) if isinstance(value, _PRINTED) else f"a {type(value).__name__}"


def is_whole(value: object, least: int, most: int | None = None) -> bool:
    """Whether `value` is an int, and not a bool, of at least `least` and at most `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and value >= least and (most is None or value <= most)


def is_number(value: object) -> bool:
    """Whether `value` is a finite int or float, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def require_whole(name: str, value: object, least: int) -> None:
    require(is_whole(value, least), name, value, f"a whole number of at least {least}")


def require_flag(name: str, value: object) -> None:
    require(isinstance(value, bool), name, value, "True or False")


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    require(isinstance(value, str) and value in choices, name, value, f"one of {', '.join(choices)}")


def require_tensor(name: str, value: object) -> None:
    """Raise UserError for a value that is not a dense tensor."""
    try:
        check_tensors({name: value}, {})
    except TypeError as error:
        raise UserError(str(error)) from None
