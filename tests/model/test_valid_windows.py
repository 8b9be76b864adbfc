"""Windows of valid tokens: each is what it is alone, at its own size."""

import copy
import dataclasses
import importlib

import pytest
import torch
from small_models import EACH_KIND_ONCE
from torch import Tensor

import mvc
from mvc.errors import UserError
from mvc.model import functional
from mvc.model.config import get_config
from mvc.model.module import MambaVision, create_model
from mvc.model.windows import spans, token_counts

WINDOW = 3
# One window, whole ones, a strip at the right, one at the bottom, both with a corner.
MAPS = [(2, 3), (1, 1), (6, 3), (3, 7), (7, 6), (7, 8), (2, 4)]
IDS = [f"{height}x{width}" for height, width in MAPS]
STAGES = [2, 3]  # of mixers and attention each


def tiny(**changes: object) -> MambaVision:
    torch.manual_seed(0)
    return create_model("tiny", window_sizes=(WINDOW, WINDOW), padded_windows=False, **changes).eval()


def stage_map(model: MambaVision, stage: int, height: int, width: int) -> Tensor:
    return torch.randn(2, model.config.channels(stage), height, width, generator=torch.Generator().manual_seed(1))


def windows_alone(model: MambaVision, stage: int, x: Tensor) -> Tensor:
    """Every window of every sample by itself through the blocks, and put back in its place."""
    y = torch.empty_like(x)
    for sample in range(len(x)):
        for top in range(0, x.shape[2], WINDOW):
            for left in range(0, x.shape[3], WINDOW):
                place = (slice(sample, sample + 1), ..., slice(top, top + WINDOW), slice(left, left + WINDOW))
                tokens = x[place].flatten(2).transpose(1, 2)
                for block in model.levels[stage].blocks:
                    tokens = block(tokens)
                y[place] = tokens.transpose(1, 2).reshape(x[place].shape)
    return y


def assert_same(actual: Tensor, expected: Tensor) -> None:
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= 1e-5, f"off by {error:.2g} of the largest value"


def test_an_axis_is_whole_windows_and_a_rest():
    assert spans(7, 3) == [(0, 6, 3), (6, 7, 1)]
    assert spans(6, 3) == [(0, 6, 3)]
    assert spans(2, 3) == [(0, 2, 2)]
    assert spans(3, 3) == [(0, 3, 3)]


@torch.no_grad()
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", MAPS, ids=IDS)
def test_each_window_is_what_it_is_alone(size, stage):
    model = tiny()
    x = stage_map(model, stage, *size)
    assert_same(model.levels[stage](x), windows_alone(model, stage, x))


def test_each_window_has_the_gradients_it_has_alone():
    model, stage = tiny(layer_scale=0.5), 2
    x = stage_map(model, stage, 7, 8).requires_grad_()
    parameters = [x, *model.levels[stage].blocks.parameters()]
    weights = torch.randn_like(x)
    found = torch.autograd.grad((model.levels[stage](x) * weights).sum(), parameters)
    expected = torch.autograd.grad((windows_alone(model, stage, x) * weights).sum(), parameters)
    for actual, wanted in zip(found, expected, strict=True):
        assert_same(actual, wanted)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(("stage", "size"), [(3, (4, 5)), (2, (2, 3))], ids=["corner", "one-window"])
def test_compiled_windows_are_what_they_are_alone(stage, size):
    torch._dynamo.reset()
    model = tiny(**EACH_KIND_ONCE)
    x = stage_map(model, stage, *size)
    compiled = torch.compile(lambda x: model.levels[stage](x), backend="mvc", fullgraph=True, options={"frozen": True})
    assert_same(compiled(x), windows_alone(model, stage, x))


@pytest.mark.slow
def test_compiled_windows_have_the_gradients_they_have_alone():
    torch._dynamo.reset()
    model, stage = tiny(layer_scale=0.5, **EACH_KIND_ONCE), 2
    x = stage_map(model, stage, 3, 5).requires_grad_()  # with a strip at the right
    parameters = [x, *model.levels[stage].blocks.parameters()]
    weights = torch.randn_like(x)
    compiled = torch.compile(lambda x: model.levels[stage](x), backend="mvc", fullgraph=True)
    found = torch.autograd.grad((compiled(x) * weights).sum(), parameters)
    expected = torch.autograd.grad((windows_alone(model, stage, x) * weights).sum(), parameters)
    for actual, wanted in zip(found, expected, strict=True):
        assert_same(actual, wanted)


@torch.no_grad()
def test_vmap_takes_windows_of_valid_tokens():
    model, x = tiny(), torch.randn(2, 3, 100, 130)
    assert_same(torch.vmap(lambda image: model(image[None])[0])(x), model(x))


@torch.no_grad()
def test_a_batch_of_none_has_windows_too():
    assert tiny()(torch.randn(0, 3, 100, 130)).shape == (0, 10)


@torch.no_grad()
def test_whole_windows_and_the_published_option_agree():
    """Where every window is full, and nowhere else, nothing changes; the default pads, as published."""
    assert get_config("T").padded_windows
    padded = create_model("tiny", window_sizes=(WINDOW, WINDOW)).eval()
    valid = tiny()
    valid.load_state_dict(padded.state_dict())
    full, cut = torch.randn(1, 3, 96, 192), torch.randn(1, 3, 96, 160)
    assert_same(valid(full), padded(full))
    assert (valid(cut) - padded(cut)).abs().max() > 1e-3 * padded(cut).abs().max()


def test_token_counts_have_no_padding():
    config = get_config("T", window_sizes=(112, 56))
    assert token_counts(config, 800, 1333) == [(4200, 12544), (1050, 3136)]
    assert token_counts(dataclasses.replace(config, padded_windows=False), 800, 1333) == [(4200, 4200), (1050, 1050)]


@torch.no_grad()
def test_the_functional_form_follows_the_configuration():
    model, x = tiny(), torch.randn(1, 3, 100, 130)
    torch.testing.assert_close(functional.forward(model.tensors(), x, model.config), model(x))


def test_checkpoints_of_blocks_agree():
    x, model = torch.randn(1, 3, 100, 130), tiny(drop_path_rate=0.0)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    again = copy.deepcopy(model).train(False)
    for level in again.levels:
        level.grad_checkpointing = True
    found = torch.autograd.grad(again(x).square().sum(), list(again.parameters()))
    for actual, wanted in zip(found, expected, strict=True):
        assert_same(actual, wanted)


@torch.no_grad()
def test_timm_has_the_field():
    x = torch.randn(1, 3, 100, 130)
    timm = pytest.importorskip("timm", reason="timm is not installed")
    importlib.import_module("mvc.timm")
    model = timm.create_model("mvc_mambavision_tiny", window_sizes=(WINDOW, WINDOW), padded_windows=False).eval()
    expected = tiny()
    expected.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), expected(x))


def test_transformers_have_the_field():
    pytest.importorskip("transformers", reason="transformers is not installed")
    configuration = importlib.import_module("mvc.transformers").MambaVisionConfig
    config = configuration.from_mvc(tiny().config)
    assert config.to_diff_dict()["padded_windows"] is False
    assert config.to_mvc() == tiny().config


RANGE = {"batch": (1, 8), "height": (33, 96), "width": (33, 96)}


@torch.no_grad()
def test_free_sizes_are_served_within_one_window(tmp_path):
    model = create_model("tiny", window_sizes=(6, 3), padded_windows=False, **EACH_KIND_ONCE).eval()
    written = mvc.export_model(model, torch.randn(2, 3, 64, 80), tmp_path / "any.exported", dynamic=RANGE)
    run = mvc.export.load(written.path)
    for size in ((1, 33, 96), (2, 96, 96), (8, 50, 40)):
        x = torch.randn(size[0], 3, *size[1:])
        torch.testing.assert_close(run(x), model(x), msg=lambda text, size=size: f"{size}: {text}")


def test_free_sizes_of_several_patterns_are_refused(tmp_path):
    model = create_model("tiny", window_sizes=(4, 3), padded_windows=False, **EACH_KIND_ONCE).eval()
    with pytest.raises(UserError, match=r"cannot serve .*height 33:96.* by one program.*narrow dynamic"):
        mvc.export_model(model, torch.randn(2, 3, 64, 64), tmp_path / "any.exported", dynamic=RANGE)


def test_symbolic_trace_is_refused():
    with pytest.raises(UserError, match=r"padded_windows is False.*torch\.export"):
        torch.fx.symbolic_trace(tiny())
