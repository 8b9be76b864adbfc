"""Batches of a folder's images, all of one size: rows without an image are marked, and what cannot be read is named."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mvc.errors import UserError
from mvc.images.folder import ImageFolder
from mvc.model.image import load_image

if TYPE_CHECKING:
    from PIL import Image


class Unreadable(NamedTuple):
    """An image that cannot be read, by its path from the folder on, and why."""

    path: str
    reason: str


class Item(NamedTuple):
    """One image: its pixels (1, channels, height, width), or why there are none, and its class."""

    pixels: Tensor | None
    label: int
    unreadable: Unreadable | None


class Batch(NamedTuple):
    """Images of a fixed number of rows; a row without an image holds zeros.

    Attributes:
        images: float32 (rows, channels, height, width).
        labels: int64 (rows,), the class indices.
        present: bool (rows,), whether the row holds an image.
        unreadable: the images of this batch that could not be read.
    """

    images: Tensor
    labels: Tensor
    present: Tensor
    unreadable: tuple[Unreadable, ...]


class Images(Dataset[Item]):
    """The images of a folder in its order.

    Args:
        folder: the images.
        classes: the class index of each class folder, as of `mvc.images.classes.class_order`.
        prepare: makes float32 pixels (1, channels, height, width) of an image in RGB. Images are not turned upright:
            the published accuracies are those of the stored pixels.
    """

    def __init__(self, folder: ImageFolder, classes: Sequence[int], prepare: Callable[[Image.Image], Tensor]) -> None:
        self.folder, self.classes, self.prepare = folder, classes, prepare

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> Item:
        label = self.classes[self.folder.labels[index]]
        try:
            image = load_image(self.folder.file(index), upright=False)
        except UserError as error:
            return Item(None, label, Unreadable(self.folder.paths[index], str(error)))
        return Item(self.prepare(image), label, None)


def together(items: Sequence[Item], *, shape: tuple[int, int, int, int]) -> Batch:
    """One batch of images, of `shape` whatever their number is, so that a model has one shape to compile for.

    Args:
        items: at most as many as the shape has rows.
        shape: (rows, channels, height, width).
    """
    batch = Batch(
        torch.zeros(shape),
        torch.zeros(shape[0], dtype=torch.int64),
        torch.zeros(shape[0], dtype=torch.bool),
        tuple(item.unreadable for item in items if item.unreadable),
    )
    for row, item in enumerate(items):
        if item.pixels is not None:
            batch.images[row], batch.labels[row], batch.present[row] = item.pixels[0], item.label, True
    return batch


def read(
    images: Images, batches: Sequence[Sequence[int]], *, shape: tuple[int, int, int, int], workers: int, pin: bool
) -> Iterator[Batch]:
    """Batches of images, which worker processes read, in the order in which they are asked for.

    Args:
        batches: the indices of each batch's images.
        shape: of a batch's images, as for `together`.
        workers: processes that read; with 0 this process reads.
        pin: whether batches lie in memory from which a GPU copies while the processor goes on.

    Raises:
        UserError: a worker process ended, as for want of memory, or has no shared memory for a batch.
    """
    collate = functools.partial(together, shape=shape)
    with worker_failures():
        yield from DataLoader(images, batch_sampler=batches, num_workers=workers, collate_fn=collate, pin_memory=pin)


@contextlib.contextmanager
def worker_failures() -> Iterator[None]:
    """Turn the end of a worker process, as for want of memory, into one sentence with its remedy."""
    try:
        yield
    except RuntimeError as error:
        reasons = [line for line in str(error).splitlines() if _lacking(line)]
        if not reasons:
            raise
        raise UserError(f"{reasons[-1]}; use fewer --workers, a smaller --batch, or more (shared) memory") from error


def _lacking(line: str) -> bool:
    """Whether a line of an error says that a worker process has gone, or that torch's shared memory has no room."""
    return "DataLoader worker (pid" in line or "</torch_" in line
