"""The recipe's defaults are the published values, and they reach the optimiser, the schedule and the transforms."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from places import ROOT
from training_cases import plain_recipe, step

from mvc.errors import UserError
from mvc.model.config import VARIANTS, get_config
from mvc.train.recipe import BY_VARIANT, NEAREST, Recipe, option, recipe_of

pytest.importorskip("timm", reason="timm is not installed")

# weight_decay, warmup_epochs, mesa, mesa_start of mambavision/configs/mambavision_*_1k.yaml, and the models' drop_path.
PUBLISHED = {
    "T": (0.05, 20, 0.5, 0.25, 0.2),
    "T2": (0.05, 20, 0.75, 0.25, 0.2),
    "S": (0.05, 20, 1.0, 0.25, 0.2),
    "B": (0.075, 35, 1.0, 0.3, 0.3),
    "L": (0.12, 20, 6.0, 0.25, 0.3),
    "L2": (0.12, 20, 6.0, 0.25, 0.3),
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_values_of_a_variant(variant):
    recipe = recipe_of(get_config(variant), {})
    found = (recipe.weight_decay, recipe.warmup_epochs, recipe.mesa, recipe.mesa_start, recipe.drop_path)
    assert found == PUBLISHED[variant]
    assert (recipe.optimizer, recipe.lr, recipe.batch, recipe.all_epochs) == ("lamb", 0.005, 4096, 320)


def test_every_variant_has_a_recipe():
    assert {*BY_VARIANT, *NEAREST} == set(VARIANTS)
    assert set(NEAREST.values()) <= set(BY_VARIANT)


def test_the_rate_follows_the_batch_unless_it_is_given():
    config = get_config("T")
    assert recipe_of(config, {"batch": 1024}).lr == 0.005 / 2
    assert recipe_of(config, {"batch": 1024, "lr": 0.003}).lr == 0.003


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("warmup_epochs", 310), ("lr", 0.0), ("smoothing", 1.0), ("erasing", 1.5), ("aspect", 0.5)],
)
def test_an_unusable_value_is_named(name, value):
    with pytest.raises(UserError, match=rf"{option(name)} is {value}; it must be"):
        Recipe(**{name: value})


def test_the_page_has_every_value_with_its_source():
    page = (ROOT / "docs" / "train.md").read_text()
    for field in dataclasses.fields(Recipe):
        default = field.default if isinstance(field.default, str) else f"{field.default:.4g}"
        row = f"| `{option(field.name)}` | {default} | {field.metadata['meaning']} | {field.metadata['source']} |"
        assert row in page, field.name


def test_the_schedule_rises_falls_and_stays():
    """Linear to the highest rate, a cosine to the lowest one, and the cool-down; by update."""
    own = step(updates=10, lr=0.01, epochs=8, warmup_epochs=2, cooldown_epochs=2)

    def rate(number: int) -> float:
        own.scheduler.step_update(number)
        return own.rate

    assert rate(0) == 1e-6
    assert rate(10) == pytest.approx(1e-6 + (0.01 - 1e-6) / 2)
    cosine = [5e-6 + (0.01 - 5e-6) * (1 + math.cos(math.pi * number / 80)) / 2 for number in (20, 50, 79)]
    assert [rate(number) for number in (20, 50, 79)] == pytest.approx(cosine)
    assert [rate(number) for number in (80, 99)] == [5e-6, 5e-6]


def test_weight_decay_leaves_out_what_has_one_axis():
    own = step(weight_decay=0.1)
    decays = {group["weight_decay"]: group["params"] for group in own.optimizer.param_groups}
    assert all(parameter.ndim < 2 for parameter in decays[0.0])
    assert all(parameter.ndim >= 2 for parameter in decays[0.1])
    assert sum(map(len, decays.values())) == len(list(own.model.parameters()))
    assert own.optimizer.defaults["eps"] == 1e-8


def test_the_transform_holds_the_augmentations():
    from mvc.train.data import transform

    shown = str(transform(recipe_of(get_config("tiny"), {}), get_config("tiny")))
    for part in (r"RandomResizedCrop\w+\(size=\(64, 64\), scale=\(0\.08, 1\.0\), ratio=\(0\.75, 1\.3333\)", "p=0.5"):
        assert re.search(part, shown), part
    assert "RandAugment(n=2" in shown
    assert "RandomErasing(p=0.25, mode=pixel" in shown
    plain = str(transform(plain_recipe(), get_config("tiny")))
    assert not re.search("RandAugment|RandomErasing|Flip|ColorJitter", plain)


def test_the_distance_from_the_average_starts_late():
    recipe = plain_recipe(epochs=10, mesa=0.5, mesa_start=0.25)
    assert [recipe.distils(epoch) for epoch in (0, 2, 3, 9)] == [False, False, True, True]
    assert not plain_recipe(epochs=10, mesa=0.0).distils(9)
