"""Small detectors learn: gradients reach everything, steps can be repeated, and the loss falls."""

from __future__ import annotations

import copy
import dataclasses
import statistics

import pytest
import torch
from small_models import EACH_KIND_ONCE
from torch import Tensor, nn
from torch.nn import functional as F

from mvc.errors import UserError
from mvc.passes.accuracy import COMPILED, Check, relative_errors, rounding, worst
from mvc.tasks.targets import Target

pytest.importorskip("torchvision", reason="torchvision is not installed")

from mvc.tasks.detection import Detector, create_detector

SIZES = [(64, 96), (60, 80)]  # of the second image, what is no padding
# Off the grid of the anchors, so that no two overlap an object equally but for rounding.
BOXES = [[[9, 6, 42, 39], [51, 18, 89, 59]], [[22, 9, 69, 50]]]


def detector(kind: str = "cascade", **changes: object) -> Detector:
    torch.manual_seed(0)
    small = {"num_classes": 3, "width": 16, "window_sizes": (4, 2), **EACH_KIND_ONCE}
    return create_detector("tiny", kind=kind, **small, **changes)


def images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def targets(boxes: list[list[list[int]]] = BOXES) -> list[Target]:
    """The objects of each image as rectangles that fill their boxes; the masks have the size of the image."""
    found = []
    for of_image, size in zip(boxes, SIZES, strict=True):
        masks = torch.zeros(len(of_image), *size, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, of_image, strict=True):
            mask[y1:y2, x1:x2] = True
        found.append(Target(torch.tensor(of_image).float().view(-1, 4), torch.arange(len(of_image)), masks))
    return found


def losses(
    model: Detector, *, boxes: list[list[list[int]]] = BOXES, seed: int = 0, **changes: int
) -> dict[str, Tensor]:
    """With fields of the model's `Learning` changed."""
    learning = dataclasses.replace(model.learning, **changes)
    generator = torch.Generator().manual_seed(seed)
    pixels = images().to(next(model.parameters()).dtype)
    return model.losses(pixels, SIZES, targets(boxes), learning=learning, generator=generator)


def gradients(model: Detector, **options: object) -> dict[str, Tensor]:
    model.zero_grad()
    sum(losses(model, **options).values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("kind", "stages"), [("cascade", 3), ("mask_rcnn", 1)])
def test_every_parameter_learns(kind, stages):
    """But for the pyramid's levels whose anchors are all larger than the image."""
    model = detector(kind)
    assert list(losses(model)) == ["rpn_class", "rpn_box"] + [
        f"stage{stage}_{loss}" for stage in range(stages) for loss in ("class", "box", "mask")
    ]
    found = gradients(model)
    still = {name for name, parameter in model.named_parameters() if name not in found or not found[name].any()}
    assert still == {f"neck.layer_blocks.{level}.0.{part}" for level in (2, 3) for part in ("weight", "bias")}
    assert all(gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("boxes", [[[], BOXES[1]], [[], []]], ids=["one image", "both images"])
def test_images_without_objects(boxes):
    """Where there are none at all the losses of boxes and masks are 0, and so are their gradients, which are there."""
    model = detector()
    found = losses(model, boxes=boxes)
    assert all(loss.isfinite() for loss in found.values())
    zero = {name for name, loss in found.items() if loss == 0}
    assert zero == ({name for name in found if not name.endswith("class")} if not any(boxes) else set())
    of_parameters = gradients(model, boxes=boxes)
    assert of_parameters.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.isfinite().all() for gradient in of_parameters.values())


def test_steps_repeat_and_differ():
    """By the generator's seed, where boxes are drawn from more than are taken."""
    model = detector(drop_path_rate=0.0).eval()
    first, again, other = (losses(model, seed=seed, samples=16) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stage0_class"], other["stage0_class"])


def test_mixed_precision():
    """Losses are taken in float32 of what the network computes in bfloat16."""
    model = detector(drop_path_rate=0.0)
    expected = losses(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(model)
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    whole, exact = sum(found.values()), sum(expected.values())
    assert abs(whole - exact) < 0.05 * exact
    whole.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_stages_are_weighted():
    model = detector(drop_path_rate=0.0)
    of_class = [losses(model)[f"stage{stage}_class"].item() for stage in range(3)]
    # New heads know nothing: each class has about the same probability, and cross-entropy is the logarithm of four.
    expected = [weight * torch.tensor(4.0).log().item() for weight in (1, 0.5, 0.25)]
    assert of_class == pytest.approx(expected, rel=0.1)


def test_sizes_that_do_not_fit():
    model = detector()
    with pytest.raises(UserError, match="image_sizes has 1 sizes for 2 images"):
        model.losses(images(), SIZES[:1], targets())
    with pytest.raises(UserError, match="targets are 1 for 2 images"):
        model.losses(images(), SIZES, targets()[:1])


def test_synchronised_norms():
    """torch's conversion finds all norms of batches, those of the heads too; in evaluation they compute the same."""
    model = detector()
    names = {name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    assert len(names) == 6 + 12  # of the stem and the convolution blocks, and of four convolutions in each stage's head
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert {name for name, layer in converted.named_modules() if isinstance(layer, nn.SyncBatchNorm)} == names
    found, expected = (losses(each.eval()) for each in (converted, model))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_loss_falls():
    """Over 20 steps on two images."""
    model = detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for step in range(20):
        optimizer.zero_grad()
        loss = sum(losses(model, seed=step, samples=32, proposals=64).values())
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    print(history)
    assert statistics.mean(history[-3:]) < 0.5 * statistics.mean(history[:3]), history


@pytest.mark.slow
def test_step_with_a_compiled_backbone(fresh_dynamo, monkeypatch):
    """In one graph; every gradient is within the budget of compiled code around the oracle in float64.

    Hardly anything depends on which of two nearly equal numbers is larger: all samples are taken, and the heads have
    SiLU in the place of ReLU, whose kink a rounding may cross. Gradients that are zero but for rounding, of biases
    before a BatchNorm, are compared with the others.
    """
    monkeypatch.setattr(Tensor, "relu", F.silu)
    model = detector(drop_path_rate=0.0)
    expected = gradients(copy.deepcopy(model).double(), proposals=40)
    eager = relative_errors(gradients(copy.deepcopy(model), proposals=40), expected, share=0.1)
    model.backbone.compile(backend="mvc", fullgraph=True)
    compiled = relative_errors(gradients(model, proposals=40), expected, share=0.1)
    limits = {"typical": statistics.median(eager.values())}
    check = worst(
        Check(name, compiled[name], error, COMPILED.tolerance(rounding(torch.float32), eager_error=error, **limits))
        for name, error in eager.items()
    )
    print(check)
    assert check.passed, str(check)
