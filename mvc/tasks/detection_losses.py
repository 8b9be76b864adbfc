"""What the published detectors learn from: the losses of proposals, classes, boxes and masks.

All follow mmdet 3.3 and the published configuration. Where no image of a batch has objects, the losses of boxes and
masks are 0, and so is that of classes without any box; gradients of 0 reach all heads, as DistributedDataParallel
expects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.arguments import require_whole
from mvc.errors import UserError
from mvc.tasks.assignment import assign, inside, mask_targets, sample
from mvc.tasks.boxes import Std, anchors, decode, encode, wide
from mvc.tasks.heads import MASK_SIZE, of_class
from mvc.tasks.packages import optional
from mvc.tasks.proposals import STD, by_anchor, propose
from mvc.tasks.regions import region_features
from mvc.tasks.targets import Target

if TYPE_CHECKING:
    from mvc.tasks.detection import Detector

GIOU_EPS, GIOU_WEIGHT = 1e-6, 10.0


def giou_loss(boxes: Tensor, deltas: Tensor, objects: Tensor, std: Std) -> Tensor:
    """10 x (1 - GIoU) of the decoded boxes, which are not clipped, and the objects, summed up.

    Args:
        boxes, deltas, objects: (n, 4) each; the deltas are those of the object's class.
    """
    loss = optional("torchvision.ops").generalized_box_iou_loss
    return GIOU_WEIGHT * loss(decode(boxes, deltas, std), objects, reduction="sum", eps=GIOU_EPS)


def delta_loss(boxes: Tensor, deltas: Tensor, objects: Tensor, std: Std) -> Tensor:
    """L1 between the deltas and those that lead to the objects, summed up; of the same arguments as `giou_loss`."""
    return F.l1_loss(deltas, encode(boxes, objects, std), reduction="sum")


@dataclass(frozen=True)
class Learning:
    """How a detector learns; the defaults are those of the published Cascade Mask R-CNN.

    Attributes:
        ious: for each stage, the overlap from which on a box learns an object; those below it are background.
        weights: for each stage, the factor of its losses.
        box_loss: of positive boxes, summed up.
        best_boxes: whether an object's best boxes learn it from that overlap on, even if they overlap another more.
        rpn_beta: where the smooth L1 loss of the proposals' boxes turns from a parabola to a line; 0 is L1.
        rpn_samples: anchors of an image that the proposals learn from, at most half of them of objects.
        candidates, proposals: anchors of a level that are decoded, and proposals of an image that are kept.
        samples: boxes of an image that a stage learns from, at most a quarter of them of objects.

    Raises:
        UserError: a number that is none of these.
    """

    ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    box_loss: Callable[[Tensor, Tensor, Tensor, Std], Tensor] = giou_loss
    best_boxes: bool = False
    rpn_beta: float = 1 / 9
    rpn_samples: int = 256
    candidates: int = 2000
    proposals: int = 2000
    samples: int = 512

    def __post_init__(self) -> None:
        for field in ("rpn_samples", "candidates", "proposals", "samples"):
            require_whole(field, getattr(self, field), 0)
        if len(self.ious) != len(self.weights):
            raise UserError(f"ious are {self.ious} and weights are {self.weights}; give one of each for every stage")


CASCADE = Learning()
# The stock Mask R-CNN of mmdet 3.3.
TWO_STAGE = Learning((0.5,), (1.0,), box_loss=delta_loss, best_boxes=True, rpn_beta=0.0, proposals=1000)
RPN_SHARE, STAGE_SHARE = 0.5, 0.25  # of the samples that may learn an object
PROPOSAL_IOU = 0.7  # above which proposals of a level suppress each other


class StageSamples(NamedTuple):
    """The boxes of an image that a stage learns from; those that learn an object come first."""

    boxes: Tensor  # (samples, 4)
    labels: Tensor  # (samples,), int64: the class of the box's object, or the background
    objects: Tensor  # (positives,), int64: which object each of the first boxes learns
    added: Tensor  # (samples,), bool: whether the box is an object itself, and no proposal

    @property
    def positive(self) -> slice:
        """Those that learn an object."""
        return slice(len(self.objects))


def losses(
    model: Detector,
    images: Tensor,
    image_sizes: Sequence[tuple[int, int]],
    targets: Sequence[Target],
    learning: Learning,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The losses of a batch, of arguments that were checked: see `mvc.tasks.detection.Detector.losses`."""
    levels = model.pyramid(images)
    answers = model.rpn_head(levels)
    found = rpn_losses(answers, image_sizes, targets, learning, generator)
    limits = {"candidates": learning.candidates, "iou": PROPOSAL_IOU, "count": learning.proposals}
    with torch.no_grad():
        boxes = [each.boxes for each in propose(answers, image_sizes, **limits)]
    for stage, weight in enumerate(learning.weights):
        samples = [
            sample_boxes(*each, model.num_classes, learning, stage, generator)
            for each in zip(boxes, targets, strict=True)
        ]
        logits, deltas = model.box_answers(stage, levels, [each.boxes for each in samples])
        of_stage = {
            "class": class_loss(logits, samples),
            "box": box_loss(deltas, samples, targets, model.stage_std[stage], learning),
            "mask": mask_loss(mask_logits(model, stage, levels, samples), samples, targets),
        }
        found |= {f"stage{stage}_{name}": weight * loss for name, loss in of_stage.items()}
        boxes = refine(samples, logits, deltas, model.stage_std[stage], image_sizes)
    return found


def rpn_losses(
    answers: Sequence[tuple[Tensor, Tensor]],
    image_sizes: Sequence[tuple[int, int]],
    targets: Sequence[Target],
    learning: Learning,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Cross-entropy of whether there is an object at an anchor, and smooth L1 of its deltas: sums over the samples of
    all images, divided by their number. Anchors that leave their image are not used.

    Args:
        answers: what the RPN head says of each level.
    """
    logits, deltas = (torch.cat(each, 1) for each in zip(*(by_anchor(*level) for level in answers), strict=True))
    grid = torch.cat(anchors([level.shape[2:] for level, _ in answers], device=logits.device)).to(deltas)
    class_sum, box_sum, count = logits.new_zeros(()), logits.new_zeros(()), 0
    for scores, moves, size, target in zip(logits, deltas, image_sizes, targets, strict=True):
        (within,) = inside(grid, size).nonzero(as_tuple=True)
        assigned = assign(grid[within], target.boxes, positive=0.7, negative=0.3, least_best=0.3)
        drawn = sample(assigned, count=learning.rpn_samples, share=RPN_SHARE, generator=generator)
        objects = target.boxes[assigned[drawn.positive]]
        positive, negative = within[drawn.positive], within[drawn.negative]
        wanted = encode(grid[positive], objects, STD)
        class_sum = class_sum + _cross_entropy(scores[positive], scores[negative])
        box_sum = box_sum + F.smooth_l1_loss(moves[positive], wanted, beta=learning.rpn_beta, reduction="sum")
        count += len(positive) + len(negative)
    return {"rpn_class": class_sum / max(count, 1), "rpn_box": box_sum / max(count, 1)}


def sample_boxes(
    proposals: Tensor,
    target: Target,
    background: int,
    learning: Learning,
    stage: int,
    generator: torch.Generator | None = None,
) -> StageSamples:
    """Draw the boxes that a stage learns from, of the proposals of an image and of its objects themselves."""
    count, iou = len(target.boxes), learning.ious[stage]
    least_best = iou if learning.best_boxes else None
    assigned = assign(proposals, target.boxes, positive=iou, negative=iou, least_best=least_best)
    itself = torch.arange(count, device=assigned.device)
    drawn = sample(torch.cat([itself, assigned]), count=learning.samples, share=STAGE_SHARE, generator=generator)
    chosen = torch.cat(drawn)
    objects = torch.cat([itself, assigned])[drawn.positive]
    labels = torch.cat([target.labels[objects], torch.full_like(drawn.negative, background)])
    return StageSamples(torch.cat([target.boxes, proposals])[chosen], labels, objects, chosen < count)


def class_loss(logits: Tensor, samples: Sequence[StageSamples]) -> Tensor:
    """Cross-entropy over the classes and the background, the mean over the samples of all images; 0 without any.

    Args:
        logits: (samples of all images, classes + 1).
    """
    labels = torch.cat([each.labels for each in samples])
    return F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)


def box_loss(
    deltas: Tensor, samples: Sequence[StageSamples], targets: Sequence[Target], std: Std, learning: Learning
) -> Tensor:
    """The sum of `learning.box_loss` over the boxes that learn an object, divided by the number of all samples.

    Args:
        deltas: (samples of all images, classes, 4).
    """
    boxes, labels = (torch.cat(each) for each in zip(*((each.boxes, each.labels) for each in samples), strict=True))
    (positive,) = (labels < deltas.shape[1]).nonzero(as_tuple=True)
    objects = torch.cat([target.boxes[each.objects] for each, target in zip(samples, targets, strict=True)])
    moves = deltas[positive, labels[positive]]
    return learning.box_loss(boxes[positive], moves, objects, std) / max(len(deltas), 1)


def mask_logits(model: Detector, stage: int, levels: Sequence[Tensor], samples: Sequence[StageSamples]) -> Tensor:
    """A stage's masks (positives, classes, 28, 28) of the boxes that learn an object, in float32 at least."""
    boxes = [each.boxes[each.positive] for each in samples]
    return wide(model.roi_head.mask_head[stage](region_features(levels, boxes, MASK_SIZE)))


def mask_loss(logits: Tensor, samples: Sequence[StageSamples], targets: Sequence[Target]) -> Tensor:
    """Binary cross-entropy of the mask of the object's class alone, the mean over all pixels.

    Args:
        logits: (positives of all images, classes, side, side).
    """
    if not len(logits):
        return logits.sum()  # 0, with its gradient
    wanted = torch.cat(
        [
            mask_targets(target.masks, each.boxes[each.positive], each.objects, size=logits.shape[-1])
            for each, target in zip(samples, targets, strict=True)
        ]
    )
    labels = torch.cat([each.labels[each.positive] for each in samples])
    return F.binary_cross_entropy_with_logits(of_class(logits, labels), wanted)


@torch.no_grad()
def refine(
    samples: Sequence[StageSamples],
    logits: Tensor,
    deltas: Tensor,
    std: Std,
    image_sizes: Sequence[tuple[int, int]],
) -> list[Tensor]:
    """The next stage's boxes of each image: those of a stage, moved by the deltas of their object's class, or of the
    likeliest class for background, and clipped; objects that had been added are left out.

    Args:
        logits, deltas: (samples of all images, classes + 1) and (samples, classes, 4).
    """
    counts = [len(each.boxes) for each in samples]
    background = logits.shape[1] - 1
    labels = torch.cat([each.labels for each in samples])
    classes = torch.where(labels == background, logits[:, :-1].argmax(1), labels)
    moves = of_class(deltas, classes).split(counts)
    return [
        decode(each.boxes, of_image, std, image_size=size)[~each.added]
        for each, of_image, size in zip(samples, moves, image_sizes, strict=True)
    ]


def _cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    """The sum over logits that should be large and others that should be small."""
    return -F.logsigmoid(positive).sum() - F.logsigmoid(-negative).sum()
