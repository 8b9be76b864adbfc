"""The state of the processor that a measurement ran on."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch


class Peak(NamedTuple):
    """The most memory in use, in bytes.

    Attributes:
        used: on CUDA the memory of tensors, elsewhere the process's resident memory.
        reserved: what the allocator had obtained from the device; None on a CPU.
    """

    used: int
    reserved: int | None


def peak_memory(run: Callable[[], object], device: torch.device) -> Peak:
    """The peak during one run; since the start of the process where the system cannot reset the peak (Linux can)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what earlier calls and graphs had is not this run's
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return Peak(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5: reset VmHWM
    except OSError:
        import resource  # Unix alone

        run()
        unit = 1 if sys.platform == "darwin" else 1024
        return Peak(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, None)
    run()
    status = Path("/proc/self/status").read_text()
    return Peak(next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), None)


def private_memory(process: int, root: Path = Path("/proc")) -> int | None:
    """Bytes of memory that a process shares with no other; None where the system does not tell (Linux does)."""
    try:
        lines = (root / str(process) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def load_average() -> float | None:
    """The mean number of processes that wanted to run over the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def affinity() -> int | None:
    """How many processors this process may run on; None where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def processors() -> int:
    """How many processors this process may run on, or the machine has where the system does not tell that."""
    return affinity() or os.cpu_count() or 1


def frequency(cpuinfo: Path = Path("/proc/cpuinfo"), root: Path = Path("/sys/devices/system/cpu/cpu0")) -> float | None:
    """MHz of the first processor at this moment; None where it cannot be read."""
    current = root / "cpufreq" / "scaling_cur_freq"
    if current.is_file():
        return int(current.read_text()) / 1e3
    found = _cpuinfo("cpu MHz", cpuinfo)
    return float(found) if found else None


def nominal_frequency(name: str, root: Path = Path("/sys/devices/system/cpu/cpu0")) -> float | None:
    """MHz of this machine's processor, which has that name: what it is sold with, or the most that it is allowed; None
    where neither the system nor the name tells."""
    for file in ("base_frequency", "cpuinfo_max_freq"):
        if (path := root / "cpufreq" / file).is_file():
            return int(path.read_text()) / 1e3
    return named_frequency(name)


def named_frequency(processor: str) -> float | None:
    """MHz in a processor's name, as in "A CPU @ 2.60GHz"; None where it has none."""
    told = re.search(r"@ *([0-9.]+) *(G|M)Hz", processor)
    return told and float(told[1]) * (1e3 if told[2] == "G" else 1)


def memory() -> int | None:
    """Bytes of the machine's memory, as `whole_memory` states them; None where the system does not tell."""
    try:
        return whole_memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return None


def whole_memory(available: int) -> int:
    """The size that a memory was sold with: what is available to programs, which is a few per cent less and varies
    between equal machines, rounded up to an eighth of the largest power of two within it."""
    step = 2 ** (available.bit_length() - 1) // 8
    return -(-available // step) * step


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name."""
    return _cpuinfo("model name", cpuinfo) or platform.processor() or platform.machine()


def last_level_cache(root: Path = Path("/sys/devices/system/cpu/cpu0")) -> int | None:
    """Bytes of the last cache before the memory; None where the system does not tell."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [path.read_text().strip() for path in (root / "cache").glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=None)


def _cpuinfo(key: str, path: Path) -> str | None:
    if not path.is_file():
        return None
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), None)
