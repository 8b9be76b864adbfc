"""The linear recurrence in linear time from torch's own operations, for any device.

Two levels: the steps of a chunk run in order, all chunks at once, each from a zero state; then the carries run from
chunk to chunk; then all chunks run again, each from what it receives. Decays are only ever multiplied. A reset selects:
the state before it is not multiplied by zero but left out, NaN or infinite as it may be.

What is traced with sizes that are unknown holds for all of them: chunks follow from the sizes that are known. A length
that is unknown is not cut; `doubling` runs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.kernels.checks import is_empty
from mvc.kernels.recurrence import doubling
from mvc.kernels.torch_private import guards_are_checked, power_of_two_bound

# A step of the recurrence should touch this many states, or the cost of starting an operation dominates.
STATES_PER_STEP = {"cpu": 2**13, "cuda": 2**20}
LARGEST_BOUND = 2**20  # of a length that is unknown while tracing


def linear_recurrence(
    decay: Tensor, drive: Tensor, initial: Tensor, *, reset: Tensor | None = None, reverse: bool = False
) -> Tensor:
    """h_t = decay_t h_{t-1} + drive_t for every t; `reverse` runs from the end.

    Args:
        decay, drive: (batch, length, ...). initial: (batch, ...), the state before the first step.
        reset: (batch, length, 1, ...), bool, where h_{t-1} is taken for zero.

    Returns:
        h: (batch, length, ...).
    """
    if is_empty(drive):
        return drive
    length = settled(decay.shape[1])
    if not isinstance(length, int):
        bound = power_of_two_bound(length, LARGEST_BOUND)
        return doubling.linear_recurrence(decay, drive, initial, reset=reset, reverse=reverse, bound=bound)
    run_order = order(reverse)
    steps = _steps_per_chunk(length, known_product(initial.shape), decay.device)
    if steps >= length:
        return torch.stack([*_run_steps(decay, drive, initial, reset, reverse)][run_order], dim=1)

    # Steps that fill the last chunk pass the state on: decay 1, drive 0.
    decay, drive = (_in_chunks(t, steps, fill) for t, fill in ((decay, 1.0), (drive, 0.0)))
    if reset is not None:
        reset = _in_chunks(reset, steps, False)
    ends = _last(_run_steps(decay, drive, torch.zeros_like(drive[:, 0]), reset, reverse))
    received = _run_chunks(_whole_decay(decay), ends, initial, None if reset is None else reset.any(1), reverse)
    states = [*_run_steps(decay, drive, received, reset, reverse)]
    return torch.stack(states[run_order], dim=2).flatten(1, 2)[:, :length]


def cleared(values: Tensor, reset: Tensor | None) -> Tensor:
    """Zero where the state is reset."""
    return values if reset is None else values.masked_fill(reset, 0.0)


def order(reverse: bool) -> slice:
    """Picks the steps in the order in which they run, and puts what they made back."""
    return slice(None, None, -1 if reverse else 1)


def _in_chunks(values: Tensor, steps: int, fill: float | bool) -> Tensor:
    """(batch, length, ...) -> (batch, steps, chunks, ...)."""
    missing = (0, 0) * (values.dim() - 2) + (0, -values.shape[1] % steps)
    return F.pad(values, missing, value=fill).unflatten(1, (-1, steps)).transpose(1, 2)


def _run_steps(decay: Tensor, drive: Tensor, state: Tensor, reset: Tensor | None, reverse: bool) -> Iterator[Tensor]:
    """The recurrence over axis 1: the state after each step, in the order in which they run."""
    run_order = order(reverse)
    resets = (None,) * decay.shape[1] if reset is None else reset.unbind(1)[run_order]
    for factor, step, resets_here in zip(decay.unbind(1)[run_order], drive.unbind(1)[run_order], resets, strict=True):
        state = torch.addcmul(step, factor, cleared(state, resets_here))
        yield state


def _last(states: Iterable[Tensor]) -> Tensor:
    for state in states:  # noqa: B007  what is not last is freed at once
        pass
    return state


def _whole_decay(decay: Tensor) -> Tensor:
    """The decay over each chunk, (batch, steps, chunks, ...) -> (batch, chunks, ...); zero only where a step's is."""
    return doubling.kept_from_zero(decay.prod(1), decay.abs().amin(1) > 0)


def _run_chunks(decay: Tensor, ends: Tensor, initial: Tensor, resets: Tensor | None, reverse: bool) -> Tensor:
    """What each chunk receives from the one before it, given the decay over a chunk, its own end, and if it resets."""
    run_order = order(reverse)
    unbounded = ~decay.isfinite()
    resets = (None,) * decay.shape[1] if resets is None else resets.unbind(1)[run_order]
    state, received = initial, []
    steps = (t.unbind(1)[run_order] for t in (decay, ends, unbounded))
    for factor, end, overflows, resets_here in zip(*steps, resets, strict=True):
        received.append(state)
        alone = overflows & (state == 0)  # the chunk has run from zero: its end is right, whatever the product
        if resets_here is not None:
            alone = alone | resets_here
        state = torch.where(alone, end, torch.addcmul(end, factor, state))
    return torch.stack(received[run_order], dim=1)


def limit(limits: dict[str, int], device: torch.device) -> int:
    """The entry for a device of a table by types of devices; CUDA's for those that it lacks."""
    return limits.get(device.type, limits["cuda"])


def known_product(sizes: Sequence[int]) -> int:
    """Of the sizes that are known while tracing; an unknown one counts as 1."""
    return math.prod(size for size in sizes if isinstance(size, int))


def settled(length: int) -> int:
    """The length, which has a bound where it is unknown; torch.compile makes a program for one length if it has none.

    Raises:
        ValueError: an exported length that is unknown and has no bound, or too large a one.
    """
    if isinstance(length, int) or power_of_two_bound(length, LARGEST_BOUND) is not None:
        return length
    if guards_are_checked():
        return int(length)
    raise ValueError(
        f"the length {length} of a scan is free and may exceed {LARGEST_BOUND} steps; torch's own operations need a "
        "bound, as torch.export.Dim(..., max=4096) gives it"
    )


def _steps_per_chunk(length: int, states: int, device: torch.device) -> int:
    """All steps in one chunk where a single step is work enough; otherwise chunks, at most as many as their steps."""
    chunks = min(limit(STATES_PER_STEP, device) / states, math.sqrt(length))
    return length if chunks < 2 else math.ceil(length / chunks)
