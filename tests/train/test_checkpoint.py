"""A training that was killed goes on as if it had not been: the same log to the bit, and the same weights."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from places import ROOT
from training_cases import CLASSES, SHORT, SMALL, draw, run

import mvc
from mvc.errors import UserError
from mvc.model.weights import num_classes, stored_config
from mvc.train.log import COMPUTED, TIMED, Log

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("torchvision", reason="torchvision is not installed")

# Two epochs of three updates, with all that draws random numbers, and the distance from the average in the second.
SAVING = ("--save-every", "1", "--mesa", "0.5", "--mesa-start", "0.1")
KILLED = 4  # update, the first of the second epoch


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """18 images for training and 9 for validation."""
    return draw(tmp_path_factory.mktemp("checkpoint") / "set", train=6, val=3)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """The folder of a training that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(dataset, folder, *SAVING) == 0
    return folder


def read(path) -> dict:
    return torch.load(path, weights_only=True)


def computed(folder) -> bytes:
    return (folder / COMPUTED).read_bytes()


def assert_same(found, expected, place: str = "checkpoint") -> None:
    """Plain data and tensors, to the bit."""
    assert type(found) is type(expected), place
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), place
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for name in expected:
            assert_same(found[name], expected[name], f"{place}.{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), place
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{place}.{index}")
    else:
        assert found == expected, place


@pytest.mark.parametrize("workers", ["0", "2"])
def test_it_goes_on_within_an_epoch(dataset, whole, tmp_path, monkeypatch, workers):
    """Stopped while an update's lines are half written, behind the checkpoint of the update before."""
    add = Log.timed

    def timed(self, line):
        add(self, line)
        if line["update"] == KILLED + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Log, "timed", timed)
        assert run(dataset, tmp_path, *SAVING, "--workers", workers) == 130
    assert read(tmp_path / "last.pt")["position"]["updates"] == KILLED
    assert computed(tmp_path).count(b"\n") == KILLED + 2, "one epoch's line, and that of the update that is lost"
    np.random.seed(123)  # what others drew meanwhile does not matter
    assert run(dataset, tmp_path, *SAVING, "--workers", workers, "--resume") == 0
    assert computed(tmp_path) == computed(whole)
    found, expected = (read(folder / "last.pt") for folder in (tmp_path, whole))
    found["position"]["log"].pop(TIMED), expected["position"]["log"].pop(TIMED)
    assert_same(found, expected)


@pytest.mark.slow
def test_it_goes_on_after_kill_9(dataset, tmp_path):
    """In eager mode; with `--backend mvc` the same test takes a minute more, for the compilation."""
    command = [sys.executable, "-m", "mvc.train", "--data", dataset, *SMALL, *SHORT, *SAVING]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--output", tmp_path / "whole"], env=environment, check=True, capture_output=True)
    resumed = [*command, "--output", tmp_path / "killed", "--resume"]
    process = subprocess.Popen(resumed, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    log = tmp_path / "killed" / COMPUTED
    while not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert log.read_bytes().count(b"\n") < 8, "it was killed before its end"
    subprocess.run(resumed, env=environment, check=True, capture_output=True)
    assert computed(tmp_path / "killed") == computed(tmp_path / "whole")
    assert (tmp_path / "killed" / TIMED).read_bytes().count(b"\n") == 6


def test_the_log_has_every_update_and_every_epoch(whole):
    lines = [json.loads(line) for line in computed(whole).splitlines()]
    assert [(line["kind"], line.get("update")) for line in lines] == [
        *(("update", number) for number in (1, 2, 3)),
        ("epoch", None),
        *(("update", number) for number in (4, 5, 6)),
        ("epoch", None),
    ]
    assert all(0 < line["loss"] < 100 for line in lines if line["kind"] == "update")
    assert lines[-1]["updates"] == 6
    assert 0 <= lines[-1]["average"]["top_1"] <= lines[-1]["average"]["top_5"] == 1.0


def test_three_checkpoints_are_kept(whole):
    assert sorted(path.name for path in whole.iterdir()) == [
        "best.pt",
        "last.pt",
        COMPUTED,
        "previous.pt",
        TIMED,
    ]
    assert [read(whole / f"{name}.pt")["position"]["updates"] for name in ("previous", "last")] == [5, 6]
    best = max(max(line["weights"]["top_1"], line["average"]["top_1"]) for line in map(json.loads, epochs(whole)))
    assert read(whole / "best.pt")["position"]["best"] == best


def epochs(folder) -> list[bytes]:
    return [line for line in computed(folder).splitlines() if b'"epoch", "epoch"' in line]


def test_a_damaged_checkpoint_leaves_the_one_before(dataset, whole, tmp_path, capsys):
    assert run(dataset, tmp_path, *SAVING) == 0
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:1000])
    assert run(dataset, tmp_path, *SAVING, "--resume") == 0
    assert computed(tmp_path) == computed(whole)
    (tmp_path / "previous.pt").write_bytes(b"nothing")
    (tmp_path / "last.pt").write_bytes(b"nothing")
    assert run(dataset, tmp_path, *SAVING, "--resume") == 2
    assert "has no checkpoint to resume from; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (("--lr", "0.01"), "--lr is 0.01 and was 0.000220"),
        (("--epochs", "3"), "--epochs is 3 and was 2"),
        (("--size", "96"), "--size is 96 and was 64"),
        (("--dtype", "bfloat16"), "--dtype is bfloat16 and was float32"),
    ],
)
def test_another_setting_is_refused(dataset, whole, capsys, changed, reason):
    assert run(dataset, whole, *SAVING, "--resume", *changed) == 2
    message = capsys.readouterr().err
    assert f"holds a training of another setting: {reason}" in message
    assert message.count(" and was ") == 1


def test_other_images_are_refused(dataset, whole, tmp_path, capsys):
    other = draw(tmp_path / "set", train=7, val=1)
    assert run(other, whole, *SAVING, "--resume") == 2
    assert "images is other than there" in capsys.readouterr().err
    for part in ("train", "val"):
        (other / part / "disc").rename(other / part / "discs")
    assert run(other, whole, *SAVING, "--resume") == 2
    assert "classes is ['bars', 'discs', 'rings'] and was ['bars', 'disc', 'rings']" in capsys.readouterr().err


def test_a_folder_in_use_is_left_alone(dataset, whole, capsys):
    before = computed(whole)
    assert run(dataset, whole) == 2
    assert "holds a training; go on with it by --resume" in capsys.readouterr().err
    assert computed(whole) == before


def test_a_log_that_was_cut_is_an_error(whole, tmp_path):
    lengths = read(whole / "last.pt")["position"]["log"]
    (tmp_path / COMPUTED).write_bytes(computed(whole)[:-1])
    with pytest.raises(UserError, match=rf"{COMPUTED} has \d+ bytes where the checkpoint counted {lengths[COMPUTED]}"):
        Log(tmp_path, lengths)


def test_a_log_that_cannot_be_written_is_an_error(dataset, tmp_path, capsys):
    """Where the system takes no more than 100 bytes in a file."""
    resource = pytest.importorskip("resource", reason="this system limits no file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = Log(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(UserError, match=rf"cannot write .*{COMPUTED}: .*; make room, and go on with --resume"):
            log.computed({"loss": "1" * 200})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (tmp_path / "folder" / COMPUTED).mkdir(parents=True)
    assert run(dataset, tmp_path / "folder") == 2
    assert f"{COMPUTED}: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64")])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    dataset, whole, tmp_path, monkeypatch, capsys, error
):
    write, saved = torch.save, []

    def save(contents, path):
        saved.append(path)
        if len(saved) == KILLED:
            path.write_bytes(b"half")
            raise error
        write(contents, path)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", save)
        assert run(dataset, tmp_path, *SAVING) == 2
    assert f"cannot write {tmp_path / 'last.pt'}: " in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert run(dataset, tmp_path, *SAVING, "--resume") == 0
    assert computed(tmp_path) == computed(whole)


def test_going_on_does_not_read_the_first_weights(dataset, whole):
    assert run(dataset, whole, *SAVING, "--resume", "--weights", "gone.pth") == 0


# --- what reads a checkpoint


def test_load_weights_reads_it(whole):
    contents, config = read(whole / "last.pt"), stored_config(whole / "last.pt")
    assert (config.name, config.num_classes, config.image_size) == ("tiny", len(CLASSES), 64)
    assert num_classes(whole / "last.pt") == len(CLASSES)
    for ema, key in ((False, "state_dict"), (True, "state_dict_ema")):
        model = mvc.create_model(config)
        mvc.load_weights(model, whole / "last.pt", ema=ema)
        assert_same(dict(model.state_dict()), dict(contents[key]))
    pairs = zip(contents["state_dict"].values(), contents["state_dict_ema"].values(), strict=True)
    different = [not torch.equal(weights, average) for weights, average in pairs]
    assert sum(different) > 50, "the average is another model"


def test_a_configuration_that_cannot_be_used_is_an_error(whole):
    contents = read(whole / "last.pt")
    assert stored_config({"state_dict": contents["state_dict"]}) is None, "as of published weights"
    assert stored_config(contents, "TINY").name == "tiny"
    with pytest.raises(UserError, match=r"variant is 'T' and source state dict is of tiny; leave the variant out"):
        stored_config(contents, "T")
    with pytest.raises(UserError, match=r"configuration of another version of mvc \(.*'heads'"):
        stored_config({"config": {**contents["config"], "heads": 3}})


def test_export_and_evaluation_take_it_by_its_name(dataset, whole, tmp_path, capsys):
    from mvc.evaluate.__main__ import main as evaluate
    from mvc.export.__main__ import main as export

    weights = ["--weights", str(whole / "last.pt"), "--ema"]
    file = tmp_path / "mine.exported"
    assert export([*weights, "--output", str(file), "--custom-ops", "--no-check", "--quiet"]) == 0
    assert file.stat().st_size > 10**6
    target = tmp_path / "evaluated.json"
    scored = ["--data", str(dataset / "val"), "--no-compile", "--workers", "0", "--json", str(target), "--quiet"]
    assert evaluate([*weights, *scored]) == 0
    last = json.loads(epochs(whole)[-1])
    assert last["average"]["top_1"] == pytest.approx(json.loads(target.read_text())["result"]["top_1"], abs=1e-9)
    assert export([*weights, "--variant", "T", "--output", str(file)]) == 2
    assert "leave the variant out" in capsys.readouterr().err
