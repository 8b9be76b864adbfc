"""The regions that the RPN proposes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mvc.tasks.boxes import anchors, decode, nms_by_group, wide

STD = (1.0, 1.0, 1.0, 1.0)


class Proposals(NamedTuple):
    """Of one image, the best first."""

    boxes: Tensor  # (n, 4), in pixels of the network's input
    scores: Tensor  # (n,), from 0 to 1


def by_anchor(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """A level's answers (batch, 3, height, width) and (batch, 12, height, width) in the order of `anchors`:
    (batch, height·width·3) and (batch, height·width·3, 4), in float32 at least."""
    logits, deltas = (wide(each.permute(0, 2, 3, 1).flatten(1)) for each in (logits, deltas))
    return logits, deltas.unflatten(1, (-1, 4))


def propose(
    answers: Sequence[tuple[Tensor, Tensor]],
    image_sizes: Sequence[tuple[int, int]],
    *,
    candidates: int,
    iou: float,
    count: int,
) -> list[Proposals]:
    """The proposals of each image: the best candidates of each level, decoded, clipped to the image, those without an
    area dropped, suppressed within their level, and the best of what is left.

    Args:
        answers: what the RPN head says of each level.
        image_sizes: (height, width) of each image without padding.
        candidates: most anchors of a level that are decoded.
        iou: from what overlap on a box suppresses another of its level.
        count: most proposals of an image.
    """
    sizes = [(logits.shape[2], logits.shape[3]) for logits, _ in answers]
    levels = [
        (*by_anchor(*answer), of_level)
        for answer, of_level in zip(answers, anchors(sizes, device=answers[0][0].device), strict=True)
    ]
    found = []
    for image, image_size in enumerate(image_sizes):
        boxes, scores, groups = [], [], []
        for level, (logits, deltas, of_level) in enumerate(levels):
            best = logits[image].sigmoid().topk(min(candidates, len(of_level)))
            picked = best.indices
            boxes.append(decode(of_level[picked].to(deltas), deltas[image, picked], STD, image_size=image_size))
            scores.append(best.values)
            groups.append(torch.full_like(picked, level))
        joint = Proposals(torch.cat(boxes), torch.cat(scores))
        found.append(_distinct(joint, torch.cat(groups), iou, count))
    return found


def _distinct(proposals: Proposals, groups: Tensor, iou: float, count: int) -> Proposals:
    with_area = (proposals.boxes[:, 2:] > proposals.boxes[:, :2]).all(1)
    boxes, scores = proposals.boxes[with_area], proposals.scores[with_area]
    kept = nms_by_group(boxes, scores, groups[with_area], iou)[:count]
    return Proposals(boxes[kept], scores[kept])
