"""The training itself: updates, validations, checkpoints and lines of the log, from wherever it stopped."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional as F

from mvc.cli import finite
from mvc.evaluate.counts import Counts
from mvc.images.folder import ImageFolder, listed
from mvc.images.loading import Images, read
from mvc.model.image import preprocess
from mvc.progress import Progress, duration
from mvc.train import checkpoint, data
from mvc.train.checkpoint import Position
from mvc.train.data import Batch, Batches, Order, TrainingImages
from mvc.train.log import Log
from mvc.train.recipe import Recipe
from mvc.train.step import Step, Update


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where images come from.

    Attributes:
        train, validation: the folders, with the same classes.
        rows: images that a process scores at once in a validation.
        workers: processes that read images, for each process that trains.
    """

    train: ImageFolder
    validation: ImageFolder
    rows: int
    workers: int

    def order(self, recipe: Recipe) -> Order:
        return Order(len(self.train), recipe.batch, recipe.seed)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Of a validation.

    Attributes:
        top_1, top_5: shares of all images, those whose class has the highest score, or one of the five highest.
        loss: the mean cross-entropy of the images that could be read; None where it is not finite.
        unreadable: the other images, by their paths from the folder on.
    """

    top_1: float
    top_5: float
    loss: float | None
    unreadable: list[str]


def training_batches(step: Step, sources: Sources, *, start: int) -> Iterator[list[Batch]]:
    """The parts of every update of this process, from an update to the end of the training."""
    recipe, processes, parts = step.recipe, step.processes, step.execution.parts
    images = TrainingImages(sources.train, data.transform(recipe, step.model.config), recipe.seed)
    sampler = Batches(
        sources.order(step.recipe),
        epochs=recipe.all_epochs,
        start=start,
        rank=processes.rank,
        count=processes.count,
        parts=parts,
    )
    pin = processes.device.type == "cuda"
    found = data.batches(images, sampler, workers=sources.workers, pin=pin)
    while batch := next(found, None):
        yield [batch, *(next(found) for _ in range(parts - 1))]


def validate(step: Step, sources: Sources, of: Literal["weights", "average"]) -> Accuracy:
    """Score all images of the validation folder once; each process scores its share, in equally many batches.

    An image that cannot be read counts as wrong.
    """
    config, processes, folder = step.model.config, step.processes, sources.validation
    images = Images(folder, range(len(folder.names)), functools.partial(preprocess, config=config))
    joint = sources.rows * processes.count
    own = [
        range(first + processes.rank, min(len(folder), first + joint), processes.count)
        for first in range(0, len(folder), joint)
    ]
    shape = (sources.rows, config.in_chans, config.image_size, config.image_size)
    counts = Counts.none(config.num_classes, processes.device)
    loss, unreadable = torch.zeros((), dtype=torch.float64, device=processes.device), []
    pin = processes.device.type == "cuda"
    for batch in read(images, own, shape=shape, workers=sources.workers, pin=pin):
        rows = (batch.images, batch.labels, batch.present)
        pixels, labels, present = (tensor.to(processes.device, non_blocking=True) for tensor in rows)
        scores = step.scores(of, pixels).float()
        counts.count(scores, labels, present)
        unreadable += [each.path for each in batch.unreadable]
        loss += (F.cross_entropy(scores, labels, reduction="none") * present).sum()
    for tensor in (*counts.tensors().values(), loss):
        processes.add(tensor)
    hits = [int(tensor.sum()) / len(folder) for tensor in (counts.correct, counts.within_five)]
    lost = sorted(itertools.chain(*processes.gather(unreadable)))
    return Accuracy(*hits, finite(float(loss) / max(counts.images, 1)), lost)


class Training:
    """A training in a folder.

    Args:
        folder: of its log and its checkpoints; it exists.
        position: how far it came, as from `checkpoint.load`.
        given: the setting, as of `checkpoint.setting`.
        save_every: updates between two checkpoints within an epoch; None saves at the ends of epochs alone.
    """

    def __init__(
        self,
        step: Step,
        sources: Sources,
        folder: Path,
        position: Position,
        given: dict[str, Any],
        progress: Progress,
        *,
        save_every: int | None,
    ) -> None:
        self.step, self.sources, self.folder = step, sources, folder
        self.position, self.given, self.progress, self.save_every = position, given, progress, save_every
        self.order = sources.order(step.recipe)
        self.log = Log(folder, position.log) if step.processes.first else None

    def epochs(self) -> Iterator[dict[str, Any]]:
        """Train to the end, and yield what is known after each epoch, as the log has it.

        Raises:
            UserError: the loss is not finite, an image cannot be read, or a checkpoint cannot be written.
        """
        found = training_batches(self.step, self.sources, start=self.position.updates)
        first, total = self.position.updates, self.step.recipe.all_epochs * self.order.updates
        waiting = "first update" if self.step.execution.backend == "eager" else "first update, which compiles"
        before = started = said = time.perf_counter()
        for number in range(first, total):
            epoch, update = divmod(number, self.order.updates)
            parts = next(found)
            read = time.perf_counter()
            with self.progress.step(waiting) if number == first else nullcontext():
                result = self.step.update(parts, images=self.order.counted(update), epoch=epoch, number=number)
            now = time.perf_counter()
            self.position.updates = number + 1
            self._log_update(number, result, seconds=now - before, waited=read - before)
            if number == first:
                started = said = now  # what is compiled once tells nothing of the rest
            if now - said >= self.progress.INTERVAL:
                left = (now - started) / (number - first) * (total - number - 1)
                self._say_update(number, result, rate=self.order.batch / (now - before), left=left)
                said = now
            if update + 1 == self.order.updates:
                yield self._end_epoch(epoch)
            elif self.save_every and (number + 1) % self.save_every == 0:
                self._save()
            before = time.perf_counter()

    def _end_epoch(self, epoch: int) -> dict[str, Any]:
        with self.progress.step(f"validation after epoch {epoch + 1}"):
            weights, average = (validate(self.step, self.sources, of) for of in ("weights", "average"))
        facts = {
            "epoch": epoch + 1,
            "updates": self.position.updates,
            "weights": dataclasses.asdict(weights),
            "average": dataclasses.asdict(average),
        }
        if weights.unreadable:
            self.progress.say(
                f"{len(weights.unreadable)} images cannot be read and count as wrong: {listed(weights.unreadable)}"
            )
        top_1 = max(weights.top_1, average.top_1)
        is_best, self.position.best = top_1 > self.position.best, max(top_1, self.position.best)
        if self.log:
            self.log.computed({"kind": "epoch", **facts})
        self._save(best=is_best)
        self.progress.say(
            f"epoch {epoch + 1}: top-1 {weights.top_1:.2%}, top-5 {weights.top_5:.2%}; of the average "
            f"{average.top_1:.2%}, {average.top_5:.2%}{', the best so far' if is_best else ''}"
        )
        return facts

    def _save(self, *, best: bool = False) -> None:
        if self.log:
            self.position.log = self.log.lengths()
        checkpoint.save(self.folder, self.step, self.position, self.given, best=best)

    def _log_update(self, number: int, result: Update, *, seconds: float, waited: float) -> None:
        if not self.log:
            return
        epoch, images = number / self.order.updates, self.order.counted(number % self.order.updates)
        self.log.computed({"kind": "update", "update": number + 1, "epoch": epoch, **result._asdict()})
        self.log.timed({"update": number + 1, "epoch": epoch, "seconds": seconds, "waited": waited, "images": images})

    def _say_update(self, number: int, result: Update, *, rate: float, left: float) -> None:
        epoch, update = divmod(number, self.order.updates)
        self.progress.say(
            f"epoch {epoch + 1} of {self.step.recipe.all_epochs}, update {update + 1} of {self.order.updates}: loss "
            f"{result.loss:.4f}, rate {result.rate:.3g}, {rate:.4g} images/s, {duration(left)} left"
        )
