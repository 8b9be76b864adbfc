"""The gate's decision, on synthetic times whose truth is known."""

import math

import numpy as np
import pytest
import torch

from mvc.measure import nvml
from mvc.measure.paired import Ratio
from mvc.regress import cases, decide
from mvc.regress.cases import Thresholds
from mvc.regress.run import Measure, Rounds, sample
from mvc.regress.selftest import Trial, smallest_detectable

THRESHOLDS = Thresholds()
TRIALS = 100


def drift(draw: np.random.Generator, rounds: int) -> np.ndarray:
    """A clock that wanders by 2 % from round to round, for both sides alike."""
    return np.cumsum(draw.normal(0, 0.02, (rounds, 1)), axis=0) + draw.normal(0, 0.01, (rounds, 2))


def bimodal(draw: np.random.Generator, rounds: int) -> np.ndarray:
    """Three in ten turns take 8 % longer."""
    return draw.normal(0, 0.01, (rounds, 2)) + 0.08 * (draw.random((rounds, 2)) < 0.3)


def outliers(draw: np.random.Generator, rounds: int) -> np.ndarray:
    """One turn in twenty takes up to five times as long."""
    return draw.normal(0, 0.02, (rounds, 2)) + draw.uniform(0, math.log(5), (rounds, 2)) * (
        draw.random((rounds, 2)) < 0.05
    )


def steal(draw: np.random.Generator, rounds: int) -> np.ndarray:
    """A neighbour takes a third of the machine for some rounds on end, and its turns are not shared evenly."""
    busy = np.repeat(draw.random(rounds // 5 + 1) < 0.4, 5)[:rounds, None]
    return draw.normal(0, 0.01, (rounds, 2)) + busy * draw.normal(0.4, 0.1, (rounds, 2))


def luck(draw: np.random.Generator, rounds: int) -> np.ndarray:
    """Each process is up to some 3 % faster or slower for as long as it lives."""
    return draw.normal(0, 0.015, 2) + draw.normal(0, 0.01, (rounds, 2))


NOISES = (drift, bimodal, outliers, steal, luck)


def device(draw: np.random.Generator, rounds: int) -> np.ndarray:
    """A GPU's own time: a clock that both sides have, steps of it for some rounds, and little else."""
    steps = np.repeat(draw.normal(0, 0.02, (rounds // 5 + 1, 1)), 5, axis=0)[:rounds]
    return steps + draw.normal(0, 0.004, (rounds, 2))


def placement(draw: np.random.Generator, rounds: int) -> np.ndarray:
    """Each process has memory that is up to some 1 % faster or slower for the device."""
    return draw.normal(0, 0.004, 2) + draw.normal(0, 0.004, (rounds, 2))


DEVICE_NOISES = (device, placement)


def busy(draw, rounds):
    """Others want more cores than there are: a process of two threads may be held up for as long as it lives."""
    held_up = draw.exponential(0.3, 2) * draw.integers(0, 2, 2)
    return held_up + draw.normal(0, 0.3, (rounds, 2))


def measurements(noise, slowdown: float, draw: np.random.Generator) -> Measure:
    """Rounds of one run, whose head does that share more work."""
    times = 0.01 * np.exp(noise(draw, THRESHOLDS.rounds[1])) * [1, 1 + slowdown]
    return ([{"time": seconds} for seconds in turn] for turn in times).__next__


def verdict(noise, slowdown: float, draw: np.random.Generator, thresholds: Thresholds = THRESHOLDS) -> decide.Verdict:
    """Of the whole procedure, run by run."""
    ratios, findings, wanted = [], [], 1
    while len(findings) < wanted:
        rounds = Rounds(measurements(noise, slowdown, draw), nvml.Watch(torch.device("cpu")))
        times, found = sample(rounds, "time", "wall", thresholds)
        ratios.append(times.ratio)
        findings.append(found)
        wanted = decide.runs_wanted(findings, ratios, thresholds.effect)
    return decide.verdict(findings, ratios, thresholds.effect)


@pytest.fixture(scope="module", params=NOISES, ids=lambda noise: noise.__name__)
def noise(request):
    return request.param


def test_equal_sides_are_rarely_called_different(noise):
    draw = np.random.default_rng(1)
    found = [verdict(noise, 0.0, draw) for _ in range(TRIALS)]
    assert found.count("regression") + found.count("improvement") <= 0.01 * TRIALS
    assert found.count("no change") >= 0.9 * TRIALS


def test_equal_sides_are_rarely_called_different_on_a_busy_machine():
    draw = np.random.default_rng(8)
    found = [verdict(busy, 0.0, draw) for _ in range(3 * TRIALS)]
    assert found.count("regression") + found.count("improvement") <= 0.01 * 3 * TRIALS
    twice = [verdict(busy, 1.0, draw) for _ in range(TRIALS)]
    assert twice.count("regression") >= 0.5 * TRIALS
    assert "improvement" not in twice


@pytest.mark.parametrize(
    ("findings", "wide", "wanted"),
    [
        (["same"], True, 1),
        (["slower"], False, 2),
        (["undecided"], True, 2),
        (["slower", "slower"], False, 2),
        (["slower", "slower"], True, 4),
        (["slower", "undecided"], True, 2),
        (["faster", "faster", "faster"], True, 4),
        (["slower", "slower", "faster"], True, 2),
        (["somewhat slower"], False, 2),
        (["somewhat slower", "slower"], False, 4),
        (["somewhat slower", "same"], False, 2),
    ],
)
def test_a_change_on_a_busy_machine_must_recur_more_often(findings, wide, wanted):
    ratios = [Ratio(1.5, 1.2, 1.9) if wide else Ratio(1.5, 1.48, 1.52)] * len(findings)
    assert decide.runs_wanted(findings, ratios, 0.05) == wanted


@pytest.mark.parametrize("slowdown", [0.075, 0.10])
def test_half_more_than_the_effect_is_called_a_regression(noise, slowdown):
    draw = np.random.default_rng(2)
    found = [verdict(noise, slowdown, draw) for _ in range(TRIALS)]
    hidden = noise is luck and slowdown < 0.10  # by what two processes differ by
    assert found.count("regression") >= (0.85 if hidden else 0.95) * TRIALS
    assert "improvement" not in found


@pytest.mark.parametrize("noise", DEVICE_NOISES, ids=lambda noise: noise.__name__)
def test_on_a_device_a_twentieth_is_found_and_nothing_else(noise):
    thresholds = cases.load(device="cuda").thresholds
    assert thresholds.effect == 0.02
    draw = np.random.default_rng(6)
    equal = [verdict(noise, 0.0, draw, thresholds) for _ in range(TRIALS)]
    assert equal.count("regression") + equal.count("improvement") <= 0.01 * TRIALS
    assert equal.count("no change") >= 0.9 * TRIALS
    slower = [verdict(noise, 0.05, draw, thresholds) for _ in range(TRIALS)]
    assert slower.count("regression") >= 0.95 * TRIALS
    assert "improvement" not in slower


def test_a_twentieth_slower_is_never_called_an_improvement(noise):
    draw = np.random.default_rng(3)
    assert "improvement" not in [verdict(noise, 0.05, draw) for _ in range(TRIALS)]


def test_faster_mirrors_slower():
    draw = np.random.default_rng(4)
    assert [verdict(drift, 1 / 1.1 - 1, draw) for _ in range(20)] == ["improvement"] * 20


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (Ratio(1.06, 1.03, 1.09), "slower"),
        (Ratio(1.06, 1.02, 1.10), "undecided"),  # the interval reaches below half of the effect
        (Ratio(1.04, 1.035, 1.045), "somewhat slower"),  # surely slower, but by less than counts
        (Ratio(1.04, 1.03, 1.06), "somewhat slower"),
        (Ratio(1.04, 1.02, 1.06), "undecided"),
        (Ratio(1 / 1.04, 1 / 1.05, 1 / 1.03), "somewhat faster"),
        (Ratio(1.02, 1.01, 1.045), "same"),
        (Ratio(1 / 1.06, 1 / 1.09, 1 / 1.03), "faster"),
        (Ratio(1.0, 0.94, 1.04), "undecided"),
    ],
)
def test_finding(ratio, expected):
    assert decide.finding(ratio, 0.05) == expected


def ratios_of(findings, medians):
    """Ratios with narrow intervals, one for each finding."""
    return [Ratio(median, median * 0.999, median * 1.001) for median in medians[: len(findings)]]


@pytest.mark.parametrize(
    ("findings", "medians", "expected"),
    [
        (["same"], [1.0], "no change"),
        (["slower", "slower"], [1.06, 1.07], "regression"),
        (["slower", "same"], [1.06, 1.0], "no change"),
        (["slower", "undecided"], [1.06, 1.03], "inconclusive"),
        (["slower", "faster"], [1.06, 0.9], "inconclusive"),
        (["undecided", "slower"], [1.03, 1.06], "inconclusive"),  # seen once only
        (["undecided", "same"], [1.03, 1.0], "no change"),
        (["faster", "faster"], [0.9, 0.9], "improvement"),
        (["slower", "somewhat slower"] * 2, [1.08, 1.045] * 2, "regression"),  # 6.2 % in the mean
        (["slower", "somewhat slower"] * 2, [1.055, 1.03] * 2, "no change"),  # 4.2 % in the mean
        (["somewhat slower"] * 4, [1.04] * 4, "no change"),
        (["faster", "somewhat faster"] * 2, [0.9, 0.96] * 2, "improvement"),
        (["somewhat slower", "somewhat faster"], [1.04, 0.96], "inconclusive"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_a_finding_must_recur_and_the_mean_must_reach_the_effect(findings, medians, expected):
    assert decide.verdict(findings, ratios_of(findings, medians), 0.05) == expected


def test_single_figures_must_all_reach_the_effect():
    assert decide.verdict(["slower", "slower"], [], 0.25) == "regression"
    assert decide.verdict(["slower", "same"], [], 0.25) == "no change"


@pytest.mark.parametrize(
    ("findings", "processes", "expected"),
    [
        (["slower"] * 2, 4, "regression"),
        (["faster"] * 2, 4, "improvement"),
        (["same"] * 2, 2, "no change"),
        (["same", "somewhat slower"], 4, "no change"),
        (["somewhat slower"] * 2, 4, "no change"),
        (["slower", "same"], 4, "inconclusive"),
        (["undecided"] * 2, 4, "inconclusive"),
        (["undecided", "same"], 4, "inconclusive"),
        (["slower"], 4, "inconclusive"),  # it does not recur
        (["slower"] * 2, 1, "inconclusive"),  # base's process may be an odd one
        (["same"], 1, "inconclusive"),
    ],
    ids=lambda value: str(value),
)
def test_processes_of_a_recording_must_agree_and_one_alone_decides_nothing(findings, processes, expected):
    ratios = ratios_of(findings, [1.04, 1.04])
    assert decide.apart(findings, ratios, 0.05, base_processes=processes) == expected


def test_single_measurements_need_the_whole_effect():
    assert decide.single_finding(1.25, 0.25) == "slower"
    assert decide.single_finding(1.24, 0.25) == "same"
    assert decide.single_finding(1 / 1.25, 0.25) == "faster"


def test_looks_come_at_growing_distances_and_end_at_the_most_rounds():
    looks, rounds = [], 0
    while rounds is not None:
        rounds = decide.next_look(rounds, THRESHOLDS)
        looks.append(rounds)
    assert looks == [20, 30, 45, 60, None]


def test_further_rounds_settle_an_undecided_ratio():
    wide, effect = Ratio(1.0, 0.9, 1.1), 0.05
    rounds = 20 + decide.further_rounds(wide, 20, effect)
    shrunk = math.sqrt(20 / rounds)
    settled = Ratio(*(bound**shrunk for bound in wide))
    assert decide.finding(settled, effect) == "same"
    barely = Ratio(*(bound ** (1.1 * shrunk) for bound in wide))
    assert decide.finding(barely, effect) == "undecided"


def test_a_ratio_on_the_bound_asks_for_more_than_are_worth_counting():
    assert decide.further_rounds(Ratio(1.0499, 0.99, 1.11), 60, 0.05) is None


def test_pooled_times_have_the_ratio_of_their_medians():
    draw = np.random.default_rng(5)
    base, head = draw.normal(1.0, 0.01, (4, 60)), draw.normal(1.1, 0.01, 40)
    ratio = decide.pooled_ratio(head, base, confidence=0.95)
    assert ratio.median == pytest.approx(np.median(head) / np.median(base), rel=0.005)
    assert ratio.low < 1.1 < ratio.high
    assert ratio.high / ratio.low < 1.02
    assert decide.finding(ratio, 0.05) == "slower"


def test_the_interval_holds_what_processes_differ_by():
    """Their rounds hardly scatter."""
    base = [[1.0, 1.001] * 10, [1.1, 1.101] * 10]
    ratio = decide.pooled_ratio([1.1, 1.101] * 10, base, confidence=0.95)
    assert ratio.low < 1.002
    assert ratio.high > 1.098
    assert decide.finding(ratio, 0.05) == "undecided"


def test_recordings_of_one_version_are_rarely_called_different():
    """Processes differ by 1 % from each other, besides what their rounds scatter."""
    draw = np.random.default_rng(7)

    def process():
        return np.exp(draw.normal(0, 0.01) + draw.normal(0, 0.01, 40))

    found = []
    for _ in range(TRIALS):
        window = [process() for _ in range(10)]
        ratios = [decide.pooled_ratio(process(), window, confidence=0.95) for _ in range(2)]
        findings = [decide.finding(each, 0.05) for each in ratios]
        found.append(decide.apart(findings, ratios, 0.05, base_processes=10))
    assert found.count("regression") + found.count("improvement") == 0
    assert found.count("no change") >= 0.9 * TRIALS


def test_smallest_detectable_slowdown_grows_with_the_noise():
    def trials(width):
        return [Trial("scan", 0.0, "no change", {}, [Ratio(1.0, 1 - width, 1 + width)], 1.0, "wall", None)]

    assert smallest_detectable(trials(0.01), 0.05) == 0.05  # the effect itself
    assert smallest_detectable(trials(0.08), 0.05) == 0.12
    assert smallest_detectable(trials(0.9), 0.05) is None
