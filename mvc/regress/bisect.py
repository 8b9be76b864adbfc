"""The search for the first slow commit, by git's bisection and a judge of single commits."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mvc.errors import UserError
from mvc.measure.paired import Ratio
from mvc.progress import Progress
from mvc.regress.figures import signed
from mvc.regress.sources.git import UNSHALLOW, attempt, git, is_shallow
from mvc.regress.sources.version import Version
from mvc.table import tabulate

SCHEMA = "mvc.regress.bisect/1"
Answer = Literal["good", "bad", "skip"]
WORDS = {"good": "not slower", "bad": "slower", "skip": "not decided"}
SHOWN = 60  # characters of a subject in a table


class Commit(NamedTuple):
    """A commit for people; its time is in ISO format."""

    id: str
    time: str
    author: str
    subject: str

    def __str__(self) -> str:
        return f"{self.id[:12]} {self.subject} ({self.author}, {self.time[:10]})"


class Measured(NamedTuple):
    """One case of a commit against the good one; the ratio of times is None where nothing was timed."""

    case: str
    verdict: str
    ratio: Ratio | None


class Tried(NamedTuple):
    """A commit that was judged.

    Attributes:
        obstacles: why cases could not be measured, a sentence each.
    """

    commit: Commit
    answer: Answer
    measured: list[Measured]
    obstacles: list[str]


class Bisection(NamedTuple):
    """What was found.

    Attributes:
        tried: the bad commit, and then those that were tried, in that order.
        suspects: the first slow commit; several, oldest first, where some between could not be decided; none where the
            bad commit is not slower.
    """

    good: Version
    bad: Version
    tried: list[Tried]
    suspects: list[Commit]

    @property
    def exit_status(self) -> int:
        """1 where a commit is named, 2 where it is one of several or nothing is sure, 3 where the ends cannot be
        compared, 0 where the bad commit is not slower."""
        if self.suspects:
            return 1 if len(self.suspects) == 1 else 2
        end = self.tried[0]
        return {"good": 0, "bad": 1, "skip": 3 if end.obstacles else 2}[end.answer]

    @property
    def conclusion(self) -> str:
        """What was found, in a sentence or a few lines."""
        if len(self.suspects) == 1:
            return f"the first slow commit is {self.suspects[0]}"
        if self.suspects:
            listed = "\n".join(f"  {commit}" for commit in self.suspects)
            return f"the first slow commit could be any of these, because some of them are not decided:\n{listed}"
        ends = f"{self.bad.asked} against {self.good.asked}"
        return {
            0: f"{ends}: not slower, so there is nothing to look for",
            2: f"{ends}: neither a change nor its absence is sure; choose cases with --only, or more --rounds",
            3: f"{ends}: not comparable, so nothing can be looked for",
        }[self.exit_status]

    def __str__(self) -> str:
        rows = [
            [each.commit.id[:12], each.commit.subject[:SHOWN], WORDS[each.answer], "; ".join(_findings(each))]
            for each in self.tried
        ]
        headers = ("commit", "subject", "answer", f"against {self.good.name}")
        return f"{tabulate(rows, headers=headers)}\n{self.conclusion}"

    def as_dict(self) -> dict[str, Any]:
        """For programs, as plain types that JSON can hold."""
        return {
            "schema": SCHEMA,
            "good": dataclasses.asdict(self.good),
            "bad": dataclasses.asdict(self.bad),
            "first_slow": self.suspects[0]._asdict() if len(self.suspects) == 1 else None,
            "suspects": [commit._asdict() for commit in self.suspects],
            "tried": [
                {
                    "commit": each.commit._asdict(),
                    "answer": each.answer,
                    "cases": [
                        {"name": one.case, "verdict": one.verdict, "ratio": one.ratio and one.ratio._asdict()}
                        for one in each.measured
                    ],
                    "obstacles": each.obstacles,
                }
                for each in self.tried
            ],
            "exit_status": self.exit_status,
        }


def _findings(tried: Tried) -> list[str]:
    return [
        f"{each.case} {each.verdict}" if each.ratio is None else f"{each.case} {signed(each.ratio.median)}"
        for each in tried.measured
    ] + tried.obstacles


def describe(commit: str, root: Path) -> Commit:
    """The facts of a commit."""
    text = git("show", "--no-patch", "--format=%H%x00%cI%x00%an%x00%s", commit, folder=root)
    return Commit(*text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").split("\0"))


def search(
    root: Path,
    good: str,
    bad: str,
    judge: Callable[[str], Answer],
    progress: Progress,
    *,
    first_parent: bool = False,
) -> list[str]:
    """The first bad commit between two, by git's bisection. Nothing is written into the repository.

    Args:
        root: of the checkout.
        good, bad: ids of commits whose answers are known.
        judge: called with a commit's id once; a commit that it skips is not decided.
        first_parent: of merges follow the first parent alone, and so name the merge.

    Returns:
        its id; where skipped commits stand before it, the ids of all that it could be, the oldest first.

    Raises:
        UserError: `good` is no ancestor of `bad`.
    """
    require_ancestor(good, bad, root)
    goods, skipped = [good], set()
    while True:
        suspects = _suspects(bad, goods, first_parent, root)
        undecided = [commit for commit in suspects if commit != bad and commit not in skipped]
        if not undecided:
            return sorted(suspects, key=_order(bad, goods, root).index)
        commit = _choice(undecided, len(skipped.intersection(suspects)))
        steps = math.ceil(math.log2(len(undecided) + 1))
        what = f"one of {len(suspects)} commits is the first slow one, about {steps} to try"
        progress.say(f"{what}: {describe(commit, root)}")
        answer = judge(commit)
        progress.say(f"{commit[:12]}: {WORDS[answer]}")
        if answer == "bad":
            bad = commit
        elif answer == "good":
            goods.append(commit)
        else:
            skipped.add(commit)


def require_ancestor(good: str, bad: str, root: Path) -> None:
    if good == bad:
        raise UserError(f"GOOD and BAD are both {good[:12]}; name two commits")
    if attempt("merge-base", "--is-ancestor", good, bad, folder=root) is not None:
        return
    base = attempt("merge-base", good, bad, folder=root)
    remedy = f"name {base[:12]}, where they parted, as GOOD" if base else "name one with a common history"
    raise UserError(f"GOOD {good[:12]} is no ancestor of BAD; {UNSHALLOW if is_shallow(root) else remedy}")


def _suspects(bad: str, goods: Sequence[str], first_parent: bool, root: Path) -> list[str]:
    """The commits among which the first bad one is, that which halves them best first."""
    option = ["--first-parent"] if first_parent else []
    lines = git("rev-list", "--bisect-all", *option, bad, "--not", *goods, folder=root).splitlines()
    return [line.split()[0] for line in lines]


def _order(bad: str, goods: Sequence[str], root: Path) -> list[str]:
    return git("rev-list", "--reverse", "--topo-order", bad, "--not", *goods, folder=root).splitlines()


def _choice(undecided: Sequence[str], skipped: int) -> str:
    """The commit to try. After some were skipped, one that is drawn, as git does: neighbours of commits that do not
    work tend not to work either."""
    if not skipped:
        return undecided[0]
    return undecided[int(len(undecided) * random.Random(skipped).random() ** 1.5)]
