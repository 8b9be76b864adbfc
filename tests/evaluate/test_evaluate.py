"""The command: its counts are those of a plain loop, whichever way the images are scored."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from image_folders import image_folder
from places import ROOT

from mvc.evaluate import evaluation
from mvc.evaluate.__main__ import _workers, main
from mvc.evaluate.counts import Counts
from mvc.images.classes import imagenet_synsets
from mvc.measure import machine
from mvc.model.image import load_image, preprocess
from mvc.model.module import create_model
from mvc.progress import duration

pytest.importorskip("PIL.Image", reason="reading images needs Pillow")

COUNTS = {f"class-{index}": 1 + index % 4 for index in range(10)}  # 23 images
IMAGES = sum(COUNTS.values())
LIMIT = 240  # seconds for a process


def trained(folder: Path, **changes):
    """A model of random weights whose BatchNorm has seen the images, so that its scores differ between them."""
    torch.manual_seed(0)
    model = create_model("tiny", drop_path_rate=0.0, **changes)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        for _ in range(3):
            model(torch.cat(pixels(folder, model.config)))
        model.head.weight.normal_(std=1.0)
    return model.eval()


def pixels(folder: Path, config):
    return [preprocess(load_image(path), config) for path in sorted(folder.glob("*/*.png"))]


def looped(model, folder: Path, batch: int) -> Counts:
    """The counts of a plain loop over batches, in which the class folders are the classes."""
    images, found = pixels(folder, model.config), Counts.none(model.config.num_classes)
    names = sorted(path.name for path in folder.iterdir())
    labels = [names.index(path.parent.name) for path in sorted(folder.glob("*/*.png"))]
    dtype = next(model.parameters()).dtype
    for first in range(0, len(images), batch):
        x = torch.cat(images[first : first + batch]).to(dtype, memory_format=torch.channels_last)
        some = torch.tensor(labels[first : first + batch])
        with torch.no_grad():
            found.count(model(x), some, torch.ones(len(x), dtype=torch.bool))
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of images, and weights."""
    root = tmp_path_factory.mktemp("given")
    folder = image_folder(root / "data", COUNTS)
    torch.save(trained(folder).state_dict(), root / "tiny.pth")
    return folder, root / "tiny.pth"


@pytest.fixture(scope="module")
def expected(given):
    found = looped(loaded(given), given[0], batch=4)
    assert 1 <= int(found.correct.sum()) < IMAGES, "some are right, others wrong"
    assert (found.confusion.sum(0) > 0).sum() >= 4, "several classes are found"
    return found


def loaded(given, dtype=torch.float32):
    model = create_model("tiny", dtype=dtype).eval()
    model.load_state_dict(torch.load(given[1], weights_only=True))
    return model


def arguments(given, *more: str, batch: int = 4) -> list[str]:
    folder, weights = given
    words = ["--variant", "tiny", "--weights", str(weights), "--data", str(folder), "--batch", str(batch)]
    return [*words, "--device", "cpu", "--workers", "0", *more]


def facts_of(given, tmp_path, *more: str, status: int = 0, **options: int) -> dict:
    path = tmp_path / "facts.json"
    assert main(arguments(given, "--json", str(path), *more, **options)) == status
    return json.loads(path.read_text())


def assert_counts(facts: dict, expected: Counts) -> None:
    figures = [[each[name] for each in facts["classes"]] for name in ("images", "correct", "within_five", "not_finite")]
    tensors = (expected.per_class, expected.correct, expected.within_five, expected.not_finite)
    assert figures == [tensor.tolist() for tensor in tensors]
    result = facts["result"]
    assert (result["images"], result["correct"]) == (expected.images, int(expected.correct.sum()))
    assert (result["top_1"], result["top_5"]) == (expected.top_1, expected.top_5)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_counts_are_those_of_a_plain_loop(given, expected, tmp_path, batch):
    facts = facts_of(given, tmp_path, "--no-compile", batch=batch)
    assert_counts(facts, expected)
    assert facts["result"]["batch"] == min(batch, IMAGES)
    for each, row in zip(facts["classes"], expected.confusion.tolist(), strict=True):
        for other in each["confused_with"]:
            assert row[other["index"]] == other["images"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_counts_are_those_of_a_plain_loop(given, tmp_path, dtype):
    expected = looped(loaded(given, getattr(torch, dtype)), given[0], batch=4)
    assert_counts(facts_of(given, tmp_path, "--no-compile", "--dtype", dtype), expected)


def test_compiled_counts_are_the_same_and_one_graph_serves_the_last_batch(given, expected, tmp_path, fresh_dynamo):
    facts = facts_of(given, tmp_path, "--workers", "1", batch=10)
    assert_counts(facts, expected)
    assert facts["model"]["graphs"] == 1
    assert facts["model"]["computed_by"] == "mvc, frozen, cpu"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)


# Ends as by `kill -9` where the state of the third round lies under another name and is not renamed yet.
KILLED = """
import itertools, os, signal, sys
from mvc.evaluate.__main__ import main
rename, calls = os.replace, itertools.count(1)
def replace(source, target):
    os.kill(os.getpid(), signal.SIGKILL) if next(calls) == 3 else rename(source, target)
os.replace = replace
main(sys.argv[1:])
"""


def test_a_killed_evaluation_goes_on_where_it_stopped(given, expected, tmp_path, capsys):
    state = tmp_path / "a.state"
    more = ("--no-compile", "--state", str(state))
    words = arguments(given, *more, batch=1)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == -9, done.stderr
    assert_counts(facts_of(given, tmp_path, *more, batch=1), expected)
    (gone_on,) = re.findall(rf"going on after (\d+) of 23 images, from {state}", capsys.readouterr().err)
    assert 2 <= int(gone_on) <= 5, "two rounds, of 1 and at most 4"
    again = facts_of(given, tmp_path, *more, batch=1)
    assert_counts(again, expected)
    assert "left" not in capsys.readouterr().err, "nothing is scored a second time"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dtype", "bfloat16"], "dtype is float32 there and bfloat16 here"),
        (["--size", "96"], "preprocessing is 64 pixels"),
        (["--batch", "5"], "batch is 4 there and 5 here"),
        (["--weights", "{other}"], "other weights; name another file"),
    ],
    ids=["dtype", "size", "batch", "weights"],
)
def test_a_state_of_something_else_is_refused(given, tmp_path, capsys, more, message):
    other, state = tmp_path / "other.pth", tmp_path / "a.state"
    weights = torch.load(given[1], weights_only=True)
    torch.save(weights | {"head.bias": weights["head.bias"] + 1}, other)
    words = ["--no-compile", "--quiet", "--state", str(state)]
    assert main(arguments(given, *words)) == 0
    assert main(arguments(given, *words, *(word.format(other=other) for word in more))) == 2
    assert message in capsys.readouterr().err


def damaged(given, tmp_path) -> tuple[Path, Path]:
    """The folder with a text in the place of one image and half of another."""
    folder = image_folder(tmp_path / "damaged", COUNTS)
    (folder / "class-3" / "01.png").write_text("no image")
    whole = (folder / "class-7" / "02.png").read_bytes()
    (folder / "class-7" / "02.png").write_bytes(whole[:200])
    (folder / "class-7" / "notes.txt").write_text("no image either")
    return folder, given[1]


# Under torchrun, where the first process takes long to write: the others end earlier, unless they wait for it.
SLOW = """
import sys, time
from mvc.evaluate import __main__ as command
write = command.write_json
def slowly(facts, target):
    time.sleep(2)
    write(facts, target)
command.write_json = slowly
sys.exit(command.main(sys.argv[1:]))
"""


def test_two_processes_count_what_one_counts(given, tmp_path):
    """23 images in batches of 5: three batches and two, the last of three images. Two images cannot be read, so that
    the exit status is 1, and torchrun ends all processes as soon as one has another status than 0."""
    broken, script, path = damaged(given, tmp_path), tmp_path / "slow.py", tmp_path / "two.json"
    script.write_text(SLOW)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = run(*launch, *arguments(broken, "--no-compile", "--json", str(path), batch=5))
    assert done.returncode == 1, done.stderr
    assert "failed (exitcode: 1) local_rank: 0 " in done.stderr, "the first process ends by itself, before the others"
    two, one = json.loads(path.read_text()), facts_of(broken, tmp_path, "--no-compile", status=1, batch=5)
    assert (two["result"].pop("processes"), one["result"].pop("processes")) == (2, 1)
    for facts in (two, one):
        del facts["result"]["seconds"], facts["result"]["images_per_second"]
    assert [two[key] for key in ("result", "classes", "data")] == [one[key] for key in ("result", "classes", "data")]
    assert one["result"]["images"] == IMAGES - 2
    assert done.stdout.count("top-1") == 2, "one of them prints the row and the table's head"


def test_unreadable_images_are_named_and_left_out(given, tmp_path, capsys):
    broken = damaged(given, tmp_path)
    facts = facts_of(broken, tmp_path, "--no-compile", status=1)
    assert [each["path"] for each in facts["data"]["unreadable"]] == ["class-3/01.png", "class-7/02.png"]
    assert facts["data"]["other_files"] == ["class-7/notes.txt"]
    assert facts["result"]["images"] == IMAGES - 2
    assert [each["images"] for each in facts["classes"]] == [1, 2, 3, 3, 1, 2, 3, 3, 1, 2]
    for path in ("class-3/01.png", "class-7/02.png"):
        (broken[0] / path).unlink()
    assert_counts(facts, looped(loaded(given), broken[0], batch=1))
    out = capsys.readouterr().out
    for text in ("2 images, which are left out of all figures", "class-3/01.png': it is not an image", "notes.txt"):
        assert text in out


def test_a_folder_of_nothing_readable_is_refused(given, tmp_path, capsys):
    folder = tmp_path / "none"
    for name in COUNTS:
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_text("no image")
    assert main(arguments((folder, given[1]), "--no-compile", "--quiet")) == 2
    assert "none of the 10 images can be read: cannot read image path" in capsys.readouterr().err


def test_a_part_of_imagenet_is_scored_among_all_classes(tmp_path, capsys):
    """Two folders of a model with a thousand classes: their images have the indices of their ids."""
    ids = imagenet_synsets()
    folder = image_folder(tmp_path / "data", {ids[207]: 3, ids[3]: 2})
    model = trained(folder, num_classes=1000)
    torch.save({"model_ema": model.state_dict(), "state_dict": {}}, tmp_path / "weights.pth")
    given = folder, tmp_path / "weights.pth"
    facts = facts_of(given, tmp_path, "--no-compile", "--ema")
    with torch.no_grad():
        scores = model(torch.cat(pixels(folder, model.config)))
    expected = Counts.none(1000)
    expected.count(scores, torch.tensor([3, 3, 207, 207, 207]), torch.ones(5, dtype=torch.bool))
    shark, retriever = facts["classes"]
    assert (shark["index"], shark["name"]) == (3, "tiger shark")
    assert (retriever["index"], retriever["name"]) == (207, "golden retriever")
    for each in (shark, retriever):
        assert each["within_five"] == expected.within_five[each["index"]]
        assert {other["index"]: other["images"] for other in each["confused_with"]} == others(expected, each["index"])
    assert "5 in 2 classes of the model's 1,000" in capsys.readouterr().out


def others(counts: Counts, index: int) -> dict[int, int]:
    """The classes that a class is most often taken for, at most three, with the number of images."""
    found = {other: n for other, n in enumerate(counts.confusion[index].tolist()) if n and other != index}
    return dict(sorted(found.items(), key=lambda pair: -pair[1])[:3])


def test_a_dry_run_tells_disk_memory_and_time(given, tmp_path, capsys):
    state = tmp_path / "a.state"
    facts = facts_of(given, tmp_path, "--no-compile", "--dry-run", "--workers", "1", "--state", str(state))
    assert not state.exists()
    assert facts["image_bytes"] == sum(path.stat().st_size for path in given[0].glob("*/*.png"))
    assert facts["state_bytes"] == 8 * (10 * 10 + 10 + 10)
    assert facts["parameter_bytes"] == sum(tensor.nbytes for tensor in loaded(given).state_dict().values())
    assert facts["waiting_bytes"] == 2 * 4 * 3 * 64 * 64 * 4
    assert facts["measured"] == IMAGES
    assert facts["seconds"] == pytest.approx(IMAGES / facts["rate"])
    assert facts["model_rate"] > 0
    assert facts["peak_bytes"] > facts["parameter_bytes"]
    assert facts["worker_bytes"] is None or 2**20 < facts["worker_bytes"] < 2**30
    assert "images/s with reading" in capsys.readouterr().out


ERRORS = {
    "no folder": (["--data", "{tmp}/none"], "none is no folder (there is none)"),
    "too few classes": (["--data", "{tmp}/few"], "there are 2 class folders (a, b) and the weights have 10 classes"),
    "no weights": (["--weights", "{tmp}/none.pth"], "cannot open source"),
    "no moving average": (["--ema"], "holds no moving average"),
    "unknown variant": (["--variant", "Q"], "unknown variant 'Q'"),
    "no head": (["--weights", "{tmp}/headless.pth"], "has no head"),
    "names": (["--classes", "{tmp}/names.txt"], "--classes names 1 classes and the weights have 10"),
    "picture": (["--plot", "{tmp}/a.pdf"], "is neither .png nor .svg"),
    "state": (["--state", "{tmp}/no/a.state"], "cannot write --state"),
    "json": (["--json", "{tmp}/no/a.json"], "cannot write --json"),
    "one file": (["--json", "{tmp}/a", "--state", "{tmp}/few/../a"], "--state and --json are both"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_input_is_one_sentence(case, given, tmp_path, capsys):
    image_folder(tmp_path / "few", {"a": 1, "b": 1})
    (tmp_path / "names.txt").write_text("a\n")
    weights = torch.load(given[1], weights_only=True)
    torch.save({name: weights[name] for name in weights if not name.startswith("head.")}, tmp_path / "headless.pth")
    more, message = ERRORS[case]
    assert main(arguments(given, "--no-compile", "--quiet", *(word.format(tmp=tmp_path) for word in more))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(("processors", "processes", "workers"), [(3, 1, 3), (12, 4, 3), (2, 4, 1), (500, 1, 8)])
def test_images_are_read_by_as_many_as_there_are_processors(monkeypatch, processors, processes, workers):
    monkeypatch.setattr(machine, "processors", lambda: processors)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert _workers() == workers


def test_sizes_that_no_image_has_are_refused(given, capsys):
    for size in ("31", "32769", "a"):
        with pytest.raises(SystemExit) as caught:
            main(arguments(given, "--size", size))
        assert caught.value.code == 2
        assert f"'{size}' is not a whole number from 32 to 32768" in capsys.readouterr().err


def test_the_confusion_is_drawn(given, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra `plot`, is not installed")
    assert main(arguments(given, "--no-compile", "--plot", str(tmp_path / "confusion.svg"))) == 0
    assert "MambaVision-tiny, float32: top-1" in (tmp_path / "confusion.svg").read_text()


def test_progress_is_told_at_each_round(given, expected, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "INTERVAL", 1e9)  # rounds grow as fast as they may, on a slow machine too
    assert main(arguments(given, "--no-compile", batch=1)) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " images/s" in line]
    assert [line.partition(" ")[0] for line in lines] == ["1", "5", "21", "23"], "rounds of 1, 4, 16 and the rest"
    assert lines[-1].endswith(f"top-1 so far {100 * expected.top_1:.2f} %")
    assert all(" s left, top-1 so far " in line for line in lines[:-1])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (60, "1 min 0 s"), (3599.5, "1 h 0 min"), (7380, "2 h 3 min")]
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_a_missing_gpu_is_said(given, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(arguments(given, "--device", "cuda")) == 2
    assert "--device cuda, but torch finds no CUDA device" in capsys.readouterr().err


def test_a_missing_pillow_is_said(given, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert main(arguments(given)) == 2
    assert "pip install 'mvc-mambavision[image]'" in capsys.readouterr().err


def test_own_classes_are_ordered_by_a_file(given, expected, tmp_path):
    """The same folders under other names, which sort differently."""
    renamed = tmp_path / "renamed"
    names = [f"{9 - index}-th" for index in range(10)]
    for index, name in enumerate(names):
        for path in (given[0] / f"class-{index}").iterdir():
            (renamed / name).mkdir(parents=True, exist_ok=True)
            (renamed / name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "names.txt").write_text("\n".join(names))
    facts = facts_of((renamed, given[1]), tmp_path, "--no-compile", "--classes", str(tmp_path / "names.txt"))
    assert [each["folder"] for each in facts["classes"]] == names
    assert_counts(facts, expected)
