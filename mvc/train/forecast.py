"""What a training will take, from a few measured updates: `--dry-run`."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator

from torch import Tensor

from mvc.measure.machine import peak_memory
from mvc.progress import duration
from mvc.train.data import Batch
from mvc.train.loop import Sources, training_batches
from mvc.train.step import Step

MEASURED = 4  # updates after the first one, which compiles


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Of a training on this machine; sizes are in bytes, times in seconds.

    Attributes:
        images, validation_images, classes: of the folders.
        updates: of all epochs.
        epochs: with the cool-down.
        parameters: of the model.
        first_update: with the compilation.
        update: a later update of the first epoch, the median, with reading the images.
        last_update: the same of the last epoch, whose loss may hold the distance from the average.
        waiting: that an update waits for images.
        total: all updates, without the validations.
        memory: the most during the updates: on a GPU of tensors, elsewhere of this process.
        checkpoint: the tensors of a checkpoint; the folder holds up to three checkpoints.
    """

    images: int
    validation_images: int
    classes: int
    updates: int
    epochs: int
    parameters: int
    first_update: float
    update: float
    last_update: float
    waiting: float
    total: float
    memory: int
    checkpoint: int

    def rows(self) -> list[tuple[str, str]]:
        """For people."""
        return [
            ("images", f"{self.images:,} for training, {self.validation_images:,} for validation"),
            ("classes", f"{self.classes:,}"),
            ("updates", f"{self.updates:,} in {self.epochs} epochs"),
            ("parameters", f"{self.parameters:,}"),
            ("first update", f"{self.first_update:.1f} s, with the compilation"),
            ("an update", f"{self.update:.3g} s, of which {self.waiting:.3g} s wait for images"),
            ("an update of the last epoch", f"{self.last_update:.3g} s"),
            ("all updates", f"{duration(self.total)}, without the validations"),
            ("memory", f"{self.memory / 2**30:.2f} GiB at most during an update, of one process"),
            ("a checkpoint", f"{self.checkpoint / 2**20:.1f} MiB; up to three are kept"),
        ]


def forecast(step: Step, sources: Sources) -> Forecast:
    """Run a few updates of a training, which changes its weights, and say what all of it takes."""
    recipe, order = step.recipe, sources.order(step.recipe)
    found = itertools.chain.from_iterable(training_batches(step, sources, start=0) for _ in itertools.count())
    (first, *_), early, waiting, memory = _measured(step, found, epoch=0)
    late = early
    if distilling := sum(map(recipe.distils, range(recipe.all_epochs))):
        _, late, _, memory = _measured(step, found, epoch=recipe.all_epochs - 1)
    epochs = recipe.all_epochs
    return Forecast(
        images=len(sources.train),
        validation_images=len(sources.validation),
        classes=step.model.config.num_classes,
        updates=epochs * order.updates,
        epochs=epochs,
        parameters=sum(parameter.numel() for parameter in step.model.parameters()),
        first_update=first,
        update=early,
        last_update=late,
        waiting=waiting,
        total=order.updates * ((epochs - distilling) * early + distilling * late),
        memory=memory,
        checkpoint=_checkpoint_bytes(step),
    )


def _measured(step: Step, found: Iterator[list[Batch]], *, epoch: int) -> tuple[list[float], float, float, int]:
    """The seconds of a few updates, the median of those after the first, that of their waiting, and the memory."""
    times, waits = [], []

    def run() -> None:
        start = time.perf_counter()
        parts = next(found)
        waits.append(time.perf_counter() - start)
        step.update(parts, images=step.recipe.batch, epoch=epoch, number=len(times))
        times.append(time.perf_counter() - start)

    run()
    memory = peak_memory(lambda: [run() for _ in range(MEASURED)], step.processes.device).used
    return times, statistics.median(times[1:]), statistics.median(waits[1:]), memory


def _checkpoint_bytes(step: Step) -> int:
    """Of the weights, their average and the optimiser's state."""
    states = itertools.chain(*(entry.values() for entry in step.optimizer.state.values()))
    tensors = [*step.model.state_dict().values(), *step.average.module.state_dict().values(), *states]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
