"""The cache folder: shared by users with any umask, and what serves in its place."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mvc.kernels import cache, cpu_scan
from mvc.passes import measured_choice

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become two other users")
FIRST, SECOND = 54321, 54322  # users; nobody's, wherever tests run


@pytest.fixture
def shared(monkeypatch) -> Iterator[Path]:
    """The cache folder, and one for temporary files that all users may write to; pytest's own are for one user."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    for name, mode in (("cache", 0o777), ("tmp", 0o1777)):
        (place / name).mkdir()
        (place / name).chmod(mode)
    monkeypatch.setenv("MVC_CACHE_DIR", str(place / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(place / "tmp"))
    torch.get_num_threads()
    yield place / "cache"
    shutil.rmtree(place)


def as_user(user: int, umask: int, function: Callable[[], object]) -> tuple[object, list[str]]:
    """What the function gives in a process of that user that knows nothing yet, and the warnings there."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.umask(umask)
            measured_choice._known.clear()
            measured_choice._warn_once.cache_clear()
            cache._warn_once.cache_clear()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = function()
            answer = {"result": result, "warnings": [str(each.message) for each in caught]}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert "error" not in answer, answer["error"]
    return answer["result"], answer["warnings"]


def choose(key: str, faster: str) -> Callable[[], list]:
    """The choice for the key, and whether it had to be measured."""

    def run() -> list:
        measured = []

        def build() -> dict[str, Callable[[], None]]:
            measured.append(key)
            times = {"a": 0.002, "b": 0.002, faster: 0.0}
            return {name: (lambda seconds=seconds: time.sleep(seconds)) for name, seconds in times.items()}

        return [measured_choice.fastest(key, build), bool(measured)]

    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002, 0o000], ids=oct)
@pytest.mark.parametrize("of_folder", [0o700, 0o755, 0o775, 0o2770, 0o1777], ids=oct)
def test_whoever_may_read_the_folder_may_read_its_files(umask, of_folder, shared):
    shared.chmod(of_folder)
    before = os.umask(umask)
    try:
        path = cache.update("name.json", lambda path: cache.replace_text(path, "text"))
    finally:
        os.umask(before)
    assert path == shared / "name.json"
    assert path.read_text() == "text"
    assert mode(path) == 0o600 | of_folder & 0o044
    assert mode(path.with_suffix(".lock")) == 0o600 | of_folder & 0o066
    assert sorted(each.name for each in shared.iterdir()) == ["name.json", "name.lock"]


def test_a_folder_of_files_is_shared_too(shared):
    made = shared / "made"
    made.mkdir(mode=0o700)
    (made / "library.so").touch(mode=0o700)
    cache.replace(made, shared / "libraries")
    assert mode(shared / "libraries") == 0o755
    assert mode(shared / "libraries" / "library.so") == 0o644


@needs_root
@pytest.mark.parametrize("of_folder", [0o777, 0o1777], ids=oct)
def test_another_user_finds_what_was_measured(of_folder, shared):
    shared.chmod(of_folder)
    assert as_user(FIRST, 0o077, choose("one", "b")) == (["b", True], [])
    assert as_user(SECOND, 0o077, choose("one", "a")) == (["b", False], [])


@needs_root
def test_both_users_add_to_one_file(shared):
    as_user(FIRST, 0o077, choose("one", "b"))
    assert as_user(SECOND, 0o077, choose("two", "b")) == (["b", True], [])
    assert as_user(FIRST, 0o022, choose("two", "a")) == (["b", False], [])
    assert as_user(FIRST, 0o022, choose("one", "a")) == (["b", False], [])


def unreadable(shared: Path) -> None:
    next(shared.glob("*.json")).chmod(0o600)
    shared.chmod(0o1777)


PLACES = {
    "sticky folder": lambda shared: shared.chmod(0o1777),
    "folder that cannot be written": lambda shared: shared.chmod(0o755),
    "file that cannot be read": unreadable,
    "no folder": lambda shared: shared.rename(shared.with_name("elsewhere")),
}


@needs_root
@pytest.mark.parametrize("change", PLACES.values(), ids=PLACES)
def test_what_cannot_be_shared_is_private_and_kept(change, shared):
    """Another user's file cannot be replaced: one warning, and the next process measures nothing."""
    as_user(FIRST, 0o022, choose("one", "b"))
    change(shared)
    shared.parent.chmod(0o755)
    (choice, measured), told = as_user(SECOND, 0o022, choose("two", "b"))
    private = shared.parent / "tmp" / f"mvc-{SECOND}"
    assert (choice, measured) == ("b", True)
    assert any(str(private) in message and "MVC_CACHE_DIR" in message for message in told), told
    assert as_user(SECOND, 0o022, choose("two", "a"))[0] == ["b", False]
    assert mode(private) == 0o700
    if change in (PLACES["sticky folder"], PLACES["folder that cannot be written"]):
        assert as_user(SECOND, 0o022, choose("one", "a"))[0] == ["b", False], "what others measured still counts"


@needs_root
def test_another_users_folder_is_not_taken_for_the_private_one(shared):
    shared.chmod(0o755)
    private = shared.parent / "tmp" / f"mvc-{SECOND}"
    private.mkdir()
    private.chmod(0o777)
    planted = private / f"library-choice-{torch.__version__}-{torch.backends.cpu.get_cpu_capability()}.json"
    planted.write_text(json.dumps({f"one threads={torch.get_num_threads()}": "planted"}))
    (choice, measured), told = as_user(SECOND, 0o022, choose("one", "b"))
    assert (choice, measured) == ("b", True)
    assert any("measured in each process" in message for message in told)


@needs_root
def test_another_user_takes_the_library_that_was_built(shared, monkeypatch):
    def compile_library(source: Path, path: Path, **options: object) -> None:
        built = path.with_name("built")
        built.write_text("library")
        cache.replace(built, path)

    monkeypatch.setattr(cpu_scan, "compile_library", compile_library)
    path, told = as_user(FIRST, 0o077, lambda: str(cpu_scan.library_path()))
    assert (Path(path).parent, told) == (shared, [])
    monkeypatch.setattr(cpu_scan, "compile_library", lambda *_, **__: pytest.fail("built again"))

    def read() -> list[str]:
        return [str(cpu_scan.library_path()), cpu_scan.library_path().read_text()]

    assert as_user(SECOND, 0o077, read) == ([path, "library"], [])


@needs_root
def test_a_library_that_cannot_be_read_is_built_once_in_private(shared, monkeypatch):
    built = shared / f"selective_scan-{cpu_scan._key()}.so"
    built.touch(mode=0o600)
    shared.chmod(0o1777)
    monkeypatch.setattr(cpu_scan, "compile_library", lambda source, path, **_: cache.replace_text(path, "private"))
    path, told = as_user(SECOND, 0o022, lambda: str(cpu_scan.library_path()))
    assert Path(path).parent.name == f"mvc-{SECOND}"
    assert any(f"{built} cannot be read" in message for message in told)
    monkeypatch.setattr(cpu_scan, "compile_library", lambda *_, **__: pytest.fail("built again"))
    assert as_user(SECOND, 0o022, lambda: str(cpu_scan.library_path()))[0] == path


def test_without_any_folder_the_chunked_scan_is_left(monkeypatch):
    monkeypatch.setenv("MVC_CACHE_DIR", "/proc/mvc")
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(cpu_scan.BuildError, match=r"the cache /proc/mvc cannot be written.*set MVC_CACHE_DIR"):
        cpu_scan.library_path()


def test_without_a_home_the_private_folder_serves(monkeypatch, shared):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("MVC_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    path = cache.update("name", lambda path: cache.replace_text(path, "text"))
    assert path.parent == shared.parent / "tmp" / f"mvc-{os.getuid()}"
    assert [*cache.find("name")] == [path]
