"""Progress of long commands, on standard error, and times for people."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Iterator


class Progress:
    """Lines on standard error about the current step; a long step reports every ten seconds that it still runs."""

    INTERVAL = 10.0

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.say(f"{name} ...")
        start, done = time.perf_counter(), threading.Event()

        def live() -> None:
            while not done.wait(self.INTERVAL):
                self.say(f"{name} ... {time.perf_counter() - start:.0f} s")

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def duration(seconds: float) -> str:
    """A time for people."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"
