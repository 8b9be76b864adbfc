"""The loop of an evaluation: batches in, counts out, a state and a line of progress every ten seconds."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from mvc.evaluate.counts import Counts
from mvc.evaluate.state import State
from mvc.images.loading import Batch, Images, Unreadable, read
from mvc.processes import Processes
from mvc.progress import Progress, duration

INTERVAL = 10.0  # seconds between two states, and two lines
GROWTH = 4  # how much longer a round may be than the one before, whose time may have been a lucky one

Score = Callable[[Tensor], Tensor]


class Work:
    """The images that are scored, in batches of one shape.

    Args:
        images: all images.
        shape: of a batch, (rows, channels, height, width).
        workers: processes that read images.
        dtype: of the model's parameters.
        processes: each takes every so many-th batch, so that none is scored twice.
    """

    def __init__(
        self,
        images: Images,
        shape: tuple[int, int, int, int],
        *,
        workers: int,
        dtype: torch.dtype,
        processes: Processes,
    ) -> None:
        self.images, self.shape, self.workers = images, shape, workers
        self.dtype, self.processes = dtype, processes

    def batches(self, done: int = 0) -> list[range]:
        """The indices of each batch after the first `done` images; the last batch may have fewer than the shape has."""
        rows, images = self.shape[0], len(self.images)
        return [range(first, min(first + rows, images)) for first in range(done, images, rows)]

    def read(self, batches: Sequence[range]) -> Iterator[Batch]:
        """The images of batches, in order."""
        pin = self.processes.device.type == "cuda"
        return read(self.images, batches, shape=self.shape, workers=self.workers, pin=pin)

    def inputs(self, images: Tensor) -> Tensor:
        """What the model gets: the images on its device, in its dtype, channels last."""
        moved = images.to(self.processes.device, non_blocking=True)
        return moved.to(self.dtype, memory_format=torch.channels_last)


def evaluate(score: Score, work: Work, state: State, *, progress: Progress, keep: Callable[[State], None]) -> None:
    """Score all images that `state` does not cover yet, and bring it up to date.

    The processes score a number of batches each, a round; then their counts are added up and the first process keeps
    the state. A run that goes on from it, with any number of processes, scores the same batches.

    Args:
        score: class scores (rows, classes) of a batch as of `work.inputs`.
        keep: called in the first process after each round.
    """
    processes = work.processes
    batches = work.batches(state.done)
    loaded = work.read(batches[processes.rank :: processes.count])
    left, steps = len(batches), 1
    while left:
        start = time.perf_counter()
        counts, unreadable = Counts.none(len(state.counts.confusion), processes.device), []
        for batch in itertools.islice(loaded, steps):
            score_batch(score, work, batch, counts, unreadable)
        for tensor in counts.tensors().values():
            processes.add(tensor)
        state.counts.add(counts)
        state.unreadable += sorted(itertools.chain(*processes.gather(unreadable)))
        left = max(left - steps * processes.count, 0)
        state.done = len(work.images) - sum(map(len, batches[len(batches) - left :]))
        seconds = time.perf_counter() - start
        state.seconds += seconds
        if processes.first:
            keep(state)
            progress.say(_line(state, len(work.images)))
        steps = processes.from_first(functools.partial(_steps_of_an_interval, steps, seconds))


def _steps_of_an_interval(steps: int, seconds: float) -> int:
    """How many batches the next round has, where so many took so long."""
    return min(GROWTH * steps, max(1, int(INTERVAL * steps / seconds)))


def score_batch(score: Score, work: Work, batch: Batch, counts: Counts, unreadable: list[Unreadable]) -> None:
    """Score one batch, count it, and add its unreadable images to the list."""
    device = work.processes.device
    scores = score(work.inputs(batch.images))
    counts.count(scores, batch.labels.to(device, non_blocking=True), batch.present.to(device, non_blocking=True))
    unreadable += batch.unreadable


def _line(state: State, images: int) -> str:
    """The progress for people."""
    rate = state.done / state.seconds
    left = "" if state.done == images else f", {duration((images - state.done) / rate)} left"
    so_far = f"top-1 so far {100 * state.counts.top_1:.2f} %" if state.counts.images else "no image read so far"
    missing = f", {len(state.unreadable)} unreadable" if state.unreadable else ""
    return f"{state.done:,} of {images:,} images, {rate:.1f} images/s{left}, {so_far}{missing}"
