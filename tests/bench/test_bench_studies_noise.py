"""What the seeds of the studies tell, on accuracies that are made up: intervals, tests, tables and sentences."""

from __future__ import annotations

import re

import pytest

from bench.ablation import noise, report
from bench.ablation.designs import PUBLISHED, of_study

stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")

FIRST = {0: 94.1, 1: 92.7, 2: 95.3, 3: 93.0}
SECOND = {0: 94.6, 1: 93.4, 2: 95.4, 3: 94.1}


def test_two_models_are_compared_as_by_a_paired_t_test():
    found = noise.analyse({"first": FIRST, "second": SECOND}, "second")
    paired = stats.ttest_rel([*FIRST.values()], [*SECOND.values()])
    interval = paired.confidence_interval(0.95)
    assert found.p == pytest.approx(paired.pvalue)
    assert found.differences["first"] == pytest.approx((-0.6, interval.low, interval.high))
    assert found.seeds == (0, 1, 2, 3)


def test_more_comparisons_widen_each_interval():
    third = {seed: value + 0.2 * (-1) ** seed for seed, value in SECOND.items()}
    found = noise.analyse({"first": FIRST, "third": third, "second": SECOND}, "second")
    half = found.smallest
    assert half == pytest.approx(stats.t.ppf(1 - 0.05 / 4, 6) * found.noise * (2 / 4) ** 0.5)
    assert {name: (each.low, each.high) for name, each in found.differences.items()} == {
        name: pytest.approx((each.mean - half, each.mean + half)) for name, each in found.differences.items()
    }


def test_what_a_seed_gives_to_all_models_is_no_noise():
    seeds = {0: -3.0, 1: 0.0, 2: 4.0}
    values = {name: {seed: level + gift for seed, gift in seeds.items()} for name, level in (("low", 90), ("high", 91))}
    found = noise.analyse(values, "high")
    assert found.noise == pytest.approx(0, abs=1e-9)
    assert found.differences["low"].is_resolved
    assert found.p < 1e-9


def test_models_that_are_the_same_are_not_told_apart():
    found = noise.analyse({"one": FIRST, "other": FIRST}, "one")
    assert found.p == 1
    assert not found.differences["other"].is_resolved


def test_seeds_that_a_model_lacks_are_left_out():
    fewer = {seed: value for seed, value in SECOND.items() if seed != 3}
    assert noise.analyse({"first": FIRST, "second": fewer}, "second").seeds == (0, 1, 2)


@pytest.mark.parametrize(
    "values",
    [{}, {"second": SECOND}, {"first": FIRST}, {"first": {0: 90.0}, "second": SECOND}],
    ids=["none", "one model", "no reference", "one seed"],
)
def test_what_cannot_be_compared_is_not(values):
    assert noise.analyse(values, "second") is None


# The page.


@pytest.fixture
def facts():
    """Three seeds of each mixer, of which "causal" is worse by far and the others differ by chance."""
    levels = {"causal": 90.0, "regular": 94.2, "gated": 93.9, PUBLISHED: 94.0}
    trainings = {
        report.training_key(name, seed): {
            "design": name,
            "seed": seed,
            "accuracy": level + seed + 0.1 * ((7 * seed + place) % 3),
            "loss": 0.2 + 0.01 * ((seed + place) % 2),
            "parameters": 300_000 + place,
            "seconds": 20.0,
            "cpu_seconds": 10.0,
        }
        for place, (name, level) in enumerate(levels.items())
        for seed in range(3)
    }
    settings = {
        **{"steps": 600, "batch": 32, "dim": 8, "learning_rate": 2e-3, "weight_decay": 0.05},
        **{"side": 112, "data": "digits", "images": 10_000},
    }
    about = {
        "device": "cpu: a processor",
        "threads": 1,
        "torch": "2.14.1",
        "triton": "3.8.0",
        "commit": "abc",
        "date": "2026-11-28T12",
    }
    return {"settings": settings, "trainings": trainings, "environment": {"trainings": about, "gpu": about}}


def rows(text: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def test_a_table_has_mean_spread_interval_and_the_papers_figure(facts):
    found = rows(report.page(facts))
    assert found["causal"][0] == "3"
    assert re.fullmatch(r"91\.\d\d \(\d\.\d\d\)", found["causal"][1])
    assert re.fullmatch(r"-\d\.\d\d \(-\d\.\d\d to -\d\.\d\d\)", found["causal"][2]), "its interval has no zero"
    assert [found[name][-1] for name in of_study("mixers")] == ["80.5", "80.9", "81.3", "82.3"]


def test_the_page_says_which_differences_are_larger_than_the_noise(facts):
    text = report.page(facts)
    assert f"Of the differences in accuracy from '{PUBLISHED}', those of causal (-4." in text
    assert ") are larger than the noise of 3 seeds: 0." in text
    assert f"Of the differences in loss from '{PUBLISHED}', none is larger than the noise of 3 seeds" in text


def test_the_page_says_how_and_where(facts):
    first = report.page(facts).partition("\n")[0]
    assert first.startswith("12 trainings of models with 300,000 to 300,003 parameters: 600 steps of 32 images")
    assert first.endswith(
        "4 minutes in all, 2 of processors; cpu: a processor, 1 thread, torch 2.14.1, commit abc, 2026-11-28."
    )


def test_costs_stand_beside_and_unknown_columns_are_left_out(facts):
    facts["counts"] = {name: {"parameters": 31_794_248, "flops": 9_120_000_000} for name in ("causal", PUBLISHED)}
    facts["gpu"] = {"causal": {"launches": 111, "bytes": 5_420_000_000, "estimated_ms": 4.9}}
    text = report.page({key: value for key, value in facts.items() if key != "trainings"})
    found = rows(text)
    assert found["causal"] == ["31,794,248", "4.56", "111", "5.42", "4.90"]
    assert found[PUBLISHED] == ["31,794,248", "4.56", "", "", ""]
    assert "ms on this CPU" not in text
    assert text.endswith("a roofline's estimate: torch 2.14.1, triton 3.8.0, commit abc, 2026-11-28.\n")


def test_one_training_has_no_spread():
    assert report.spread([94.0], 2) == "94.00"
    assert report.spread([94.0, 95.0], 2) == "94.50 (0.71)"
