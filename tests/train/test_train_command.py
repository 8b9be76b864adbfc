"""`python -m mvc.train` as a user meets it: it learns, forecasts, fine-tunes, and says what is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from training_cases import CLASSES, draw, run

import mvc
from mvc.model.weights import stored_config
from mvc.train.__main__ import main
from mvc.train.log import COMPUTED

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("torchvision", reason="torchvision is not installed")

# Without what a few images would only be blurred by.
PLAIN = (
    *("--drop-path", "0", "--mixup", "0", "--cutmix", "0", "--randaugment=", "--erasing", "0", "--mesa", "0"),
    *("--least-area", "0.8", "--ema-decay", "0.7"),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """24 images for training and 12 for validation."""
    return draw(tmp_path_factory.mktemp("command") / "set", train=8, val=4)


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / COMPUTED).read_text().splitlines()]


def test_it_learns(dataset, tmp_path, capsys):
    """Drawn figures, which it tells apart after 24 updates; and it draws the curves."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    picture = tmp_path / "curves.svg"
    more = ["--epochs", "8", "--lr", "0.03", "--plot", str(picture), "--json", "-"]
    assert run(dataset, tmp_path / "run", *PLAIN, *more) == 0
    facts = json.loads(capsys.readouterr().out)
    losses = [line["loss"] for line in lines(tmp_path / "run") if line["kind"] == "update"]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert facts["best_top_1"] >= 0.75
    assert facts["epoch"] == 8
    epochs = [line for line in lines(tmp_path / "run") if line["kind"] == "epoch"]
    assert facts["best_top_1"] == max(line[of]["top_1"] for line in epochs for of in ("weights", "average"))
    drawing = picture.read_text()
    assert "<svg" in drawing
    assert drawing.count('<g id="line2d_') > 30


def test_a_dry_run_writes_nothing(dataset, tmp_path, capsys):
    output = tmp_path / "nothing"
    assert run(dataset, output, "--dry-run", "--json", "-") == 0
    facts = json.loads(capsys.readouterr().out)
    assert not output.exists()
    assert (facts["images"], facts["validation_images"], facts["classes"]) == (24, 12, 3)
    assert (facts["updates"], facts["epochs"]) == (2 * 3, 2)
    parameters = sum(parameter.numel() for parameter in mvc.create_model("tiny", num_classes=3).parameters())
    assert facts["parameters"] == parameters
    # Weights, their average and LAMB's two moments, and the statistics of BatchNorm twice.
    assert 4 * 4 * parameters < facts["checkpoint"] < 1.05 * 4 * 4 * parameters
    assert facts["total"] == pytest.approx(3 * facts["update"] + 3 * facts["last_update"]), "the second epoch distils"
    assert facts["update"] > facts["waiting"] > 0
    assert facts["memory"] > 2**27
    assert run(dataset, output, "--dry-run") == 0
    assert "6 in 2 epochs" in capsys.readouterr().out


def test_fine_tuning_to_other_classes_and_another_size(dataset, tmp_path):
    source = mvc.create_model("tiny")  # of ten classes, at 64 pixels
    torch.save(source.state_dict(), tmp_path / "source.pth")
    output = tmp_path / "tuned"
    small = ["--epochs", "1", "--warmup-epochs", "0", "--lr", "1e-6", "--ema-decay", "0.5", "--size", "96"]
    assert run(dataset, output, "--weights", str(tmp_path / "source.pth"), *small) == 0
    config = stored_config(output / "last.pt")
    assert (config.image_size, config.window_sizes, config.num_classes) == (96, (3, 3), len(CLASSES))
    tuned = mvc.create_model(config)
    mvc.load_weights(tuned, output / "last.pt")
    for name, parameter in source.named_parameters():
        if not name.startswith("head."):
            assert (tuned.get_parameter(name) - parameter).abs().max() < 1e-3, name
    assert tuned.head.weight.shape == (3, 128)


def test_weights_of_as_many_classes_keep_their_head(dataset, tmp_path):
    source = mvc.create_model("tiny", num_classes=3)
    torch.save(source.state_dict(), tmp_path / "source.pth")
    small = ["--epochs", "1", "--warmup-epochs", "0", "--lr", "1e-7"]
    assert run(dataset, tmp_path / "tuned", "--weights", str(tmp_path / "source.pth"), *small) == 0
    contents = torch.load(tmp_path / "tuned" / "last.pt", weights_only=True)
    assert (contents["state_dict"]["head.weight"] - source.head.weight).abs().max() < 1e-4


ERRORS = {
    "no variant of that name": (["--variant", "X"], "unknown variant 'X'"),
    "a batch that cannot be shared": (["--batch", "9", "--accumulate", "2"], "--batch is 9, which 1 processes"),
    "an odd number to mix": (
        ["--batch", "9", "--rows", "4"],
        "mixup and cutmix pair the images of a process, of which there are 9",
    ),
    "a batch larger than the set": (["--batch", "26"], "--batch is 26 and there are 24 images for training"),
    "a policy that timm does not know": (["--randaugment", "rnd"], "--randaugment is 'rnd', which timm does not read"),
    "a policy that timm reads wrongly": (["--randaugment", "rand-m9x"], "--randaugment is 'rand-m9x', which timm"),
    "an optimiser of second order": (["--optimizer", "adahessian"], "--optimizer adahessian needs second derivatives"),
    "a seed that no generator takes": (["--seed", str(2**63)], f"--seed is {2**63}; it must be a whole number from 0"),
    "one process to spread over": (["--fsdp"], "--fsdp spreads weights over processes, and there is one"),
    "an unusable value": (["--smoothing", "1.5"], "--smoothing is 1.5; it must be a number from 0 to below 1"),
    "no such weights": (["--weights", "none.pth"], "cannot open source 'none.pth'"),
    "no such kind of picture": (["--plot", "curves.gif"], "--plot curves.gif is neither .png nor .svg"),
}


@pytest.mark.parametrize(("arguments", "reason"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_used_is_an_error(dataset, tmp_path, capsys, arguments, reason):
    assert run(dataset, tmp_path / "run", *arguments) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_folders_that_do_not_fit_are_an_error(dataset, tmp_path, capsys):
    assert run(tmp_path, tmp_path / "run") == 2
    assert "has no folder train; it must hold train and val" in capsys.readouterr().err
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    shutil.rmtree(other / "val" / "disc")
    assert run(other, tmp_path / "run") == 2
    assert "disc is a class of one of train and val alone" in capsys.readouterr().err
    for part in ("train", "val"):
        for kind in {*CLASSES} - {"bars"}:
            shutil.rmtree(other / part / kind, ignore_errors=True)
    assert run(other, tmp_path / "run") == 2
    assert "has one class, bars; there is something to learn from two on" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_it(dataset, tmp_path, capsys):
    assert run(dataset, tmp_path / "run", *PLAIN, "--warmup-lr", "1e30", "--save-every", "1") == 2
    assert "the optimiser did not take it. Begin again with a lower --lr" in capsys.readouterr().err
    kept = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["position"]["updates"]
    assert len(lines(tmp_path / "run")) == kept >= 1, "what was finite is kept"


def test_the_help_has_examples_statuses_and_the_recipe(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for part in ("torchrun --nproc-per-node 8 -m mvc.train", "exit status: 0 done, 2", "--ema-decay X", "--resume"):
        assert part in shown
