"""Which score belongs to which class folder."""

import random

import pytest

from mvc.errors import UserError
from mvc.images.classes import class_order, imagenet_synsets, read_class_names, shown_names
from mvc.model.image import class_names

SYNSETS = imagenet_synsets()


def test_the_ids_are_imagenets_and_stand_beside_their_names():
    assert len(set(SYNSETS)) == 1000
    assert [*SYNSETS] == sorted(SYNSETS)
    pairs = dict(zip(SYNSETS, class_names(), strict=True))
    known = {"n01440764": "tench", "n02123045": "tabby", "n02123394": "Persian cat", "n15075141": "toilet tissue"}
    assert {key: pairs[key] for key in known} == known


def test_the_ids_are_those_of_timm():
    data = pytest.importorskip("timm.data", reason="timm, of the extra `timm`, is missing")
    assert tuple(data.ImageNetInfo("imagenet-1k").label_names()) == SYNSETS


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_folders_with_imagenets_ids_have_their_own_class(count):
    folders = sorted(random.Random(0).sample(SYNSETS, count))
    found = class_order(folders, 1000)
    assert [SYNSETS[index] for index in found] == folders


def test_unnamed_classes_are_the_sorted_folders():
    assert class_order(["a", "b", "c"], 3) == (0, 1, 2)


def test_names_order_the_folders_and_a_part_is_enough():
    names = [str(number) for number in range(1000)]
    assert class_order(sorted(names), 1000, names)[:4] == (0, 1, 10, 100)
    assert class_order(["a", "c"], 3, ["c", "b", "a"]) == (2, 0)


@pytest.mark.parametrize(
    ("folders", "count", "names", "message"),
    [
        (["a", "b"], 3, None, "there are 2 class folders (a, b) and the weights have 3 classes"),
        (["a"], 2, ["a"], "--classes names 1 classes and the weights have 2"),
        (["a", "sheep"], 2, ["a", "sheeps"], "are none of the 2 classes (sheep); did you mean sheeps?"),
        (sorted(map(str, range(1000))), 1000, None, "1000 of 1000 class folders are none of the 1000 classes (0, 1, "),
        ([*SYNSETS[:9], "tench"], 1000, None, "1 of 10 class folders are none of the 1000 classes (tench); weights"),
    ],
    ids=["too few", "names too few", "near miss", "numbers", "English"],
)
def test_folders_without_a_class_are_refused(folders, count, names, message):
    with pytest.raises(UserError) as caught:
        class_order(folders, count, names)
    assert message in str(caught.value)


def test_class_names_are_read(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("b\n\n a \n")
    assert read_class_names(path) == ("b", "a")
    path.write_bytes("\ufeffb\r\na\r\n".encode())  # as Windows' editor saves it
    assert read_class_names(path) == ("b", "a")
    path.write_text("b\na\nb\n")
    with pytest.raises(UserError, match="names b more than once"):
        read_class_names(path)
    with pytest.raises(UserError, match=r"cannot read --classes .*No such file"):
        read_class_names(tmp_path / "none.txt")


def test_shown_names_are_english_for_imagenet_alone():
    assert shown_names(SYNSETS[:2], (0, 1), 1000) == class_names()
    assert shown_names(("a", "b"), (2, 0), 3) == ("b", "1", "a")


def test_a_name_that_is_no_text_is_shown_with_escapes():
    assert shown_names(("caf\udce9", "thé"), (0, 1), 2) == (r"caf\udce9", "thé")
