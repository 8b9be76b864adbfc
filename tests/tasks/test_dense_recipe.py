"""The published recipes as groups of parameters and as learning rates."""

from __future__ import annotations

import golden
import pytest
import torch
from torch import nn

from mvc.errors import UserError
from mvc.model.config import get_config
from mvc.tasks.backbone import Backbone
from mvc.tasks.recipe import DETECTION, SEGMENTATION, optimizer, parameter_groups, rate_factor, schedule


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone(get_config("tiny"))
        self.head = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.norm = nn.BatchNorm2d(4)


def test_only_the_backbones_norms_are_not_decayed():
    model = Detector()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, not_decayed = parameter_groups(model, DETECTION["T"])
    found = {names[id(parameter)] for parameter in not_decayed["params"]}
    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (0.05, 0)
    assert len(decayed["params"]) + len(found) == len(names)
    assert found == {name for name in names.values() if "norm" in name} - {"norm.weight", "norm.bias"}
    mixer = "backbone.levels.2.blocks.0.mixer"
    others = {f"{mixer}.A_log", f"{mixer}.D", f"{mixer}.dt_proj.bias", "backbone.patch_embed.conv_down.1.weight"}
    assert {*others, "head.1.weight", "norm.bias"} <= {names[id(parameter)] for parameter in decayed["params"]}


@pytest.mark.parametrize("name", ["cascade_T", "upernet_T"])
def test_published_names_with_norm_are_the_backbones(name):
    """So that the rule, which was "has norm in its name", holds under other names of a head's layers too."""
    with_norm = [tensor for tensor in golden.spec(name) if "norm" in tensor]
    assert len(with_norm) > 60
    assert all(tensor.startswith("backbone.") for tensor in with_norm)


def test_a_model_without_backbone():
    with pytest.raises(UserError, match="Linear without a part `backbone`"):
        parameter_groups(nn.Linear(1, 1), DETECTION["T"])


def test_rates_of_detection():
    recipe, steps = DETECTION["B"], 36_000
    rates = [2e-4 * rate_factor(recipe, step, steps) for step in (0, 500, 1000, 26_999, 27_000, 32_999, 33_000)]
    assert rates == pytest.approx([2e-7, 1.001e-4, 2e-4, 2e-4, 2e-5, 2e-5, 2e-6])


def test_rates_of_segmentation():
    recipe = SEGMENTATION["T"]
    rates = [rate_factor(recipe, step, recipe.steps) for step in (0, 750, 1500, 80_750, 160_000)]
    assert rates == pytest.approx([1e-6, 0.5000005, 1, 0.5, 0])


def test_recipes():
    assert [recipe.rate for recipe in DETECTION.values()] == [1e-4, 1e-4, 2e-4]
    assert {name: (each.rate, each.decay, each.crop) for name, each in SEGMENTATION.items()} == {
        "T": (5e-5, 0.01, 512),
        "S": (6e-5, 0.01, 512),
        "B": (5e-5, 0.01, 512),
        "L3": (8e-5, 0.05, 640),
    }


def test_optimiser_and_schedule():
    recipe = DETECTION["T"]
    adam = optimizer(Detector(), recipe)
    rates = schedule(adam, recipe, steps=2000)
    assert [group["lr"] for group in adam.param_groups] == pytest.approx([1e-7] * 2)
    assert adam.param_groups[1]["betas"] == (0.9, 0.999)
    for _ in range(1000):
        adam.step()
        rates.step()
    assert rates.get_last_lr() == pytest.approx([1e-4] * 2)
    with pytest.raises(UserError, match="steps is 1000; it must be a whole number of at least 1001"):
        schedule(adam, recipe, steps=1000)


def test_frozen_parameters_are_in_no_group():
    model = Detector()
    model.backbone.requires_grad_(False)
    groups = parameter_groups(model, DETECTION["T"])
    assert [len(group["params"]) for group in groups] == [6, 0]
    assert all(isinstance(parameter, torch.nn.Parameter) for parameter in groups[0]["params"])
