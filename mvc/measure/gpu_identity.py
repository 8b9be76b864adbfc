"""What decides a GPU's speed besides its name, by NVML."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mvc.measure import nvml


class Identity(NamedTuple):
    """What decides a GPU's speed besides its name; None where NVML does not tell.

    Attributes:
        driver: version.
        sm_clock, memory_clock: the highest, MHz.
        power_limit: W, as enforced.
        clocks_locked: True where application clocks other than the default are set. NVML has no way to ask for the
            locks of `nvidia-smi --lock-gpu-clocks`, so this is never False.
        ecc: whether the memory corrects errors, which costs bandwidth.
        mig: whether the GPU is divided into slices.
    """

    driver: str | None = None
    sm_clock: int | None = None
    memory_clock: int | None = None
    power_limit: int | None = None
    clocks_locked: bool | None = None
    ecc: bool | None = None
    mig: bool | None = None


UNKNOWN = Identity()


def identify(device: torch.device) -> Identity:
    """The identity of a CUDA device."""
    try:
        with nvml.open_gpu(device) as gpu:
            kinds = (gpu.pynvml.NVML_CLOCK_SM, gpu.pynvml.NVML_CLOCK_MEM)
            clocks = (gpu.read("highest clock", "nvmlDeviceGetMaxClockInfo", kind) for kind in kinds)
            limit = gpu.read("power limit", "nvmlDeviceGetEnforcedPowerLimit")
            return Identity(
                gpu.pynvml.nvmlSystemGetDriverVersion(),
                *clocks,
                power_limit=None if limit is None else round(limit / 1e3),
                clocks_locked=_application_clocks(gpu) or None,
                ecc=nvml.enabled(gpu.pynvml, "nvmlDeviceGetEccMode", gpu.handle),
                mig=nvml.enabled(gpu.pynvml, "nvmlDeviceGetMigMode", gpu.handle),
            )
    except nvml.Unavailable:
        return UNKNOWN


def _application_clocks(gpu: nvml.Gpu) -> bool:
    """Whether clocks are known to be set for applications, other than those that the GPU comes with."""
    names = (
        "nvmlDeviceGetApplicationsClock",
        "nvmlDeviceGetDefaultApplicationsClock",
    )  # go with the drivers of CUDA 14
    ours, default = (gpu.read("application clocks", name, gpu.pynvml.NVML_CLOCK_SM) for name in names)
    return None not in (ours, default) and ours != default
