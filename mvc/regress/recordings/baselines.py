"""A folder of recordings: which of them a comparison's base is, and which are old enough to go."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from mvc.errors import UserError
from mvc.regress.recordings import store
from mvc.regress.recordings.recording import (
    Recording,
    differences,
    fingerprint,
    ignored,
    order,
    recorded_at,
)

SIZE = 5  # recordings of a window
MAIN = ("main", "master")
ANY = "*"  # stands for every branch, and for those that are not known
MONTH = timedelta(days=30.44)


class Window(NamedTuple):
    """The base of a comparison.

    Attributes:
        recordings: the oldest first; none where nothing in the folder can be the base.
        left_out: what cannot be the base and why, a sentence each.
    """

    recordings: list[Recording]
    left_out: list[str]


class Found(NamedTuple):
    """The recordings of a folder and of those in it.

    Attributes:
        recordings: by file, the oldest first.
        unreadable: why other files are not among them, a sentence each.
    """

    recordings: dict[Path, Recording]
    unreadable: list[str]


def found(folder: Path, *, branch: str | None = None) -> Found:
    """Read a folder. A file that cannot be read loses only itself.

    Args:
        branch: whose files the folder holds for a while; they are named for people as BRANCH:FILE.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; record one with --baselines {folder}")
    recordings, unreadable = {}, []
    for path in folder.rglob("*.json"):
        if path.name.startswith("."):
            continue  # one that is being written
        shown = f"{branch}:{path.relative_to(folder).as_posix()}" if branch else str(path)
        if path.exists() and not path.is_file():
            unreadable.append(f"{shown} is no file")  # a pipe would be waited for
            continue
        try:
            read = store.read(path)
        except UserError as error:
            unreadable.append(str(error).replace(str(path), shown))
            continue
        recordings[path] = read._replace(version=dataclasses.replace(read.version, asked=shown))
    return Found(dict(sorted(recordings.items(), key=lambda each: order(each[1]))), sorted(unreadable))


def window(
    folder: Path,
    head: Recording,
    *,
    size: int = SIZE,
    main: str | None = None,
    allow_dirty: bool = False,
    across: Collection[str] = (),
    branch: str | None = None,
) -> Window:
    """The last recordings of the main branch on head's kind of machine, made before head.

    Args:
        size: how many at most.
        main: the main branch, by default main or master; "*" stands for any, known or not.
        allow_dirty: also those of trees with changes that were not committed, or that are not known to be clean.
        across: fields of the environment that may differ.
        branch: as for `found`.

    Raises:
        UserError: there is no such folder.
    """
    contents = found(folder, branch=branch)
    reasons: Counter[str] = Counter()
    fitting = []
    for each in contents.recordings.values():
        reason = next(_obstacles(each, head, _branches(main), allow_dirty, across), None)
        if reason is None:
            fitting.append(each)
        else:
            reasons[reason] += 1
    return Window(fitting[-size:], contents.unreadable + _told(reasons))


def _obstacles(
    base: Recording, head: Recording, branches: Collection[str], allow_dirty: bool, across: Collection[str]
) -> Iterator[str]:
    """Why a recording is no base of head, each with what allows it if anything does."""
    if _same(base, head):
        yield "head itself"
    elif _same_commit(base, head) and not ignored(base, head, across):
        yield "of head's own commit"
    if order(base) > order(head):
        yield "made after head"
    if lines := differences(base, head, across):
        if lines[0].startswith("device: "):
            yield lines[0]
        else:
            yield f"{'; '.join(lines)} (--across {','.join(line.partition(':')[0] for line in lines)} allows it)"
    yield from foreign(base, branches, allow_dirty=allow_dirty)


def foreign(recording: Recording, branches: Collection[str], *, allow_dirty: bool) -> Iterator[str]:
    """Why a recording does not tell of the main branch, each with what allows it."""
    version = recording.version
    if version.dirty and not allow_dirty:
        yield "of a tree with changes that were not committed (--allow-dirty allows it)"
    if version.dirty is None and not allow_dirty:
        yield "not known to be of a tree without changes (--allow-dirty allows it)"
    if ANY not in branches and version.branch in (None, "HEAD"):  # git's word where no branch is checked out
        yield f"of no known branch (--main-branch '{ANY}' allows it)"
    elif not {ANY, version.branch} & {*branches}:
        yield f"of the branch {version.branch} (--main-branch {version.branch} allows it)"


def of_main(
    recordings: Iterable[Recording], *, main: str | None = None, allow_dirty: bool = False
) -> tuple[list[Recording], list[str]]:
    """The recordings that tell of the main branch, and why others do not, a sentence for each reason.

    Args:
        main, allow_dirty: as for `window`.
    """
    reasons: Counter[str] = Counter()
    chosen = []
    for each in recordings:
        reason = next(foreign(each, _branches(main), allow_dirty=allow_dirty), None)
        if reason is None:
            chosen.append(each)
        else:
            reasons[reason] += 1
    return chosen, _told(reasons)


def _branches(main: str | None) -> tuple[str, ...]:
    return MAIN if main is None else (main,)


def _told(reasons: Counter[str]) -> list[str]:
    return [f"{count} recording{'s' * (count > 1)} left out: {reason}" for reason, count in reasons.items()]


def _same(base: Recording, head: Recording) -> bool:
    """Whether one is the other or a copy of it; either may have fewer cases, since a user names some."""
    paths = {Path(each.version.asked).resolve() for each in (base, head)}
    shared = base.cases.keys() & head.cases.keys()
    contents = [
        (each.version.commit, each.environment, {name: each.cases[name] for name in shared}) for each in (base, head)
    ]
    return len(paths) == 1 or (bool(shared) and contents[0] == contents[1])


def _same_commit(base: Recording, head: Recording) -> bool:
    ours, theirs = base.version, head.version
    return ours.commit is not None and ours.commit == theirs.commit and not (ours.dirty or theirs.dirty)


class Keep(NamedTuple):
    """How long recordings are kept: all of the last days, then the last of each week, then the last of each month."""

    days: int = 0
    weeks: int = 0
    months: int = 0


def keep(text: str) -> Keep:
    """The schedule that a text such as "30d,26w,24m" means.

    Raises:
        UserError: it is none.
    """
    parts = [re.fullmatch(r"([1-9]\d{0,4})([dwm])", part.strip()) for part in text.split(",")]
    numbers = {part[2]: int(part[1]) for part in parts if part}
    if None in parts or len(numbers) < len(parts):
        raise UserError(
            f"--keep is {text!r}; write it as 30d,26w,24m: all recordings of 30 days, then the last of each week for 26"
            " weeks, then the last of each month for 24 months; each part may be left out"
        )
    return Keep(numbers.get("d", 0), numbers.get("w", 0), numbers.get("m", 0))


class Thinned(NamedTuple):
    """What `thin` did.

    Attributes:
        deleted: the files.
        left: why others stay that could have gone, a sentence each.
    """

    deleted: list[Path]
    left: list[str]


def thin(folder: Path, schedule: Keep, *, now: datetime | None = None) -> Thinned:
    """Delete what a schedule does not keep of a folder of recordings.

    Machines, branches, and clean and dirty trees are thinned apart. The newest five of each always stay, for the window
    of a comparison, and so does what cannot be read.

    Args:
        now: by default the time of the call; with its time zone.

    Raises:
        UserError: there is no such folder.
    """
    contents = found(folder)
    now = now or datetime.now(timezone.utc)
    kinds: dict[tuple, list[Path]] = defaultdict(list)
    for path, each in contents.recordings.items():
        kinds[fingerprint(each.environment), each.version.branch, each.version.dirty].append(path)
    deleted, left = [], contents.unreadable
    for paths in kinds.values():
        dates = {path: recorded_at(contents.recordings[path]) for path in paths}
        newest_first = sorted(paths, key=dates.__getitem__, reverse=True)
        terms: set[tuple[int, ...] | None] = set()
        for path in newest_first[SIZE:]:
            term = _term(dates[path], now, schedule)
            if term == () or term not in terms | {None}:
                terms.add(term)
                continue
            try:
                path.unlink(missing_ok=True)  # another job may thin the same folder
                deleted.append(path)
            except OSError as error:
                left.append(f"{path} cannot be deleted: {error.strerror}")
    return Thinned(sorted(deleted), left)


def _term(date: datetime, now: datetime, schedule: Keep) -> tuple[int, ...] | None:
    """The week or the month of which one recording is kept; () where all are, and None where none is."""
    age = now - date
    weekly = timedelta(days=schedule.days)
    monthly = weekly + timedelta(weeks=schedule.weeks)
    if age <= weekly:
        return ()
    if age <= monthly:
        return tuple(date.isocalendar()[:2])
    return (date.year, date.month, 0) if age <= monthly + schedule.months * MONTH else None
