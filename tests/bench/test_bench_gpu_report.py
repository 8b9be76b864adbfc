"""What `bench/gpu.py` tells of models: rates and ratios from rounds taken in turns, and the report."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import pytest

from bench.models import COMPARED, FORCED
from bench.on_gpu import models, report, turns
from bench.on_gpu.jobs import Job

FACTS = {
    "command": "python bench/gpu.py",
    "commit": "abc",
    "quick": False,
    "absent": ["timm (no other backbones)"],
    "published_scan": "naive",
    "seconds": 400.0,
    "ended": "when the time was up",
    "environment": {
        "date": "2026-11-26", "device": "cuda: a card <1>", "platform": "Linux", "python": "3", "cpu": "a processor",
        "gpu_bus_id": None, "cuda_devices": 1, "threads": 1,
        "affinity": None, "frequency_mhz": None, "load": None, "torch": "2.11", "triton": "3.6", "compiler": "g++",
        "driver": "580", "sm_clock_mhz": 1980, "memory_clock_mhz": 3201,
    },
    "rates": {"bytes": 4e12, "exponentials": 4.2e12},
    "gpu": {},
    "failed": [{"part": "tests", "name": "test_x", "why": "the whole message"}],
    "not_run": [{"part": "gate", "name": "S-batch-1", "why": "the time was up"}],
    "rows": [
        {
            "part": "scan", "name": "(1, 2, 3) N 8 float16, forward", "share": 0.25, "error": 1e-4,
            "seconds": {"along channels": [1e-6, 2e-6, 3e-6], "along length": [1e-6, 4e-6, 5e-6]},
            "limits": {"bytes": 4e-7, "exponentials": 5e-7},
        },
        {
            "part": "models", "name": "T, eager", "median_seconds": 0.01, "p10_seconds": 0.009, "p90_seconds": 0.02,
            "wall_seconds": 0.011, "images_per_second": 12800.0, "against": None, "peak_bytes": 2**30,
        },
        {
            "part": "models", "name": "T, mvc", "median_seconds": 0.005, "p10_seconds": 0.004, "p90_seconds": 0.006,
            "wall_seconds": 0.006, "images_per_second": 25600.0, "peak_bytes": 2**29, "compile_seconds": 20.0,
            "against": {"name": "T, eager", "times_as_fast": [2.0, 1.9, 2.1]}, "kernel_seconds": 0.0046,
            "families": {"convolution": 0.0013, "scan": 0.0004, "gaps": 0.0001}, "launches": 150,
            "choices": {"fuse_linear": {"rewritten": 31, "left": {"measured: the library is as fast": 17}}},
        },
        {
            "part": "ratios", "name": "T, mvc over T, eager", "by_clock": [2.0, 1.9, 2.1], "by_kernels": 1.75,
            "memory": 0.5,
        },
        {"part": "tests", "name": "test_y", "outcome": "passed", "seconds": 0.1, "message": ""},
    ],
}  # fmt: skip


def test_the_report_has_every_figure_and_charts_that_can_be_drawn(tmp_path):
    page = report.write(FACTS, tmp_path).read_text()
    for text in (
        "2.0",
        "4.0",
        "0.5",
        "25%",
        "12,800",
        "2.000 (1.900 to 2.100) as T, eager",
        "4.600",
        "0.400",
        "1.750",
        "31",
    ):
        assert f" {text} " in page, text
    for text in (
        "timm (no other backbones)",
        "the whole message",
        "S-batch-1: the time was up",
        "1 passed",
        "17: measured",
    ):
        assert text in page
    charts = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert charts == ["models-families.svg", "models.svg"]
    for name in charts:
        assert f"(./{name})" in page
        chart = ET.parse(tmp_path / name).getroot()
        assert "a card <1>" in "".join(chart.itertext())
    drawn = ET.parse(tmp_path / "models.svg").getroot().findall(".//{*}rect[@x]")
    widths = [float(each.get("width")) for each in drawn]
    assert widths == pytest.approx([max(widths), max(widths) / 2], rel=0.01)


def test_rates_are_compared_round_by_round_with_the_first_that_was_measured():
    absent, base, twice = (Job("T", how, 8) for how in ("inductor", "eager", "mvc"))
    ready = [turns.Ready(job, None, {"peak_bytes": 1}, 0.0) for job in (base, twice)]
    for seconds in (0.01, 0.02, 0.04):  # the machine slows down under both
        for each, factor in zip(ready, (1, 0.5), strict=True):
            each.turns.append({"seconds": seconds * factor, "wall_seconds": seconds})
    first_row, second_row = turns.rows([(absent, base, twice)], ready)
    assert first_row["against"] is None
    assert first_row["images_per_second"] == pytest.approx(8 / 0.02)
    assert second_row["against"]["name"] == str(base)
    assert second_row["against"]["times_as_fast"] == pytest.approx([2, 2, 2])


def test_our_compiled_model_is_compared_with_all_beside_it():
    theirs, ours, forced = Job("published T", "inductor", 8), Job("T", "mvc, frozen", 8), Job("T", "inductor", 8)
    ready = [
        turns.Ready(job, None, {"peak_bytes": peak, **kernels}, 0.0)
        for job, peak, kernels in (
            (theirs, 4, {"kernel_seconds": 0.03}), (ours, 2, {"kernel_seconds": 0.01}), (forced, 8, {}),
        )
    ]  # fmt: skip
    for seconds in (0.01, 0.02, 0.04):  # the machine slows down under all
        for each, factor in zip(ready, (2, 1, 0.5), strict=True):
            each.turns.append({"seconds": seconds * factor, "wall_seconds": seconds})
    published, plain = turns.ratios([(theirs, ours, forced), (theirs, forced)], ready)
    assert published["name"] == f"{ours} over {theirs}"
    assert published["by_clock"] == pytest.approx([2, 2, 2])
    assert (published["by_kernels"], published["memory"]) == (pytest.approx(3), 0.5)
    assert plain["by_clock"] == pytest.approx([0.5, 0.5, 0.5])
    assert (plain["by_kernels"], plain["memory"]) == (None, 0.25)


def test_every_ratio_that_is_asked_of_a_card_is_measured_in_turns():
    pairs = {
        (next(job for job in comparison if job.ours), other)
        for part in (models.throughput, models.latency, models.training, models.others, models.peers)
        for comparison in part(False)
        for other in comparison
    }
    t, one = Job("T", "mvc, frozen", 128), Job("T", "mvc, frozen", 1, mode="reduce-overhead")
    step = Job("T", "mvc", 128, "autocast", training=True)
    others = {
        t: ["published T", "ConvNeXt-T", "Swin-T", "MambaOut-T", "CAFormer-S18", "ResNet-50"],
        one: ["published T", "ConvNeXt-T", "Swin-T"],
        step: ["published T"],
        **{dataclasses.replace(t, model=name): [f"published {name}"] for name in ("S", "B")},
    }
    for ours, names in others.items():
        for name in names:
            assert (ours, dataclasses.replace(ours, model=name, how="inductor")) in pairs
    assert (dataclasses.replace(t, dtype="bfloat16"), t) in pairs
    for name in COMPARED:
        for how in ("inductor", "mvc, frozen"):
            assert (t, dataclasses.replace(t, model=name, how=how)) in pairs
    for ours in (t, one):
        for how in FORCED:
            assert (ours, dataclasses.replace(ours, how=how)) in pairs


@pytest.mark.parametrize(("call", "limited"), [(0.0046, False), (0.0065, True)], ids=["device", "host"])
def test_a_call_that_waits_for_the_host_is_said_to(call, limited):
    row = next(row for row in FACTS["rows"] if row["name"] == "T, mvc") | {"median_seconds": call}
    line = turns.kernels_line(row)
    assert "4.600 ms in 150 kernels: convolution 1.300, scan 0.400, gaps 0.100" in line
    assert ("the host is the limit" in line) == limited
