"""Detectors of a tiny backbone: every kind of input, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
import torch._dynamo.testing
from closeness import assert_close
from torch import nn

from mvc.errors import UserError
from mvc.tasks.detection import CascadeMaskRCNN, Detector, MaskRCNN, Selection, create_detector

pytest.importorskip("torchvision", reason="torchvision is not installed")

FEW = Selection(candidates=50, proposals=20, detections=7)
SIZES = [(64, 90), (50, 96)]


def tiny(kind: str = "cascade", **options: object) -> Detector:
    """With a classifier that is sure enough of itself to have no ties."""
    torch.manual_seed(0)
    model = create_detector("tiny", kind=kind, num_classes=3, width=16, window_sizes=(8, 4), **options).eval()
    with torch.no_grad():
        for head in model.roi_head.bbox_head:
            head.fc_cls.weight.mul_(100)
            head.fc_reg.weight.mul_(100)
    return model


@pytest.fixture(scope="module")
def model() -> Detector:
    return tiny()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["cascade", "mask_rcnn"])
def test_detections_are_of_the_original_images(kind, images):
    found = tiny(kind).predict(images, SIZES, [(128, 270), (25, 96)], select=FEW)
    for (boxes, scores, labels, masks), (height, width) in zip(found, [(128, 270), (25, 96)], strict=True):
        assert 5 <= len(boxes) == len(scores) == len(labels) <= 7
        assert (masks.shape, masks.dtype) == ((len(boxes), height, width), torch.bool)
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= width + 1e-4).all()
        assert (boxes[:, 3] <= height + 1e-4).all()
        assert boxes[:, 3].max() > 0.5 * height
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert scores.min() > FEW.score
        assert set(labels.tolist()) <= {0, 1, 2}


def test_boxes_are_brought_to_the_original_size_by_two_factors(model, images):
    here = model.predict(images, SIZES, select=FEW)[0]
    there = model.predict(images, SIZES, [(128, 270), (50, 96)], select=FEW)[0]
    assert_close("boxes", there.boxes, here.boxes * torch.tensor([3, 2, 3, 2]))
    assert torch.equal(there.labels, here.labels)


def test_an_image_is_found_the_same_in_a_batch(model, images):
    together = model.predict(images, SIZES, select=FEW)
    for index, expected in enumerate(together):
        (alone,) = model.predict(images[index : index + 1], SIZES[index : index + 1], select=FEW)
        assert torch.equal(alone.labels, expected.labels)
        assert_close("boxes", alone.boxes, expected.boxes, roundings=2000)
        assert_close("scores", alone.scores, expected.scores, roundings=2000)


def test_padding_holds_no_boxes(model, images):
    whole = model.predict(images, [(64, 96)] * 2, select=FEW)[0].boxes
    assert whole[:, 2].max() > 48
    half = model.predict(images, [(64, 48)] * 2, select=FEW)[0].boxes
    assert half[:, 2].max() <= 48


@pytest.mark.parametrize("size", [(33, 75), (101, 32), (64, 65)])
def test_odd_sizes(model, size):
    (found,) = model.predict(torch.randn(1, 3, *size), [size], select=FEW)
    assert found.masks.shape == (len(found.boxes), *size)
    assert len(found.boxes) == 7


@pytest.mark.parametrize("nothing", [Selection(score=1.0), Selection(proposals=0)], ids=["detections", "proposals"])
def test_nothing_found(model, images, nothing):
    for found in model.predict(images, SIZES, [(30, 40), (50, 60)], select=nothing):
        assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))
        assert found.masks.shape[0] == 0
    assert found.masks.shape == (0, 50, 60)


def test_one_of_two_images_has_nothing(model, images):
    found = model.predict(images, [(64, 96), (1, 1)], select=FEW)
    assert len(found[0].boxes) == 7
    assert found[1].masks.shape == (len(found[1].boxes), 1, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, images, dtype):
    """Under autocast and as the model's own dtype: boxes stay float32, and features are as close as the dtype is."""
    own = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        expected = model.pyramid(images)[2]
        with torch.autocast("cpu", dtype):
            cast = model.pyramid(images)[2]
        half = own.pyramid(images.to(dtype))[2]
    for name, found in (("autocast", cast), ("own dtype", half)):
        error = (found.float() - expected).norm() / expected.norm()
        assert error < 16 * torch.finfo(dtype).eps, f"{name}: {error:.3g}"
    with torch.autocast("cpu", dtype):
        under_autocast = model.predict(images, SIZES, select=FEW)
    for found in (*under_autocast, *own.predict(images.to(dtype), SIZES, select=FEW)):
        assert found.boxes.dtype == found.scores.dtype == torch.float32
        assert found.boxes.isfinite().all()
        assert len(found.boxes) == 7


def test_the_backbone_compiles_in_one_graph(model, images, fresh_dynamo):
    """In place, which keeps the names of the tensors; tests of checkpoints load into a wrapped one."""
    compiled, counter = tiny(), torch._dynamo.testing.CompileCounter()
    compiled.backbone.compile(backend=counter, fullgraph=True)
    assert list(compiled.state_dict()) == list(model.state_dict())
    for found, expected in zip(*(each.predict(images, SIZES, select=FEW) for each in (compiled, model)), strict=True):
        assert torch.equal(found.labels, expected.labels)
        assert_close("boxes", found.boxes, expected.boxes)
    assert counter.frame_count == 1


def test_the_published_settings():
    model = create_detector("T", device="meta")
    assert isinstance(model, CascadeMaskRCNN)
    assert (model.backbone.config.window_sizes, model.backbone.config.drop_path_rate) == ((112, 56), 0.2)
    assert create_detector("T", device="meta", window_sizes=(14, 7)).backbone.config.window_sizes == (14, 7)
    # By construction of the published classes.
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 89.2
    assert Selection() == Selection(1000, 0.7, 1000, 0.05, 0.5, 100, 0.5)


def test_mask_rcnn_is_the_stock_one():
    model = create_detector("T", kind="mask_rcnn", device="meta")
    assert isinstance(model, MaskRCNN)
    (head,) = model.roi_head.bbox_head
    assert [(fc.in_features, fc.out_features) for fc in head.shared_fcs] == [(12544, 1024), (1024, 1024)]
    assert len(head.shared_convs) == 0
    assert (head.fc_cls.out_features, head.fc_reg.out_features) == (81, 320)
    assert model.stage_std == ((0.1, 0.1, 0.2, 0.2),)


def test_initialisation():
    model = create_detector("tiny", num_classes=80)
    head = model.roi_head.bbox_head[1]
    stds = {"fc_cls": 0.01, "fc_reg": 0.001, "shared_fcs.0": (2 / (12544 + 1024)) ** 0.5}
    for name, std in stds.items():
        assert head.get_submodule(name).weight.std().item() == pytest.approx(std, rel=0.02)
    assert model.rpn_head.rpn_conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
    fan_out = {"convs.0.conv": 256 * 9, "conv_logits": 80}
    for name, fan in fan_out.items():
        weight = model.roi_head.mask_head[0].get_submodule(name).weight
        assert weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.02)
    heads = (model.neck, model.rpn_head, model.roi_head)
    layers = [layer for part in heads for layer in part.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    assert len(biases) == 8 + 3 + 3 * (3 + 5)
    assert all((bias == 0).all() for bias in biases)


def test_dtype_and_device():
    model = create_detector("tiny", device="meta", dtype=torch.bfloat16)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    kept = {n.rsplit(".", 1)[-1] for n, p in model.named_parameters() if p.dtype == torch.float32}
    assert kept == {"A_log", "D"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "yolo"}, "kind is 'yolo'; it must be one of cascade, mask_rcnn"),
        ({"num_classes": 0}, "num_classes is 0; it must be a whole number of at least 1"),
        ({"windows": 3}, "unknown config field 'windows'"),
        ({"dtype": torch.int8}, "dtype is torch.int8"),
        ({"device": "abacus"}, "device is 'abacus'"),
    ],
)
def test_unusable_options(options, message):
    with pytest.raises(UserError, match=message):
        create_detector("tiny", **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], SIZES), "images is .*a tensor"),
        ((torch.ones(3, 64, 96), SIZES), "images is"),
        ((torch.ones(2, 3, 64, 96), SIZES[:1]), "image_sizes has 1 sizes for 2 images"),
        ((torch.ones(2, 3, 64, 96), SIZES, [(4, 4)]), "original_sizes has 1 sizes for 2 images"),
        ((torch.ones(2, 3, 64, 96), [(64, 97), (1, 1)]), r"\(64, 97\).*64 x 96"),
        ((torch.ones(2, 3, 64, 96), SIZES, [(0, 4), (3, 3)]), r"original_sizes is \(0, 4\)"),
        ((torch.ones(2, 4, 64, 96), SIZES), "batch, 3, height, width"),
    ],
)
def test_unusable_images(model, arguments, message):
    with pytest.raises(UserError, match=message):
        model.predict(*arguments)


def test_a_selection_is_no_number(model, images):
    with pytest.raises(UserError, match=r"select is 0\.3; it must be a Selection"):
        model.predict(images, SIZES, select=0.3)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"proposals": -1}, "proposals is -1"), ({"score": 1.5}, "score is 1.5"), ({"iou": float("nan")}, "iou is nan")],
)
def test_unusable_selections(numbers, message):
    with pytest.raises(UserError, match=message):
        Selection(**numbers)
