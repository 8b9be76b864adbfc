"""Temporary values for attributes of other modules."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

patching = threading.RLock()  # held by whoever changes what several threads use
_ABSENT = object()


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the block an attribute of a module or class has another value, for all threads."""
    before = vars(owner).get(name, _ABSENT)  # a class's own attribute as stored: getattr would unwrap a static method
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
