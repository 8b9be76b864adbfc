"""Every image once in an epoch, whoever reads it, and from any update on the same."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from training_cases import draw

from mvc.errors import UserError
from mvc.images.folder import list_images
from mvc.model.config import get_config
from mvc.train import data
from mvc.train.data import Batches, Order, TrainingImages
from mvc.train.recipe import recipe_of

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("torchvision", reason="torchvision is not installed")

TINY = get_config("tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return list_images(draw(tmp_path_factory.mktemp("data") / "set", train=6, val=1) / "train")


def places(order: Order, *, count: int = 1, parts: int = 1, start: int = 0, epochs: int = 2) -> list[list[list]]:
    """The batches of each process."""
    return [
        list(Batches(order, epochs=epochs, start=start, rank=rank, count=count, parts=parts)) for rank in range(count)
    ]


@pytest.mark.parametrize(
    ("images", "batch", "count", "parts"), [(18, 8, 1, 1), (18, 8, 2, 2), (3, 8, 2, 1), (16, 8, 4, 1)]
)
def test_every_image_counts_once_in_an_epoch(images, batch, count, parts):
    order = Order(images, batch, seed=5)
    found = places(order, count=count, parts=parts)
    assert all(len(rows) == batch // (count * parts) for process in found for rows in process), "one shape"
    for epoch in (0, 1):
        mine = [place for process in found for rows in process for place in rows if place.epoch == epoch]
        counted = [place.index for place in mine if place.position < images]
        assert sorted(counted) == list(range(images))
        assert len(mine) == order.updates * batch
    assert sum(order.counted(update) for update in range(order.updates)) == images
    assert order.epoch(0) != order.epoch(1)


def test_images_that_fill_up_are_spread_over_the_processes():
    order = Order(18, 8, seed=0)
    last = [process[2] for process in places(order, count=2, epochs=1)]
    assert [sum(place.position >= 18 for place in rows) for rows in last] == [3, 3]


def test_the_joint_batch_does_not_depend_on_the_processes():
    order = Order(18, 8, seed=0)
    (alone,), pair = places(order), places(order, count=2)
    for update, rows in enumerate(alone):
        assert sorted(pair[0][update] + pair[1][update]) == sorted(rows)


def read(folder, *, start: int = 0, workers: int = 0) -> list[data.Batch]:
    recipe = recipe_of(TINY, {"batch": 8})
    images = TrainingImages(folder, data.transform(recipe, TINY), recipe.seed)
    order = Order(len(folder), 8, recipe.seed)
    sampler = Batches(order, epochs=2, start=start, rank=0, count=1, parts=1)
    return list(data.batches(images, sampler, workers=workers, pin=False))


@pytest.mark.parametrize(("start", "workers"), [(4, 0), (0, 2)], ids=["from within an epoch", "by workers"])
def test_images_are_augmented_the_same(folder, start, workers):
    for found, expected in zip(read(folder, start=start, workers=workers), read(folder)[start:], strict=True):
        for name, tensor, other in zip(data.Batch._fields, found, expected, strict=True):
            assert torch.equal(tensor, other), name


def test_images_are_augmented_anew_in_each_epoch(folder):
    found = read(folder)
    per_epoch = [torch.cat([batch.images for batch in part])[:18] for part in (found[:3], found[3:])]
    orders = [torch.tensor(Order(18, 8, 31).epoch(epoch)).argsort() for epoch in (0, 1)]
    first, second = (images[order] for images, order in zip(per_epoch, orders, strict=True))
    assert (first - second).flatten(1).abs().amax(1).min() > 0.1
    assert [batch.weights.sum().item() for batch in found] == [8, 8, 2, 8, 8, 2]


def test_reading_leaves_the_generators_alone(folder):
    """Those of this process, which mixing and stochastic depth draw from."""

    def draws() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    read(folder)
    assert draws() == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(folder, tmp_path, workers):
    broken = draw(tmp_path / "set", train=3, val=1) / "train"
    (broken / "disc" / "1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^cannot read image path '.*disc/1\.png': it is not an image"):
        read(list_images(broken), workers=workers)


def test_the_strongest_posterization_is_black():
    """Where Pillow refuses to keep no bits."""
    image = pytest.importorskip("PIL.Image").fromarray(np.full((64, 64, 3), 200, dtype=np.uint8))
    (augment,) = [part for part in data.transform(recipe_of(TINY, {}), TINY).transforms if hasattr(part, "ops")]
    (operation,) = [each for each in augment.ops if each.name.startswith("Posterize")]
    assert np.asarray(operation.aug_fn(image, 0)).max() == 0
    assert np.asarray(operation.aug_fn(image, 1)).max() == 128


def test_mixed_labels_are_smoothed_shares():
    labels = torch.tensor([0, 1, 2, 0])
    images = torch.randn(4, 3, 64, 64)
    np.random.seed(0)
    mixed, targets = data.mixing(recipe_of(TINY, {"smoothing": 0.1}), 3)(images.clone(), labels)
    assert targets.shape == (4, 3)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert not torch.equal(mixed, images)
    same, plain = data.mixing(recipe_of(TINY, {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.3}), 3)(images, labels)
    assert torch.equal(same, images)
    torch.testing.assert_close(plain[0], torch.tensor([0.8, 0.1, 0.1]))
