"""Who else computes on a GPU, from NVML's answers and from a folder that stands for /proc."""

import os
from types import SimpleNamespace

import pytest
import torch

from mvc.measure.gpu_processes import HOST_NAMESPACE, other_processes

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
from fake_nvml import FakeNvml, error

CUDA = torch.device("cuda")
GIB = 2**30


@pytest.fixture
def proc(tmp_path):
    """A /proc with this process, a child of its child 11 (12), and a stranger (4242)."""
    for pid, parent, name in (
        (os.getpid(), 1, "python"),
        (11, os.getpid(), "sh"),
        (12, 11, "python"),
        (42, 1, "train"),
    ):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "status").write_text(f"Name:\t{name}\nPPid:\t{parent}\n")
        (folder / "comm").write_text(f"{name}\n")
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to(HOST_NAMESPACE)
    return tmp_path


def contained(proc):
    (proc / "self" / "ns" / "pid").unlink()
    (proc / "self" / "ns" / "pid").symlink_to("pid:[4026532000]")


def found(monkeypatch, proc, *pids, used=0, **answers):
    processes = [SimpleNamespace(pid=pid, usedGpuMemory=3 * GIB) for pid in pids]
    answers = {
        "nvmlDeviceGetComputeRunningProcesses": processes,
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=used),
    } | answers
    FakeNvml(**answers).install(monkeypatch)
    return other_processes(CUDA, proc)


def test_strangers_are_named_and_relatives_are_not(monkeypatch, proc):
    assert found(monkeypatch, proc, os.getpid(), 12) == []
    assert found(monkeypatch, proc, 12, 42, 43) == [
        "process 42 (train) also uses the GPU, 3.0 GiB of it",
        "process 43 also uses the GPU, 3.0 GiB of it",
    ]


def test_in_a_container_they_are_counted(monkeypatch, proc):
    contained(proc)
    why = "(ids of the host, which this container does not see)"
    assert found(monkeypatch, proc, 12) == [f"1 other process uses the GPU {why}"]
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    assert found(monkeypatch, proc, 12, 13, 14) == [f"2 other processes use the GPU {why}"]
    assert found(monkeypatch, proc, 12) == [], "this process itself"
    assert found(monkeypatch, proc) == []


def test_memory_in_use_tells_of_processes_that_nvml_hides(monkeypatch, proc):
    assert found(monkeypatch, proc, used=5 * 2**20) == []
    hidden = ["3.0 GiB of the GPU's memory are in use by processes that NVML does not name"]
    assert found(monkeypatch, proc, used=3 * GIB) == hidden
    assert found(monkeypatch, proc, nvmlDeviceGetMemoryInfo=error("FUNCTION_NOT_FOUND")) == []


def test_what_is_not_known_is_said(monkeypatch, proc):
    (line,) = found(monkeypatch, proc, nvmlDeviceGetComputeRunningProcesses=error("NO_PERMISSION"))
    assert line == "the GPU's processes cannot be read (Insufficient Permissions): whether others use it is not known"
    (line,) = found(monkeypatch, proc, nvmlInit=error("DRIVER_NOT_LOADED"))
    assert line == "NVML cannot be used (Driver Not Loaded): whether other processes use the GPU is not known"
    assert other_processes(torch.device("cpu"), proc) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_real_one_answers():
    torch.zeros(1, device="cuda")
    assert not any("is not known" in line for line in other_processes(CUDA))
