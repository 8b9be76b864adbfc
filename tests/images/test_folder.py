"""What lies in a folder of images: the order is torchvision's, and nothing is passed over without a word."""

from pathlib import Path

import pytest

from mvc.errors import UserError
from mvc.images.folder import ENDINGS, list_images


def touched(root: Path, *names: str) -> Path:
    """A folder with empty files; a name that ends in a slash is a folder."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_bytes(b"x")
    return root


FILES = ("b/2.png", "b/10.JPG", "a/z.webp", "a/deep/er/1.jpeg", "a/deep.png", "C/1.tiff", "b/notes.txt", "a/.DS_Store")


def test_images_are_listed_by_class_and_name(tmp_path):
    folder = list_images(touched(tmp_path, *FILES, "readme.md", "0.png"))
    assert folder.names == ("C", "a", "b")
    assert folder.paths == ("C/1.tiff", "a/deep.png", "a/z.webp", "a/deep/er/1.jpeg", "b/10.JPG", "b/2.png")
    assert folder.labels == (0, 1, 1, 1, 2, 2)
    assert folder.others == ("0.png", "readme.md", "a/.DS_Store", "b/notes.txt")
    assert folder.bytes() == 6


def test_the_order_is_torchvisions(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets", reason="torchvision, of the extra `tasks`, is missing")
    folder, theirs = list_images(touched(tmp_path, *FILES)), datasets.ImageFolder(tmp_path)
    assert theirs.classes == [*folder.names]
    ours = zip(folder.paths, folder.labels, strict=True)
    assert theirs.samples == [(str(tmp_path / path), label) for path, label in ours]
    assert datasets.folder.IMG_EXTENSIONS == ENDINGS


def test_the_fingerprint_sees_names_and_sizes(tmp_path):
    before = list_images(touched(tmp_path, *FILES)).fingerprint()
    assert list_images(tmp_path).fingerprint() == before
    (tmp_path / "C" / "1.tiff").write_bytes(b"xy")
    longer = list_images(tmp_path).fingerprint()
    (tmp_path / "C" / "1.tiff").rename(tmp_path / "C" / "2.tiff")
    assert len({before, longer, list_images(tmp_path).fingerprint()}) == 3


def test_links_are_followed_but_not_in_circles(tmp_path):
    root, elsewhere = touched(tmp_path / "root", "a/1.png", "b/1.png"), touched(tmp_path / "elsewhere", "deep/2.png")
    try:
        (root / "b" / "more").symlink_to(elsewhere)
    except OSError:
        pytest.skip("this system lets no link be made")
    assert list_images(root).paths == ("a/1.png", "b/1.png", "b/more/deep/2.png")
    (elsewhere / "deep" / "back").symlink_to(root / "b")
    with pytest.raises(UserError, match=r"b.more.deep.back leads back to a folder that it lies in .*; remove the link"):
        list_images(root)


@pytest.mark.parametrize(
    ("names", "message"),
    {
        "no folder": ((), "is no folder (there is none)"),
        "a file": (("",), "is no folder (it is a file)"),
        "no classes": (("there/readme.txt",), "there holds no class folders"),
        "loose images": (("there/1.png",), "holds images, but no class folders"),
        "an empty class": (("there/a/1.png", "there/b/", "there/c/x.txt"), "2 class folders of"),
        "the parts of a set": (("there/train/a/1.png", "there/val/a/1.png"), "train, val, the parts of a data set"),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_folder_of_images_is_refused(tmp_path, names, message):
    root = tmp_path / "there"
    touched(tmp_path, *names) if names != ("",) else root.write_text("a file")
    with pytest.raises(UserError) as caught:
        list_images(root)
    assert message in str(caught.value)
