"""What is counted of scores, beside a plain loop over the images."""

import math

import pytest
import torch

from mvc.evaluate.counts import Counts


def counted_in_a_loop(scores, labels, present):
    """The figures that `Counts.count` is defined by, image by image."""
    classes = scores.shape[1]
    expected = Counts.none(classes)
    for row, label, there in zip(scores.tolist(), labels.tolist(), present.tolist(), strict=True):
        if not there:
            continue
        if not all(abs(score) < float("inf") for score in row):
            expected.not_finite[label] += 1
            continue
        order = sorted(range(classes), key=lambda index: (-row[index], index))
        expected.confusion[label, order[0]] += 1
        expected.within_five[label] += label in order[:5]
    return expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("classes", [2, 5, 9])
def test_counts_are_those_of_a_loop(classes, dtype):
    """Few different values make many equal scores; some are not finite, and some rows hold no image."""
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randint(0, 4, (300, classes), generator=generator).to(dtype)
    scores[::17, 0], scores[1::31, -1] = float("nan"), float("inf")
    labels = torch.randint(0, classes, (300,), generator=generator)
    present = torch.rand(300, generator=generator) < 0.8
    expected, found = counted_in_a_loop(scores, labels, present), Counts.none(classes)
    found.count(scores[:100], labels[:100], present[:100])
    other = Counts.none(classes)
    other.count(scores[100:], labels[100:], present[100:])
    found.add(other)
    for name, tensor in expected.tensors().items():
        assert torch.equal(found.tensors()[name], tensor), name
    assert found.images == present.sum()
    assert found.top_1 == expected.confusion.trace() / present.sum().double()
    assert found.top_5 == expected.within_five.sum() / present.sum().double()
    assert expected.not_finite.sum() > 10


def test_no_images_have_no_accuracy():
    assert math.isnan(Counts.none(3).top_1)
