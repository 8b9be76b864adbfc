"""TOML files, by the standard library of newer Pythons and by tomli on 3.10."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read(path: Path) -> dict[str, Any]:
    """The contents of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no TOML.
    """
    return tomllib.loads(path.read_text(encoding="utf-8"))
