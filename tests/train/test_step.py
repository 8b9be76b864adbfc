"""One update: in parts, filled up, averaged, stopped where it is not finite, and followed by frozen code."""

from __future__ import annotations

import copy

import pytest
import torch
from closeness import assert_close
from torch import Tensor
from training_cases import CLASSES, EAGER, freeze_statistics, step

from mvc.errors import UserError
from mvc.train.data import Batch
from mvc.train.step import Execution, Step

pytest.importorskip("timm", reason="timm is not installed")

COMPILED = Execution("mvc", torch.float32)


def batch(rows: int = 8, *, seed: int = 0, counted: int | None = None) -> Batch:
    """Random images; those after the first `counted` fill up."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, 64, 64, generator=generator)
    labels = torch.randint(len(CLASSES), (rows,), generator=generator)
    return Batch(images, labels, (torch.arange(rows) < (rows if counted is None else counted)).float())


def update(own: Step, *parts: Batch, images: int = 8, epoch: int = 0, number: int = 2) -> float:
    return own.update(parts, images=images, epoch=epoch, number=number).loss


def tensors(own: Step) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in own.model.state_dict().items()}


def moved(own: Step, before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor - before[name] for name, tensor in own.model.named_parameters()}


@pytest.fixture
def uncompiled(monkeypatch) -> list[torch.fx.GraphModule]:
    """Graphs run as they are, after the passes; all that were captured."""
    graphs = []

    def run(graph_module, inputs, options, **_):
        graphs.append(graph_module)
        return graph_module.forward

    torch._dynamo.reset()
    monkeypatch.setattr("mvc.compile.torch_private.inductor", run)
    return graphs


def test_parts_add_up_to_the_whole():
    # Moves weights by the gradients, so far that the rounding of the weights is small beside it.
    plain = {"optimizer": "sgd", "lr": 1024.0, "weight_decay": 0.0}
    whole, parts = step(**plain), step(Execution("eager", torch.float32, parts=2), **plain)
    before, joint = tensors(whole), batch()
    for own in (whole, parts):
        freeze_statistics(own.model)
    losses = update(whole, joint), update(parts, *(Batch(*(t[half::2] for t in joint)) for half in (0, 1)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    expected = moved(whole, before)
    for name, change in moved(parts, before).items():
        assert_close(name, change, expected[name], roundings=2**8)


def test_images_that_fill_up_change_no_gradient():
    """With the weight zero; through the statistics of BatchNorm they would, so these are frozen."""
    own, other = step(), step()
    for each in (own, other):
        freeze_statistics(each.model)
    first, filled = batch(counted=3), batch(seed=1, counted=3)
    filled = Batch(torch.cat([first.images[:3], filled.images[3:]]), first.labels, first.weights)
    assert update(own, first, images=3) == update(other, filled, images=3)
    for name, tensor in own.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


def test_images_that_fill_up_count_in_the_statistics():
    """Those of a last update are of a whole batch of images."""
    own, whole = step(), step()
    update(own, batch(counted=3), images=3)
    update(whole, batch())
    for name, buffer in own.model.named_buffers():
        assert torch.equal(buffer, whole.model.get_buffer(name)), name


def test_the_loss_is_the_mean_over_the_counted_images():
    own = step(smoothing=0.0)
    freeze_statistics(own.model)
    joint = batch(counted=5)
    scores = own.model.train()(joint.images[:5])
    expected = torch.nn.functional.cross_entropy(scores, joint.labels[:5]).item()
    assert update(own, joint, images=5) == pytest.approx(expected, rel=1e-5)


def test_the_average_follows_weights_and_statistics():
    own = step(ema_decay=0.75)
    start = tensors(own)
    update(own, batch())
    once = tensors(own)
    update(own, batch(seed=1))
    for name, tensor in own.average.module.state_dict().items():
        if tensor.is_floating_point():
            first = 0.75 * start[name].double() + 0.25 * once[name].double()
            expected = 0.75 * first + 0.25 * own.model.state_dict()[name].double()
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_recomputation_changes_no_gradient(backend):
    """Nor does it count the statistics of BatchNorm twice, also where the blocks are traced as for a compiler."""
    own, other = step(), step(Execution(backend, torch.float32, recompute=True))
    assert update(own, batch()) == update(other, batch())
    for name, tensor in own.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


@pytest.mark.parametrize("spoil", ["images", "weight"])
def test_what_is_not_finite_stops_and_changes_nothing(spoil):
    own, joint = step(), batch()
    if spoil == "images":
        joint.images[0, 0, 0, 0] = float("nan")
    else:
        with torch.no_grad():
            own.model.head.weight[0, 0] = float("inf")
    before = copy.deepcopy(dict(own.model.named_parameters()))
    with pytest.raises(UserError, match=r"loss is nan .* in epoch 2, update 3, .*lower --lr"):
        update(own, joint, epoch=1)
    for name, parameter in own.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_the_distance_from_the_average_is_that_of_the_published_runs():
    """50 times the divergence at temperature 3, times `mesa`, beside the loss of the labels."""
    own = step(mesa=0.5, mesa_start=0.0, smoothing=0.0)
    freeze_statistics(own.model)
    joint = batch()
    with torch.no_grad():
        own.average.module.head.weight[0].add_(0.1)
        scores, expected = own.model(joint.images), own.average.module.eval()(joint.images)
    labels = torch.nn.functional.cross_entropy(scores, joint.labels)
    soft, wanted = (torch.log_softmax(each.double() / 3, 1) for each in (scores, expected))
    distance = (wanted.exp() * (wanted - soft)).sum(1).mean()
    assert distance > 1e-6
    assert update(own, joint, epoch=1) == pytest.approx((labels + 0.5 * 50 * distance).item(), rel=1e-4)


def test_compiled_code_is_one_graph_each_and_follows_the_weights(uncompiled):
    """One graph for training, also where the last update of an epoch has fewer images and after validations, and one
    for each kind of validation, which are frozen and see every update."""
    own, x = step(COMPILED, drop_path=0.1, mixup=0.8, ema_decay=0.5, lr=0.05), batch(4).images
    seen = []
    for number, counted in enumerate((8, 8, 2, 8)):
        update(own, batch(seed=number, counted=counted), images=counted, number=number)
        if number == 1:
            assert len(uncompiled) == 1
        if number > 1:
            for of, module in (("weights", own.model), ("average", own.average.module)):
                expected = module.eval()(x)
                assert_close(of, own.scores(of, x), expected, roundings=2**12)
                seen.append(expected.detach())
    for before, after in zip(seen[:2], seen[2:], strict=True):
        assert (after - before).abs().max() > 1e-3, "the update between changed the scores"
    assert len(uncompiled) == 3


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match="--optimizer sgdd cannot be made"):
        step(optimizer="sgdd")


def test_other_optimizers_train():
    own = step(optimizer="adamw", lr=1e-3)
    losses = [update(own, batch(), number=number) for number in range(3)]
    assert losses[2] < losses[0]


def test_mixed_precision_keeps_float32_weights():
    own = step(Execution("eager", torch.bfloat16))
    assert update(own, batch()) > 0
    assert {parameter.dtype for parameter in own.model.parameters()} == {torch.float32}
    assert own.scores("average", batch(2).images).dtype == torch.bfloat16
    assert EAGER.dtype == torch.float32
