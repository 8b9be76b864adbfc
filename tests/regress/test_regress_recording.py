"""When two recordings come from one kind of machine, what may differ, and what is not known."""

import dataclasses

import pytest
from made_up_recordings import MACHINE

from mvc.errors import UserError
from mvc.measure.environment import Environment
from mvc.regress.cases import Case
from mvc.regress.recordings.recording import (
    COMPARABLE,
    OF_A_GPU,
    RecordedCase,
    Recording,
    differences,
    fields_across,
    fingerprint,
    ignored,
    order,
    unknown,
)
from mvc.regress.sources.version import Version
from mvc.regress.worker import Facts

GIB = 2**30
CARD = dataclasses.replace(
    MACHINE,
    device="cuda: A Card 80GB",
    driver="580.65",
    gpu_memory_bytes=80 * GIB,
    power_limit_watts=700,
    clocks_locked=True,
    ecc=True,
    mig=False,
    threads=8,
    nominal_mhz=2600.0,
    cache_bytes=32 * 2**20,
    memory_bytes=128 * GIB,
)


def recording(**facts):
    return Recording(dataclasses.replace(CARD, **facts), Version(asked="a.json"), {})


@pytest.mark.parametrize("field", COMPARABLE)
def test_each_field_that_decides_speed_tells_machines_apart(field):
    value = getattr(CARD, field)
    other = not value if isinstance(value, bool) else value * 2
    (line,) = differences(recording(), recording(**{field: other}))
    assert line.startswith(f"{field}: ")
    assert differences(recording(), recording(**{field: other}), across={field}) == []
    assert differences(recording(), recording()) == []


@pytest.mark.parametrize("field", [name for name in COMPARABLE if name not in ("device", "triton", "compiler")])
def test_what_a_side_does_not_know_is_said_and_is_no_difference(field):
    lacks = recording(**{field: None})
    assert differences(recording(), lacks) == []
    assert unknown(recording(), lacks) == [f"not known of head: {field}"]
    assert unknown(lacks, recording()) == [f"not known of base: {field}"]
    assert unknown(lacks, lacks) == [f"not known of both sides: {field}"]
    assert unknown(recording(), recording()) == []


@pytest.mark.parametrize("field", ["triton", "compiler"])
def test_software_that_is_not_there_is_known(field):
    lacks = recording(**{field: None})
    assert unknown(recording(), lacks) == []
    assert differences(recording(), lacks) == [f"{field}: {getattr(CARD, field)} against none"]
    foreign = recording(torch=None, **{field: None})
    assert differences(recording(), foreign) == [], "of a recording by another tool, not even that"
    assert any(field in line for line in unknown(recording(), foreign))


def test_of_a_cpu_nothing_is_asked_of_a_gpu():
    cpu = recording(device="cpu: A CPU", **dict.fromkeys(OF_A_GPU))
    assert unknown(cpu, cpu) == []
    assert differences(cpu, recording()) == ["device: cpu: A CPU against cuda: A Card 80GB"]


def seen(*clocks):
    """A recording of a card whose locks are not known, with the highest clocks of its processes."""
    facts = [Facts(exact={}, gpu={"sm_clock_mhz": clock and [300, clock, clock]}) for clock in clocks]
    case = RecordedCase(Case("scan", kind="scan"), {"time": "graph"}, [], facts)
    return recording(clocks_locked=None)._replace(cases={"scan": case})


def test_clocks_that_were_seen_stand_for_locks_that_nvml_does_not_tell():
    assert unknown(seen(1980, 1905), seen(1950, None)) == []
    (line,) = unknown(seen(1410, 1410), seen(1980, 1500))
    assert line == "the GPU reached 1410 MHz in base and 1980 MHz in head: clocks may be locked"
    assert unknown(seen(1980), seen(None)) == ["not known of both sides: clocks_locked"]


def test_what_may_differ_is_told():
    newer = recording(torch="2.15.0", driver="590", memory_bytes=256 * GIB)
    across = fields_across("torch, driver")
    assert ignored(recording(), newer, across) == ["driver 580.65 → 590", "torch 2.14.1 → 2.15.0"]
    assert differences(recording(), newer, across) == ["memory_bytes: 131,072 MiB against 262,144 MiB"]
    with pytest.raises(UserError, match="--across has 'drivers'; it may name device, driver, "):
        fields_across("drivers")


def test_the_folder_of_a_kind_of_machine_is_readable():
    assert fingerprint(CARD) == "cuda-a-card-80gb-8-threads-80-gib-700-w-16-processors"
    lesser = dataclasses.replace(CARD, gpu_memory_bytes=40 * GIB, power_limit_watts=400)
    assert fingerprint(lesser) == "cuda-a-card-80gb-8-threads-40-gib-400-w-16-processors"
    assert fingerprint(Environment(date="", device="cpu: A/B (C)")) == "cpu-a-b-c"


def test_times_of_every_form_are_in_one_order():
    def committed(time):
        return recording()._replace(version=Version(asked="a.json", time=time))

    times = ("2026-01-01T00:00:00Z", "2026-01-01T02:30:00+02:00", "2026-01-01T01:00:00")
    assert sorted(times, key=lambda time: order(committed(time)), reverse=True) == [*reversed(times)]
