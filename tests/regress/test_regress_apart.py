"""Recordings compared with a window of others: what is the base, what alarms, and what is only told."""

import dataclasses
import json

import pytest
from test_regress_store import ENVIRONMENT, VERSION

from mvc.regress import apart, cases
from mvc.regress.cases import Case
from mvc.regress.recordings.recording import RecordedCase, Recording
from mvc.regress.results import summary
from mvc.regress.results.words import headline
from mvc.regress.worker import Facts

SUITE = cases.Suite((Case("scan", kind="scan"),), cases.Thresholds())
SCATTER = [1 + 0.002 * (i % 5) for i in range(20)]


def recorded(seconds=1e-3, *, names=("scan",), accepted=(), environment=(), facts=(), unsaid=(), processes=2, **case):
    """Processes that scatter by 0.2 % from round to round, of cases that are all as fast."""
    made = {}
    for name in names:
        known = Facts(**{"exact": {}, "implementations": ["cpp"], **dict(facts)})
        runs = [{"time": [seconds * each for each in SCATTER]}] * processes
        made[name] = RecordedCase(
            Case(name, kind="scan", **case), {"time": "wall"}, runs, [known] * processes, frozenset(unsaid)
        )
    machine = dataclasses.replace(ENVIRONMENT, **dict(environment))
    return Recording(machine, VERSION, made, {name: list(accepted) for name in names} if accepted else {})


def verdicts(bases, head, **options):
    comparison = apart.recordings(bases, head, SUITE, **options)
    return comparison.exit_status, {result.case.name: result.verdict for result in comparison.results}, comparison


def test_steps_below_the_effect_alarm_by_the_second():
    """Six steps of 4 %, each recorded once, after a month without a change."""
    levels = [1e-3] * 20 + [1e-3 * 1.04**step for step in range(1, 7)]
    history = [recorded(level) for level in levels]
    found = [verdicts(history[day - 5 : day], history[day])[0] for day in range(19, 26)]
    assert found == [0, 0, 1, 1, 1, 1, 1]


def test_a_case_that_is_new_is_told_and_one_that_is_missing_is_not_comparable():
    status, _, comparison = verdicts([recorded()], recorded(names=("scan", "scan-new")))
    assert status == 0
    assert "scan-new: added, there is no base for it" in comparison.remarks
    both, one = recorded(names=("scan", "scan-old")), recorded()
    status, _, comparison = verdicts([both], one)
    assert status == 3
    assert comparison.obstacles[0].startswith("scan-old: head lacks this case; record it")
    status, _, comparison = verdicts([both], one, deleted=True)
    assert status == 0
    assert "scan-old: deleted from the cases" in comparison.remarks


def test_an_accepted_slowdown_passes_and_is_the_base_from_then_on():
    before, slower = recorded(), recorded(1.5e-3, accepted=["2026-11-26: exact now"])
    status, found, comparison = verdicts([before] * 5, slower)
    assert (status, found) == (0, {"scan": "accepted"})
    assert headline(comparison) == "scan: 50 % slower, 1.00 to 1.51 ms (accepted, 2026-11-26: exact now)"
    slower_again = recorded(1.8e-3, accepted=["2026-11-26: exact now"])
    assert verdicts([*[before] * 4, slower], slower_again)[:2] == (1, {"scan": "regression"})
    assert verdicts([*[before] * 4, slower], slower)[:2] == (0, {"scan": "no change"})


@pytest.mark.parametrize(("field", "value"), [("dtype", "bfloat16"), ("training", True), ("batch", 2)])
def test_what_was_measured_must_agree(field, value):
    status, _, comparison = verdicts([recorded()], recorded(**{field: value}))
    assert status == 3
    assert f"scan: {field} {getattr(Case('scan'), field)} against {value}" in comparison.obstacles
    status, _, comparison = verdicts([recorded(unsaid=[field])], recorded(**{field: value}))
    assert status == 0
    assert f"scan: base's recording does not tell {field}, which may differ" in comparison.remarks


@pytest.mark.parametrize("sides", [("base",), ("head",), ("base", "head")], ids="+".join)
def test_a_scan_that_fell_back_is_not_comparable_on_both_sides_as_well(sides):
    pair = [recorded(facts={"implementations": ["chunked"]} if side in sides else {}) for side in ("base", "head")]
    for recording in pair:
        for facts in recording.cases["scan"].facts:
            assert facts.implementations in (["cpp"], ["chunked"])
    status, _, comparison = verdicts(pair[:1], pair[1])
    assert status == 3
    assert "chunked" in comparison.obstacles[0]
    assert "cpp" in comparison.obstacles[0]


def test_numbers_that_one_side_does_not_tell_are_named():
    base, head = recorded(facts={"exact": {"graphs": 1}}), recorded(facts={"exact": {"graphs": 1, "launches": 3}})
    facts = summary.as_dict(apart.recordings([base], head, SUITE))
    assert facts["cases"][0]["remarks"] == ["launches is not known of base, and was not compared"]


def test_every_pair_of_processes_is_in_the_json():
    facts = summary.as_dict(apart.recordings([recorded(), recorded()], recorded(1.2e-3), SUITE))
    runs = facts["cases"][0]["runs"]
    assert [len(run["times"]["time"]["pairs"]) for run in runs] == [4, 4]
    assert json.dumps(facts)


def test_one_process_a_side_concludes_nothing():
    status, _, comparison = verdicts([recorded(processes=1)], recorded(2e-3, processes=1))
    assert status == 2
    assert "give several files a side" in summary.table(comparison)
    assert verdicts([recorded(processes=1)], recorded(processes=1))[0] == 2


def test_without_a_base_nothing_is_green():
    comparison = apart.without_base(recorded(), ["5 recordings were made with driver 570"])
    assert comparison.exit_status == 3
    assert "5 recordings were made with driver 570" in headline(comparison)


def test_what_ran_in_an_older_recording_is_told_to_be_unknown():
    status, _, comparison = verdicts([recorded(facts={"implementations": None})], recorded())
    assert status == 0
    assert "scan: which scan ran is not known of base" in summary.table(comparison)


def test_one_odd_recording_of_a_window_changes_nothing():
    window = [recorded(level) for level in (1e-3, 1e-3, 2e-3, 1e-3, 1e-3)]
    assert verdicts(window, recorded())[0] == 0
    assert verdicts(window, recorded(1.1e-3))[0] == 1
