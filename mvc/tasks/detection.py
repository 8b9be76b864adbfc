"""Cascade Mask R-CNN and Mask R-CNN with MambaVision as the backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvc.arguments import is_number, require, require_choice, require_whole
from mvc.model.config import MambaVisionConfig, get_config
from mvc.tasks.backbone import STRIDES, Backbone
from mvc.tasks.boxes import Std, decode, nms_by_group, wide
from mvc.tasks.detection_losses import CASCADE, TWO_STAGE, Learning, losses
from mvc.tasks.heads import BOX_SIZE, MASK_SIZE, WIDTH, RegionHeads, RPNHead, of_class
from mvc.tasks.masks import paste
from mvc.tasks.packages import optional
from mvc.tasks.proposals import Proposals, propose
from mvc.tasks.regions import region_features
from mvc.tasks.sizes import check_sizes
from mvc.tasks.targets import Target, fitted

# As published for detection with T, S and B: a stage's map is one window at the usual sizes. Their class drops paths by
# 0.2 at most, whatever the configuration says.
BACKBONE = {"window_sizes": (112, 56), "drop_path_rate": 0.2}


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a detector keeps of what it finds; the defaults are the published settings of the test.

    Attributes:
        candidates: anchors of a level that are decoded.
        proposal_iou: the overlap from which on proposals of a level suppress each other.
        proposals: regions that the heads look at, of an image.
        score: a detection's score is above it.
        iou: the overlap from which on detections of a class suppress each other.
        detections: most detections of an image.
        mask: the probability from which on a pixel belongs to a mask.

    Raises:
        UserError: a number that is none of these.
    """

    candidates: int = 1000
    proposal_iou: float = 0.7
    proposals: int = 1000
    score: float = 0.05
    iou: float = 0.5
    detections: int = 100
    mask: float = 0.5

    def __post_init__(self) -> None:
        for field in ("candidates", "proposals", "detections"):
            require_whole(field, getattr(self, field), 0)
        for field in ("proposal_iou", "score", "iou", "mask"):
            value = getattr(self, field)
            require(is_number(value) and 0 <= value <= 1, field, value, "a number from 0 to 1")


class Detections(NamedTuple):
    """The objects found in one image, the best first."""

    boxes: Tensor  # float (n, 4): x1, y1, x2, y2 in pixels of the original image
    scores: Tensor  # float (n,), from 0 to 1
    labels: Tensor  # int64 (n,), from 0, in COCO's order of categories
    masks: Tensor  # bool (n, height, width) of the original image


class Found(NamedTuple):
    """The objects found in one image, in pixels of the network's input, before their masks are looked at."""

    boxes: Tensor  # (n, 4)
    scores: Tensor  # (n,)
    labels: Tensor  # (n,)


class Detector(nn.Module):
    """The parts that both detectors share; a subclass says what its heads are.

    `backbone`, `neck`, `rpn_head` and `roi_head` are modules. `model.backbone.compile(fullgraph=True)` compiles the
    backbone; the rest depends on what is found, and runs eagerly.
    """

    # Standard deviations of the box coder, one for each stage.
    stage_std: tuple[Std, ...]
    learning: Learning
    # Of each box head.
    convolutions: int
    linears: int

    def __init__(
        self,
        config: MambaVisionConfig,
        *,
        num_classes: int = 80,
        width: int = WIDTH,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        require_whole("num_classes", num_classes, 1)
        require_whole("width", width, 1)
        super().__init__()
        ops = optional("torchvision.ops")
        self.num_classes = num_classes
        self.backbone = Backbone(config, device=device, dtype=dtype)
        channels = [config.channels(stage) for stage in range(len(STRIDES))]
        with torch.device(torch.get_default_device() if device is None else device):
            top = ops.feature_pyramid_network.LastLevelMaxPool()
            self.neck = ops.FeaturePyramidNetwork(channels, width, extra_blocks=top)
            self.rpn_head = RPNHead(width)
            shape = {"convolutions": self.convolutions, "linears": self.linears, "width": width}
            self.roi_head = RegionHeads(num_classes, len(self.stage_std), **shape)
        for layer in (layer for layer in self.neck.modules() if isinstance(layer, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)
        for part in (self.neck, self.rpn_head, self.roi_head):
            part.to(dtype)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The five levels (batch, 256, height/4, width/4) to (batch, 256, height/64, width/64) of the pyramid of images
        (batch, 3, height, width)."""
        return self.pyramid_of(self.backbone(images))

    def pyramid_of(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The same, of the backbone's four maps."""
        return list(self.neck({str(stage): found for stage, found in enumerate(maps)}).values())

    def propose(
        self, levels: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], select: Selection
    ) -> list[Proposals]:
        """The regions of each image that may hold an object."""
        limits = {"candidates": select.candidates, "iou": select.proposal_iou, "count": select.proposals}
        return propose(self.rpn_head(levels), image_sizes, **limits)

    def box_answers(self, stage: int, levels: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """A stage's logits (n, classes + 1) and deltas (n, classes, 4) for the boxes of all images, in float32 at
        least."""
        logits, deltas = self.roi_head.bbox_head[stage](region_features(levels, boxes, BOX_SIZE))
        return wide(logits), wide(deltas)

    def refine(
        self, levels: Sequence[Tensor], boxes: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> tuple[list[list[Tensor]], list[Tensor], list[Tensor]]:
        """Send the boxes of each image through all stages.

        Returns:
            For each stage the boxes (n, 4) of each image that enter it; for each image the mean of the stages' logits
            (n, classes + 1) and the last stage's deltas (n, classes, 4).
        """
        counts = [len(of_image) for of_image in boxes]
        entering, logits = [list(boxes)], []
        for stage, std in enumerate(self.stage_std):
            of_stage, deltas = self.box_answers(stage, levels, entering[stage])
            logits.append(of_stage)
            if stage + 1 < len(self.stage_std):  # by the deltas of the likeliest class that is not the background
                chosen = of_class(deltas, of_stage[:, :-1].argmax(1)).split(counts)
                pieces = zip(entering[stage], chosen, image_sizes, strict=True)
                entering.append([decode(*each, std, image_size=size) for *each, size in pieces])
        mean = torch.stack(logits).mean(0)
        return entering, list(mean.split(counts)), list(deltas.split(counts))

    def find(
        self,
        levels: Sequence[Tensor],
        boxes: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        select: Selection,
    ) -> list[Found]:
        """The objects in the proposed boxes of each image: classes scored by softmax of the mean logits, boxes by the
        last stage, suppressed within their class."""
        entering, logits, deltas = self.refine(levels, boxes, image_sizes)
        found = []
        for of_image, of_logits, of_classes, size in zip(entering[-1], logits, deltas, image_sizes, strict=True):
            scores = of_logits.softmax(1)[:, :-1]
            region, label = torch.nonzero(scores > select.score, as_tuple=True)
            likely = scores[region, label]
            decoded = decode(of_image[region], of_classes[region, label], self.stage_std[-1], image_size=size)
            kept = nms_by_group(decoded, likely, label, select.iou)[: select.detections]
            found.append(Found(decoded[kept], likely[kept], label[kept]))
        return found

    def mask_probabilities(self, levels: Sequence[Tensor], found: Sequence[Found]) -> list[Tensor]:
        """For each image (n, 28, 28): the mean over the stages of the probability that a part of a box belongs to the
        object of the detected class."""
        regions = region_features(levels, [each.boxes for each in found], MASK_SIZE)
        labels = torch.cat([each.labels for each in found])
        stages = [wide(of_class(head(regions), labels)).sigmoid() for head in self.roi_head.mask_head]
        return list(torch.stack(stages).mean(0).split([len(each.labels) for each in found]))

    def losses(
        self,
        images: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        targets: Sequence[Target],
        *,
        learning: Learning | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """What the sum of is trained, by name: "rpn_class", "rpn_box", and for each stage "stage0_class", "stage0_box"
        and "stage0_mask", with the stage's weight.

        Args:
            images, image_sizes: as of `predict`.
            targets: the objects of each image, of which there may be none.
            learning: how the model learns; `self.learning` if None.
            generator: what boxes are sampled with, on any device; torch's own if None.

        Raises:
            UserError: images, sizes or targets that do not fit together, or a `learning` that is not for this model.
        """
        check_sizes(images, image_sizes, image_sizes)
        targets = fitted(targets, images, num_classes=self.num_classes)
        learning = self.learning if learning is None else learning
        stages = len(self.stage_std)
        fits = isinstance(learning, Learning) and len(learning.ious) == stages
        require(fits, "learning", learning, f"a Learning of {stages} stages, as this {type(self).__name__} has")
        return losses(self, images, image_sizes, targets, learning, generator)

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]] | None = None,
        *,
        select: Selection | None = None,
    ) -> list[Detections]:
        """Detect objects; the model should be in evaluation mode.

        Args:
            images: (batch, 3, height, width), normalised and padded, as of `mvc.tasks.photographs.padded`.
            image_sizes: (height, width) of each image without its padding; boxes are clipped to it.
            original_sizes: (height, width) of each photograph before it was resized, to which boxes and masks are
                brought; those of the images if None.
            select: what to keep; as published if None.

        Raises:
            UserError: images or sizes that do not fit together, or a `select` that is none.
        """
        original_sizes = image_sizes if original_sizes is None else original_sizes
        check_sizes(images, image_sizes, original_sizes)
        select = Selection() if select is None else select
        require(isinstance(select, Selection), "select", select, "a Selection, as of Selection(score=0.3)")
        levels = self.pyramid(images)
        proposals = [each.boxes for each in self.propose(levels, image_sizes, select)]
        found = self.find(levels, proposals, image_sizes, select)
        probabilities = self.mask_probabilities(levels, found)
        return [
            _at_original_size(*each, select.mask)
            for each in zip(found, probabilities, image_sizes, original_sizes, strict=True)
        ]


class CascadeMaskRCNN(Detector):
    """Cascade Mask R-CNN as published with MambaVision: three stages that refine the boxes, each head with four
    convolutions and one linear layer."""

    stage_std = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
    learning = CASCADE
    convolutions, linears = 4, 1


class MaskRCNN(Detector):
    """Mask R-CNN as mmdetection's stock configuration has it (two linear layers of 1024 in the box head, class-specific
    boxes, L1 losses of boxes); there are no published weights nor a published configuration with this backbone."""

    stage_std = ((0.1, 0.1, 0.2, 0.2),)
    learning = TWO_STAGE
    convolutions, linears = 0, 2


KINDS: dict[str, type[Detector]] = {"cascade": CascadeMaskRCNN, "mask_rcnn": MaskRCNN}


def create_detector(
    variant: str | MambaVisionConfig,
    *,
    kind: Literal["cascade", "mask_rcnn"] = "cascade",
    num_classes: int = 80,
    width: int = WIDTH,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **changes: Any,
) -> Detector:
    """A detector with freshly initialised weights, in training mode as torch's own modules are.

    Args:
        variant: a name of `mvc.VARIANTS` in any letter case, or a configuration.
        kind: "cascade" is Cascade Mask R-CNN, "mask_rcnn" Mask R-CNN.
        num_classes: of objects, without the background; COCO's 80.
        width: channels of the pyramid and of the heads' convolutions; published models have 256.
        device, dtype: as for `mvc.create_model`. Boxes and scores are float32 at least.
        changes: fields of `MambaVisionConfig` to change. As published for detection, `window_sizes` is (112, 56) and
            `drop_path_rate` 0.2 where they are not given, whatever the variant has.

    Raises:
        UserError: an argument that cannot be used, or torchvision is not installed.
    """
    require_choice("kind", kind, KINDS)
    config = get_config(variant, **{**BACKBONE, **changes})
    return KINDS[kind](config, num_classes=num_classes, width=width, device=device, dtype=dtype)


def _at_original_size(
    found: Found, probabilities: Tensor, size: tuple[int, int], original: tuple[int, int], threshold: float
) -> Detections:
    """Divide the boxes by the two factors by which the photograph was resized, and paste the masks."""
    (height, width), (rows, columns) = size, original
    boxes = found.boxes / found.boxes.new_tensor([width / columns, height / rows]).repeat(2)
    return Detections(boxes, found.scores, found.labels, paste(probabilities, boxes, original, threshold=threshold))
