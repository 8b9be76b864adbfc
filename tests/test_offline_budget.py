"""Budgets of generated GPU code: exact, readable differences, and the committed ones kept."""

import dataclasses
import json
from pathlib import Path

import pytest
from offline_sample import KERNEL, LAUNCHES, MB, launch, sample

from mvc.errors import UserError
from mvc.offline import budget, device
from mvc.offline.codegen import Request
from mvc.offline.generate import generate
from mvc.offline.targets import find

COMMITTED = Path(__file__).parents[1] / "bench" / "budgets"
NAME = "T, inference, batch 128, 224 x 224, float16, backend mvc, frozen"


def test_an_unchanged_model_keeps_its_budget(tmp_path):
    path = budget.update(sample(), tmp_path)
    entry = json.loads(path.read_text())["models"][NAME]
    assert entry["triton bytes"] == 22 * MB + 1000
    assert (entry["extern bytes"], entry["scan bytes"]) == (11 * MB, 8 * MB)
    assert (entry["kernels"], entry["largest registers"], entry["spills"]) == (3, 32, 0)
    assert budget.compare(sample(), tmp_path) == []
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".lock"] == ["sm_90.json"]


def test_what_appeared_is_named_with_its_line(tmp_path):
    budget.update(sample(), tmp_path)
    copy = launch("triton", "copy_9", {"b": 8 * MB}, {"d": 8 * MB}, source="functional.py:9: x.contiguous()")
    spilled = dataclasses.replace(KERNEL, spills=8, registers=255)
    lines = budget.compare(sample(launches=(*LAUNCHES[1:], copy), kernels={KERNEL.name: spilled}), tmp_path)
    assert lines == [
        "1 more: forward triton copy from functional.py: x.contiguous()",
        "1 fewer: forward triton norm from functional.py: y = f(x)",
        "largest registers: 32 allowed, 255 generated",
        "spills: 0 allowed, 8 generated",
        "triton bytes: 22,001,000 allowed, 34,000,000 generated",
    ]
    assert budget.compare(sample(launches=LAUNCHES[1:]), tmp_path)[0] == "launches: 4 allowed, 3 generated"


def test_a_moved_line_is_no_difference(tmp_path):
    budget.update(sample(), tmp_path)
    moved = tuple(dataclasses.replace(each, source=("functional.py:99: y = f(x)",)) for each in LAUNCHES)
    assert budget.compare(sample(launches=moved), tmp_path) == []


def test_other_versions_are_reported(tmp_path):
    budget.update(sample(), tmp_path)
    newer = sample(versions={"torch": "2.15.0", "triton": "3.8.0", "mvc": "0.1"})
    assert budget.other_versions(sample(), tmp_path) is None
    assert budget.other_versions(newer, tmp_path) == "the budget holds for torch 2.14.1; here is torch 2.15.0"


def test_updating_keeps_the_other_models(tmp_path):
    budget.update(sample(), tmp_path)
    model = {**sample().model, "variant": "S"}
    path = budget.update(sample(model=model), tmp_path)
    assert list(json.loads(path.read_text())["models"]) == [NAME.replace("T,", "S,", 1), NAME]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other"}', '{"format": "mvc.budget/1"}'])
def test_a_foreign_file_is_one_sentence_and_stays(tmp_path, content):
    path = tmp_path / "sm_90.json"
    path.write_text(content)
    for function in (budget.compare, budget.update):
        with pytest.raises(UserError, match=r"is no budget of format mvc.budget/1; write it anew"):
            function(sample(), tmp_path)
    assert path.read_text() == content


def test_a_model_without_a_budget_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .*--update-budget"):
        budget.compare(sample(), tmp_path)
    budget.update(sample(), tmp_path)
    with pytest.raises(UserError, match=r"no budget for 'S, .*--update-budget"):
        budget.compare(sample(model={**sample().model, "variant": "S"}), tmp_path)


def committed():
    for path in sorted(COMMITTED.glob("*.json")):
        for name in json.loads(path.read_text())["models"]:
            yield pytest.param(path.stem, name, id=f"{path.stem}-{name.replace(', ', '-')}")


@pytest.mark.slow
@pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not()))
@pytest.mark.parametrize(("target", "name"), list(committed()))
def test_the_committed_budgets_are_kept(target, name, tmp_path):
    variant, work, batch, size, dtype, _, *frozen = name.split(", ")
    height, width = map(int, size.split(" x "))
    training = work == "training step"
    asked = Request(variant, int(batch.split()[1]), height, width, dtype, training=training, frozen=bool(frozen))
    manifest = generate(asked, find(target), tmp_path)
    assert budget.key(manifest) == name
    if (reason := budget.other_versions(manifest, COMMITTED)) is not None:
        pytest.skip(reason)
    assert budget.compare(manifest, COMMITTED) == []
