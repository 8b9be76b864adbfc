"""The only module of this package that uses torch's private API."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from torch._inductor.runtime.triton_heuristics import CachingAutotuner

from mvc.patches import replaced


def tuning_within(alone: Callable[[], contextlib.AbstractContextManager[None]]) -> contextlib.AbstractContextManager:
    """In the block, Inductor times its kernels' configurations within `alone()`: beside others it picks bad ones."""
    benchmark = CachingAutotuner.benchmark_all_configs

    def benchmark_alone(self, *args, **kwargs):
        with alone():
            return benchmark(self, *args, **kwargs)

    return replaced(CachingAutotuner, "benchmark_all_configs", benchmark_alone)
