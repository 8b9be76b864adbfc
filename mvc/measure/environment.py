"""What figures depend on besides the program: the machine and the software on it."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import torch

from mvc import __version__
from mvc.compile import torch_private
from mvc.measure import gpu_identity, machine, nvml


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and its software; `mvc.compile.report.FIELDS` documents the fields under "environment".

    Any but the date and the device may be None in a recording that is older than the field or comes from elsewhere.
    """

    date: str
    mvc: str | None = None
    torch: str | None = None
    triton: str | None = None
    python: str | None = None
    compiler: str | None = None
    platform: str | None = None
    device: str
    gpu_bus_id: str | None = None
    cuda_devices: int | None = None
    driver: str | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    gpu_memory_bytes: int | None = None
    power_limit_watts: int | None = None
    clocks_locked: bool | None = None
    ecc: bool | None = None
    mig: bool | None = None
    cpu: str | None = None
    threads: int | None = None
    affinity: int | None = None
    nominal_mhz: float | None = None
    frequency_mhz: float | None = None
    cache_bytes: int | None = None
    memory_bytes: int | None = None
    load: float | None = None

    def __str__(self) -> str:
        """One line for people."""
        device = self.device
        if (self.cuda_devices or 1) > 1:
            device += f" at {self.gpu_bus_id}, one of {self.cuda_devices}"
        triton = f"triton {self.triton}" if self.triton else "no triton"
        threads = f"{'an unknown number of' if self.threads is None else self.threads} threads"
        if self.affinity is not None:
            threads += f" on {self.affinity} processors"
        if self.frequency_mhz is not None:
            threads += f" at {self.frequency_mhz:.0f} MHz"
        load = "" if self.load is None else f", load average {self.load:.1f}"
        software = "an unknown torch"
        if self.torch is not None:
            software = f"torch {self.torch}, {triton}, {self.compiler or 'no C++ compiler'}"
        return f"{device}, {threads}{load}, {software}"

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Environment:
        """The environment in a recording, which may be older than some fields and may hold other facts besides.

        Raises:
            TypeError: the date or the device is missing.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in facts.items() if name in names})


def environment(device: torch.device) -> Environment:
    """The environment of this process, for figures measured on a device."""
    try:
        import triton
    except ImportError:
        triton = None
    cuda = device.type == "cuda"
    gpu = gpu_identity.identify(device) if cuda else gpu_identity.UNKNOWN
    name = torch.cuda.get_device_name(device) if cuda else machine.processor()
    return Environment(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        mvc=__version__,
        torch=torch.__version__,
        triton=triton and triton.__version__,
        python=platform.python_version(),
        compiler=torch_private.cpp_compiler(),
        platform=f"{platform.system()} {platform.machine()}",
        device=f"{device.type}: {name}",
        gpu_bus_id=nvml.bus_id(device) if cuda else None,
        cuda_devices=torch.cuda.device_count() if cuda else None,
        driver=gpu.driver,
        sm_clock_mhz=gpu.sm_clock,
        memory_clock_mhz=gpu.memory_clock,
        gpu_memory_bytes=machine.whole_memory(torch.cuda.get_device_properties(device).total_memory) if cuda else None,
        power_limit_watts=gpu.power_limit,
        clocks_locked=gpu.clocks_locked,
        ecc=gpu.ecc,
        mig=gpu.mig,
        cpu=machine.processor(),
        threads=torch.get_num_threads(),
        affinity=machine.affinity(),
        nominal_mhz=machine.nominal_frequency(machine.processor()),
        frequency_mhz=machine.frequency(),
        cache_bytes=machine.last_level_cache(),
        memory_bytes=machine.memory(),
        load=machine.load_average(),
    )
