"""Budgets of generated GPU code: exact, readable differences, and the committed ones kept."""

import dataclasses
import json
import re

import pytest
from offline_sample import KERNEL, LAUNCHES, MB, launch, sample
from places import ROOT

from mvc.errors import UserError
from mvc.offline import budget, device
from mvc.offline.generate import generate
from mvc.offline.manifest import Manifest, Request
from mvc.offline.targets import TARGETS, find

COMMITTED = ROOT / "bench" / "budgets"
CARDS = sorted(path.stem for path in COMMITTED.glob("*.json"))  # those with code of their own
NAME = "T, inference, batch 128, 224 x 224, float16, passes all, frozen"


def published(variant):
    return Request(variant, 128, 224, 224, "float16", frozen=True)


def entry(folder, manifest):
    return budget.find(folder, manifest.target, manifest.model)


def test_an_unchanged_model_keeps_its_budget(tmp_path):
    budget.update(sample(), tmp_path)
    allowed = entry(tmp_path, sample())
    assert allowed["triton bytes"] == 22 * MB + 1000
    assert (allowed["extern bytes"], allowed["own bytes"]) == (11 * MB, 8 * MB)
    assert (allowed["kernels"], allowed["largest registers"], allowed["spills"]) == (3, 32, 0)
    assert budget.compare(sample(), allowed) == []
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".lock"] == ["sm_90.json"]


def test_cards_of_one_architecture_have_one_budget(tmp_path):
    assert budget.update(sample(target="h200"), tmp_path) == tmp_path / "sm_90.json"
    assert entry(tmp_path, sample()) == entry(tmp_path, sample(target="h200"))


def test_what_appeared_is_named_with_its_line():
    copy = launch("triton", "copy_9", {"b": 8 * MB}, {"d": 8 * MB}, source="functional.py:9: x.contiguous()")
    spilled = dataclasses.replace(KERNEL, spills=8, registers=255)
    changed = sample(launches=(*LAUNCHES[1:], copy), kernels={KERNEL.name: spilled})
    assert budget.compare(changed, budget.measured(sample())) == [
        "1 more: forward triton copy from functional.py: x.contiguous() (functional.py:9: x.contiguous())",
        "1 fewer: forward triton norm from functional.py: y = f(x)",
        "triton bytes: 22,001,000 allowed, 34,000,000 generated",
        "largest registers: 32 allowed, 255 generated",
        "spills: 0 allowed, 8 generated",
    ]
    fewer = budget.compare(sample(launches=LAUNCHES[1:]), budget.measured(sample()))
    assert fewer[0] == "launches: 4 allowed, 3 generated"


@pytest.mark.parametrize("by", [1, 3, 90, 995])
def test_moved_lines_are_no_difference(by):
    lines = ["functional.py:{}: x = f(linear(x)) > functional.py:{}: return x[:1:2]", "model.py:{}: y = g(x)"]
    here, there = (tuple(line.format(9 + by * moved, 97 + by * moved) for line in lines) for moved in (False, True))
    before, after = (
        sample(launches=tuple(dataclasses.replace(each, source=source) for each in LAUNCHES))
        for source in (here, there)
    )
    assert budget.compare(after, budget.measured(before)) == []
    assert any(
        "x = f(linear(x)) > functional.py: return x[:1:2]" in name for name in budget.measured(after)["launches"]
    )


def test_kernels_of_one_name_are_two_in_a_training_step():
    backward = dataclasses.replace(LAUNCHES[0], phase="backward")
    assert budget.measured(sample(launches=(*LAUNCHES, backward)))["kernels"] == 4


@pytest.mark.parametrize("without", ["spills", "launches"])
def test_an_entry_that_does_not_say_all_is_one_sentence(tmp_path, without):
    path = budget.update(sample(), tmp_path)
    facts = json.loads(path.read_text())
    del facts["models"][NAME][without]
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=rf"{NAME}.* differs in {without}; write it anew with --update-budget"):
        entry(tmp_path, sample())


def test_other_versions_are_reported():
    newer = sample(versions={"torch": "2.15.0", "triton": "3.8.0", "mvc": "0.1"})
    allowed = budget.measured(sample())
    assert budget.other_versions(sample(), allowed) is None
    assert budget.other_versions(newer, allowed) == "the budget holds for torch 2.14.1; here is torch 2.15.0"


def test_updating_keeps_the_other_models(tmp_path):
    budget.update(sample(), tmp_path)
    path = budget.update(sample(model=published("S")), tmp_path)
    assert list(json.loads(path.read_text())["models"]) == [NAME.replace("T,", "S,", 1), NAME]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other"}', '{"format": "mvc.budget/2"}'])
def test_a_foreign_file_is_one_sentence_and_stays(tmp_path, content):
    path = tmp_path / "sm_90.json"
    path.write_text(content)
    for function in (lambda: entry(tmp_path, sample()), lambda: budget.update(sample(), tmp_path)):
        with pytest.raises(UserError, match=r"is no budget of format mvc.budget/2; write it anew"):
            function()
    assert path.read_text() == content


def test_a_model_without_a_budget_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .*--update-budget"):
        entry(tmp_path, sample())
    budget.update(sample(), tmp_path)
    with pytest.raises(UserError, match=r"no budget for 'S, .*--update-budget"):
        entry(tmp_path, sample(model=published("S")))


# Bytes of a thread in the convolution of 96 channels with a residual, which ptxas keeps at 128 registers.
SPILLS = {("sm_80", "S"): 16}


@pytest.mark.parametrize("variant", ["T", "S"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_committed_budgets_hold_the_published_sizes(target, variant):
    assert budget.find(COMMITTED, target, published(variant))["spills"] == SPILLS.get((target, variant), 0)


def test_the_cards_differ_in_registers_and_attention_alone():
    """So T is generated for each card below, and S for one."""
    texts = [(COMMITTED / f"{card}.json").read_text() for card in CARDS]
    texts = [re.sub(r"product_(flash|cudnn)_attention", "product_attention", text) for text in texts]
    texts = [re.sub(r'"(largest registers|spills)": \d+', r'"\1": 0', text) for text in texts]
    first, *others = map(json.loads, texts)
    assert all(other["models"] == first["models"] for other in others)
    assert first["models"]


@pytest.mark.parametrize("card", CARDS)
def test_the_committed_budgets_name_lines_of_the_model(card):
    """Which tells at once what the tests below need minutes for: the budgets are older than the model."""
    texts = {path.name: path.read_text().splitlines() for path in (ROOT / "mvc" / "model").glob("*.py")}
    lines = {f"{name}: {line.strip()}" for name, text in texts.items() for line in text}
    models = json.loads((COMMITTED / f"{card}.json").read_text())["models"]
    launches = {launch for each in models.values() for launch in each["launches"]}
    named = {line for launch in launches for line in re.split(r"(?: from | > )(?=\w+\.py: )", launch)[1:]}
    assert named
    assert named <= lines, "run `python bench/offline.py --budgets bench/budgets` and commit what it writes"


needs_device = pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not()))


@pytest.mark.slow
@needs_device
@pytest.mark.parametrize(("target", "variant"), [*((card, "T") for card in CARDS), ("sm_90", "S")])
def test_the_committed_budgets_are_kept(target, variant, generated):
    allowed = budget.find(COMMITTED, target, published(variant))
    manifest = Manifest.read(generated(published(variant), target))
    if (reason := budget.other_versions(manifest, allowed)) is not None:
        pytest.skip(reason)
    assert budget.compare(manifest, allowed) == []


@pytest.mark.slow
@needs_device
def test_launches_and_bytes_are_within_their_share_of_stock(generated, tmp_path, monkeypatch):
    """Of stock Inductor's on the published arithmetic, which has as many launches on each card."""
    monkeypatch.chdir(ROOT)  # where the processes find the builder
    request = Request("T", 128, 224, 224, "float16", passes="none", builder="bench.published:create_model")
    stock = budget.measured(generate(request, find("sm_90"), tmp_path / "stock", kernels=False))
    ours = budget.measured(Manifest.read(generated(published("T"), "sm_90")))
    launches, moved = (
        [sum(facts["launches"].values()) for facts in (ours, stock)],
        [sum(facts[name] for name in budget.MOVED) for facts in (ours, stock)],
    )
    assert launches[0] <= 0.6 * launches[1]
    assert moved[0] <= 0.75 * moved[1]
    assert ours["spills"] == 0
