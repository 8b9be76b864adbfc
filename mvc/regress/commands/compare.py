"""decide whether HEAD is slower than BASE: two recordings, or two git revisions"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvc.cli import write_json
from mvc.errors import UserError
from mvc.progress import Progress
from mvc.regress import cases, compare
from mvc.regress.commands import options
from mvc.regress.recordings import store
from mvc.regress.recordings.recording import only
from mvc.regress.results import summary

EXAMPLES = """examples:
  python -m mvc.regress compare origin/main .                    this checkout, changes included, against a branch
  python -m mvc.regress compare main HEAD --only scan T --markdown summary.md --junit regress.xml
  python -m mvc.regress compare main HEAD --device cuda          the cases for GPUs, by the device's time
  python -m mvc.regress compare main HEAD --exact                graphs, launches, matches of passes: nothing is timed
  python -m mvc.regress compare before.json after.json
  python -m mvc.regress compare bench/baselines after.json       against the newest recording of this kind of device

exit status, the first that applies: 1 regression, 3 not comparable, 2 inconclusive, 0 no change or better"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help="recording, folder of baselines, or git revision")
    parser.add_argument("head", metavar="HEAD", help="recording, or git revision; . is the checkout as it is")
    options.add_choice_of_cases(parser)
    parser.add_argument("--exact", action="store_true", help="only numbers that do not vary; for revisions")
    parser.add_argument("--json", metavar="FILE", help="also write JSON; - prints it instead of the table")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write Markdown")


def run(args: argparse.Namespace) -> int:
    options.require_writable(json=args.json, junit=args.junit, markdown=args.markdown)
    comparison = _compared(args)
    if args.json:
        write_json(summary.as_dict(comparison), args.json)
    if args.json != "-":
        print(summary.table(comparison))
    for path, text in ((args.junit, summary.junit), (args.markdown, summary.markdown)):
        if path:
            options.write(path, lambda text=text: text(comparison))
    return comparison.exit_status


def _compared(args: argparse.Namespace) -> compare.Comparison:
    base, head = Path(args.base), Path(args.head)
    if base.is_file() != head.is_file() and not (base.is_dir() and head.is_file()):
        raise UserError(f"of {base} and {head} one is a file; give two recordings, or two git revisions")
    if not head.is_file():
        suite = options.suite(args)
        return compare.revisions(args.base, args.head, suite, Progress(quiet=args.quiet), exact=args.exact)
    for option in ("exact", "device", "rounds"):
        if getattr(args, option):
            raise UserError(f"--{option} is for git revisions; of recordings leave it out")
    ours = store.read(head)
    if base.is_dir():
        base = store.newest(base, ours)
    device = next(iter(ours.cases.values())).case.device
    thresholds = cases.load(args.cases, device=device).thresholds
    pair = (only(store.read(base), args.only), only(ours, args.only))
    return compare.recordings(*pair, thresholds, names=(str(base), args.head))
