"""A GPU's state around and during a measurement, by NVML. What cannot be read is noted and stops nothing."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch

INTERVAL = 0.02  # seconds between samples
TOP_SHARE = 0.9  # of the run's highest clock: what ran slower is discarded

# Why a GPU's clock is not what it could be (NVML's nvmlClocksEventReasons), and which of it slows a measurement down.
REASONS = {
    0x001: "idle",
    0x002: "application clocks",
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "software thermal slowdown",
    0x040: "hardware thermal slowdown",
    0x080: "power brake",
    0x100: "display clocks",
}
THROTTLING = frozenset(REASONS[bit] for bit in (0x004, 0x008, 0x020, 0x040, 0x080))
POLICIES = {
    "power": "NVML_PERF_POLICY_POWER",
    "thermal": "NVML_PERF_POLICY_THERMAL",
    "board limit": "NVML_PERF_POLICY_BOARD_LIMIT",
    "reliability": "NVML_PERF_POLICY_RELIABILITY",
}


class Unavailable(Exception):
    """NVML cannot be used; the message says why."""


class Sample(NamedTuple):
    """One reading; a field that cannot be read is None.

    Attributes:
        time: of `time.perf_counter`, seconds.
        sm_clock, memory_clock: MHz.
        temperature: °C.
        power: W.
        reasons: why the clock is not higher, among `REASONS`.
    """

    time: float
    sm_clock: int | None
    memory_clock: int | None
    temperature: int | None
    power: float | None
    reasons: frozenset[str]


class Watch:
    """Samples a torch device for as long as the block lasts. On a CPU it does nothing.

    Attributes:
        samples: at least one at the start and one at the end; none without NVML.
        energy: joules over the block, or None.
        energy_source: "counter", "integrated power", or None.
        violations: seconds that the clock was held down over the block, by cause.
        notes: what could not be read and why, a sentence each.
    """

    def __init__(self, device: torch.device) -> None:
        self.samples: list[Sample] = []
        self.energy: float | None = None
        self.energy_source: str | None = None
        self.violations: dict[str, float] = {}
        self.notes: list[str] = []
        self._device = device
        self._done = threading.Event()
        self._cleanup = contextlib.ExitStack()
        self._gpu: Gpu | None = None

    def __enter__(self) -> Watch:
        if self._device.type == "cuda":
            if (visible := torch.cuda.device_count()) > 1:
                self.notes.append(f"of {visible} GPUs that torch sees, the one at {bus_id(self._device)} was measured")
            try:
                self._gpu = self._cleanup.enter_context(open_gpu(self._device))
            except Unavailable as error:
                self.notes.append(f"{error}: no clocks, no power; throttling is not seen, and nothing is discarded")
        if self._gpu is not None:
            self._before = self._gpu.energy(), self._gpu.violations()
            self.samples.append(self._gpu.sample())
            self._thread = threading.Thread(target=self._sample_until_done, daemon=True)
            self._thread.start()
        return self

    def _sample_until_done(self) -> None:
        while not self._done.wait(INTERVAL):
            self.samples.append(self._gpu.sample())

    def __exit__(self, *exception: object) -> None:
        with self._cleanup:
            if self._gpu is None:
                return
            self._done.set()
            self._thread.join()
            self.samples.append(self._gpu.sample())
            energy, violations = self._before
            after = self._gpu.energy()
            if energy is not None and after is not None:
                self.energy, self.energy_source = after - energy, "counter"
            elif (integral := _integral(self.samples)) is not None:
                self.energy, self.energy_source = integral, "integrated power"
            ended = self._gpu.violations()
            self.violations = {name: ended[name] - violations[name] for name in ended.keys() & violations.keys()}
            self.notes.extend(self._gpu.notes.values())


class Gpu:
    """One device of NVML. A query that it refuses is noted and not repeated."""

    def __init__(self, pynvml: ModuleType, handle: Any, *, slice_of: bool) -> None:
        self.pynvml, self.handle = pynvml, handle
        slice_note = "the device is a MIG slice: clocks, temperature, power and energy are the whole GPU's"
        self.notes: dict[str, str] = {"MIG": slice_note} if slice_of else {}
        self._reasons = "nvmlDeviceGetCurrentClocksEventReasons"

    def sample(self) -> Sample:
        power = self.read("power", "nvmlDeviceGetPowerUsage")
        return Sample(
            time.perf_counter(),
            self.read("SM clock", "nvmlDeviceGetClockInfo", self.pynvml.NVML_CLOCK_SM),
            self.read("memory clock", "nvmlDeviceGetClockInfo", self.pynvml.NVML_CLOCK_MEM),
            self.read("temperature", "nvmlDeviceGetTemperature", self.pynvml.NVML_TEMPERATURE_GPU),
            None if power is None else power / 1e3,
            self._clock_reasons(),
        )

    def energy(self) -> float | None:
        """Joules since the driver was loaded."""
        energy = self.read("energy counter", "nvmlDeviceGetTotalEnergyConsumption")
        return None if energy is None else energy / 1e3

    def violations(self) -> dict[str, float]:
        """Seconds that the clock has been held down, by cause."""
        read = {
            name: self.read(f"{name} violation time", "nvmlDeviceGetViolationStatus", getattr(self.pynvml, policy))
            for name, policy in POLICIES.items()
        }
        return {name: status.violationTime / 1e9 for name, status in read.items() if status is not None}

    def _clock_reasons(self) -> frozenset[str]:
        newer = self._reasons == "nvmlDeviceGetCurrentClocksEventReasons"
        bits = self.read("clock reasons", self._reasons)
        if bits is None and newer:  # drivers before 535 know them by their older name
            self._reasons = "nvmlDeviceGetCurrentClocksThrottleReasons"
            self.notes.pop("clock reasons")
            bits = self.read("clock reasons", self._reasons)
        return frozenset(name for bit, name in REASONS.items() if bits and bits & bit)

    def read(self, what: str, function: str, *arguments: Any) -> Any:
        """The answer of one of NVML's functions for this device, or None where it refuses, which `notes` then says."""
        if what in self.notes:
            return None
        try:
            return getattr(self.pynvml, function)(self.handle, *arguments)
        except (self.pynvml.NVMLError, AttributeError) as error:
            self.notes[what] = f"the GPU's {what} cannot be read ({error})"
            return None


@contextlib.contextmanager
def open_gpu(device: torch.device) -> Iterator[Gpu]:
    """NVML's handle of torch's device, found by UUID or else by its place on the bus, because the numbers of CUDA's
    devices change with CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.

    Raises:
        Unavailable: no package, no library, no driver, no permission, or no such device.
    """
    try:
        import pynvml  # of the package nvidia-ml-py; only where there is a GPU
    except ImportError as error:
        raise Unavailable("NVML is not installed (pip install nvidia-ml-py)") from error
    uuid = str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-").removeprefix("MIG-")
    try:
        pynvml.nvmlInit()
        try:
            yield _find(pynvml, uuid, bus_id(device))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise Unavailable(f"NVML cannot be used ({error})") from error


def _find(pynvml: ModuleType, uuid: str, bus: str) -> Gpu:
    missing = (pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT)
    for prefix in ("GPU-", "MIG-"):
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"{prefix}{uuid}".encode())
        except pynvml.NVMLError as error:
            if error.value not in missing:
                raise
            continue
        if prefix == "MIG-":
            return Gpu(pynvml, pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), slice_of=True)
        return Gpu(pynvml, handle, slice_of=_in_slices(pynvml, handle))
    handle = pynvml.nvmlDeviceGetHandleByPciBusId(bus.encode())
    return Gpu(pynvml, handle, slice_of=_in_slices(pynvml, handle))


def _in_slices(pynvml: ModuleType, handle: Any) -> bool:
    """Whether programs run on slices of the GPU (MIG): CUDA may give a slice the whole GPU's UUID and place."""
    return bool(enabled(pynvml, "nvmlDeviceGetMigMode", handle))


def enabled(pynvml: ModuleType, function: str, handle: Any) -> bool | None:
    """Whether a mode is on now; it is off on GPUs that do not have it, and None where NVML does not tell."""
    try:
        mode, _ = getattr(pynvml, function)(handle)
    except pynvml.NVMLError as error:
        return False if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED else None
    except AttributeError:
        return None
    return mode == pynvml.NVML_FEATURE_ENABLED


def bus_id(device: torch.device) -> str:
    """Where on the bus a CUDA device is, as NVML writes it, "00000000:17:00.0"; of a MIG slice, where its GPU is."""
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.pci_domain_id:08X}:{properties.pci_bus_id:02X}:{properties.pci_device_id:02X}.0"


def _integral(samples: Sequence[Sample]) -> float | None:
    """The integral of the power over the samples, by trapezoids, in joules."""
    known = [(sample.time, sample.power) for sample in samples if sample.power is not None]
    if len(known) < 2:
        return None
    return sum((t - s) * (p + q) / 2 for (s, p), (t, q) in itertools.pairwise(known))


def discards(spans: Sequence[tuple[float, float]], samples: Sequence[Sample]) -> list[str | None]:
    """Why each span of `time.perf_counter` must be discarded, or None.

    The readings within the span decide, with the last one before it and the first one after it.
    """
    times = [sample.time for sample in samples]
    top = max((sample.sm_clock for sample in samples if sample.sm_clock is not None), default=0)

    def reason(start: float, end: float) -> str | None:
        around = samples[max(0, bisect.bisect_left(times, start) - 1) : bisect.bisect_right(times, end) + 1]
        if throttled := sorted(frozenset().union(*(sample.reasons for sample in around)) & THROTTLING):
            return f"throttled: {', '.join(throttled)}"
        if any(sample.sm_clock is not None and sample.sm_clock < TOP_SHARE * top for sample in around):
            return f"SM clock below {TOP_SHARE:.0%} of the highest of this run"
        return None

    return [reason(start, end) for start, end in spans]


Range = tuple[float, float, float]  # least, median, most


@dataclasses.dataclass(frozen=True)
class Summary:
    """The summary of a `Watch`. What could not be read is None.

    Attributes:
        samples: how many there are.
        energy_joules, energy_source, violation_seconds, notes: as in `Watch`.
        reasons: why the clock was not higher, with the share of the samples.
    """

    samples: int
    sm_clock_mhz: Range | None
    memory_clock_mhz: Range | None
    temperature_celsius: Range | None
    power_watts: Range | None
    energy_joules: float | None
    energy_source: str | None
    reasons: dict[str, float]
    violation_seconds: dict[str, float]
    notes: list[str]

    def lines(self) -> Iterator[str]:
        """The summary for people."""
        ranges = {
            "MHz SM": self.sm_clock_mhz,
            "MHz memory": self.memory_clock_mhz,
            "°C": self.temperature_celsius,
            "W": self.power_watts,
        }
        known = [f"{range_[0]:.0f} to {range_[2]:.0f} {unit}" for unit, range_ in ranges.items() if range_ is not None]
        if known:
            yield f"GPU meanwhile: {', '.join(known)} ({self.samples} samples)"
        if self.reasons:
            yield "clock held by " + ", ".join(
                f"{name} {share:.0%} of the time" for name, share in self.reasons.items()
            )
        held = {name: seconds for name, seconds in self.violation_seconds.items() if seconds}
        if held:
            yield "held down for " + ", ".join(f"{seconds:.3f} s by {name}" for name, seconds in held.items())
        yield from self.notes


def summary(watch: Watch) -> Summary:
    def spread(field: str) -> Range | None:
        values = [value for sample in watch.samples if (value := getattr(sample, field)) is not None]
        return (min(values), statistics.median(values), max(values)) if values else None

    reasons = Counter(reason for sample in watch.samples for reason in sample.reasons)
    return Summary(
        samples=len(watch.samples),
        sm_clock_mhz=spread("sm_clock"),
        memory_clock_mhz=spread("memory_clock"),
        temperature_celsius=spread("temperature"),
        power_watts=spread("power"),
        energy_joules=watch.energy,
        energy_source=watch.energy_source,
        reasons={name: count / len(watch.samples) for name, count in reasons.items()},
        violation_seconds=watch.violations,
        notes=watch.notes,
    )
