"""The published Cascade Mask R-CNN with variant T, part by part, on the golden figures."""

from __future__ import annotations

import functools

import golden
import golden_dense
import numpy as np
import pytest
import torch
from figures import assert_figures, assert_sampled
from torch import Tensor
from torch.nn import functional as F

from mvc.model.layers import ChannelNorm
from mvc.tasks.detection import Detector, Found, Selection
from mvc.tasks.detection_losses import StageSamples, box_loss, class_loss, mask_logits
from mvc.tasks.heads import of_class
from mvc.tasks.regions import region_features
from mvc.tasks.targets import Target

pytest.importorskip("torchvision", reason="torchvision is not installed")

TAG, SIZE = "1x320x480", golden_dense.DETECTOR_SIZE
FIGURES = golden.figures("cascade_T")
SELECTION = Selection(proposals=140, score=0.271)
PIXELS, SCORE, PROBABILITY, AREA = 0.05, 3e-4, 1e-3, 12


def figure(name: str) -> Tensor:
    return FIGURES[f"{name}_{TAG}"]


sampled = functools.partial(assert_sampled, figures=FIGURES, tag=TAG)


def test_norm_of_a_map():
    norm = ChannelNorm(80)
    weights = {n: torch.from_numpy(golden.tensor(f"backbone.outnorm0.{n}", [80])) for n in ("weight", "bias")}
    norm.load_state_dict(weights)
    assert_figures("outnorm", norm(FIGURES["outnorm_in"]), FIGURES["outnorm_out"])


@pytest.fixture(scope="module")
def detector() -> Detector:
    return golden_dense.detector()


@pytest.fixture(scope="module")
def levels(detector) -> list[Tensor]:
    return detector.pyramid_of(golden_dense.detector_maps())


@pytest.fixture(scope="module")
def found(detector, levels) -> Found:
    (of_image,) = detector.find(levels, [figure("proposals")], [SIZE], SELECTION)
    return of_image


@pytest.mark.slow
def test_backbone():
    for stage, of_stage in enumerate(golden_dense.detector_maps()):
        sampled(f"stage{stage}", of_stage)


@pytest.mark.slow
def test_pyramid(levels):
    for level, of_level in enumerate(levels):
        sampled(f"fpn{level}", of_level)


@pytest.mark.slow
def test_rpn(detector, levels):
    for level, (logits, deltas) in enumerate(detector.rpn_head(levels)):
        sampled(f"rpn_cls{level}", logits)
        sampled(f"rpn_reg{level}", deltas)


@pytest.mark.slow
def test_heads_on_fixed_boxes(detector, levels):
    boxes = golden_dense.boxes(64, *SIZE)
    assert torch.equal(boxes, figure("fixed_boxes"))
    of_boxes, of_masks = (region_features(levels, [boxes], side) for side in (7, 14))
    sampled("fixed_roi7", of_boxes)
    sampled("fixed_roi14", of_masks)
    for stage in range(3):
        logits, deltas = detector.roi_head.bbox_head[stage](of_boxes)
        assert_figures(f"fixed_cls{stage}", logits, figure(f"fixed_cls{stage}"))
        sampled(f"fixed_reg{stage}", deltas.flatten(1))
        sampled(f"fixed_mask{stage}", detector.roi_head.mask_head[stage](of_masks))


@pytest.mark.slow
def test_proposals(detector, levels):
    """As a set: scores of neighbours may swap."""
    (found,) = detector.propose(levels, [SIZE], SELECTION)
    assert_figures("proposal scores", found.scores, figure("proposal_scores"), absolute=SCORE)
    distances = torch.cdist(found.boxes, figure("proposals"), p=torch.inf)
    nearest, partner = distances.min(1)
    print(f"proposals: off by {nearest.max():.2e} pixels")
    assert partner.unique().numel() == len(figure("proposals")) == len(found.boxes)
    assert nearest.max() <= PIXELS


@pytest.mark.slow
def test_refinement(detector, levels):
    entering, (logits,), _ = detector.refine(levels, [figure("proposals")], [SIZE])
    assert len(entering) == 3
    for stage in (1, 2):
        assert_figures(f"refined{stage}", entering[stage][0], figure(f"refined{stage}"), absolute=PIXELS)
    sampled("mean_cls", logits)


@pytest.mark.slow
def test_detections(found):
    assert found.labels.tolist() == figure("det_labels").tolist()
    assert_figures("detected boxes", found.boxes, figure("det_net_boxes"), absolute=PIXELS)
    assert_figures("detection scores", found.scores, figure("det_scores"), absolute=SCORE)


@pytest.mark.slow
def test_masks(detector, levels, found):
    (probabilities,) = detector.mask_probabilities(levels, [found])
    sampled("det_mask_probs", probabilities, absolute=PROBABILITY)


@pytest.mark.slow
def test_whole_pipeline(detector, levels, monkeypatch):
    """From the picture to its masks; the backbone's maps are those computed above."""
    monkeypatch.setattr(detector, "pyramid", lambda images: levels)
    (found,) = detector.predict(golden.image(1, *SIZE), [SIZE], select=SELECTION)
    assert found.labels.tolist() == figure("det_labels").tolist()
    assert_figures("boxes", found.boxes, figure("det_boxes"), absolute=PIXELS)
    assert_figures("scores", found.scores, figure("det_scores"), absolute=SCORE)
    assert found.masks.shape == (48, *SIZE)
    assert_figures("mask areas", found.masks.sum((1, 2)), figure("det_mask_areas"), absolute=AREA)


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(3))
def test_training_losses(detector, levels, stage):
    """Of the fixed boxes, of which the first 16 learn an object each, without the stage's weight."""
    boxes, labels, objects = figure("fixed_boxes"), FIGURES["train_loss_labels"].long(), FIGURES["train_loss_gt"]
    samples = [StageSamples(boxes, labels, torch.arange(16), torch.zeros(64, dtype=torch.bool))]
    logits, deltas = detector.box_answers(stage, levels, [boxes])
    masks = of_class(mask_logits(detector, stage, levels, samples), labels[:16])
    pixels = torch.from_numpy(np.unpackbits(FIGURES["train_loss_mask_targets"].numpy(), axis=1)).view(16, 28, 28)
    target = Target(objects, labels[:16], torch.empty(0))
    found = [
        class_loss(logits, samples),
        box_loss(deltas, samples, [target], detector.stage_std[stage], detector.learning),
        F.binary_cross_entropy_with_logits(masks, pixels.float()),
    ]
    for name, loss, expected in zip(("class", "box", "mask"), found, FIGURES["train_losses"][stage], strict=True):
        assert_figures(f"{name} loss of stage {stage}", loss, expected)
