"""The estimate, the structural floor, and how both are shown."""

import dataclasses
import xml.etree.ElementTree as ElementTree

import pytest
from offline_sample import KERNEL, LAUNCHES, MB, launch, sample

from mvc.offline import estimate, report
from mvc.offline.targets import find
from mvc.passes.accuracy import Check


def test_the_floor_is_one_write_and_one_read_around_each_call():
    floor = estimate.floor(sample())
    assert floor.launches == 4  # two calls, and one kernel ahead of each
    assert floor.triton_bytes == (2 + 8 + 4) * MB  # a written, b read, and of c what the scan takes
    assert floor.parameter_bytes == (2 + 2) * MB + 1000  # x, twice, and the norm's weight


def test_what_kernels_pass_to_each_other_or_read_again_is_above_the_floor():
    split = launch("triton", "mul_2", {"b": 8 * MB, "c": 8 * MB}, {"d": 8 * MB})
    scan = launch("own", "forward_kernel_0", {"d": 8 * MB}, {"e": 8 * MB})
    manifest = sample(launches=(*LAUNCHES[:3], split, scan))
    assert estimate.floor(manifest)[:2] == (4, (2 + 8 + 8) * MB)
    assert [round(cost.floor * find("sm_90").bandwidth) for cost in estimate.costs(manifest)[2:4]] == [8 * MB, 8 * MB]


def test_a_kernel_between_two_calls_is_needed_once():
    product = LAUNCHES[1]
    after = launch("triton", "relu_1", {"b": 8 * MB}, {"c": 8 * MB, "d": 8 * MB})
    both = [dataclasses.replace(product, reads={name: 8 * MB}, writes={f"{name}2": MB}) for name in ("c", "d")]
    last = launch("triton", "add_3", {"c2": MB, "d2": MB}, {"e": MB})
    assert estimate.floor(sample(launches=(product,))).launches == 1
    assert estimate.floor(sample(launches=(product, after, *both))).launches == 4
    assert estimate.floor(sample(launches=(product, after, *both, last))).launches == 5
    backward = dataclasses.replace(after, phase="backward")  # whose buffers have the same names
    assert estimate.floor(sample(launches=(product, after, *both, backward))).triton_bytes == (8 + 8 + 8) * MB


def test_the_table_never_calls_an_estimate_a_time():
    text = report.text(sample(), Check("scores", 3e-7, 3.1e-7, 1e-5))
    for part in (
        f"MambaVision-T, inference, batch 128, 224 x 224, float16, passes all, frozen: sm_90 ({find('sm_90').card})",
        "Floor around the same library calls and own kernels",
        "4 launches (0 fewer), 14.0 MB in generated kernels (8.0 fewer",
        f"ms ({estimate.basis(sample())}):",
        "relative error 3.0e-07 against float64 (scores; eager 3.1e-07), within the limit 1.0e-05",
        "Replayed on the CPU at batch 1, Triton kernels interpreted, each with its first configuration",
        "Shown: the code compiles for this card without spills, and at batch 1 its Triton part computes what eager "
        "computes. Not",
        report.NOT_SHOWN,
    ):
        assert part in text


def test_only_what_was_seen_is_said_to_be_shown():
    wrong = report.text(sample(), Check("scores", float("nan"), 3e-7, 1e-5))
    assert "BEYOND THE LIMIT" in wrong
    assert "DOES NOT COMPUTE what eager computes" in wrong
    assert "eager" not in report.text(sample())
    spilled = dataclasses.replace(KERNEL, spills=8)
    assert "compiles for this card, WITH SPILLS IN 1 BINARIES" in report.text(sample(kernels={KERNEL.name: spilled}))
    assert "Shown: code can be generated for this card. Not" in report.text(sample(kernels={}))


def test_the_page_has_the_picture(tmp_path):
    page = report.write_page(sample(), tmp_path).read_text()
    assert page.startswith("# MambaVision-T")
    assert "](timeline.svg)" in page
    shapes = ElementTree.parse(tmp_path / "timeline.svg").getroot()
    titles = [each.text for each in shapes.iter("{http://www.w3.org/2000/svg}title")]
    for each in LAUNCHES:
        assert any(title.startswith(each.name) for title in titles)
    assert all(estimate.basis(sample()) in title for title in titles)
    widths = [float(each.get("width")) for each in shapes.iter("{http://www.w3.org/2000/svg}rect")]
    assert sum(widths[: -len(report.COLOURS)]) == pytest.approx(report.WIDTH * report.ROWS, rel=0.02)
