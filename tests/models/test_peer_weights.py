"""Published checkpoints of Vim and VMamba: their names, their forms, and what is refused."""

from __future__ import annotations

import argparse
import re
import sys
import types
from pathlib import Path

import golden
import golden_peers
import pytest
import torch

import mvc
from mvc.errors import UserError
from mvc.models import create_model, load_weights
from mvc.models.weights import SETTINGS

PARAMETERS = {
    "Vim-T": 7_148_008,
    "Vim-T+": 7_250_344,
    "Vim-S": 25_796_584,
    "Vim-S+": 26_001_256,
    "Vim-B": 97_598_440,
    "VMamba-T": 30_249_064,
    "VMamba-S": 50_147_752,
    "VMamba-B": 88_557_800,
    "VMamba-T-s2l5": 30_705_832,
}
TENSORS = {"Vim-T": 415, "Vim-S+": 415, "VMamba-T": 276, "VMamba-S": 402, "VMamba-B": 402, "VMamba-T-s2l5": 222}


@pytest.mark.parametrize(("variant", "count"), PARAMETERS.items())
def test_parameters(variant, count):
    assert sum(p.numel() for p in create_model(variant, device="meta").parameters()) == count


@pytest.mark.parametrize(("variant", "count"), TENSORS.items())
def test_tensors(variant, count):
    assert len(create_model(variant, device="meta").state_dict()) == count


@pytest.mark.parametrize("variant", ["Vim-T", "VMamba-T"])
def test_names_shapes_and_order_are_the_published_ones(variant):
    state = create_model(variant, device="meta").state_dict()
    assert [(name, list(tensor.shape)) for name, tensor in state.items()] == list(golden.spec(variant).items())


def trial(family: str):
    return create_model(f"{family}-trial").eval()


def loaded(family: str, contents: object, folder: Path, **options: object):
    """A model other than that of the contents, with these loaded from a file; and what was said."""
    path = folder / "checkpoint.pth"
    torch.save(contents, path)
    model = trial(family)
    return model, load_weights(model, path, **options)


def assert_same(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    wrong = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])]
    assert not wrong, f"not loaded: {wrong}"


def test_a_training_state_of_vim(tmp_path, caplog):
    """As the published file is: the weights under `model`, a Namespace beside them."""
    state, average = trial("Vim").state_dict(), trial("Vim").state_dict()
    whole = {"model": state, "model_ema": average, "args": argparse.Namespace(lr=1e-3), "epoch": 299, "scaler": {}}
    model, report = loaded("Vim", whole, tmp_path)
    assert_same(model, state)
    assert "non-commercial" in report.notes[0]
    assert report.notes[0] in caplog.messages
    model, _ = loaded("Vim", whole, tmp_path, ema=True)
    assert_same(model, average)


def made_by_yacs() -> type:
    """A class as yacs' CfgNode is, a dict with attributes of its own, under its name."""

    def initialise(self: dict, values: dict) -> None:
        dict.__init__(self, values)
        self.__dict__ |= {"__immutable__": True, "__deprecated_keys__": {"OLD"}}

    return type("CfgNode", (dict,), {"__init__": initialise, "__module__": "yacs.config"})


def test_a_training_state_of_vmamba_needs_no_yacs(tmp_path, monkeypatch):
    state, path = trial("VMamba").state_dict(), tmp_path / "checkpoint.pth"
    yacs = types.ModuleType("yacs.config")
    yacs.CfgNode = made_by_yacs()
    with monkeypatch.context() as patch:  # while the file is written
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", yacs)
        torch.save({"model": state, "config": yacs.CfgNode({"MODEL": yacs.CfgNode({"NAME": "vssm"})})}, path)
    model = trial("VMamba")
    report = load_weights(model, path)
    assert_same(model, state)
    assert "not stated" in report.notes[0]
    with torch.serialization.safe_globals(SETTINGS):
        config = torch.load(path, weights_only=True)["config"]
    assert config == {"MODEL": {"NAME": "vssm"}}, "the file does hold the class that it is to hold"


def test_a_file_that_names_code_is_refused(tmp_path):
    whole = {"model": trial("VMamba").state_dict(), "config": re.compile("x")}
    with pytest.raises(UserError, match="refused to load"):
        loaded("VMamba", whole, tmp_path)


OLDER = {
    "patch_embed.0.": "patch_embed.proj.",
    "patch_embed.2.": "patch_embed.norm.",
    "classifier.norm.": "norm.",
    "classifier.head.": "head.",
    "layers.0.blocks.0.norm.": "layers.0.blocks.0.ln_1.",
    "layers.0.blocks.0.op.": "layers.0.blocks.0.self_attention.",
}


def test_older_names_and_convolutions_of_vmamba(tmp_path):
    """Linear weights stored as those of 1 x 1 convolutions, and every renaming of the published loader."""
    state, older = trial("VMamba").state_dict(), {}
    for name, tensor in state.items():
        convolution = tensor[:, :, None, None] if re.search(r"(_proj|fc.)\.weight$", name) else tensor
        for new, old in OLDER.items():
            name = name.replace(new, old) if name.startswith(new) else name
        older[name] = convolution
    assert sum(tensor.dim() == 4 and tensor.shape[-1] == 1 for tensor in older.values()) == 16
    assert len(older.keys() - state.keys()) == 20
    model, _ = loaded("VMamba", {"model": older}, tmp_path)
    assert_same(model, state)


def test_the_single_file_of_vmamba(tmp_path):
    """It has the routes' projections as two matrices of other names."""
    state = trial("VMamba").state_dict()
    single = {re.sub(r"op\.(x_proj|dt_projs)_weight", r"op.\1.weight", name): tensor for name, tensor in state.items()}
    single = {name: tensor.flatten(0, 1) if tensor.dim() == 3 else tensor for name, tensor in single.items()}
    assert len(single.keys() - state.keys()) == 8
    model, report = loaded("VMamba", single, tmp_path)
    assert_same(model, state)
    assert report.notes == (), "a state dict of one's own is under no licence of others"


def test_another_variant_is_named():
    model = create_model("VMamba-T-s2l5")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        UserError, match=r"these are VMamba-T weights; create the model as .*create_model\(\"VMamba-T\"\)"
    ):
        load_weights(model, golden_peers.weights("VMamba-T"))
    assert_same(model, before)


@pytest.mark.parametrize(("family", "other"), [("Vim", "VMamba"), ("VMamba", "Vim")])
def test_the_other_family_is_named(family, other):
    with pytest.raises(UserError, match=f"these are {other}-trial weights"):
        load_weights(trial(family), trial(other).state_dict())


@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_weights_of_mambavision_are_refused(family):
    with pytest.raises(UserError, match=r"not the model's tensors.*same variant"):
        load_weights(trial(family), mvc.create_model("tiny").state_dict())


@pytest.mark.parametrize("family", ["Vim", "VMamba"])
def test_what_does_not_fit_is_listed_and_nothing_is_copied(family):
    model = trial(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    first, *_ = state
    state["another"] = state.pop(first)
    with pytest.raises(UserError, match=rf"(?s)same variant.*1 missing: {re.escape(first)}.*1 extra: another"):
        load_weights(model, state)
    assert_same(model, before)


def test_arguments():
    with pytest.raises(UserError, match="no moving average"):
        load_weights(trial("Vim"), trial("Vim").state_dict(), ema=True)
    with pytest.raises(UserError, match=r"model is a Linear; it must be a model of mvc\.models"):
        load_weights(torch.nn.Linear(1, 1), {})
    with pytest.raises(UserError, match="unknown variant 'Vim-X': did you mean"):
        create_model("Vim-X")
    with pytest.raises(UserError, match="unknown config field 'depths'"):
        create_model("Vim-T", depths=(1, 1, 1, 1))
    with pytest.raises(UserError, match="config field depths"):
        create_model("VMamba-T", depths=(1, 0, 1, 1))
    with pytest.raises(UserError, match="device is 'nowhere'"):
        create_model("Vim-trial", device="nowhere")
