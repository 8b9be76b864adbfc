"""A case that can be run."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Refused(Exception):
    """The case cannot run here; the message is a sentence for people."""


class Built(NamedTuple):
    """A case that can be run.

    Attributes:
        run: runs it once; on CUDA it returns before the device is done.
        facts: what building it told.
        exact: returns the numbers that do not vary from run to run, by name.
        every: calls differ, and this many one after the other do the average work.
        chosen_by_time: whether measurements choose what runs, which then varies.
        no_graph: why calls cannot be captured by a CUDA graph, where that is known beforehand.
        hidden: whether a call may run more than the profiler of a CPU sees: replays of graphs, or Triton kernels.
        close: called once after the last run.
    """

    run: Callable[[], Any]
    facts: dict
    exact: Callable[[], dict]
    every: int = 1
    chosen_by_time: bool = False
    no_graph: str | None = None
    hidden: bool = False
    close: Callable[[], Any] = lambda: None


def own_graphs(mode):
    """Why a callable that Inductor compiled in a mode cannot be captured, or None where it can."""
    replays = mode in ("reduce-overhead", "max-autotune")
    return f"the mode {mode} replays CUDA graphs of its own" if replays else None
