"""Temporary values for attributes of other modules and for the variables that name the caches of compiled code."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR")
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


@contextlib.contextmanager
def empty_caches() -> Iterator[None]:
    """Give Inductor, Triton and their compilers an empty folder, removed afterwards, so that compile times are cold."""
    before = {name: os.environ.get(name) for name in CACHES}
    with tempfile.TemporaryDirectory(prefix="mvc-compile-", ignore_cleanup_errors=True) as folder:
        os.environ.update(dict.fromkeys(CACHES, folder))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
