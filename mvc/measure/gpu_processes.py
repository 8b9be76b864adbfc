"""Which other processes compute on a GPU while something is measured on it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from mvc.measure import nvml

HOST_NAMESPACE = "pid:[4026531836]"  # of process ids: what Linux calls the one that the machine started with
CONTEXT = 128 * 2**20  # bytes: a process that computes has more of the GPU's memory


def other_processes(device: torch.device, proc: Path = Path("/proc")) -> list[str]:
    """Who else computes on a CUDA device, a sentence each; and what NVML does not tell of that. Empty on a CPU.

    Call it before this process starts others that compute, or they are found where process ids are not visible. NVML
    gives the ids of the host, which cannot be told apart in a container: there the processes are counted.
    """
    if device.type != "cuda":
        return []
    try:
        with nvml.open_gpu(device) as gpu:
            found = gpu.read("processes", "nvmlDeviceGetComputeRunningProcesses")
            # This version of the answer leaves out what the driver reserves for itself.
            memory = gpu.read("memory", "nvmlDeviceGetMemoryInfo", gpu.pynvml.nvmlMemory_v2)
    except nvml.Unavailable as error:
        return [f"{error}: whether other processes use the GPU is not known"]
    if found is None:
        return [f"{gpu.notes['processes']}: whether others use it is not known"]
    processes = {each.pid: each.usedGpuMemory or 0 for each in found}
    used = memory.used if memory else 0
    if not _host_ids(proc):
        count = len(processes) - (torch.cuda.is_initialized() and len(processes) > 0)
        named = [f"{count} other {'process uses' if count == 1 else 'processes use'} the GPU (ids of the host, which"
                 " this container does not see)"] if count else []  # fmt: skip
    else:
        others = {pid: size for pid, size in processes.items() if not _ours(pid, proc)}
        named = [
            f"process {pid}{_name(pid, proc)} also uses the GPU, {size / 2**30:.1f} GiB of it"
            for pid, size in others.items()
        ]
    if not processes and not torch.cuda.is_initialized() and used > CONTEXT:
        return [f"{used / 2**30:.1f} GiB of the GPU's memory are in use by processes that NVML does not name"]
    return named


def _host_ids(proc: Path) -> bool:
    """Whether this process sees processes by the ids that the host and NVML know."""
    try:
        return os.readlink(proc / "self" / "ns" / "pid") == HOST_NAMESPACE
    except OSError:  # not Linux, which alone has containers
        return not proc.is_dir()


def _ours(pid: int, proc: Path) -> bool:
    """Whether a process is this one or was started by it, or by a process that it started."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            status = (proc / str(pid) / "status").read_text()
        except OSError:
            return False
        pid = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:")), 0)
    return False


def _name(pid: int, proc: Path) -> str:
    try:
        return f" ({(proc / str(pid) / 'comm').read_text().strip()})"
    except OSError:
        return ""
