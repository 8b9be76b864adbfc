"""Files that are whole or absent, and paths that are refused before long work."""

from pathlib import Path

import pytest

from mvc import files
from mvc.errors import UserError


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (".", "it is a folder; name a file"),
        ("no/model.pt2", "there is no folder no; make it, or name another"),
        ("/proc/model.pt2", r"/proc cannot be written to \(.+\); name another folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(path, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if path.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("this system has no folder that even root cannot write to")
    with pytest.raises(UserError, match=rf"cannot write --output {path}: {said}"):
        files.require_folder(Path(path), "--output")


def test_a_file_that_can_be_written_is_left_as_it_is(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_text("old")
    files.require_folder(path, "--output")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_what_fails_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_text("old")
    with pytest.raises(TypeError), files.replacing(path) as partial:
        partial.write_text(None)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"
