"""The picture of a confusion: its figures, and its size for many classes."""

import re

import pytest
import torch

from mvc.evaluate import picture
from mvc.evaluate.counts import Counts

REASON = "matplotlib, of the extra `plot`, is not installed"
TITLE = "MambaVision-tiny"


def texts(path):
    """The texts of a picture as matplotlib writes them."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(), flags=re.DOTALL)


def confused(confusion):
    counts = Counts.none(len(confusion))
    counts.confusion = torch.tensor(confusion)
    return counts


def test_a_few_classes_have_their_names_and_shares(tmp_path):
    pytest.importorskip("matplotlib", reason=REASON)
    path = tmp_path / "few.svg"
    counts = confused([[15, 4, 0, 0], [0, 11, 0, 9], [0, 0, 0, 0], [0, 0, 0, 3]])
    counts.not_finite[0] = 1
    names = ["ant", "bee", "cat", "a name of more than twenty letters"]
    picture.confusion(counts, names, path, title=TITLE)
    found = texts(path)
    for text in ("75", "20", "55", "45", "100", "ant → bee", "bee → a name of more than t…", TITLE, "taken for"):
        assert text in found, text
    assert "cat" not in found, "it has no images"


def test_names_are_no_formulas(tmp_path):
    pytest.importorskip("matplotlib", reason=REASON)
    names = [r"$5 \frac$", "$x^{$"]
    picture.confusion(confused([[1, 2], [0, 3]]), names, tmp_path / "names.svg", title=TITLE)
    assert {*names, " → ".join(names)} <= {*texts(tmp_path / "names.svg")}


def test_images_of_classes_elsewhere_are_said(tmp_path):
    pytest.importorskip("matplotlib", reason=REASON)
    picture.confusion(confused([[1, 0, 3], [0, 2, 0], [0, 0, 0]]), "abc", tmp_path / "part.svg", title=TITLE)
    found = texts(tmp_path / "part.svg")
    assert "taken for; 3 images for classes that have none here" in found
    assert "25" in found, "a share of all images of the class"


@pytest.mark.parametrize("classes", [60, 1000])
def test_many_classes_are_numbered(tmp_path, classes):
    pytest.importorskip("matplotlib", reason=REASON)
    counts = Counts.none(classes)
    counts.confusion.fill_diagonal_(9)
    counts.confusion[classes - 1, 0] = 1
    picture.confusion(counts, [f"class {index}" for index in range(classes)], tmp_path / "many.svg", title=TITLE)
    found = texts(tmp_path / "many.svg")
    assert f"class {classes - 1} → class 0" in found
    assert ("each cell is 10 neighbouring classes" in found) is (classes == 1000)
    assert {"0", str(classes // 2 // 10 * 10)} <= {*found}


def test_a_model_without_an_error_makes_a_picture_too(tmp_path):
    pytest.importorskip("matplotlib", reason=REASON)
    picture.confusion(confused([[1, 0], [0, 2]]), "ab", tmp_path / "none.svg", title=TITLE)
    assert "no class is taken for another" in texts(tmp_path / "none.svg")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_whole_in_either_format(tmp_path, suffix):
    pytest.importorskip("matplotlib", reason=REASON)
    path = tmp_path / f"confusion{suffix}"
    picture.confusion(confused([[1, 1], [0, 2]]), "ab", path, title=TITLE)
    assert path.read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert [*tmp_path.iterdir()] == [path]


def test_neighbours_are_one_cell():
    confusion = torch.tensor([[2, 1, 1], [0, 4, 0], [1, 0, 3]])
    cells = picture.binned(confusion, torch.tensor([4, 4, 5]), 2)
    assert torch.equal(cells, torch.tensor([[7 / 8, 1 / 8], [1 / 5, 3 / 5]]))
