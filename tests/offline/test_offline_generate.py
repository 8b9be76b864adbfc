"""The folder of generated code: whole, its own, and never in the place of other files."""

import importlib
import itertools
import json
import os
import threading

import pytest
from offline_sample import sample

from mvc.errors import UserError
from mvc.offline import device
from mvc.offline.manifest import Manifest, Request
from mvc.offline.targets import find

module = importlib.import_module("mvc.offline.generate")
REQUEST = Request("tiny", 2, 64, 64, "float16")


@pytest.fixture
def generate(monkeypatch):
    """`generate` on any machine, with a file of the given name in the place of the code."""

    def generate(folder, name="new.py", fill=lambda: None):
        def generated(request, target, made, **options):
            (made / name).write_text(name)
            fill()
            return sample()

        monkeypatch.setattr(module, "_generated", generated)
        return module.generate(REQUEST, find("sm_90"), folder)

    monkeypatch.setattr(device, "require", lambda: None)
    return generate


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("name", ["constants.py", "manifest.json"])
def test_other_files_are_refused_at_once_and_stay(name, tmp_path, monkeypatch):
    (tmp_path / name).write_text('{"name": "a web application"}')
    monkeypatch.setattr(device, "require", lambda: pytest.fail("work began"))
    with pytest.raises(UserError, match=r"holds other files than generated code; name a new one") as caught:
        module.generate(REQUEST, find("sm_90"), tmp_path)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == [name]


def test_the_current_folder_and_a_file_are_refused(generate, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for folder in (tmp_path / "empty", tmp_path):
        with pytest.raises(UserError, match="in which this process runs; name another"):
            generate(folder)
    for folder in (tmp_path / "file", tmp_path / "file" / "code"):
        with pytest.raises(UserError, match=r"cannot be (used|made) \((Not a directory|File exists)\)"):
            generate(folder)


def test_a_folder_is_made_and_later_replaced_whole(generate, tmp_path):
    folder = tmp_path / "some" / "code"
    assert generate(folder, "first.py") == Manifest.read(folder) == sample()
    (folder / "batch-1").mkdir()
    (tmp_path / "link").symlink_to(folder)
    generate(tmp_path / "link", "second.py")
    assert names(folder) == ["manifest.json", "second.py"]
    assert names(folder.parent) == ["code"]


def test_a_failure_keeps_the_earlier_folder(generate, tmp_path):
    folder = tmp_path / "code"
    generate(folder, "first.py")
    with pytest.raises(UserError, match="broken"):
        generate(folder, "second.py", lambda: raise_(UserError("broken")))
    assert names(folder) == ["first.py", "manifest.json"]
    assert names(tmp_path) == ["code"]


def raise_(error):
    raise error


def test_files_that_appear_meanwhile_stay(generate, tmp_path):
    folder = tmp_path / "code"

    def appear():
        folder.mkdir()
        (folder / "notes.txt").touch()

    with pytest.raises(UserError, match="holds other files"):
        generate(folder, fill=appear)
    assert names(folder) == ["notes.txt"]


def test_an_earlier_folder_is_found_after_an_end_in_between(generate, tmp_path, monkeypatch):
    folder, calls, rename = tmp_path / "code", itertools.count(), os.rename
    generate(folder, "first.py")

    def renames(source, destination):
        if next(calls) == 1:  # after the earlier one was moved away
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "rename", renames)
    with pytest.raises(KeyboardInterrupt):
        generate(folder, "second.py")
    (old,) = tmp_path.glob(".code-old-*")
    assert names(old) == ["first.py", "manifest.json"]


def test_of_several_at_once_one_is_there_whole(generate, tmp_path, monkeypatch):
    folder, together = tmp_path / "code", threading.Barrier(4)

    def generated(request, target, made, **options):
        for name in ("one", "two"):
            (made / name).write_text(str(threading.get_ident()))
        together.wait()
        return sample()

    generate(folder)
    monkeypatch.setattr(module, "_generated", generated)
    threads = [
        threading.Thread(target=module.generate, args=(REQUEST, find("sm_90"), folder)) for _ in range(together.parties)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(folder) == ["manifest.json", "one", "two"]
    assert (folder / "one").read_text() == (folder / "two").read_text()
    assert json.loads((folder / "manifest.json").read_text())["target"] == "sm_90"
    assert names(tmp_path) == ["code"]
