"""Series of made-up recordings: what changed, where, with what, and whether it stands."""

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest
from test_regress_store import ENVIRONMENT, VERSION

from mvc.regress import history
from mvc.regress.cases import Case
from mvc.regress.recordings.recording import RecordedCase, Recording
from mvc.regress.worker import Facts

pytest.importorskip("ruptures", reason="ruptures, of the extra `history`, is not installed")


def nightly(seconds, *, accepted=(), exact=(), **environment):
    """A recording a night, of a commit each; the other arguments have a value for each of them."""
    made = []
    for night, each in enumerate(seconds):
        date = (datetime(2026, 1, 1, 3, tzinfo=timezone.utc) + timedelta(days=night)).isoformat()
        facts = Facts(exact=exact[night] if exact else {}, seconds=each)
        runs = [{"time": [each * (1 + 0.002 * (i % 5)) for i in range(20)]} for _ in range(2)]
        made.append(
            Recording(
                dataclasses.replace(ENVIRONMENT, date=date, **{key: of[night] for key, of in environment.items()}),
                dataclasses.replace(VERSION, commit=f"{night:03d}" * 13 + "0", time=date),
                {"scan": RecordedCase(Case("scan", kind="scan"), {"time": "wall"}, runs, [facts, facts])},
                {"scan": list(accepted[night])} if accepted else {},
            )
        )
    return made


def stepped(count, at, ratio):
    return [0.001 * (ratio if night >= at else 1.0) for night in range(count)]


def test_a_step_names_its_commits_and_what_changed_with_it():
    drivers = ["570"] * 14 + ["580"] * 14
    (found,) = history.series(nightly(stepped(28, 14, 1.3), driver=drivers, exact=[{"launches": 7}] * 28))
    (change,) = found.changes
    assert found.alarms == (change,)
    assert (change.kind, change.index) == ("step", 14)
    assert change.ratio == pytest.approx(1.3)
    assert change.before.commit.startswith("013")
    assert change.after == found.points[14]
    assert change.causes == ("driver 580 (was 570)",)
    assert change.text.startswith("step: +30.0% ")
    assert "slower between 013013013013 (2026-01-14) and 014014014014 (2026-01-15), with driver 580" in change.text


@pytest.mark.parametrize(("since", "accepted"), [(0, False), (13, True), (14, True), (20, True)])
def test_an_acceptance_covers_what_came_before_it(since, accepted):
    reasons = [("2026-01-15: meant",) if night >= since else () for night in range(28)]
    (found,) = history.series(nightly(stepped(28, 14, 1.3), accepted=reasons))
    assert [each.accepted for each in found.changes] == ["2026-01-15: meant" if accepted else None]
    assert len(found.alarms) == (not accepted)
