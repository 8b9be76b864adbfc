"""Training images in the order of a seed, from any update on, augmented by timm's transforms.

What an image looks like depends on the seed, the epoch and its place in the epoch alone: not on the process or worker
that reads it, nor on what was read before. So a training goes on in the middle of an epoch as if it had not stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from mvc.errors import UserError
from mvc.images.folder import ImageFolder
from mvc.images.loading import worker_failures
from mvc.model.config import MambaVisionConfig
from mvc.model.image import load_image
from mvc.train.recipe import Recipe

if TYPE_CHECKING:
    from PIL import Image

RAISED = "UserError: "  # where a worker's error begins, behind the lines of its traceback


class Place(NamedTuple):
    """Where an image stands: the epoch, its position in the epoch's order, and its index in the folder."""

    epoch: int
    position: int
    index: int


class Batch(NamedTuple):
    """What one process computes at once.

    Attributes:
        images: float32 (rows, channels, height, width).
        labels: int64 (rows,).
        weights: float32 (rows,): 1, and 0 for images that only fill the last update of an epoch.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor


@dataclasses.dataclass(frozen=True)
class Order:
    """Which images each update takes: all of them once in every epoch, in an order of that epoch.

    The last update of an epoch is filled up with images from the epoch's beginning, whose loss has the weight zero: no
    image is dropped or counts twice, the statistics of BatchNorm are those of a whole batch of images, and compiled
    code sees one shape. The images that fill up are spread over the processes.

    Attributes:
        images: in an epoch.
        batch: images of an update.
        seed: of the orders.
    """

    images: int
    batch: int
    seed: int

    @property
    def updates(self) -> int:
        """In an epoch."""
        return -(-self.images // self.batch)

    def counted(self, update: int) -> int:
        """Images of an update, counted within its epoch, whose loss counts."""
        return min(self.batch, self.images - update * self.batch)

    def epoch(self, epoch: int) -> list[int]:
        """The images in the order of an epoch."""
        generator = torch.Generator().manual_seed(seeds(self.seed, epoch)[0])
        return torch.randperm(self.images, generator=generator).tolist()


class Batches(Sampler[list[Place]]):
    """What one process reads, batch after batch, from an update to the end of the training.

    Args:
        epochs: of the training.
        start: the first update, counted over all epochs.
        rank, count: the process, and how many there are.
        parts: batches of an update in each process.
    """

    def __init__(self, order: Order, *, epochs: int, start: int, rank: int, count: int, parts: int) -> None:
        self.order, self.updates = order, range(start, epochs * order.updates)
        self.rank, self.count, self.parts = rank, count, parts

    def __len__(self) -> int:
        return len(self.updates) * self.parts

    def __iter__(self) -> Iterator[list[Place]]:
        images, stride = self.order.images, self.count * self.parts
        current, order = -1, []
        for number in self.updates:
            epoch, update = divmod(number, self.order.updates)
            if epoch != current:
                current, order = epoch, self.order.epoch(epoch)
            first = update * self.order.batch
            for part in range(self.parts):
                positions = range(first + part * self.count + self.rank, first + self.order.batch, stride)
                yield [Place(epoch, position, order[position % images]) for position in positions]


class TrainingImages(Dataset[tuple[Tensor, int, float]]):
    """Images of a folder by their `Place`, augmented."""

    def __init__(self, folder: ImageFolder, transform: Callable[[Image.Image], Tensor], seed: int) -> None:
        self.folder, self.transform, self.seed = folder, transform, seed

    def __getitem__(self, place: Place) -> tuple[Tensor, int, float]:
        image = load_image(self.folder.file(place.index), upright=False)
        with seeded(*seeds(self.seed, place.epoch, place.position)):
            pixels = self.transform(image)
        return pixels, self.folder.labels[place.index], float(place.position < len(self.folder))


def batches(images: TrainingImages, sampler: Batches, *, workers: int, pin: bool) -> Iterator[Batch]:
    """Read in worker processes, which read on across the ends of epochs.

    Args:
        workers: processes that read; with 0 this process reads.
        pin: whether batches lie in memory from which a GPU copies while the processor goes on.

    Raises:
        UserError: an image cannot be read; the message names it.
    """
    own = torch.Generator()  # the loader seeds its workers from it, which leaves the training's generator alone
    loader = DataLoader(
        images, batch_sampler=sampler, num_workers=workers, collate_fn=together, pin_memory=pin, generator=own
    )
    try:
        with worker_failures():
            yield from loader
    except UserError as error:
        raise UserError(str(error).rpartition(RAISED)[2].strip()) from error


def together(rows: list[tuple[Tensor, int, float]]) -> Batch:
    images, labels, weights = default_collate(rows)
    return Batch(images, labels, weights.float())


def transform(recipe: Recipe, config: MambaVisionConfig) -> Callable[[Image.Image], Tensor]:
    """timm's training transform of the recipe: float32 (channels, height, width) of an image in RGB.

    Raises:
        UserError: timm does not know the policy.
    """
    from timm.data import create_transform

    try:
        made = create_transform(
            config.image_size,
            is_training=True,
            scale=(recipe.least_area, 1.0),
            ratio=(1 / recipe.aspect, recipe.aspect),
            hflip=recipe.flip,
            color_jitter=recipe.color_jitter or None,
            auto_augment=recipe.randaugment or None,
            interpolation="random",
            mean=config.mean,
            std=config.std,
            re_prob=recipe.erasing,
            re_mode="pixel",
        )
    except (AssertionError, IndexError, KeyError, ValueError) as error:
        raise UserError(
            f"--randaugment is {recipe.randaugment!r}, which timm does not read ({error}); give a policy such as "
            f"{Recipe.randaugment}, or an empty one for none"
        ) from error
    for part in made.transforms:
        for operation in getattr(part, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = functools.partial(_posterized, operation.aug_fn)
    return made


def _posterized(posterize: Callable[..., Image.Image], image: Image.Image, bits: int, **others: Any) -> Image.Image:
    """timm's operation. Its strongest setting keeps no bits, which Pillow 12 refuses: black, as in older ones."""
    return posterize(image, bits, **others) if bits else image.point(lambda value: 0)


def mixing(recipe: Recipe, classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """timm's mixup and cutmix with smoothed labels: images and labels to images and float32 (rows, classes).

    It draws from numpy's global generator.
    """
    from timm.data.mixup import Mixup, mixup_target

    if not recipe.mixes:
        return lambda images, labels: (images, mixup_target(labels, classes, smoothing=recipe.smoothing))
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mix_probability,
        switch_prob=recipe.mix_switch,
        label_smoothing=recipe.smoothing,
        num_classes=classes,
    )


def seeds(*numbers: int) -> list[int]:
    """Three seeds of 32 bits that depend on all numbers, as `seeded` takes them."""
    return np.random.SeedSequence(numbers).generate_state(3).tolist()


@contextlib.contextmanager
def seeded(of_python: int, of_numpy: int, of_torch: int) -> Iterator[None]:
    """Start the generators of python, numpy and torch on the CPU from these seeds; afterwards they are as before."""
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(of_python)
    np.random.seed(of_numpy)
    torch.default_generator.manual_seed(of_torch)  # torch.manual_seed would seed GPUs too
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(tensor)
