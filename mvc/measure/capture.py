"""Captures a call as a CUDA graph; where it cannot be captured, says why and cleans up."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mvc.errors import UserError
from mvc.passes import torch_private
from mvc.patches import replaced

Function = Callable[..., object]
REPLAYS = "replays CUDA graphs itself"
WAITS = "waits for the device"


class NotCapturable(Exception):
    """A call cannot become a CUDA graph; the message is a predicate, to be printed after the call's name."""


def capture(
    run: Function, arguments: Sequence[Any], device: torch.device, *, pool: tuple[int, int]
) -> Callable[[], None]:
    """Capture a call of a compiled and warm callable. The function returned replays the call on the same tensors.

    Args:
        pool: of memory, from `torch.cuda.graph_pool_handle`. Graphs whose results nobody reads can share one; on torch
            2.11 a pool cannot be used after a capture that failed.

    Raises:
        NotCapturable: the call replays graphs itself, waits for the device, or fails while it is captured.
        UserError: the capture failed, and CUDA cannot be used any more.
    """
    if reason := obstacle(run, arguments, device):
        raise NotCapturable(reason)
    graph = torch.cuda.CUDAGraph()
    failures: list[Exception] = []  # that of the call first: the end of its capture then fails as well, and says less

    def call() -> None:
        try:
            run(*arguments)
        except Exception as error:
            failures.append(error)
            raise

    try:
        _record(graph, call, device, pool=pool)
    except Exception as error:
        _recover(graph, pool, device)
        reason = _first_line([*failures, error][0])
        raise NotCapturable(f"fails while it is captured ({reason})") from error
    return graph.replay


def obstacle(run: Function, arguments: Sequence[Any], device: torch.device) -> str | None:
    """Why a call must not be captured, as observed in a trial call on another stream; None where nothing was observed.

    Capture needs a call beforehand in any case, since what is made on first use cannot be made during the capture.
    """
    seen: list[str] = []
    beside, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    beside.wait_stream(current)
    with _observed(seen), torch.cuda.stream(beside):
        run(*arguments)
    current.wait_stream(beside)
    return seen[0] if seen else None


@contextlib.contextmanager
def _observed(seen: list[str]) -> Iterator[None]:
    """Note what the block does that a capture would not survive. The block runs all the same."""
    functions = [
        (torch.cuda.CUDAGraph, "replay", REPLAYS),
        (torch.cuda.CUDAGraph, "capture_begin", REPLAYS),
        (torch.cuda.Event, "synchronize", WAITS),
        (torch.cuda.Stream, "synchronize", WAITS),
        (torch.cuda, "synchronize", WAITS),
    ]

    def noted(function: Function, reason: str) -> Function:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> object:
            seen.append(reason)
            return function(*arguments, **options)

        return call

    before = torch.cuda.get_sync_debug_mode()
    with contextlib.ExitStack() as stack:
        for owner, name, reason in functions:
            stack.enter_context(replaced(owner, name, noted(getattr(owner, name), reason)))
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # of operators that wait, .item() for one
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    if any("called a synchronizing CUDA operation" in str(warning.message) for warning in caught):
        seen.append(WAITS)


def _record(graph: torch.cuda.CUDAGraph, call: Callable[[], object], device: torch.device, **options: Any) -> None:
    # Around it a stream of our own choice is made current: where a capture fails, torch leaves the capture's current.
    with torch.cuda.stream(torch.cuda.current_stream(device)), torch.cuda.graph(graph, **options):
        call()


def _recover(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], device: torch.device) -> None:
    """Undo what a failed capture has left, and check that CUDA can still be used.

    Raises:
        UserError: CUDA cannot be used.
    """
    torch_private.abandon_capture(graph, pool, device)
    try:
        # Until a capture succeeds, generators of torch 2.11 act as if they were captured and return no numbers.
        _record(torch.cuda.CUDAGraph(), lambda: torch.zeros(1, device=device), device)
        with torch.random.fork_rng([device]):
            torch.rand(1, device=device)
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise UserError(
            f"a call could not be captured in a CUDA graph, and CUDA cannot be used since ({_first_line(error)}); "
            "start again with the clock 'kernels'"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
