"""What is said of a case, by ratios that are made up."""

import re

import pytest
from test_regress_store import ENVIRONMENT, VERSION

from mvc.measure.paired import Ratio
from mvc.regress.cases import Case, Thresholds
from mvc.regress.compare import Comparison
from mvc.regress.decide import finding, verdict
from mvc.regress.outcome import Run, Times, judged
from mvc.regress.results.words import headline, remarks
from mvc.regress.worker import Facts


def comparison(*ratios, base=1e-3):
    """Of one case on a CPU, with a run for each ratio."""
    thresholds, facts = Thresholds(), Facts(exact={}, implementations=["cpp"])
    runs = []
    for ratio in ratios:
        times = Times("wall", [base] * 20, [base * ratio.median] * 20, ratio)
        runs.append(Run.of({"time": (times, finding(ratio, thresholds.effect))}, (facts, facts), thresholds))
    result = judged(Case("scan", kind="scan"), thresholds, runs, verdict)
    return Comparison(VERSION, VERSION, [result], [], ENVIRONMENT, [])


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([Ratio(1.31, 1.30, 1.33)] * 2, "scan: 31 % slower, 1.00 to 1.31 ms"),
        ([Ratio(1.061, 1.05, 1.07)] * 2, "scan: 6.1 % slower, 1.00 to 1.06 ms"),
        ([Ratio(0.8, 0.79, 0.81)] * 2, "scan: 20 % faster, 1.00 to 0.800 ms"),
        ([Ratio(1.0, 0.99, 1.01)], "1 case unchanged"),
        ([Ratio(1.04, 0.98, 1.09)] * 2, "scan: inconclusive, between 2.0 % faster and 9.0 % slower"),
    ],
)
def test_the_verdict_in_words(ratios, said):
    assert headline(comparison(*ratios)) == said


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([Ratio(1.02, 0.98, 1.06)] * 2, r"about \d+ more rounds would settle it \(with --rounds \d+\)"),
        ([Ratio(1.0499, 1.02, 1.08)] * 2, "more than 10,000 more rounds would settle it: it is about the effect"),
        (
            [Ratio(1.0499, 0.8, 3.0)] * 2,
            "rounds scatter by more than is looked for; compare again on a quieter machine",
        ),
        ([Ratio(1.3, 1.2, 1.4), Ratio(0.7, 0.6, 0.8)], "its runs, in processes of their own, disagree"),
    ],
)
def test_the_remedy_of_what_is_inconclusive(ratios, said):
    told = comparison(*ratios)
    (remark,) = remarks(told.results[0], told)
    assert remark.startswith("time is inconclusive: ")
    assert re.search(said, remark)
