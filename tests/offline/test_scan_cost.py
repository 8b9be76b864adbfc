"""The cost of a scan's kernel from its machine code: what is read, what follows from it, and how far off it is."""

from __future__ import annotations

import json
import re

import pytest
import torch
from scan_cases import needs_triton

from bench import calibrate_scan
from bench.calibrate_scan import accuracy, groups, rows
from mvc.errors import UserError
from mvc.offline import machine_code, scan_cost
from mvc.offline.machine_code import NONE, Code, Event, Stretch, read, read_ahead
from mvc.offline.scan_cost import Constants, Geometry, explain, predict
from mvc.offline.targets import find
from mvc.offline.torch_private import compiled_launch

H200 = find("h200")
COMMITTED = json.loads(scan_cost.CONSTANTS.read_text())
CONSTANTS = Constants(memory=500, cache=200, barrier=40, special=20, issue=1.5, lanes=1.5, fixed=2)
TEXT = json.loads(calibrate_scan.CODE.read_text())
SAMPLE = [
    ".L_x_1:",  # outer loop: 0 to 8
    ("S2R R0, SR_TID.X", 1, 0, 0),
    ("LDG.E.64 R2, desc[UR4][R8.64]", 2, 1, 1),
    ("@!P1 LDG.E R4, desc[UR4][R8.64+0x40]", 1, 2, 0),  # in the line of the one before
    ("IADD3 R8, R8, 0x1, RZ", 4, NONE, 0),
    ("LDG.E R5, desc[UR4][R8.64+0x40]", 1, 2, 0),  # from another address
    ".L_x_2:",  # inner loop: 5 to 7
    ("MUFU.EX2 R6, R2", 1, 3, 0b010),
    ("@P0 BRA `(.L_x_2)", 5, NONE, 0),
    ("@P2 BRA `(.L_x_1)", 5, NONE, 0b100),
    ("STS.128 [R7], R4", 1, NONE, 0b1000),
    ("BAR.SYNC.DEFER_BLOCKING 0x0", 6, NONE, 0),
    ("LDS.64 R4, [R7]", 1, 4, 0),
    ("FADD R4, R4, R4", 2, NONE, 0b10000),
    ("@P0 EXIT", 1, NONE, 0),
    ("STG.E desc[UR4][R8.64], R4", 1, NONE, 0),
    ("EXIT", 5, NONE, 0),
    ".L_x_3:",
    ("BRA `(.L_x_3)", 0, NONE, 0),
]  # fmt: skip


def printed(lines) -> str:
    """As nvdisasm does; of an instruction its stall, the scoreboard that it sets and those that it waits for."""
    text, address = "", 0
    for line in lines:
        if isinstance(line, str):
            text += f"{line}\n"
            continue
        instruction, stall, sets, waits = line
        control = stall | sets << 5 | NONE << 8 | waits << 11
        text += f"        /*{address:04x}*/     {instruction} ;     /* 0x{address:016x} */\n"
        text += f"                              /* 0x{control << 41:016x} */\n"
        address += 16
    return text


@pytest.fixture(scope="module")
def sample() -> Code:
    return read(printed(SAMPLE), registers=40, shared=512)


def test_loops_cut_the_code_into_stretches(sample):
    assert sample.loops == 2
    assert [(each.loop, each.whole) for each in sample.stretches] == [(0, False), (1, True), (0, False), (None, False)]
    assert [sum(each.pipes.values()) for each in sample.stretches] == [5, 2, 1, 7]  # not what lies behind the last EXIT
    assert sample.stretches[0].pipes == {"uniform": 1, "global": 3, "integer": 1}


def test_events_are_what_scoreboards_and_scarce_units_see(sample):
    first, inner, outer, last = (each.events for each in sample.stretches)
    assert first == (
        Event("constant", 0, 0, 1, 1),
        Event("far", 1, 1, 2, 1),
        Event("near", 0, 2, 5, 2),
        Event("far", 0, 2, 1, 1),
    )
    assert inner == (Event("special", 0b010, 3, 6, 2),)
    assert outer == (Event("plain", 0b100, NONE, 5, 1),)
    kinds = ["shared 16", "barrier", "shared 8", "plain", "store", "plain"]
    assert [event.kind for event in last] == kinds[:5]


def test_how_far_ahead_a_load_is_read():
    load, other, wait = Event("far", 0, 2, 3, 1), Event("plain", 0b010, NONE, 40, 20), Event("plain", 0b100, NONE, 5, 1)
    assert read_ahead(Stretch(None, False, {}, (load, other, wait))) == [43]
    assert read_ahead(Stretch(0, True, {}, (wait, load, other))) == [43]  # in the next round


def test_text_without_encodings_is_refused():
    with pytest.raises(UserError, match="nvdisasm -c -hex"):
        read("        /*0000*/     EXIT ;\n", registers=1, shared=0)


def looping(*events: Event, registers: int = 32) -> Code:
    return Code(registers, 0, 0, (Stretch(0, True, {}, events),))


def cycles(code: Code, geometry: Geometry) -> float:
    seconds = predict(code, geometry, H200, CONSTANTS) - CONSTANTS.fixed * 1e-6
    return seconds * H200.clock


ONE = Geometry(programs=1, warps=1, iterations=[1], bytes_moved=0)
PLAIN = Event("plain", 0, NONE, 40, 30)
LOAD, USE = Event("far", 0, 0, 1, 1), Event("plain", 1, NONE, 20, 20)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((PLAIN,), 40),
        ((LOAD, USE), 200 + CONSTANTS.lanes + 20),  # what moves nothing is in the cache
        ((LOAD, PLAIN, USE), 200 + CONSTANTS.lanes + 20),  # hidden behind the wait
        ((LOAD, PLAIN._replace(cycles=300), USE), 1 + 300 + 20),
        ((PLAIN, Event("barrier", 0, NONE, 1, 1)), 40 + 1 + 40),
        ((Event("special", 0, NONE, 1, 1),) * 10, 80),
        ((Event("shared 16", 0, NONE, 1, 1),) * 10, 40 * CONSTANTS.lanes),
    ],
)  # fmt: skip
def test_one_warp_waits_for_what_it_needs(events, expected):
    once, twice = (cycles(looping(*events), ONE._replace(iterations=[times])) for times in (1000, 2000))
    assert (twice - once) / 1000 == pytest.approx(expected, rel=0.01)


def test_loads_come_from_memory_where_the_cache_is_too_small():
    long = ONE._replace(iterations=[1000])
    times = [cycles(looping(LOAD, USE), long._replace(bytes_moved=moved)) for moved in (H200.l2 // 10, H200.l2 // 5)]
    assert times[1] - times[0] == pytest.approx(1000 * (CONSTANTS.memory - CONSTANTS.cache))


def test_loads_along_the_length_meet_their_line_again():
    times = [cycles(looping(LOAD, USE), ONE._replace(reuse=reuse)) for reuse in (1, 4)]
    assert times[0] - times[1] == pytest.approx(0.75 * (CONSTANTS.cache - scan_cost.LATENCIES["near"]))


def test_warps_hide_waits_but_not_work():
    waiting, working = looping(LOAD, USE), looping(PLAIN)
    few, many = (Geometry(programs, 1, [1000], 0) for programs in (132 * 4, 132 * 32))
    assert cycles(waiting, many) < 2 * cycles(waiting, few)
    assert cycles(working, many) == pytest.approx(8 * 30 * 1.5 * 1000, rel=0.05)
    assert cycles(working, few) == pytest.approx(cycles(working, few._replace(programs=132)))  # a scheduler for each


def test_registers_make_waves():
    geometry = Geometry(132 * 32, 1, [1000], 0)
    half = cycles(looping(LOAD, USE, registers=128), geometry)  # 16 at once
    assert half == pytest.approx(2 * cycles(looping(LOAD, USE), geometry._replace(programs=132 * 16)))


def test_warps_of_a_program_pass_barriers_together():
    barrier = Event("barrier", 0, NONE, 1, 1)
    code = looping(LOAD, USE, barrier, *[PLAIN] * 8, barrier)  # what waits in one part cannot work in the other
    together, apart = (cycles(code, Geometry(132 * 8 // warps, warps, [100], 0)) for warps in (8, 1))
    assert together > 1.02 * apart


@pytest.mark.parametrize(
    "more",
    [
        {"programs": 2000},
        {"warps": 8},
        {"iterations": [200, 2000]},
        {"bytes_moved": 10**10},
        {"lines": 16},
        {"rest": 99},
    ],
    ids=str,
)
def test_more_takes_longer(sample, more):
    geometry = Geometry(1000, 4, [100, 1000], 10**7)
    assert predict(sample, geometry._replace(**more), H200) > predict(sample, geometry, H200)


def test_every_loop_needs_its_iterations(sample):
    with pytest.raises(UserError, match=r"has 1 numbers, \[100\], but the code has 2 loops"):
        predict(sample, Geometry(1000, 4, [100], 10**7), H200)


@pytest.mark.parametrize("name", Constants._fields)
def test_no_constant_is_idle(name):
    """Each changes what some measured kernel is predicted to take, and in the right direction."""
    grown = CONSTANTS._replace(**{name: 1.5 * getattr(CONSTANTS, name)})
    some = [launch for row in rows()[::6] for launch in row.launches]
    times = [[predict(*launch, H200, constants) for launch in some] for constants in (CONSTANTS, grown)]
    assert all(now <= then * (1 + 1e-9) for now, then in zip(*times, strict=True))
    assert sum(times[1]) > sum(times[0])


def test_an_explanation_names_what_it_rests_on(sample):
    text = explain(sample, Geometry(1000, 4, [100, 1000], 10**7), H200)
    assert re.match(r"[\d.]+ µs on NVIDIA H200: 1000 programs of 4 warps, 8 for each multiprocessor", text)
    lines = text.splitlines()
    assert len(lines) == 3 + 2 + len(sample.stretches)
    assert re.search(r"\bbarrier 3\d\b", lines[-1])


@pytest.mark.parametrize("name", groups())
def test_what_is_committed_is_as_accurate_as_committed(name):
    found = accuracy(groups()[name], scan_cost.constants())
    assert found == pytest.approx(COMMITTED["accuracy"][name], abs=1e-4)
    assert found["median"] <= 0.2
    if name.startswith("first prototype"):
        assert found["rank correlation"] >= 0.95
    if name.startswith("every source"):
        assert found["rank correlation"] >= 0.9


def test_the_page_is_of_what_is_committed():
    assert calibrate_scan.page(COMMITTED) == calibrate_scan.PAGE.read_text()


@pytest.mark.slow
def test_the_fit_gives_what_is_committed():
    assert calibrate_scan.fitted(calibrate_scan.fitting()) == pytest.approx(scan_cost.constants(), rel=0.02)


def test_what_is_measured_is_written_once_and_read_in_full():
    codes = calibrate_scan.decoded(TEXT)
    again = json.loads(json.dumps(calibrate_scan.encoded(codes)))
    assert again == {"kernels": TEXT["kernels"], "stretches": TEXT["stretches"]}
    used = {name for *_, launches in calibrate_scan.measured()["rows"] for name, *_ in launches}
    assert used == codes.keys()
    for row in rows():
        for code, geometry in row.launches:
            assert code.loops == len(geometry.iterations), row


@pytest.mark.versions
@needs_triton
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_a_compiled_kernel_is_read(capability):
    """What this version's compiler writes: its loop, and waits for the scoreboards that are set alone."""
    from tiny_kernel import summed

    arguments = {"p_x": torch.empty(8, device="meta"), "p_y": torch.empty(1, device="meta"), "length": 100}
    binary = compiled_launch(summed, {**arguments, "BLOCK": 256}, capability, warps=4)
    code = machine_code.read_cubin(binary.image, shared=binary.shared)
    assert 8 <= code.registers <= 64
    assert code.shared >= 16
    assert code.local == 0
    events = [event for stretch in code.stretches for event in stretch.events]
    assert {event.kind for event in events} >= {"far", "special", "shuffle", "shared 4", "barrier", "store"}
    boards = {event.sets for event in events if event.sets != NONE}
    assert all(event.waits < 64 and {b for b in range(NONE) if event.waits >> b & 1} <= boards for event in events)
    (loop,) = [stretch for stretch in code.stretches if stretch.loop is not None]
    assert any(event.kind == "special" for event in loop.events)
    assert predict(code, Geometry(1000, 4, [100], 10**6), H200) < 1e-3
