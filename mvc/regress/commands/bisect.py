"""name the first commit that is slower than GOOD, of those from GOOD to BAD"""

from __future__ import annotations

import argparse

from mvc.cli import write_json
from mvc.errors import UserError
from mvc.progress import Progress
from mvc.regress import bisect, compare
from mvc.regress.bisect import Answer, Bisection, Measured, Tried
from mvc.regress.cases import Suite
from mvc.regress.commands import options
from mvc.regress.sources.revisions import WORKING_TREE, Pair, resolve, version

EXAMPLES = """examples:
  python -m mvc.regress bisect v1.4 main
  python -m mvc.regress bisect HEAD~30 HEAD --only scan --device cuda --json found.json
  python -m mvc.regress bisect v1.4 main --first-parent           of merged branches, name the merge

Each commit is measured beside GOOD, in turns, by the cases in which BAD is slower. What cannot be measured, or is
inconclusive, is skipped and told. The repository is not written to.

exit status: 1 a commit is named, 2 inconclusive: it is one of several, or it is not sure that BAD is slower,
3 GOOD and BAD are not comparable, 0 BAD is not slower"""

SLOWER = ("regression", "accepted")  # which commit it was is asked of a slowdown that is meant too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("good", metavar="GOOD", help="git revision that is fast, an ancestor of BAD")
    parser.add_argument("bad", metavar="BAD", help="git revision that is slower")
    options.add_choice_of_cases(parser)
    options.add_processes(parser)
    parser.add_argument("--first-parent", action="store_true", help="follow the first parent of merges alone")
    parser.add_argument("--json", metavar="FILE", help="also write JSON; - prints it instead of the table")


def run(args: argparse.Namespace) -> int:
    options.require_writable(json=args.json)
    if WORKING_TREE in (args.good, args.bad):
        raise UserError("'.' is no commit; commit the changes and name HEAD")
    found = _bisected(resolve(args.good, args.bad), options.suite(args), args)
    if args.json:
        write_json(found.as_dict(), args.json)
    if args.json != "-":
        print(found)
    return found.exit_status


def _bisected(pair: Pair, suite: Suite, args: argparse.Namespace) -> Bisection:
    good, bad, root = pair.base.commit, pair.head.commit, pair.root
    bisect.require_ancestor(good, bad, root)
    progress = Progress(quiet=args.quiet)
    tried = [_tried(pair, bad, suite, args, progress)]
    if tried[0].answer != "bad":
        return Bisection(pair.base, pair.head, tried, [])
    slower = suite.only([each.case for each in tried[0].measured if each.verdict in SLOWER])

    def judge(commit: str) -> Answer:
        try:
            tried.append(_tried(pair, commit, slower, args, progress))
        except UserError as error:  # its sources cannot be had, say
            tried.append(Tried(bisect.describe(commit, root), "skip", [], [str(error)]))
        return tried[-1].answer

    suspects = bisect.search(root, good, bad, judge, progress, first_parent=args.first_parent)
    return Bisection(pair.base, pair.head, tried, [bisect.describe(commit, root) for commit in suspects])


def _tried(pair: Pair, commit: str, suite: Suite, args: argparse.Namespace, progress: Progress) -> Tried:
    """Compare a commit with the good one: bad if a case is slower, good if it is sure of every case that it is not."""
    how = compare.How(timeout=args.timeout, wait=not args.no_wait)
    candidate = pair._replace(head=version(commit[:12], pair.root), remarks=[])
    comparison = compare.revisions(candidate, suite, how, progress)
    obstacles = list(comparison.obstacles)
    if not obstacles:  # an added case is none to `compare`
        found = {each.case.name for each in comparison.results}
        obstacles = [f"{each.name}: cannot run in {pair.base.asked}" for each in suite.cases if each.name not in found]
    verdicts = {each.verdict for each in comparison.results}
    sure = not obstacles and "inconclusive" not in verdicts
    answer: Answer = "bad" if verdicts.intersection(SLOWER) else "good" if sure else "skip"
    measured = [
        Measured(each.case.name, each.verdict, each.change("time") if each.runs[0].times else None)
        for each in comparison.results
    ]
    return Tried(bisect.describe(commit, pair.root), answer, measured, obstacles)
