"""What a training will take, from a few measured updates: `--dry-run`."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import sys
import time

import torch

from mvc.evaluate.evaluation import duration
from mvc.train.loop import Sources, training_batches
from mvc.train.step import Step

MEASURED = 4  # updates after the first one, which compiles


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Of a training on this machine.

    Attributes:
        images, validation_images, classes: of the folders.
        updates: of all epochs.
        epochs: with the cool-down.
        parameters: of the model.
        first_update: seconds of the first update, with the compilation.
        update: seconds of a later update, the median, with reading the images.
        waiting: seconds of it that the update waits for images.
        total: seconds of all updates, without the validations.
        memory: bytes at their highest so far: on the GPU of this process, or of this process on a CPU.
        checkpoint: bytes of a checkpoint's tensors; the folder holds up to three checkpoints.
    """

    images: int
    validation_images: int
    classes: int
    updates: int
    epochs: int
    parameters: int
    first_update: float
    update: float
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
            ("update", f"{self.update:.3g} s, of which {self.waiting:.3g} s wait for images"),
            ("all updates", f"{duration(self.total)}, without the validations"),
            ("memory", f"{self.memory / 2**30:.2f} GiB at the highest, of this process"),
            ("checkpoint", f"{self.checkpoint / 2**30:.2f} GiB; up to three are kept"),
        ]


def forecast(step: Step, sources: Sources) -> Forecast:
    """Run a few updates of a training, which changes its weights, and say what all of it takes."""
    order, device = sources.order(step.recipe), step.processes.device
    updates = step.recipe.all_epochs * order.updates
    found = training_batches(step, sources, start=0)
    times, waits = [], []
    for number in range(min(MEASURED + 1, updates)):
        start = time.perf_counter()
        parts = next(found)
        waits.append(time.perf_counter() - start)
        epoch, update = divmod(number, order.updates)
        step.update(parts, images=order.counted(update), epoch=epoch, number=number)
        times.append(time.perf_counter() - start)
    later = slice(1, None) if len(times) > 1 else slice(None)
    typical, waiting = (sorted(values[later])[len(values[later]) // 2] for values in (times, waits))
    parameters = sum(parameter.numel() for parameter in step.model.parameters())
    return Forecast(
        images=len(sources.train),
        validation_images=len(sources.validation),
        classes=step.model.config.num_classes,
        updates=updates,
        epochs=step.recipe.all_epochs,
        parameters=parameters,
        first_update=times[0],
        update=typical,
        waiting=waiting,
        total=typical * updates,
        memory=_highest_memory(device),
        checkpoint=_checkpoint_bytes(step),
    )


def _highest_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _checkpoint_bytes(step: Step) -> int:
    """Of the weights, their average and the optimiser's state."""
    states = itertools.chain(*(entry.values() for entry in step.optimizer.state.values()))
    tensors = [*step.model.state_dict().values(), *step.average.module.state_dict().values(), *states]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, torch.Tensor))
