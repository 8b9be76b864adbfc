"""What the processes of this package share: how they answer, and how one of them gets the GPU to itself."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mvc.offline import child

Answer = Callable[[Mapping[str, Any]], None]


def serve(work: Callable[[dict[str, Any], Answer], None]) -> None:
    """Run `work` on the JSON of the command line; what libraries print goes to standard error, answers do not."""

    def main(arguments: list[str]) -> None:
        answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        work(json.loads(arguments[0]), lambda facts: print(json.dumps(facts), file=answers))

    child.serve(main)


def asked() -> Iterator[dict[str, Any]]:
    """The command's requests, line by line, until it closes the input."""
    return map(json.loads, sys.stdin)


class Alone:
    """A block that only one process at a time can be in. Blocks may be nested.

    Args:
        lock: a file that all these processes name.
    """

    def __init__(self, lock: Path) -> None:
        self._lock, self._held = lock, False

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        if self._held:
            yield
            return
        with self._lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._held = True
            try:
                yield
            finally:
                self._held = False
