"""What a report says of the machine, and which columns its table has."""

import dataclasses

import pytest
import torch
from fake_nvml import FakeNvml

from mvc.compile import report
from mvc.measure.device_profile import DeviceProfile, Kernel
from mvc.measure.environment import Environment, environment
from mvc.measure.ladder import Ladder, Row
from mvc.measure.profiler import Measurement, Timing
from mvc.regress.recordings.recording import OF_A_GPU

OF_GPUS = ("call_median_seconds", "peak_reserved_bytes", "energy_joules_per_image")
ROW = Row(**dict.fromkeys(report.ROW, 0.5) | dict.fromkeys(OF_GPUS))


def test_the_environment_is_documented_and_on_a_cpu_has_no_gpu():
    known = environment(torch.device("cpu"))
    documented = {key for key in report.FIELDS if key.startswith("env")}
    assert {f"environment.{field.name}" for field in dataclasses.fields(known)} == documented
    of_gpus = ("gpu_bus_id", "cuda_devices", *OF_A_GPU)
    assert {getattr(known, key) for key in of_gpus} == {None}


@pytest.fixture
def gpu_environment(monkeypatch):
    FakeNvml().install(monkeypatch)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "A Card")
    return environment(torch.device("cuda"))


def test_the_environment_names_the_gpu_that_was_measured(gpu_environment):
    assert gpu_environment.gpu_bus_id == "00000000:17:00.0"
    assert gpu_environment.cuda_devices == 1
    assert str(gpu_environment).startswith("cuda: A Card, ")


def test_the_environment_has_what_decides_a_gpus_speed(gpu_environment):
    of_gpu = [getattr(gpu_environment, key) for key in OF_A_GPU]
    assert of_gpu == ["580.65", 1985, 3202, 80 * 2**30, 700, None, True, False]


def test_of_several_gpus_the_line_says_which(gpu_environment):
    several = dataclasses.replace(gpu_environment, cuda_devices=8)
    assert str(several).startswith("cuda: A Card at 00000000:17:00.0, one of 8, ")


def test_recordings_from_before_the_field_have_a_line(gpu_environment):
    facts = dataclasses.asdict(gpu_environment)
    older = {name: fact for name, fact in facts.items() if name not in ("gpu_bus_id", "cuda_devices")}
    assert str(Environment.from_json({"node": "", **older})) == str(gpu_environment)
    with pytest.raises(TypeError, match="device"):
        Environment.from_json({name: fact for name, fact in facts.items() if name != "device"})


def test_an_environment_of_which_little_is_known_has_a_line():
    line = str(Environment(date="2026-01-01", device="cpu: A B"))
    assert line == "cpu: A B, an unknown number of threads, an unknown torch"


@pytest.mark.parametrize(
    ("key", "value", "header", "cell"),
    [
        ("peak_reserved_bytes", 3 * 2**20, "reserved MiB", "3"),
        ("energy_joules_per_image", 0.125, "J/image", "0.125"),
    ],
)
def test_what_only_a_gpu_tells_has_a_column_where_there_is_any(key, value, header, cell):
    rows = {"eager": ROW, "mvc": ROW}
    assert header not in report.rungs_table(rows)
    headers, _, eager, mvc = report.rungs_table(rows | {"mvc": dataclasses.replace(ROW, **{key: value})}).splitlines()
    assert header in headers
    assert cell in mvc.split()
    assert cell not in eager.split()
    assert len(mvc.split()) == len(eager.split()) + 1, "blank where it is not known"


def test_device_and_call_stand_side_by_side_with_the_digits_that_they_have():
    assert "call ms" not in report.rungs_table({"eager": ROW})
    row = dataclasses.replace(ROW, median_seconds=0.8627e-3, call_median_seconds=23.456e-3, p90_seconds=1.2345)
    headers, _, eager = report.rungs_table({"eager": row}).splitlines()
    assert "call ms" in headers
    assert {"0.863", "23.46", "1234.5"} <= set(eager.split())


def test_families_of_kernels_have_their_share_and_gaps_come_last():
    kernels = (Kernel("nvjet", 12.0, 3e-3), Kernel("forward_kernel", 6.5, 1e-3))
    table = report.families_table(DeviceProfile(kernels, 5e-4))
    assert [line.split() for line in table.splitlines()[2:]] == [
        ["matrix", "product", "12", "3.000", "75.0%"],
        ["scan", "6.5", "1.000", "25.0%"],
        ["gaps", "0.500"],
    ]


def test_the_clock_its_reason_and_what_the_host_limits_are_said():
    timings, calls = ({name: Timing((seconds,) * 9) for name in ("eager", "compiled")} for seconds in (1.0, 2.0))
    measurement = Measurement(
        timings,
        calls,
        discarded={"throttled": 3},
        clock="kernels",
        clock_reason="compiled replays CUDA graphs itself",
        flushed=False,
        not_warm=("compiled",),
        gpu=None,
    )
    first, *rest = report._conditions(Ladder(measurement, {}, 1.0, 1.0, {}, None, 2, 2**20))
    assert first.startswith(
        "9 interleaved rounds, 2 inputs in turn (1 MiB); device time, the sum of one call's kernels"
    )
    assert rest == [
        "not timed by the replay of CUDA graphs: compiled replays CUDA graphs itself",
        "limited by the host, since a call takes more than 1.2 times its time on the device: eager, compiled",
        "3 rounds discarded: throttled",
        "had not settled when the rounds began: compiled",
    ]
