"""The losses of detectors, each by itself; whole models are in test_detection_training.py."""

from __future__ import annotations

import dataclasses

import golden
import pytest
import torch
from figures import assert_figures
from torch import Tensor
from torch.nn import functional as F

from mvc.errors import UserError
from mvc.tasks.boxes import anchors, decode, encode
from mvc.tasks.detection_losses import (
    CASCADE,
    TWO_STAGE,
    StageSamples,
    box_loss,
    delta_loss,
    giou_loss,
    mask_loss,
    refine,
    rpn_losses,
    sample_boxes,
)
from mvc.tasks.heads import of_class
from mvc.tasks.proposals import by_anchor
from mvc.tasks.targets import Target, fitted

ops = pytest.importorskip("torchvision.ops", reason="the IoU of boxes and RoIAlign are torchvision's")

DRAW = torch.Generator().manual_seed(0)
STD = (0.1, 0.1, 0.2, 0.2)
SIZE = (64, 96)
OBJECTS = torch.tensor([[8.0, 8, 40, 40], [50, 20, 90, 60]])
BACKGROUND = 3


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DRAW)


def target(boxes: Tensor = OBJECTS) -> Target:
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return Target(boxes, torch.tensor([2, 0])[: len(boxes)], masks)


NONE = target(OBJECTS[:0])
PROPOSALS = torch.cat([OBJECTS + 1, OBJECTS + 3, torch.tensor([[0.0, 0, 10, 10], [70, 2, 90, 12]])])


@pytest.mark.parametrize("stage", range(3))
def test_class_loss_of_the_figures(stage):
    figures = golden.figures("cascade_T")
    found = F.cross_entropy(figures[f"fixed_cls{stage}_1x320x480"], figures["train_loss_labels"].long())
    assert_figures(f"class loss of stage {stage}", found, figures["train_losses"][stage, 0])


def test_giou_loss():
    """Of two squares of area 100 that share 25 pixels: IoU 1/7, and 50 of the 225 pixels around them are in neither."""
    boxes, objects = torch.tensor([[0.0, 0, 10, 10]] * 2), torch.tensor([[5.0, 5, 15, 15], [0, 0, 10, 10]])
    found = giou_loss(boxes, torch.zeros(2, 4), objects, STD)
    assert found.item() == pytest.approx(10 * (1 - 25 / 175 + 50 / 225), rel=1e-6)


def test_giou_loss_is_of_the_decoded_boxes_beyond_the_image():
    boxes = torch.tensor([[0.0, 0, 10, 10]])
    moved = encode(boxes, boxes - 100, STD)
    assert giou_loss(boxes, moved, boxes - 100, STD).item() == pytest.approx(0, abs=1e-4)


def test_delta_loss():
    boxes, deltas = OBJECTS + 2, torch.zeros(2, 4)
    expected = 2 / 32 / 0.1 * 2 + (2 / 40 / 0.1) * 2
    assert delta_loss(boxes, deltas, OBJECTS, STD).item() == pytest.approx(expected, rel=1e-6)


def level_answers(batch: int) -> list[tuple[Tensor, Tensor]]:
    """For the strides 4 to 64 at SIZE."""
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    return [(random(batch, 3, *size), random(batch, 12, *size)) for size in sizes]


@pytest.mark.parametrize("beta", [1 / 9, 0.0])
def test_rpn_losses(beta):
    """Two images, one with padding and without objects, all anchors that count: sums, over the number of both."""
    answers, sizes = level_answers(2), [SIZE, (50, 96)]
    learning = dataclasses.replace(CASCADE, rpn_samples=10_000, rpn_beta=beta)
    found = rpn_losses(answers, sizes, [target(), NONE], learning)

    grid = torch.cat(anchors([(logits.shape[2], logits.shape[3]) for logits, _ in answers]))
    within = [(grid.amin(1) >= 0) & (grid[:, 2] < width) & (grid[:, 3] < height) for height, width in sizes]
    overlap = ops.box_iou(OBJECTS, grid)
    best = (overlap == overlap[:, within[0]].amax(1, keepdim=True)).any(0)
    positive = within[0] & ((overlap.amax(0) >= 0.7) | best)
    negative = [within[0] & (overlap.amax(0) < 0.3) & ~positive, within[1]]
    counts = [int(each.sum()) for each in (positive, *negative)]
    assert counts[0] > 5  # those of at least 0.7 for the first object, and the best for the second

    logits, deltas = (torch.cat(each, 1) for each in zip(*(by_anchor(*level) for level in answers), strict=True))
    chosen = torch.cat([logits[0, positive], logits[0, negative[0]], logits[1, negative[1]]])
    is_object = (torch.arange(sum(counts)) < counts[0]).float()
    torch.testing.assert_close(found["rpn_class"], F.binary_cross_entropy_with_logits(chosen, is_object))
    wanted = encode(grid[positive], OBJECTS[overlap[:, positive].argmax(0)], (1.0, 1.0, 1.0, 1.0))
    sums = F.smooth_l1_loss(deltas[0, positive], wanted, beta=beta, reduction="sum")
    torch.testing.assert_close(found["rpn_box"], sums / sum(counts))


def test_stage_samples():
    """Objects are added to the proposals, and learn themselves; the second stage learns from an overlap of 0.6 on."""
    found = sample_boxes(PROPOSALS, target(), BACKGROUND, CASCADE, 1)
    assert torch.equal(found.boxes, torch.cat([OBJECTS, PROPOSALS]))
    assert found.labels.tolist() == [2, 0, 2, 0, 2, 0, BACKGROUND, BACKGROUND]
    assert found.objects.tolist() == [0, 1] * 3
    assert found.added.tolist() == [True] * 2 + [False] * 6
    few = sample_boxes(PROPOSALS, target(), BACKGROUND, dataclasses.replace(CASCADE, samples=4), 1)
    assert (len(few.objects), len(few.boxes)) == (1, 3)  # a quarter of four, and both of background


def test_best_boxes_of_the_stock_two_stage_detector():
    """The box overlaps the first object by 0.9 and the second by 0.56, which no other box overlaps more."""
    objects = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 32]])
    box = torch.tensor([[0.0, 0, 20, 18]])
    labels = [
        sample_boxes(box, target(objects), BACKGROUND, each, 0).labels[2:].tolist() for each in (CASCADE, TWO_STAGE)
    ]
    assert labels == [[2], [0]]


def test_box_loss_is_of_the_objects_classes_by_all_samples():
    samples = [sample_boxes(PROPOSALS, each, BACKGROUND, CASCADE, 0) for each in (target(), NONE)]
    deltas = random(8 + 6, BACKGROUND, 4)
    found = box_loss(deltas, samples, [target(), NONE], STD, CASCADE)
    moves = deltas[torch.arange(6), torch.tensor([2, 0] * 3)]
    boxes = torch.cat([OBJECTS, PROPOSALS[:4]])
    torch.testing.assert_close(found, giou_loss(boxes, moves, OBJECTS.repeat(3, 1), STD) / 14)


def test_mask_loss_is_of_the_objects_classes():
    samples = [sample_boxes(PROPOSALS, target(), BACKGROUND, CASCADE, 0)]
    logits = random(6, BACKGROUND, 28, 28)
    found = mask_loss(logits, samples, [target()])
    own = of_class(logits, torch.tensor([2, 0] * 3))
    # Of an object's own box all pixels are inside; of a box moved by some pixels, those to the right and below are not.
    inside = torch.ones(6, 28, 28)
    for index, (moved, side) in enumerate(zip((0, 0, 1, 1, 3, 3), (32, 40) * 3, strict=True)):
        centres = (torch.arange(28) + 0.5) * side / 28 + moved
        inside[index] = ((centres[:, None] < side) & (centres < side)).float()
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(own, inside))
    assert mask_loss(logits[:0], [sample_boxes(PROPOSALS, NONE, BACKGROUND, CASCADE, 0)], [NONE]) == 0


def test_refined_boxes():
    """By the object's class, or the best class but background; clipped; without added objects, and without gradient."""
    samples = [sample_boxes(PROPOSALS, target(), BACKGROUND, CASCADE, 0)]
    logits, deltas = random(8, BACKGROUND + 1), random(8, BACKGROUND, 4).requires_grad_()
    logits[:, BACKGROUND] = 9
    (found,) = refine(samples, logits, deltas, STD, [SIZE])
    classes = [2, 0, 2, 0, *logits[6:, :BACKGROUND].argmax(1).tolist()]
    moves = deltas[torch.arange(2, 8), torch.tensor(classes)]
    assert torch.equal(found, decode(PROPOSALS, moves, STD, image_size=SIZE))
    assert not found.requires_grad
    assert found.amax(0).tolist()[2:] <= [96, 64]


def test_samples_are_drawn_by_the_generator():
    learning = dataclasses.replace(CASCADE, samples=3)

    def drawn(seed: int) -> StageSamples:
        return sample_boxes(PROPOSALS.repeat(9, 1), target(), 3, learning, 0, torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(0).boxes, drawn(0).boxes)
    assert not torch.equal(drawn(0).boxes, drawn(1).boxes)


IMAGES = torch.zeros(1, 3, *SIZE)


def test_masks_are_padded_to_the_batch():
    small = Target(OBJECTS, torch.tensor([2, 0]), torch.ones(2, 60, 90, dtype=torch.bool))
    (found,) = fitted([small], IMAGES, num_classes=3)
    assert found.masks.shape == (2, *SIZE)
    assert found.masks.sum(dim=(1, 2)).tolist() == [60 * 90] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": OBJECTS[:, :2]}, r"targets\[0\].boxes is \(2, 2\); it must be of the shape \(objects, 4\)"),
        ({"boxes": OBJECTS[:, [2, 1, 0, 3]]}, "x1, y1, x2, y2 with x1 < x2 and y1 < y2"),
        ({"labels": torch.tensor([0])}, r"targets\[0\].labels is \(1,\); it must be of the shape \(2,\)"),
        ({"labels": torch.tensor([0, 3])}, r"labels is \[0, 3\]; it must be from 0 to 2, the classes of the model"),
        ({"boxes": OBJECTS / OBJECTS.new_tensor([1, 1, 0, 1])}, "finite x1, y1, x2, y2"),
        ({"labels": torch.tensor([0.0, 1])}, r"labels is torch.float32; it must be of whole numbers, as int64"),
        ({"masks": torch.full((2, *SIZE), 255, dtype=torch.uint8)}, r"masks is torch.uint8; it must be torch.bool"),
        ({"masks": None}, r"targets\[0\] is a Target; give a Target of three tensors: boxes, labels, masks"),
        (
            {"masks": torch.zeros(2, 65, 96, dtype=torch.bool)},
            r"masks is \(2, 65, 96\); it must be of the shape \(2, at",
        ),
    ],
    ids=["boxes", "corners", "labels", "classes", "infinite", "no whole labels", "levels", "no tensor", "masks"],
)
def test_targets_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        fitted([target()._replace(**changes)], IMAGES, num_classes=3)


def test_a_target_of_another_library():
    with pytest.raises(UserError, match=r"targets\[0\] is a dict; give a Target of three tensors"):
        fitted([target()._asdict()], IMAGES, num_classes=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": -1}, "samples is -1; it must be a whole number of at least 0"),
        ({"proposals": 1.5}, "proposals is 1.5"),
        ({"ious": (0.5,)}, "give one of each for every stage"),
    ],
)
def test_unusable_learning(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CASCADE, **changes)


def test_as_many_targets_as_images():
    with pytest.raises(UserError, match="targets are 2 for 1 images; give one for each"):
        fitted([NONE, NONE], IMAGES, num_classes=3)
