"""Whether what was read from JSON has the types that its dataclass declares."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

_hints = functools.cache(get_type_hints)  # it compiles every annotation anew


def require_types(cls: type, facts: Mapping[str, Any]) -> None:
    """Check the values of a dataclass's fields by its annotations; other facts may be of any type.

    Raises:
        ValueError: one is of another type.
    """
    for name, hint in _hints(cls).items():
        if name in facts and not _conforms(facts[name], hint):
            raise ValueError(f"{name} is {facts[name]!r}")


def _conforms(value: object, hint: Any) -> bool:
    kind, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, types.UnionType):
        return any(_conforms(value, each) for each in parts)
    if kind is tuple:  # JSON has it as a list
        return isinstance(value, list) and len(value) == len(parts) and all(map(_conforms, value, parts))
    if kind is list:
        return isinstance(value, list) and all(_conforms(each, parts[0]) for each in value)
    if kind is dict:
        return isinstance(value, dict) and all(_conforms(each, parts[1]) for each in value.values())
    return type(value) is hint or (hint is float and type(value) is int)
