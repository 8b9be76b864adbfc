"""The studies: designs, images, a training, and the command with its results, which a kill leaves whole."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT

from bench import studies
from bench.ablation import costs, images
from bench.ablation.designs import DESIGNS, PUBLISHED, SIDE, create_full, of_study, small
from bench.ablation.results import Results
from bench.ablation.training import Recipe, batches, rate, train
from mvc import create_model, get_config
from mvc.errors import UserError
from mvc.offline import device
from mvc.progress import Progress

pytest.importorskip("scipy", reason="scipy is not installed")

FEW = ["causal", PUBLISHED]
CLOCKS = ("seconds", "cpu_seconds")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 bright and 24 dark pictures, of several sizes and modes."""
    root, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, least in (("bright", 128), ("dark", 0)):
        (root / name).mkdir()
        for number in range(24):
            shape = (9, 12, 3) if number % 2 else (16, 16)
            pixels = generator.integers(least, least + 128, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


# Designs.


def test_nine_trainings_are_two_studies_that_share_the_published_model():
    assert len(DESIGNS) == 9
    assert [DESIGNS[name].paper for name in of_study("mixers")] == [80.5, 80.9, 81.3, 82.3]
    assert [DESIGNS[name].paper for name in of_study("placements")] == [81.3, 81.5, 81.4, 81.6, 81.9, 82.3]
    assert set(of_study("mixers")) & set(of_study("placements")) == {PUBLISHED}
    assert get_config("T", **DESIGNS[PUBLISHED].changes()) == get_config("T")


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("first half", ("AAAAMMMM", "AAMM")),
        ("alternate SMSM", ("AMAMAMAM", "AMAM")),
        ("alternate MSMS", ("MAMAMAMA", "MAMA")),
        ("last quarter", ("MMMMMMAA", "MMMA")),
        (PUBLISHED, ("MMMMAAAA", "MMAA")),
    ],
)
def test_placements_of_the_small_model(name, patterns):
    config = small(name, classes=10, dim=8, seed=0)
    assert tuple(config.block_pattern(stage) for stage in (2, 3)) == patterns


def test_a_random_placement_is_drawn_for_each_seed():
    drawn = {small("random", classes=10, dim=8, seed=seed).block_pattern(2) for seed in range(6)}
    assert len(drawn) > 3
    assert {pattern.count("A") for pattern in drawn} == {4}


def test_stage_3_sees_49_tokens_of_the_image_and_no_padding():
    model = create_model(small(PUBLISHED, classes=10, dim=4, seed=0)).eval()
    with torch.no_grad():
        maps = model.forward_features(torch.zeros(1, 3, SIDE, SIDE)).stages
    assert [tuple(each.shape[2:]) for each in maps[2:]] == [(7, 7), (4, 4)]
    assert [model.levels[2].window, model.levels[3].window] == [7, 4]


def test_a_full_model_of_an_unknown_design_is_refused():
    with pytest.raises(UserError, match="'T nonsense'; after the variant's name must stand one of causal, regular"):
        create_full("T nonsense")


def test_costs_of_the_published_design_are_those_of_t():
    found = costs.counted(PUBLISHED)
    assert found["parameters"] == 31_794_248
    assert found["flops"] / 2e9 == pytest.approx(4.565, rel=0.005)
    assert found["patterns"] == ["MMMMAAAA", "MMAA"]
    assert costs.counted("last quarter")["flops"] < found["flops"]


# Images.


def test_a_folder_becomes_pixels_of_one_size(folder):
    found = images.read(folder, side=40, most=100)
    assert (found.pixels.shape, found.pixels.dtype, found.classes) == ((48, 3, 40, 40), torch.uint8, 2)
    bright = found.pixels.float().mean((1, 2, 3)) > 127
    assert torch.equal(bright, found.labels == 0), "the labels are those of the folders"
    assert found.described()["pixels"] == images.read(folder, side=40, most=100).described()["pixels"]
    assert len(images.read(folder, side=40, most=30).labels) == 30


def test_too_few_images_are_refused(folder):
    with pytest.raises(UserError, match="10 images of 2 classes; a study needs 20 of two"):
        images.read(folder, side=40, most=10)


def test_the_digits_of_scikit_learn():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    found = images.read(None, side=32, most=2000)
    assert (found.pixels.shape, found.classes) == ((1797, 3, 32, 32), 10)
    assert found.pixels.max() == 255


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        UserError, match=r"pip install 'mvc-mambavision\[studies\]', or give a folder of images by --data"
    ):
        images.read(None, side=32, most=100)


def test_a_seed_draws_two_halves(folder):
    found = images.read(folder, side=32, most=100)
    training, testing = found.split(0)
    assert sorted([*training.tolist(), *testing.tolist()]) == [*range(48)]
    assert len(training) == 24
    assert torch.equal(training, found.split(0)[0])
    assert not torch.equal(training, found.split(1)[0])


# A training.


def test_every_image_comes_once_before_any_comes_again():
    training = torch.arange(100, 112)
    found = batches(training, Recipe(steps=5, batch=6, dim=4), seed=0)
    assert [len(each) for each in found] == [6] * 5
    order = torch.cat(found).tolist()
    assert sorted(order[:12]) == sorted(order[12:24]) == training.tolist()
    assert order[:12] != order[12:24]


def test_the_learning_rate_rises_and_falls():
    rates = [rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


def test_a_training_learns_and_repeats_itself(folder):
    found = images.read(folder, side=SIDE, most=100)
    recipe = Recipe(steps=12, batch=8, dim=4)
    first, again = (train("regular", 1, found, recipe, lambda text: None) for _ in range(2))
    assert first["accuracy"] == 100, "bright and dark pictures are told apart"
    assert max(first["loss"], first["training_loss"]) < 0.5, "that of a guess is 0.69"
    assert {**first, **dict.fromkeys(CLOCKS)} == {**again, **dict.fromkeys(CLOCKS)}
    assert all(first[clock] > 0 for clock in CLOCKS)
    other = train("regular", 2, found, recipe, lambda text: None)
    assert other["loss"] != first["loss"]


# The command.


def run(*options: str) -> list[str]:
    return [sys.executable, str(ROOT / "bench" / "studies.py"), "--quick", *options]


def test_after_a_kill_the_file_is_whole_and_what_it_holds_is_not_trained_again(folder, tmp_path):
    output = tmp_path / "studies.json"
    chosen = ["--data", str(folder), "--only", *FEW, "--seeds", "3", "--steps", "6", "--json", str(output)]
    process = subprocess.Popen(run(*chosen), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (output.exists() and "trainings" in json.loads(output.read_text())) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = json.loads(output.read_text())["trainings"]
    assert 1 <= len(before) < 6, "it was killed before its end"
    assert studies.main(["--quick", *chosen]) == 0
    facts = json.loads(output.read_text())
    names = [f"{name}, seed {seed}" for seed in range(3) for name in FEW]
    assert list(facts["trainings"]) == names
    assert {name: facts["trainings"][name] for name in before} == before
    assert facts["counts"].keys() == set(FEW)


def test_tables_and_picture(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    page, drawn = tmp_path / "page.md", tmp_path / "drawn.png"
    begin, end = studies.MARKS
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    chosen = ["--data", str(folder), "--only", *FEW, "--page", str(page), "--plot", str(drawn), "--quiet"]
    assert studies.main(["--quick", *chosen]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert page.read_text() == f"before\n{begin}\n\n{printed.out}\n{end}\nafter\n"
    assert "| causal" in printed.out
    with Image.open(drawn) as picture:
        assert min(picture.size) > 400


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--steps", "3"], "is of other settings (steps 2 there, 3 here); name another file"),
        (["--data", "nowhere"], "nowhere is no folder"),
        (["--parts", "none", "--plot", "a.jpg"], "--plot a.jpg is neither .png nor .svg"),
        (["--parts", "none", "--page", "{page}"], "the page has no line '<!-- the tables of bench/studies.py -->'"),
    ],
    ids=["settings", "data", "plot", "page"],
)
def test_unusable_input(options, said, folder, tmp_path, capsys):
    output, page = tmp_path / "studies.json", tmp_path / "page.md"
    page.write_text("a page\n")
    data = images.read(folder, side=SIDE, most=40)
    Results(output).require_settings({**dataclasses.asdict(studies.QUICK), "side": SIDE, **data.described()})
    held = output.read_text()
    options = [each.format(page=page) for each in options]
    settings = [] if "--data" in options else ["--data", str(folder)]
    assert studies.main(["--quick", *settings, *options, "--json", str(output), "--quiet"]) == 2
    assert said in capsys.readouterr().err
    assert output.read_text() == held


def test_a_file_of_something_else_is_left_alone(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    assert studies.main(["--parts", "none", "--json", str(other)]) == 2
    assert "holds no results of this command" in capsys.readouterr().err
    assert other.read_text() == '{"a": 1}'


def test_two_processes_add_to_one_file(tmp_path):
    path = tmp_path / "studies.json"
    one, other = Results(path), Results(path)
    one.add("counts", "a", {"parameters": 1})
    other.add("gpu", "b", {"launches": 2})
    assert json.loads(path.read_text())["counts"] == {"a": {"parameters": 1}}
    assert other.part("counts") == {"a": {"parameters": 1}}


@pytest.mark.slow
def test_latency_of_a_small_model(monkeypatch):
    for name, value in {"BASE": "tiny", "SIDE": 64, "ROUNDS": 3, "LATENCY_BATCH": 1}.items():
        monkeypatch.setattr(costs, name, value)
    found = costs.latencies([PUBLISHED], Progress(quiet=True))[PUBLISHED]
    assert found["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert 0 < found["p10"] <= found["milliseconds"] <= found["p90"]


@pytest.mark.slow
@pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not()))
def test_launches_of_a_small_model(monkeypatch):
    for name, value in {"BASE": "tiny", "SIDE": 64, "GPU_BATCH": 2}.items():
        monkeypatch.setattr(costs, name, value)
    found = costs.on_gpu("gated")
    assert found["launches"] > 20
    assert found["bytes"] > 100_000


def test_gpu_code_that_cannot_be_generated_is_left_out_unless_it_was_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(device, "why_not", lambda: "torch is 3.1.0")
    progress = Progress(quiet=False)
    assert studies.parts(studies._parser().parse_args([]), progress) == ["trainings", "counts", "latency"]
    assert "the part gpu is left out: torch is 3.1.0" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"torch is 3\.1\.0"):
        studies.parts(studies._parser().parse_args(["--parts", "gpu"]), progress)
