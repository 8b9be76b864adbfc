"""Anchors, the coding of boxes and non-maximum suppression, on the figures of the published classes."""

from __future__ import annotations

import golden
import pytest
import torch
from figures import assert_figures

from mvc.tasks import boxes as of_boxes
from mvc.tasks.boxes import STRIDES, anchors, base_anchors, clip, decode, encode, nms_by_group

FIGURES = golden.figures("cascade_T")
STAGE_STD = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


def test_base_anchors():
    assert_figures("base anchors", base_anchors(), FIGURES["base_anchors"])


@pytest.mark.parametrize("level", range(5))
def test_anchors(level):
    sizes = [tuple(FIGURES[f"fpn{each}_shape_1x320x480"][2:].tolist()) for each in range(5)]
    found = anchors(sizes)[level]
    assert list(found.shape) == FIGURES[f"anchors_shape{level}"].tolist()
    assert_figures(f"anchors {level}", golden.sampled(found), FIGURES[f"anchors{level}"])


@pytest.mark.parametrize("stage", range(3))
def test_decoded_boxes(stage):
    found = decode(FIGURES["coder_rois"], FIGURES["coder_deltas"], STAGE_STD[stage], image_size=(320, 480))
    assert_figures(f"boxes of stage {stage}", found, FIGURES[f"coder_out{stage}"])


def test_decoded_proposals():
    found = decode(FIGURES["coder_rois"], FIGURES["coder_deltas"], (1, 1, 1, 1), image_size=(320, 480))
    assert_figures("proposals", found, FIGURES["coder_out_rpn"])


def test_encoded_boxes():
    found = encode(FIGURES["coder_rois"], FIGURES["coder_gt"], STAGE_STD[1])
    assert_figures("deltas", found, FIGURES["coder_encoded1"])


def test_decoding_undoes_encoding():
    draw = torch.Generator().manual_seed(0)
    boxes, targets = (torch.rand(2, 5, 4, generator=draw, dtype=torch.float64).cumsum(-1) for _ in range(2))
    found = decode(boxes, encode(boxes, targets, STAGE_STD[2]), STAGE_STD[2])
    torch.testing.assert_close(found, targets, rtol=1e-12, atol=1e-12)


def test_deltas_of_several_classes_are_broadcast():
    boxes, deltas = torch.tensor([[0.0, 0, 10, 20], [5, 5, 9, 9]]), torch.randn(2, 3, 4)
    found = decode(boxes[:, None], deltas, STAGE_STD[0])
    assert found.shape == (2, 3, 4)
    assert torch.equal(found[:, 1], decode(boxes, deltas[:, 1], STAGE_STD[0]))


def test_clip():
    boxes = torch.tensor([[-3.0, 5, 50, 60], [10, 20, 30, 25]])
    assert clip(boxes, (40, 45)).tolist() == [[0, 5, 45, 40], [10, 20, 30, 25]]


def many_boxes(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=draw) * 100
    boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=draw) * 30], 1)
    return boxes, torch.rand(count, generator=draw), torch.randint(4, (count,), generator=draw)


def test_groups_are_suppressed_apart():
    ops = pytest.importorskip("torchvision.ops")
    boxes, scores, groups = many_boxes(300)
    kept = nms_by_group(boxes, scores, groups, 0.5)
    assert torch.equal(scores[kept], scores[kept].sort(descending=True).values)
    for group in range(4):
        (alone,) = torch.nonzero(groups == group, as_tuple=True)
        expected = alone[ops.nms(boxes[alone], scores[alone], 0.5)]
        assert 0 < len(expected) < len(alone)
        assert torch.equal(kept[groups[kept] == group], expected)


def test_many_boxes_are_suppressed_group_by_group(monkeypatch):
    pytest.importorskip("torchvision.ops")
    boxes, scores, groups = many_boxes(300)
    at_once = nms_by_group(boxes, scores, groups, 0.5)
    monkeypatch.setattr(of_boxes, "SPLIT_NMS", 100)
    assert torch.equal(nms_by_group(boxes, scores, groups, 0.5), at_once)


def test_no_boxes():
    none = torch.empty(0, 4)
    assert nms_by_group(none, none[:, 0], torch.empty(0, dtype=torch.int64), 0.5).tolist() == []
    assert decode(none, none, STAGE_STD[0], image_size=(3, 3)).shape == (0, 4)
    assert [each.shape[0] for each in anchors([(2, 3), (1, 2), (1, 1), (1, 1), (1, 1)], STRIDES)] == [18, 6, 3, 3, 3]
