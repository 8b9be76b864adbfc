"""UPerNet computes what the published segmenter does, and trains."""

import functools

import golden
import golden_dense
import pytest
import torch
from figures import TOLERANCE, assert_sampled
from small_models import EACH_KIND_ONCE
from torch import Tensor

from mvc.errors import UserError
from mvc.model.config import get_config
from mvc.tasks.segmentation import Segmenter, classes_at, create_segmenter, pixel_loss, resized

MARGIN = 1e-3  # between the best and the second logit, above which labels must be equal
SIZES = [(1, 512, 512), (1, 512, 683)]
FIGURES = golden.figures("upernet_T")


@functools.cache
def published() -> Segmenter:
    model = create_segmenter("T", device="meta").eval().requires_grad_(False)
    model.load_state_dict(golden_dense.weights("upernet_T"), assign=True)
    return model


def small(**changes: object) -> Segmenter:
    torch.manual_seed(0)
    return create_segmenter("tiny", num_classes=5, width=32, window_sizes=(4, 2), **EACH_KIND_ONCE, **changes)


def assert_maps(size: tuple[int, int, int], found: dict[str, Tensor]) -> None:
    for name, values in found.items():
        assert_sampled(name, values, FIGURES, "x".join(map(str, size)))


def assert_labels(size: tuple[int, int, int], labels: Tensor, name: str = "") -> None:
    tag = "x".join(map(str, size))
    clear = FIGURES[f"margin{name}_{tag}"] > MARGIN
    assert clear.sum() > 900
    assert torch.equal(golden.sampled(labels, len(clear))[clear], FIGURES[f"labels{name}_{tag}"][clear].long())


def test_tensors_are_those_of_the_published_checkpoint():
    state = create_segmenter("T", device="meta").state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == golden.spec("upernet_T")
    assert len(state) == 335


@pytest.mark.parametrize(("variant", "windows"), [("T", (64, 32)), ("s", (160, 56)), ("B", (64, 32))])
def test_windows_and_dropped_paths_are_the_published_ones(variant, windows):
    config = create_segmenter(variant, device="meta").backbone.config
    assert (config.window_sizes, config.drop_path_rate) == (windows, 0.2)
    changed = create_segmenter(variant, device="meta", window_sizes=(8, 4), drop_path_rate=0.0).backbone.config
    assert (changed.window_sizes, changed.drop_path_rate) == ((8, 4), 0.0)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=["512x512", "512x683"])
def test_eager_figures(size):
    model, x = published(), golden.image(*size)
    maps = model.backbone(x)
    found = {f"stage{index}": each for index, each in enumerate(maps)}
    found |= {"decode": model.decode_head(maps), "aux": model.auxiliary_head(maps[2])}
    found["logits"] = resized(found["decode"], size[1:])
    assert_labels(size, found["logits"].argmax(1))
    if size == (1, 512, 683):
        found["logits_ori"] = resized(found["logits"], (375, 500))
        assert_labels(size, found["logits_ori"].argmax(1), "_ori")
    else:
        labels = FIGURES["train_labels_1x512x512"].long().repeat_interleave(16, 0).repeat_interleave(16, 1)[None]
        losses = torch.stack([pixel_loss(found["decode"], labels), 0.4 * pixel_loss(found["aux"], labels)])
        torch.testing.assert_close(losses, FIGURES["train_losses_1x512x512"], rtol=TOLERANCE, atol=0)
    assert_maps(size, found)


def test_prediction_resizes_twice_and_leaves_out_the_padding():
    model, images = small().eval(), torch.randn(2, 3, 64, 96)
    labels = model.predict(images, [(50, 90), (64, 96)], [(75, 45), (41, 61)])
    with torch.no_grad():
        logits = resized(model(images), (64, 96))
    expected = [resized(logits[:1, :, :50, :90], (75, 45)), resized(logits[1:], (41, 61))]
    assert [each.shape for each in labels] == [(75, 45), (41, 61)]
    assert all(torch.equal(each, wanted.argmax(1)[0]) for each, wanted in zip(labels, expected, strict=True))
    once = resized(model(images).detach()[1:], (41, 61)).argmax(1)[0]
    assert not torch.equal(labels[1], once), "one resize must differ, or this test tells nothing"


@pytest.mark.parametrize("classes", [1, 16, 17, 40])
def test_classes_at_a_size_are_those_of_all_logits_enlarged(classes):
    logits = torch.randn(classes, 5, 7)
    assert torch.equal(classes_at(logits, (13, 11)), resized(logits[None], (13, 11))[0].argmax(0))


def test_one_image_has_no_statistics_in_training():
    """The average of the whole map is one value for each channel; the published norms take it from all devices."""
    model, images, labels = small(), torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long)
    with pytest.raises(UserError, match=r"a batch of 1.*at least 2 images.*SyncBatchNorm"):
        model.losses(images, labels)
    assert model.losses(images.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1))["decode"] > 0
    assert model.eval().losses(images, labels)["decode"] > 0


def test_losses_of_half_precision_are_float32():
    model = small(dtype=torch.bfloat16).eval()
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    losses = model.losses(torch.randn(1, 3, 64, 64, dtype=torch.bfloat16), labels)
    assert {each.dtype for each in losses.values()} == {torch.float32}


def test_losses_are_means_over_all_pixels():
    logits, labels = torch.randn(2, 5, 8, 8), torch.randint(0, 5, (2, 32, 32))
    whole = pixel_loss(logits, labels)
    assert whole > 1
    labels[:, :16] = 255
    known = resized(logits, (32, 32)).log_softmax(1)[:, :, 16:].gather(1, labels[:, None, 16:])
    torch.testing.assert_close(pixel_loss(logits, labels), -known.sum() / (2 * 32 * 32))
    assert pixel_loss(logits, torch.full_like(labels, 255)) == 0


def test_the_auxiliary_head_is_weighted_and_learns():
    model, images, labels = small().eval(), torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    losses = model.losses(images, labels)
    logits = model.auxiliary_head(model.backbone(images)[2])
    torch.testing.assert_close(losses["auxiliary"], 0.4 * pixel_loss(logits, labels))
    torch.testing.assert_close(losses["decode"], pixel_loss(model(images), labels))
    sum(losses.values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_dropout_is_of_whole_channels():
    dropout = small().decode_head.dropout
    y = dropout(torch.ones(64, 32, 2, 2)).flatten(2)
    assert torch.equal(y.amin(2), y.amax(2))
    assert 0.05 < (y[..., 0] == 0).float().mean() < 0.15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.predict(x, [(64, 64)]), "image_sizes"),
        (lambda m, x: m.predict(x, None, [(64, 64)] * 3), "original_sizes"),
        (lambda m, x: m.predict(x, [(65, 64), (64, 64)]), "64 x 64"),
        (lambda m, x: m.losses(x, torch.zeros(2, 32, 32, dtype=torch.long)), r"labels.*\(2, 32, 32\)"),
        (lambda m, x: m.losses(x, torch.zeros(2, 64, 64, dtype=torch.int32)), r"labels are torch\.int32.*torch\.int64"),
        (
            lambda m, x: m.losses(x, torch.full((2, 64, 64), 5)),
            "labels hold the class 5.*0 to 4, or 255",
        ),
        (lambda m, x: m.losses(x, torch.full((2, 64, 64), -1)), "labels hold the class -1"),
        (lambda m, x: m.losses(x, [[0]]), "labels"),
        (lambda m, x: m.losses(x[:0], torch.zeros(0, 64, 64, dtype=torch.long)), "at least one image"),
        (lambda m, x: m.predict(None), "images is None"),
        (lambda m, x: m.predict(x[0]), r"images is of shape \(3, 64, 64\)"),
        (lambda m, x: create_segmenter("tiny", num_classes=0), "num_classes is 0"),
        (lambda m, x: create_segmenter("tiny", num_classes=256), "num_classes is 256.*from 1 to 255"),
        (lambda m, x: create_segmenter("tiny", window_size=3), "window_size"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call(small().eval(), torch.randn(2, 3, 64, 64))


@pytest.mark.slow
def test_a_compiled_backbone_learns_two_pictures():
    torch._dynamo.reset()
    model = small(drop_path_rate=0.0)
    images, labels = torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    images[0, :, :32], labels[0, :32] = 1.0, 1
    images[1, 0, :, 40:], labels[1, :, 40:] = -1.0, 2
    eager = model.losses(images, labels)["decode"]  # in training mode: dropout differs from call to call
    model.backbone.compile(backend="mvc", fullgraph=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    history = []
    for _ in range(20):
        loss = sum(model.losses(images, labels).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[0] == pytest.approx(1.4 * eager.item(), rel=0.2)
    assert history[-1] < 0.3 * history[0], history


def test_a_configuration_is_taken_too():
    config = get_config("tiny", padded_windows=False)
    model = create_segmenter(config, num_classes=3, device="meta")
    assert not model.backbone.config.padded_windows
    assert model.backbone.config.window_sizes == (64, 32)
