"""python -m mvc.segment: photographs in, a table, pictures, label maps and COCO's results out; and the mean IoU."""

from __future__ import annotations

import functools
import json
import shutil

import numpy as np
import pytest
import torch
from places import DATA
from small_models import EACH_KIND_ONCE

from mvc import segment
from mvc.errors import UserError
from mvc.tasks.ade20k import class_names, labels_in
from mvc.tasks.metrics import class_counts, mean_iou
from mvc.tasks.photographs import SEGMENTATION_BOUNDS
from mvc.tasks.pictures import colour, draw_segments, label_picture
from mvc.tasks.segmentation import create_segmenter

pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

CAT = DATA / "chelsea.png"  # 451 x 300
EAGER = ["--variant", "tiny", "--no-compile"]


@pytest.fixture
def small(monkeypatch):
    """Small windows, and photographs of few pixels."""
    monkeypatch.setattr(
        segment, "create_segmenter", functools.partial(create_segmenter, window_sizes=(8, 4), **EACH_KIND_ONCE)
    )
    create = functools.partial(create_segmenter, window_sizes=(8, 4), **EACH_KIND_ONCE)
    monkeypatch.setattr(segment, "create_segmenter", create)
    monkeypatch.setattr(segment, "SEGMENTATION_BOUNDS", (128, 64))
    monkeypatch.setattr(segment, "SEGMENTATION_BUCKETS", ((96, 128),))


def test_table_pictures_label_maps_and_results(small, tmp_path, capsys):
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    out, results = tmp_path / "found", tmp_path / "r.json"
    assert segment.main([str(CAT), *EAGER, "--output", str(out), "--json", str(results)]) == 0
    printed = capsys.readouterr()
    assert "the weights are random: what is found means nothing" in printed.err
    head, _, *rows = printed.out.splitlines()
    assert head.split() == ["photograph", "class", "pixels", "share"]
    found = json.loads(results.read_text())
    assert len(found) == len(rows) > 0
    with pil.open(out / "labels" / "chelsea.png") as picture:
        labels = np.array(picture)
    assert labels.shape == (300, 451)
    assert labels.min() >= 1
    for result in found:
        here = labels == result["category_id"]
        assert result["image_id"] == "chelsea.png"
        assert class_names()[result["category_id"] - 1] == result["category"]
        assert here.sum() == result["area"] == mask.area(result["segmentation"])
        assert np.array_equal(mask.decode(result["segmentation"]), here)
    assert sum(result["area"] for result in found) == labels.size
    with pil.open(out / "chelsea.png") as picture:
        assert picture.width == 451
        assert picture.height > 300  # the names of the classes are below


def test_buckets_and_photographs_that_cannot_be_read(small, tmp_path, capsys):
    shutil.copy(CAT, tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("no picture")
    assert segment.main([str(tmp_path), *EAGER, "--buckets", "--quiet", "--json", "-"]) == 1
    printed = capsys.readouterr()
    assert {result["image_id"] for result in json.loads(printed.out)} == {"a.png"}
    assert "b.jpg" in printed.err


@pytest.mark.slow
def test_compiled_labels_are_the_eager_ones(small, tmp_path):
    for how in ([], ["--no-compile"]):
        arguments = [str(CAT), "--variant", "tiny", *how, "--quiet", "--output", str(tmp_path / f"found{len(how)}")]
        assert segment.main(arguments) == 0
    found = [np.array(pil.open(tmp_path / f"found{each}" / "labels" / "chelsea.png")) for each in (0, 1)]
    assert (found[0] == found[1]).mean() > 0.999


def test_photographs_of_any_mode_and_shape(small, tmp_path, capsys):
    """Deep grey is not clipped where it is drawn, and a side below the model's 32 pixels is padded."""
    photographs, out = tmp_path / "photographs", tmp_path / "out"
    photographs.mkdir()
    grey = np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(30, 40)
    pil.fromarray(grey).save(photographs / "deep.png")
    pil.new("LA", (40, 30), (90, 128)).save(photographs / "clear.png")
    pil.new("RGB", (2000, 1), "red").save(photographs / "line.png")
    assert segment.main([str(photographs), *EAGER, "--quiet", "--output", str(out)]) == 0, capsys.readouterr().err
    sizes = {"deep": (40, 30), "clear": (40, 30), "line": (2000, 1)}
    for name, (width, height) in sizes.items():
        with pil.open(out / "labels" / f"{name}.png") as labels, pil.open(out / f"{name}.png") as drawn:
            assert labels.size == (width, height)
            assert drawn.height > height
    flat = draw_segments(pil.fromarray(grey), torch.zeros(30, 40, dtype=torch.long), ["wall"])
    dark, bright = flat.getpixel((0, 0)), flat.getpixel((39, 29))
    assert [b - a for a, b in zip(dark, bright, strict=True)] == pytest.approx([102] * 3, abs=2)  # 0.4 of 255


def test_no_photograph_is_replaced(small, tmp_path, capsys):
    shutil.copy(CAT, tmp_path / "a.png")
    (tmp_path / "labels").mkdir()
    shutil.copy(CAT, tmp_path / "labels" / "b.png")
    for photograph in ("a.png", "labels/b.png"):
        path = tmp_path / photograph
        assert segment.main([str(path), *EAGER, "--output", str(tmp_path)]) == 2
        assert f"would replace the photograph {path}" in capsys.readouterr().err
        assert path.read_bytes() == CAT.read_bytes()


def test_a_file_in_the_place_of_the_label_maps_is_named(small, tmp_path, capsys):
    (tmp_path / "labels").write_text("")
    assert segment.main([str(CAT), *EAGER, "--output", str(tmp_path)]) == 2
    assert f"cannot make --output {tmp_path / 'labels'}: File exists" in capsys.readouterr().err


def test_annotations_become_labels_and_labels_annotations():
    """An annotation's 0 is no class and becomes 255, its 1 to 150 become 0 to 149."""
    pixels = torch.tensor([[0, 1, 2], [150, 77, 0]])
    labels = labels_in(pil.fromarray(pixels.numpy().astype(np.uint8)))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[255, 0, 1], [149, 76, 255]]
    known = torch.arange(150).view(10, 15)
    assert torch.equal(labels_in(label_picture(known + 1)), known)
    with pytest.raises(UserError, match="pixels up to 151; it must have the classes 1 to 150"):
        labels_in(pil.fromarray(np.full((2, 2), 151, np.uint8)))
    with pytest.raises(UserError, match="pixels of mode RGB"):
        labels_in(pil.new("RGB", (2, 2)))


def test_a_missing_photograph_is_refused(small, tmp_path, capsys):
    assert segment.main([str(tmp_path / "none.png"), *EAGER]) == 2
    assert "none.png does not exist" in capsys.readouterr().err


def test_the_classes_are_ade20ks():
    names = class_names()
    assert len(names) == len(set(names)) == 150
    known = {0: "wall", 2: "sky", 12: "person", 20: "car", 76: "boat", 100: "poster", 126: "animal", 149: "flag"}
    assert {index: names[index] for index in known} == known
    assert len({colour(index) for index in range(150)}) == 150
    assert SEGMENTATION_BOUNDS == (2048, 512)


def test_the_picture_shows_each_class_in_its_colour_and_names_it():
    labels = torch.zeros(40, 200, dtype=torch.long)
    labels[:, 120:] = 2
    drawn = draw_segments(pil.new("RGB", (200, 40), "white"), labels, ["sky", "sea", "sand"])
    assert drawn.height > 40
    for x, index in ((10, 0), (190, 2)):
        expected = [round(255 + 0.6 * (level - 255)) for level in colour(index)]
        assert list(drawn.getpixel((x, 20))) == pytest.approx(expected, abs=1)
    below = {drawn.getpixel((x, y)) for x in range(200) for y in range(40, drawn.height)}
    assert colour(0) in below
    assert colour(2) in below
    assert colour(1) not in below


def test_mean_iou_of_a_small_set():
    """Counted by hand; batches are added, pixels that are ignored count nowhere, and a class that is nowhere is left
    out."""
    first = class_counts(torch.tensor([[0, 0, 1], [1, 1, 2]]), torch.tensor([[0, 1, 1], [1, 0, 255]]), 4)
    assert first.tolist() == [[1, 2, 0, 0], [2, 3, 0, 0], [2, 3, 0, 0]]
    second = class_counts(torch.tensor([2, 2, 0]), torch.tensor([2, 0, 255]), 4)
    mean, of_class = mean_iou(first + second)
    assert of_class[:3].tolist() == [1 / 4, 2 / 4, 1 / 2]
    assert of_class[3].isnan()
    assert mean == pytest.approx(5 / 12)


def test_a_perfect_prediction_has_a_mean_iou_of_one():
    labels = torch.randint(0, 5, (2, 8, 8))
    assert mean_iou(class_counts(labels, labels, 5))[0] == 1


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        (torch.zeros(2), torch.zeros(3), r"predicted has shape \(2,\), and labels \(3,\)"),
        (torch.tensor([0.7]), torch.tensor([0]), r"predicted is torch\.float32; give the classes as integers"),
        (torch.tensor([5]), torch.tensor([0]), "predicted has classes 5 to 5; they must be from 0 to 4"),
        (torch.tensor([0, 0]), torch.tensor([-1, 3]), "labels has classes -1 to 3"),
    ],
)
def test_counts_of_what_there_is_not_are_refused(predicted, labels, message):
    with pytest.raises(UserError, match=message):
        class_counts(predicted, labels, 5)
