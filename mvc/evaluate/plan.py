"""What a full evaluation takes, from a short one: disk, memory and time."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from typing import Any

import torch
from torch import nn

from mvc.evaluate.counts import Counts
from mvc.evaluate.evaluation import Score, Work, score_batch
from mvc.images.loading import Unreadable
from mvc.measure import machine
from mvc.measure.environment import Environment, environment
from mvc.progress import duration
from mvc.table import tabulate

SECONDS = 10.0  # of measuring
CALLS = 3  # of the model alone
PREFETCHED = 2  # batches that a worker process reads ahead, as DataLoader has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What was measured, and what follows; sizes are in bytes.

    Attributes:
        environment: the machine and its software.
        images: of the folder.
        processes: of the run.
        image_bytes: the images on the disk.
        state_bytes: the file of `--state`.
        parameter_bytes: the model's tensors.
        peak_bytes: the most memory during one batch, in one process: on a GPU of tensors, elsewhere of the process.
        worker_bytes: memory that a process that reads shares with no other; None where the system does not tell.
        waiting_bytes: batches that are read ahead, in shared memory.
        compile_seconds: of the first call.
        model_rate: images/s of one process without reading.
        rate: images/s of one process with reading, while all processes run.
        measured: images that were scored for `rate`.
        unreadable: those among them that could not be read.
    """

    environment: Environment
    images: int
    processes: int
    image_bytes: int
    state_bytes: int
    parameter_bytes: int
    peak_bytes: int
    worker_bytes: int | None
    waiting_bytes: int
    compile_seconds: float
    model_rate: float
    rate: float
    measured: int
    unreadable: tuple[Unreadable, ...]

    @property
    def seconds(self) -> float:
        """Of the whole run, compilation included."""
        return self.compile_seconds + self.images / (self.rate * self.processes)

    def __str__(self) -> str:
        worker = "an unknown size" if self.worker_bytes is None else _size(self.worker_bytes)
        waiting = f"{worker} more for each process that reads, {_size(self.waiting_bytes)} for their batches"
        several = "" if self.processes == 1 else f", of each of {self.processes} processes"
        compiling = f"{self.compile_seconds:.1f} s of it to compile"
        rows = [
            ("device", self.environment),
            ("time", f"{duration(self.seconds)} for {self.images:,} images, {compiling}"),
            ("speed", f"{self.rate:.1f} images/s with reading, {self.model_rate:.1f} without{several}"),
            ("disk", f"{_size(self.image_bytes)} to read; {_size(self.state_bytes)} for --state, twice while written"),
            ("memory", f"{_size(self.peak_bytes)} at most during a batch{several}"),
            ("parameters", f"{_size(self.parameter_bytes)} of that memory"),
            ("readers", waiting if self.waiting_bytes else "none; the process that scores reads"),
            ("measured on", f"{self.measured:,} images"),
        ]
        rows += [("unreadable", each.reason) for each in self.unreadable]
        return tabulate(rows)

    def as_dict(self) -> dict[str, Any]:
        """The contents of the file of `--json`."""
        facts = dataclasses.asdict(self)
        return {**facts, "unreadable": [each._asdict() for each in self.unreadable], "seconds": self.seconds}


def plan(score: Score, model: nn.Module, work: Work, *, classes: int, compile_seconds: float) -> Plan:
    """Score some batches, as an evaluation does, for about ten seconds.

    Args:
        score: class scores of a batch.
        model: whose tensors are counted.
        classes: of the model.
    """
    x, device = work.inputs(torch.zeros(work.shape)), work.processes.device
    peak = machine.peak_memory(lambda: score(x), device)
    rate, measured, worker, unreadable = _with_reading(score, work, classes)
    tensors = model.state_dict().values()
    return Plan(
        environment=environment(device),
        images=len(work.images),
        processes=work.processes.count,
        image_bytes=work.images.folder.bytes(),
        state_bytes=sum(tensor.nbytes for tensor in Counts.none(classes).tensors().values()),
        parameter_bytes=sum(tensor.nbytes for tensor in tensors),
        peak_bytes=peak.used,
        worker_bytes=worker,
        waiting_bytes=PREFETCHED * work.workers * torch.zeros(work.shape).nbytes,
        compile_seconds=compile_seconds,
        model_rate=_without_reading(score, x),
        rate=rate,
        measured=measured,
        unreadable=unreadable,
    )


def _without_reading(score: Score, x: torch.Tensor) -> float:
    """Images/s of the model alone."""
    _wait(x.device)
    start = time.perf_counter()
    for _ in range(CALLS):
        score(x)
    _wait(x.device)
    return CALLS * len(x) / (time.perf_counter() - start)


def _with_reading(score: Score, work: Work, classes: int) -> tuple[float, int, int | None, tuple[Unreadable, ...]]:
    """Images/s of one process after the first batches, all images, the memory of a worker, what cannot be read.

    The worker processes begin together, so that the first batch of each does not count; where there are no others, all
    count.
    """
    processes = work.processes
    batches = work.batches()[processes.rank :: processes.count]
    ignored = max(work.workers, 1) if len(batches) > 2 * max(work.workers, 1) else 0
    counts, unreadable, memory = Counts.none(classes, processes.device), [], None
    begin = start = time.perf_counter()
    images = counted = 0
    for number, (batch, indices) in enumerate(zip(work.read(batches), batches, strict=True)):
        score_batch(score, work, batch, counts, unreadable)
        _wait(processes.device)
        memory = memory or _memory_of_a_worker()
        images += len(indices)
        if number < ignored:
            start = time.perf_counter()
            continue
        counted += len(indices)
        if time.perf_counter() - begin > SECONDS:
            break
    return counted / (time.perf_counter() - start), images, memory, tuple(unreadable)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory_of_a_worker() -> int | None:
    """The most that a worker process has to itself."""
    found = [machine.private_memory(child.pid) for child in multiprocessing.active_children()]
    return max((size for size in found if size is not None), default=None)


def _size(bytes_: int) -> str:
    return f"{bytes_ / 2**30:.2f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.1f} MiB"
