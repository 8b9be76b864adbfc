"""Measured choices: the faster call wins, the answer is kept, and a bad or busy file does no harm."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

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


CUDA = torch.device("cuda", 1)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU whose calls advance a clock of its own: `gpu.call(seconds)` makes one, `gpu.launch` is what the host adds
    where the device is idle."""

    class Gpu:
        now = idle_until = 0.0
        launch = 0.5
        captures = None

        def call(self, seconds):
            return lambda: self.run(seconds)

        def run(self, seconds):
            if self.captures is not None:
                self.captures.append(seconds)
            else:
                self.now += seconds + self.launch

    gpu = Gpu()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = gpu.now

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return 1e3 * (end.at - self.at)

    def captured(call, device):
        assert device == CUDA
        gpu.captures = []
        try:
            call()
        finally:
            calls, gpu.captures = gpu.captures, None

        def replay():
            gpu.now += sum(calls)

        return replay

    for name, stub in {
        "is_available": lambda: True,
        "get_device_name": lambda device: "NVIDIA  Card 7/x",
        "get_device_capability": lambda device: (9, 0),
        "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=400),
        "device": lambda device: contextlib.nullcontext(),
        "stream": lambda stream: contextlib.nullcontext(),
        "Stream": lambda device: SimpleNamespace(wait_stream=lambda other: None),
        "current_stream": lambda device: SimpleNamespace(wait_stream=lambda other: None),
        "Event": Event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stub)
    monkeypatch.setattr(measured_choice.torch_private, "captured", captured)
    return gpu


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [({"library": 4e-5, "own": 3e-5}, "own"), ({"library": 4e-5, "own": 3.95e-5}, "library")],
    ids=["own", "library"],
)
def test_on_a_gpu_the_device_s_time_decides(gpu, folder, seconds, wanted):
    """Launches take a thousand times as long as what is launched, and are not in the figure."""
    assert fastest("key", lambda: {name: gpu.call(s) for name, s in seconds.items()}, CUDA) == wanted
    (path,) = folder.glob("*.json")
    assert path.name.startswith(f"library-choice-{torch.__version__}-NVIDIA-Card-7-x-sm_90-")
    assert contents(folder) == {"key": wanted}
    gpu.launch = 0.0
    clock = measured_choice._replay_clock(gpu.call(1e-4), CUDA)
    assert clock() == pytest.approx(1e-4)


def test_on_a_gpu_other_sources_have_other_tiles(gpu, monkeypatch):
    """Choices of one version are none of another's, which may have other kernels at the same index."""
    assert fastest("key", lambda: {"library": gpu.call(4e-5), "3": gpu.call(3e-5)}, CUDA) == "3"
    monkeypatch.setattr(measured_choice, "shared_sources", lambda: b"another version")
    assert fastest("key", lambda: {"library": gpu.call(3e-5), "3": gpu.call(4e-5)}, CUDA) == "library"


def fails():
    raise RuntimeError("out of resource: shared memory\nand more")


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (lambda gpu: {"library": gpu.call(4e-5), "broken": fails, "own": gpu.call(3e-5)}, "own"),
        (lambda gpu: {"library": fails, "own": gpu.call(3e-5)}, "library"),
        (lambda gpu: fails(), "library"),
    ],
    ids=["a candidate", "the library", "inputs"],
)
def test_on_a_gpu_a_call_that_raises_is_left_out_and_tried_again(gpu, folder, runs, wanted):
    with pytest.warns(UserWarning, match="left out .* out of resource: shared memory$"):
        assert fastest("key", lambda: runs(gpu), CUDA) == wanted
    assert not list(folder.glob("*.json"))
    assert fastest("key", lambda: pytest.fail("measured twice in one process"), CUDA) == wanted


def test_where_no_device_can_run_nothing_is_timed(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fastest("key", lambda: pytest.fail("made inputs"), CUDA) == "library"
    assert not list(folder.glob("*.json"))


@pytest.mark.parametrize(
    ("elements", "sets"),
    [(1000, 1), (50, 1 + 800 // 200), (1, measured_choice.MOST_INPUTS)],
    ids=["larger than the cache", "smaller", "tiny"],
)
def test_inputs_in_turn_are_more_than_the_cache_holds(gpu, elements, sets):
    inputs = measured_choice.rotated(lambda: (torch.zeros(elements), None), CUDA)
    seen = [next(inputs) for _ in range(2 * sets)]
    assert len({id(x) for x, _ in seen}) == sets
    assert seen[0][0] is seen[sets][0]
