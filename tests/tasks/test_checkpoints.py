"""Published detectors load strictly by a table of names, and files of mmengine without running what they name."""

from __future__ import annotations

import sys
import types

import golden
import numpy as np
import pytest
import torch

from mvc.errors import UserError
from mvc.model.module import create_model
from mvc.tasks.checkpoints import load_backbone_weights, load_task_weights, own_name
from mvc.tasks.detection import create_detector

pytest.importorskip("torchvision", reason="torchvision is not installed")


@pytest.fixture(scope="module")
def model():
    return create_detector("tiny", window_sizes=(4, 2), num_classes=3)


def published(model) -> dict[str, torch.Tensor]:
    """The model's tensors, with values of their own, under the published names."""
    names = {"neck.inner_blocks": "neck.lateral_convs", "neck.layer_blocks": "neck.fpn_convs"}
    state = {}
    for name, tensor in model.state_dict().items():
        for own, theirs in names.items():
            name = name.replace(own, theirs)
        if name.startswith("neck."):
            name = name.replace(".0.weight", ".conv.weight").replace(".0.bias", ".conv.bias")
        state[name] = torch.rand(tensor.shape) if tensor.is_floating_point() else torch.tensor(7)
    return state


def assert_loaded(model, state: dict[str, torch.Tensor]) -> None:
    tensors = {own_name(name): tensor for name, tensor in model.state_dict().items()}
    assert len(tensors) == len(state)
    for name, tensor in state.items():
        assert torch.equal(tensors[own_name(name)], tensor), name


def test_every_published_name_and_shape_is_the_models():
    spec = golden.spec("cascade_T")
    tensors = create_detector("T", device="meta").state_dict()
    assert {own_name(name): shape for name, shape in spec.items()} == {n: list(t.shape) for n, t in tensors.items()}


def test_published_names_load(model):
    state = published(model)
    assert "neck.lateral_convs.3.conv.bias" in state
    result = load_task_weights(model, state)
    assert (result.tensors, result.notes) == (len(state), ())
    assert_loaded(model, state)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_state_dict_within_a_checkpoint_loads(model, key):
    state = published(model)
    load_task_weights(model, {key: state, "epoch": 3})
    assert_loaded(model, state)


def test_own_names_load_into_a_compiled_backbone(model):
    state = published(model)
    load_task_weights(model, state)
    wrapped = create_detector("tiny", window_sizes=(4, 2), num_classes=3)
    wrapped.backbone = torch.compile(wrapped.backbone, backend="eager")
    load_task_weights(wrapped, {f"module.{name}": tensor for name, tensor in model.state_dict().items()})
    assert "backbone._orig_mod.outnorm0.bias" in wrapped.state_dict()
    assert_loaded(wrapped, state)


def test_a_detector_of_one_stage_has_no_number_in_its_published_names():
    model = create_detector("tiny", kind="mask_rcnn", window_sizes=(4, 2), num_classes=3)
    state = {
        n.replace("bbox_head.0", "bbox_head").replace("mask_head.0", "mask_head"): t
        for n, t in published(model).items()
    }
    assert "roi_head.bbox_head.fc_cls.weight" in state
    load_task_weights(model, state)
    assert_loaded(model, state)


@pytest.fixture
def history_buffer(monkeypatch):
    """mmengine's class as far as pickles know it: methods in a dict, numbers in arrays."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.arange(3.0)
            self._latest = np.float64(0.5)
            self._statistics_methods = {"mean": HistoryBuffer.mean}

        @classmethod
        def mean(cls) -> None:
            raise AssertionError("run while loading")

        def __setstate__(self, state: object) -> None:
            raise AssertionError("run while loading")

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    module = types.ModuleType(HistoryBuffer.__module__)
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return HistoryBuffer


def test_a_training_state_of_mmengine_loads(model, history_buffer, tmp_path, caplog):
    state = published(model)
    training = {
        "meta": {"epoch": 36, "cfg": "model = dict()"},
        "state_dict": state,
        "message_hub": {"log_scalars": {"loss": history_buffer()}},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]},
    }
    torch.save(training, tmp_path / "epoch_36.pth")
    result = load_task_weights(model, tmp_path / "epoch_36.pth")
    assert_loaded(model, state)
    (note,) = result.notes
    assert "non-commercial" in note
    assert note in caplog.text


class Opened:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return open, ("/nonexistent/file",)


def test_other_objects_are_refused(model, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": published(model), "hook": Opened()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"asks for io\.open.*nothing was executed"):
        load_task_weights(model, tmp_path / "x.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_does_not_fit_is_listed_and_nothing_is_copied(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = published(model)
    del state["rpn_head.rpn_cls.bias"]
    state["neck.bottom_up.weight"] = torch.ones(1)
    state["roi_head.bbox_head.1.fc_cls.bias"] = torch.ones(81)
    with pytest.raises(UserError) as caught:
        load_task_weights(model, state)
    message = str(caught.value)
    assert "this CascadeMaskRCNN; create it with the checkpoint's variant, kind and number of classes" in message
    assert "1 missing: rpn_head.rpn_cls.bias" in message
    assert "1 extra: neck.bottom_up.weight" in message
    assert "1 misshapen: roi_head.bbox_head.1.fc_cls.bias (81,) for (4,)" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def classifier(**changes: object) -> dict[str, torch.Tensor]:
    state = create_model("tiny", num_classes=7, **changes).state_dict()
    return {name: torch.rand(t.shape) if t.is_floating_point() else torch.tensor(7) for name, t in state.items()}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_classifiers_weights_into_the_backbone(compiled):
    """Of all its tensors but the head and the last norm; the norms of the maps are as they were."""
    model = create_detector("tiny", window_sizes=(4, 2), num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = classifier()
    if compiled:
        model.backbone = torch.compile(model.backbone, backend="eager")
    result = load_backbone_weights(model, {f"model.{name}": tensor for name, tensor in state.items()})
    assert "non-commercial" in result.notes[0]
    for name, tensor in ((own_name(name), tensor) for name, tensor in model.state_dict().items()):
        loaded = name.startswith("backbone.") and "outnorm" not in name
        assert torch.equal(tensor, state[name.removeprefix("backbone.")] if loaded else before[name]), name


def test_a_classifier_that_does_not_fit_the_backbone(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"1 missing: levels\.2\.blocks\.0\.mixer\.D"):
        load_backbone_weights(model, {n: t for n, t in classifier().items() if n != "levels.2.blocks.0.mixer.D"})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(UserError, match="model is a Linear; it must be a detector or a segmenter"):
        load_backbone_weights(torch.nn.Linear(1, 1), classifier())


def test_a_classifiers_weights_are_no_detectors(model):
    with pytest.raises(
        UserError, match=r"has a backbone and heads; give its own checkpoint, or .*load_backbone_weights"
    ):
        load_task_weights(model, classifier())


def test_a_model_on_meta_is_refused():
    with pytest.raises(UserError, match="meta device"):
        load_task_weights(create_detector("tiny", device="meta"), {"a": torch.ones(1)})
