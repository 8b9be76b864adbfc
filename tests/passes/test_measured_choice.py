"""Measured choices: the faster call wins, the answer is kept, and a bad or busy file does no harm."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from places import ROOT

from mvc.passes import measured_choice
from mvc.passes.measured_choice import fastest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MVC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "private"))  # where what cannot be shared is kept
    monkeypatch.setattr(measured_choice, "_known", {})
    measured_choice._warn_once.cache_clear()
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def sleeps(**seconds: float):
    return lambda: {name: (lambda s=s: time.sleep(s)) for name, s in seconds.items()}


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({"a": 0.004, "b": 0.002}, "b"),
        ({"a": 0.002, "b": 0.004}, "a"),
        ({"a": 0.004, "b": 0.004, "c": 0.002}, "c"),
    ],
    ids=["second", "first", "third"],
)
def test_the_fastest_wins(seconds, wanted):
    assert fastest("key", sleeps(**seconds)) == wanted


def test_no_clear_gain_keeps_the_first(monkeypatch):
    times = iter([1.0, 1.0, *[1.0, 0.98] * measured_choice.ROUNDS])
    monkeypatch.setattr(measured_choice, "_seconds", lambda run, repeats: next(times))
    assert fastest("key", sleeps(a=0, b=0)) == "a"


def test_an_answer_is_kept_and_another_process_finds_it(folder):
    assert fastest("key", sleeps(a=0.003, b=0.001)) == "b"
    measured_choice._known.clear()
    assert fastest("key", lambda: pytest.fail("measured again")) == "b"
    ((key, choice),) = contents(folder).items()
    assert choice == "b"
    assert f"threads={torch.get_num_threads()}" in key
    (path,) = folder.glob("*.json")
    assert torch.__version__ in path.name
    assert torch.backends.cpu.get_cpu_capability() in path.name


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"key": 1}'], ids=["empty", "cut-off", "list", "number"])
def test_a_damaged_file_is_empty_with_one_warning(folder, text):
    fastest("key", sleeps(a=0.001, b=0.003))
    (path,) = folder.glob("*.json")
    path.write_text(text)
    measured_choice._known.clear()
    with pytest.warns(UserWarning, match="measured again") as caught:
        assert fastest("key", sleeps(a=0.003, b=0.001)) == "b"
    assert len(caught) == 1
    assert list(contents(folder).values()) == ["b"], "and is replaced"


def test_a_folder_that_cannot_be_written_is_told_once(folder, monkeypatch):
    file = folder / "file"
    file.write_text("")
    monkeypatch.setenv("MVC_CACHE_DIR", str(file / "below"))
    with pytest.warns(UserWarning, match="MVC_CACHE_DIR"):
        assert fastest("key", sleeps(a=0.003, b=0.001)) == "b"


def test_writers_at_once_lose_nothing(folder):
    code = "import sys; from mvc.passes.measured_choice import fastest; import time\n"
    code += "for i in range(20): fastest(f'{sys.argv[1]} {i}', lambda: {'a': lambda: None, 'b': lambda: None})"
    writers = [subprocess.Popen([sys.executable, "-c", code, name], cwd=ROOT) for name in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(contents(folder)) == 40
    assert not list(folder.glob("*.json-*")), "no temporary file is left"
