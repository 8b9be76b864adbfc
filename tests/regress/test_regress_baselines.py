"""Which recordings of a folder are the base of a comparison, and which of them go with age."""

import dataclasses
import os
from datetime import datetime, timedelta, timezone

import pytest

from mvc.errors import UserError
from mvc.measure.environment import Environment
from mvc.regress.cases import Case
from mvc.regress.recordings import store
from mvc.regress.recordings.baselines import Keep, found, keep, thin, window
from mvc.regress.recordings.recording import RecordedCase, Recording
from mvc.regress.sources.version import Version
from mvc.regress.worker import Facts

MACHINE = Environment(
    date="", torch="2.14.1", python="3.11.7", platform="Linux", device="cuda: A", driver="580", cpu="B", threads=2
)
FIRST = datetime(2026, 1, 1, tzinfo=timezone.utc)


def recording(day, *, commit=None, seconds=1e-3, dirty=False, branch="main", recorded=None, **facts):
    """Of a commit of that day, recorded on that day too or on another."""
    committed, date = ((FIRST + timedelta(days=each)).isoformat() for each in (day, recorded or day))
    commit = (commit or f"{day:04x}") * 10
    version = Version(asked="installed", commit=commit[:40], time=committed, dirty=dirty, branch=branch)
    case = RecordedCase(Case("scan", kind="scan"), {"time": "wall"}, [{"time": [seconds] * 3}], [Facts(exact={})])
    return Recording(dataclasses.replace(MACHINE, date=date, **facts), version, {"scan": case})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "baselines"


@pytest.fixture
def add(folder):
    def add(day, **options):
        made = recording(day, **options)
        return store.write(made, store.baseline_path(folder, made))

    return add


def days(chosen):
    return [(datetime.fromisoformat(each.environment.date) - FIRST).days for each in chosen.recordings]


def test_the_window_is_the_last_recordings_before_head(folder, add):
    for day in (3, 9, 1, 7, 5, 2, 8, 4):
        add(day)
    head = recording(8, commit="beef")
    assert days(window(folder, head)) == [3, 4, 5, 7, 8]
    assert days(window(folder, head, size=2)) == [7, 8]
    assert window(folder, head).left_out == ["1 recording left out: made after head"]


def test_head_is_never_its_own_base(folder, add):
    add(1)
    head = store.read(add(2, seconds=2e-3))
    assert days(window(folder, head)) == [1]
    copy = store.read(store.write(head, folder.parent / "copy.json"))
    assert days(window(folder, copy)) == [1]
    again = dataclasses.replace(copy.environment, date=(FIRST + timedelta(days=3)).isoformat())
    chosen = window(folder, copy._replace(environment=again))
    assert days(chosen) == [1]
    assert chosen.left_out == ["1 recording left out: of head's own commit"]
    dirty = store.read(add(4, dirty=True))
    moved = dataclasses.replace(dirty.version, asked="copy.json")
    other = dirty._replace(version=moved, cases={**dirty.cases, "T": next(iter(dirty.cases.values()))})
    assert days(window(folder, other, allow_dirty=True)) == [1, 2]  # although it has not the same cases


def test_the_same_commit_is_a_base_across_what_differs_and_for_changes_upon_it(folder, add):
    add(1, commit="aaaa", torch="2.14.1")
    newer = recording(1, commit="aaaa", recorded=2, torch="2.15.0")
    assert days(window(folder, newer, across={"torch"})) == [1]
    assert days(window(folder, newer)) == []
    assert days(window(folder, recording(1, commit="aaaa", recorded=2, dirty=True))) == [1]


def test_dirty_trees_are_no_base_unless_asked(folder, add):
    add(1)
    add(2, dirty=True)
    add(3, dirty=None)
    chosen = window(folder, recording(9))
    assert days(chosen) == [1]
    assert chosen.left_out == [
        "1 recording left out: of a tree with changes that were not committed (--allow-dirty allows it)",
        "1 recording left out: not known to be of a tree without changes (--allow-dirty allows it)",
    ]
    assert days(window(folder, recording(9), allow_dirty=True)) == [1, 2, 3]


def test_other_branches_are_no_base_unless_asked(folder, add):
    for day, branch in enumerate(("main", "master", "topic", "HEAD", None, "topic"), 1):
        add(day, branch=branch)
    chosen = window(folder, recording(9))
    assert days(chosen) == [1, 2]
    assert chosen.left_out == [
        "2 recordings left out: of the branch topic (--main-branch topic allows it)",
        "2 recordings left out: of no known branch (--main-branch '*' allows it)",
    ]
    assert days(window(folder, recording(9), main="topic")) == [3, 6]
    assert days(window(folder, recording(9), main="*")) == [2, 3, 4, 5, 6]


def test_other_kinds_of_machine_are_no_base_and_what_allows_them_is_named(folder, add):
    for day in range(5):
        add(day, driver="570")
    add(5, driver="570", torch="2.13.0")
    add(6, device="cuda: another", driver="570")
    head = recording(9)
    chosen = window(folder, head)
    assert chosen.recordings == []
    assert chosen.left_out == [
        "5 recordings left out: driver: 570 against 580 (--across driver allows it)",
        "1 recording left out: driver: 570 against 580; torch: 2.13.0 against 2.14.1 (--across driver,torch allows it)",
        "1 recording left out: device: cuda: another against cuda: A",
    ]
    assert days(window(folder, head, across={"driver"})) == [0, 1, 2, 3, 4]
    assert days(window(folder, head, across={"driver", "torch"})) == [1, 2, 3, 4, 5]


def test_a_file_that_cannot_be_read_loses_only_itself(folder, add):
    add(1)
    add(2).write_text("{")
    (folder / ".3.json").write_text("being written")
    (folder / "result.json").write_text("{}")
    os.mkfifo(folder / "pipe.json")  # would be waited for
    chosen = window(folder, recording(9))
    assert days(chosen) == [1]
    cut, other, pipe = sorted(chosen.left_out, key=lambda line: ("pipe" in line, "result.json" in line))
    assert "pipe.json is no file" in pipe
    assert "is no JSON, or is cut off" in cut
    assert "is not a recording of" in other


def test_recordings_are_found_wherever_they_lie(folder, add):
    path = add(1)
    path.rename(folder / "older-name.json")
    (contents,) = found(folder).recordings.values()
    assert contents.version.asked == str(folder / "older-name.json")
    assert days(window(folder, recording(9))) == [1]


def test_files_of_a_branch_are_named_by_it(folder, add):
    name = add(1).relative_to(folder)
    (folder / "result.json").write_text("{}")
    chosen = window(folder, recording(9), branch="mvc-baselines")
    assert chosen.recordings[0].version.asked == f"mvc-baselines:{name}"
    assert chosen.left_out[0].startswith("mvc-baselines:result.json is not a recording of")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no is no folder; record one with --baselines"):
        window(tmp_path / "no", recording(1))


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "30d,5d", "30d;26w", "3y", "-1d"])
def test_what_is_no_schedule_is_refused(text):
    with pytest.raises(UserError, match=r"--keep is .*; write it as 30d,26w,24m"):
        keep(text)


def test_schedules_are_read():
    assert keep("30d,26w,24m") == Keep(30, 26, 24)
    assert keep("12m, 7d") == Keep(days=7, months=12)


LAST = 500
NOW = FIRST + timedelta(days=LAST, hours=1)


def kept(folder):
    return [(datetime.fromisoformat(each.environment.date) - FIRST).days for each in found(folder).recordings.values()]


def test_old_recordings_are_thinned_to_one_a_week_and_one_a_month(folder, add):
    for day in range(0, LAST + 1, 4):
        add(day)
    thinned = thin(folder, keep("30d,8w,6m"), now=NOW)
    ages = [LAST - day for day in kept(folder)]
    assert len(thinned.deleted) == 126 - len(ages)

    def of_age(low, high, term):
        return [(FIRST + timedelta(days=LAST - age)).strftime(term) for age in ages if low <= age <= high]

    assert len(of_age(0, 30, "%j")) == 8, "all of the last days"
    weeks = of_age(31, 86, "%G %V")
    assert len(weeks) == len({*weeks}) == 9, "eight weeks touch nine"
    months = of_age(87, LAST, "%Y %m")
    assert len(months) == len({*months}) == 7, "six months touch seven"
    assert max(ages) <= 86 + 6 * 31
    assert thin(folder, keep("30d,8w,6m"), now=NOW) == ([], []), "it has settled"


def test_the_newest_of_each_kind_stay_however_old(folder, add):
    for day in range(8):
        add(day)
        add(day, branch="topic")
        add(day, dirty=True)
        add(day, device="cuda: another")
    thinned = thin(folder, keep("1d"), now=NOW)
    assert len(thinned.deleted) == 4 * 3
    assert sorted(kept(folder)) == sorted([3, 4, 5, 6, 7] * 4)


def test_what_cannot_be_read_is_not_deleted(folder, add):
    broken = add(1)
    broken.write_text("{")
    for day in range(2, 9):
        add(day)
    thinned = thin(folder, keep("1d"), now=NOW)
    assert len(thinned.deleted) == 2
    assert broken.exists()
    assert len(thinned.left) == 1
    assert str(broken) in thinned.left[0]
