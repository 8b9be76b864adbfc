"""Which boxes learn which objects, on the figures of the published classes."""

from __future__ import annotations

import golden
import numpy as np
import pytest
import torch
from figures import assert_figures
from torch import Tensor

from mvc.tasks.assignment import NEGATIVE, NEITHER, Samples, assign, inside, mask_targets, sample
from mvc.tasks.boxes import anchors, encode

pytest.importorskip("torchvision", reason="the IoU of boxes and RoIAlign are torchvision's")

FIGURES = golden.figures("cascade_T")
OBJECTS = FIGURES["train_assign_gt"]
SIZE = (320, 480)
MAPS = [(80, 120), (40, 60), (20, 30), (10, 15), (5, 8)]
RPN = {"positive": 0.7, "negative": 0.3, "least_best": 0.3}


def bits(packed: Tensor, *shape: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1)).view(-1, *shape)


def test_anchors_of_the_figures():
    grid = torch.cat(anchors(MAPS))
    (within,) = inside(grid, SIZE).nonzero(as_tuple=True)
    found = assign(grid[within], OBJECTS, **RPN)
    positive = found >= 0
    counts = [len(within), *(int(each.sum()) for each in (positive, found == NEGATIVE, found == NEITHER))]
    assert counts == FIGURES["train_assign_rpn_counts"].tolist()
    assert within[positive].tolist() == FIGURES["train_assign_rpn_pos"].tolist()
    assert found[positive].tolist() == FIGURES["train_assign_rpn_gt"].tolist()
    deltas = encode(grid[within[positive]], OBJECTS[found[positive]], (1.0, 1.0, 1.0, 1.0))
    assert_figures("deltas", deltas, FIGURES["train_assign_rpn_targets"])


@pytest.mark.parametrize(("stage", "iou"), [(0, 0.5), (1, 0.6), (2, 0.7)])
def test_stages_of_the_figures(stage, iou):
    found = assign(FIGURES["train_assign_boxes"], OBJECTS, positive=iou, negative=iou)
    assert found.tolist() == FIGURES["train_assign_stages"][stage].tolist()


def test_mask_targets_of_the_figures():
    masks = bits(FIGURES["train_masktarget_bitmaps"], *SIZE).bool()
    found = mask_targets(masks, FIGURES["train_masktarget_boxes"], FIGURES["train_masktarget_gt"].long(), size=28)
    assert torch.equal(found, bits(FIGURES["train_masktarget"], 28, 28).float())


def test_thresholds():
    """IoUs of 0.7, 0.5, 0.3 and 0: equal to a threshold counts as positive, and as not negative."""
    objects = torch.tensor([[0.0, 0, 10, 10]], dtype=torch.float64)
    boxes = torch.tensor([[0, 0, 10, 7], [0, 0, 10, 5], [0, 0, 10, 3], [20, 20, 30, 30]], dtype=torch.float64)
    assert assign(boxes, objects, positive=0.7, negative=0.3).tolist() == [0, NEITHER, NEITHER, NEGATIVE]
    assert assign(boxes, objects, positive=0.5, negative=0.5).tolist() == [0, 0, NEGATIVE, NEGATIVE]


def test_the_best_boxes_of_an_object_learn_it():
    """Ties included, from 0.3 on; of two objects with the same best box the last one, even if the other is nearer."""
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [40, 40, 50, 50]])
    boxes = torch.tensor([[0.0, 0, 10, 9], [50, 50, 60, 60], [40, 40, 50, 44], [40, 46, 50, 50], [40, 40, 50, 42]])
    assert assign(boxes, objects, **RPN).tolist() == [1, NEGATIVE, 2, 2, NEGATIVE]
    assert assign(boxes[4:], objects, **RPN).tolist() == [NEGATIVE]  # its best, 0.2, is too far from the object


def test_without_objects_or_boxes():
    boxes, none = torch.rand(5, 4), torch.empty(0, 4)
    assert assign(boxes, none, **RPN).tolist() == [NEGATIVE] * 5
    assert assign(none, boxes, **RPN).tolist() == []
    assert mask_targets(torch.zeros(0, 8, 8, dtype=torch.bool), none, torch.empty(0).long(), size=4).shape == (0, 4, 4)


def test_anchors_on_the_border():
    """The left and the upper edge belong to the image; one that ends at the right or the lower edge is left out."""
    boxes = torch.tensor([[0.0, 0, 9, 7], [0, 0, 10, 7], [0, 0, 9, 8], [-1, 0, 5, 5], [0, -1, 5, 5]])
    assert inside(boxes, (8, 10)).tolist() == [True, False, False, False, False]


ASSIGNED = torch.tensor([NEGATIVE, 3, NEITHER, 0] * 50)


def drawn(**options: object) -> Samples:
    return sample(ASSIGNED, generator=torch.Generator().manual_seed(0), **options)


def test_samples():
    found = drawn(count=64, share=0.25)
    assert (len(found.positive), len(found.negative)) == (16, 48)
    assert (ASSIGNED[found.positive] >= 0).all()
    assert (ASSIGNED[found.negative] == NEGATIVE).all()
    assert len(set(torch.cat(found).tolist())) == 64


def test_negatives_fill_what_positives_leave():
    assert [len(each) for each in drawn(count=500, share=0.5)] == [100, 50]
    assert [len(each) for each in sample(torch.tensor([0, *[NEGATIVE] * 9]), count=6, share=0.5)] == [1, 5]


def test_samples_are_reproducible_and_differ():
    first, again = drawn(count=64, share=0.25), drawn(count=64, share=0.25)
    other = sample(ASSIGNED, count=64, share=0.25, generator=torch.Generator().manual_seed(1))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.positive, other.positive)
