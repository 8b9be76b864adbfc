"""A GPU's state by NVML, whose functions answer as recorded, and by the real one where there is a GPU."""

import threading
from types import SimpleNamespace

import pytest
import torch

from mvc.measure import nvml
from mvc.measure.nvml import Sample

pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
from fake_nvml import UUID, FakeNvml, error  # noqa: E402 - needs pynvml

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def sample(time, *, clock=1980, reasons=(), power=300.0):
    return Sample(time, clock, 3201, 40, power, frozenset(reasons))


def seen(monkeypatch, **answers):
    """A watch over an empty block."""
    fake = FakeNvml(**answers).install(monkeypatch)
    with nvml.Watch(CUDA) as watch:
        pass
    assert fake.calls.count("nvmlInit") == fake.calls.count("nvmlShutdown") + isinstance(
        answers.get("nvmlInit"), Exception
    )
    return watch


def test_a_cpu_is_not_watched(monkeypatch):
    fake = FakeNvml().install(monkeypatch)
    with nvml.Watch(CPU) as watch:
        pass
    assert (watch.samples, watch.notes, fake.calls) == ([], [], [])


def test_samples_have_every_field(monkeypatch):
    watch = seen(monkeypatch, nvmlDeviceGetCurrentClocksEventReasons=0x4 | 0x1)
    assert len(watch.samples) >= 2
    assert watch.samples[0][1:] == (1980, 3201, 41, 350.0, frozenset({"power cap", "idle"}))
    assert watch.notes == []
    assert [each.time for each in watch.samples] == sorted(each.time for each in watch.samples)


def test_it_samples_while_the_block_lasts(monkeypatch):
    monkeypatch.setattr(nvml, "INTERVAL", 0.001)
    enough, count = threading.Event(), []

    def temperature(handle, kind):
        count.append(1)
        if len(count) == 5:
            enough.set()
        return 41

    FakeNvml(nvmlDeviceGetTemperature=temperature).install(monkeypatch)
    with nvml.Watch(CUDA) as watch:
        assert enough.wait(30)
    assert len(watch.samples) >= 6


def test_energy_is_the_counters_difference(monkeypatch):
    watch = seen(monkeypatch)
    assert (watch.energy, watch.energy_source) == (5.0, "counter")


def test_without_a_counter_energy_is_integrated_power(monkeypatch):
    watch = seen(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=error("NOT_SUPPORTED"))
    times = [each.time for each in watch.samples]
    assert watch.energy == pytest.approx(350.0 * (times[-1] - times[0]))
    assert watch.energy_source == "integrated power"
    assert watch.notes == ["the GPU's energy counter cannot be read (Not Supported)"]


def test_integral_is_of_trapezoids():
    assert nvml._integral([sample(0, power=100), sample(2, power=200), sample(3, power=None)]) == 300


def test_without_power_there_is_no_energy(monkeypatch):
    refused = error("NO_PERMISSION")
    watch = seen(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=refused, nvmlDeviceGetPowerUsage=refused)
    assert (watch.energy, watch.energy_source) == (None, None)


def test_no_permission_for_one_field_leaves_the_others(monkeypatch):
    watch = seen(monkeypatch, nvmlDeviceGetPowerUsage=error("NO_PERMISSION"))
    assert watch.samples[0].power is None
    assert watch.samples[0].sm_clock == 1980
    assert watch.notes == ["the GPU's power cannot be read (Insufficient Permissions)"]


def test_violation_times_are_differences(monkeypatch):
    held = iter([0, 0, 0, 0, 250_000_000, 0, 0, 0])  # power first, before and after
    watch = seen(
        monkeypatch, nvmlDeviceGetViolationStatus=lambda handle, policy: SimpleNamespace(violationTime=next(held))
    )
    assert watch.violations == {"power": 0.25, "thermal": 0.0, "board limit": 0.0, "reliability": 0.0}


@pytest.mark.parametrize("refusal", [error("FUNCTION_NOT_FOUND"), AttributeError("no such function")], ids=repr)
def test_older_drivers_know_the_reasons_by_another_name(monkeypatch, refusal):
    watch = seen(
        monkeypatch,
        nvmlDeviceGetCurrentClocksEventReasons=refusal,
        nvmlDeviceGetCurrentClocksThrottleReasons=0x40,
    )
    assert watch.samples[0].reasons == {"hardware thermal slowdown"}
    assert watch.notes == []


def test_reasons_that_cannot_be_read_are_noted_once(monkeypatch):
    refused = error("NOT_SUPPORTED")
    watch = seen(
        monkeypatch,
        nvmlDeviceGetCurrentClocksEventReasons=refused,
        nvmlDeviceGetCurrentClocksThrottleReasons=refused,
    )
    assert watch.notes == ["the GPU's clock reasons cannot be read (Not Supported)"]


@pytest.mark.parametrize("code", ["LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED", "NO_PERMISSION"])
def test_without_nvml_one_sentence_is_all(monkeypatch, code):
    watch = seen(monkeypatch, nvmlInit=error(code))
    assert watch.samples == []
    (note,) = watch.notes
    assert note.startswith("NVML cannot be used (")
    assert nvml.discards([(0, 1)], watch.samples) == [None]


def test_the_device_is_found_by_uuid_and_not_by_number(monkeypatch):
    fake = FakeNvml().install(monkeypatch)
    with nvml.open_gpu(CUDA) as gpu:
        assert gpu.handle == f"GPU-{UUID}"
    assert "nvmlDeviceGetHandleByIndex" not in fake.calls


def test_an_unknown_uuid_is_looked_for_on_the_bus(monkeypatch):
    FakeNvml(nvmlDeviceGetHandleByUUID=error("NOT_FOUND")).install(monkeypatch)
    with nvml.open_gpu(CUDA) as gpu:
        assert gpu.handle == "00000000:17:00.0"


def test_a_device_that_nvml_does_not_know_is_said(monkeypatch):
    absent = error("NOT_FOUND")
    watch = seen(monkeypatch, nvmlDeviceGetHandleByUUID=absent, nvmlDeviceGetHandleByPciBusId=absent)
    assert watch.notes == [
        "NVML cannot be used (Not Found): no clocks, no power; throttling is not seen, and nothing is discarded"
    ]


def test_a_mig_slice_is_read_from_its_gpu_and_said(monkeypatch):
    def by_uuid(uuid):
        if not uuid.startswith(b"MIG-"):
            raise error("NOT_FOUND")
        return "slice"

    fake = FakeNvml(nvmlDeviceGetHandleByUUID=by_uuid).install(monkeypatch)
    with nvml.Watch(CUDA) as watch:
        assert watch._gpu.handle == "parent of slice"
    assert "the whole GPU's" in watch.notes[0]
    assert fake.calls[-1] == "nvmlShutdown"


@pytest.mark.parametrize("known", [True, False], ids=["by its UUID", "on the bus"])
def test_a_gpu_in_slices_is_said_however_it_was_found(known, monkeypatch):
    by_uuid = {} if known else {"nvmlDeviceGetHandleByUUID": error("NOT_FOUND")}
    (note,) = seen(monkeypatch, nvmlDeviceGetMigMode=[1, 1], **by_uuid).notes
    assert note.startswith("the device is a MIG slice")


@pytest.mark.parametrize("answer", [error("NOT_SUPPORTED"), AttributeError("no such function"), [0, 1]], ids=repr)
def test_a_whole_gpu_is_no_slice(answer, monkeypatch):
    assert seen(monkeypatch, nvmlDeviceGetMigMode=answer).notes == []


@pytest.mark.parametrize("more", [{}, {"nvmlInit": error("DRIVER_NOT_LOADED")}], ids=["NVML", "no NVML"])
def test_of_several_gpus_the_measured_one_is_named(more, monkeypatch):
    fake = FakeNvml(**more).install(monkeypatch)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with nvml.Watch(CUDA) as watch:
        pass
    assert fake.calls
    assert watch.notes[0] == "of 4 GPUs that torch sees, the one at 00000000:17:00.0 was measured"
    assert watch.notes[0] in nvml.summary(watch).lines()


def test_an_exception_in_the_block_ends_the_sampling(monkeypatch):
    fake = FakeNvml().install(monkeypatch)
    watch = nvml.Watch(CUDA)
    with pytest.raises(KeyError), watch:
        raise KeyError
    assert not watch._thread.is_alive()
    assert fake.calls[-1] == "nvmlShutdown"


def test_bus_id_is_as_nvml_writes_it(monkeypatch):
    FakeNvml().install(monkeypatch)
    assert nvml.bus_id(CUDA) == "00000000:17:00.0"


@pytest.mark.parametrize("reason", sorted(nvml.THROTTLING))
def test_throttled_spans_are_discarded(reason):
    samples = [sample(0), sample(1), sample(2, reasons=[reason, "idle"]), sample(3), sample(4), sample(5)]
    found = nvml.discards([(0.1, 0.9), (1.1, 2.1), (2.2, 2.4), (3.1, 3.2), (4.1, 4.9)], samples)
    assert found == [None, *[f"throttled: {reason}"] * 2, None, None]


def test_what_does_not_slow_down_discards_nothing():
    calm = set(nvml.REASONS.values()) - nvml.THROTTLING
    assert nvml.discards([(0.1, 0.2)], [sample(0, reasons=calm), sample(1, reasons=calm)]) == [None]


def test_low_clocks_are_discarded():
    samples = [sample(0, clock=2000), sample(1, clock=1800), sample(2, clock=1799), sample(3, clock=2000)]
    assert nvml.discards([(0.1, 0.9), (1.1, 1.9)], samples) == [None, "SM clock below 90% of the highest of this run"]


def test_summary_and_its_lines(monkeypatch):
    watch = seen(monkeypatch, nvmlDeviceGetCurrentClocksEventReasons=0x4)
    watch.violations = {"power": 0.5, "thermal": 0.0}
    summary = nvml.summary(watch)
    assert summary.sm_clock_mhz == (1980, 1980, 1980)
    assert summary.reasons == {"power cap": 1.0}
    text = "\n".join(summary.lines())
    for part in ("1980 to 1980 MHz SM", "350 to 350 W", "power cap 100% of the time", "0.500 s by power"):
        assert part in text
    assert "thermal" not in text


def test_summary_of_nothing_has_its_note_alone(monkeypatch):
    watch = seen(monkeypatch, nvmlInit=error("LIBRARY_NOT_FOUND"))
    assert list(nvml.summary(watch).lines()) == watch.notes


def test_the_names_that_are_called_exist():
    for name in FakeNvml().answers:
        assert callable(getattr(pynvml, name)), name


REASONS = {
    "GpuIdle": "idle",
    "ApplicationsClocksSetting": "application clocks",
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "software thermal slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
    "DisplayClockSetting": "display clocks",
}


def test_reasons_are_nvmls():
    bits = {getattr(pynvml, f"nvmlClocksEventReason{name}"): meaning for name, meaning in REASONS.items()}
    assert bits == nvml.REASONS
    assert sum(bits) == pynvml.nvmlClocksEventReasonAll, "NVML knows no others"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_real_one_answers():
    with nvml.Watch(CUDA) as watch:
        torch.zeros(2**20, device="cuda").sum().item()
    assert watch.samples[0].sm_clock > 0
