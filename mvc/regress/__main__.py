"""python -m mvc.regress: record latencies, compare two versions, and test the gate itself."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from mvc import cli, files
from mvc.cli import exit_status, positive, write_json
from mvc.errors import UserError
from mvc.measure.environment import environment
from mvc.progress import Progress
from mvc.regress import cases, compare, selftest, store, summary
from mvc.regress.worker import CaseFailed

EXAMPLES = """examples:
  python -m mvc.regress compare origin/main .                    this checkout, changes included, against a branch
  python -m mvc.regress compare main HEAD --only scan T --markdown summary.md --junit regress.xml
  python -m mvc.regress compare main HEAD --device cuda          the cases for GPUs, by the device's time
  python -m mvc.regress compare main HEAD --exact                graphs, launches, matches of passes: nothing is timed
  python -m mvc.regress record --output before.json
  python -m mvc.regress compare before.json after.json
  python -m mvc.regress record --baselines bench/baselines
  python -m mvc.regress compare bench/baselines after.json       against the newest recording of this kind of device
  python -m mvc.regress selftest --only scan
  python -m mvc.regress selftest --device cuda --only scan-language --comparisons 1 --slowdown 0.05

exit status of compare: 0 no change or better, 1 regression, 2 inconclusive, 3 not comparable (the first that applies,
of 1, 3, 2, 0); of record: 3 if a case could not run; of selftest: 0 the gate was right, 1 wrong, 2 inconclusive, 3 a
case could not run; of all: 64 unusable input, 70 a defect of mvc, 130 interrupted"""
USAGE, SOFTWARE = 64, 70  # of sysexits.h: argparse's own 2, and Python's 1 for an exception, have a meaning here


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parser().parse_args(arguments)
    try:
        return exit_status(lambda: args.command(args), unusable=USAGE)
    except Exception:
        traceback.print_exc()
        return SOFTWARE


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__.partition(": ")[2], prog="python -m mvc.regress", epilog=EXAMPLES, kind=_Parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            run.__name__.strip("_"),
            help=help,
            description=help,
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=run)
        return added

    recording = command(_record, "measure the cases with the installed mvc, and write pytest-benchmark's JSON")
    _add_choice_of_cases(recording)
    target = recording.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, metavar="FILE", help="file to write; nothing is overwritten")
    target.add_argument("--baselines", type=Path, metavar="DIR", help="folder to add the file to, by kind of device")

    comparing = command(_compare, "decide whether HEAD is slower than BASE: two recordings, or two git revisions")
    comparing.add_argument("base", metavar="BASE", help="recording, folder of baselines, or git revision")
    comparing.add_argument("head", metavar="HEAD", help="recording, or git revision; . is the checkout as it is")
    _add_choice_of_cases(comparing)
    comparing.add_argument("--exact", action="store_true", help="only numbers that do not vary; for revisions")
    comparing.add_argument("--json", metavar="FILE", help="also write JSON; - prints it instead of the table")
    comparing.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    comparing.add_argument("--markdown", type=Path, metavar="FILE", help="also write Markdown")

    testing = command(_selftest, "compare the installed mvc with itself: false alarms, and what can be detected here")
    _add_choice_of_cases(testing)
    testing.add_argument("--comparisons", type=positive, default=10, metavar="N", help="for each case (default 10)")
    testing.add_argument(
        "--slowdown", type=_share, metavar="SHARE", help="also with this share of extra work, on CUDA the device's"
    )
    testing.add_argument("--json", metavar="FILE", help="also write JSON; - prints it instead of the table")
    return parser


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return share


def _add_choice_of_cases(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases", metavar="FILE", help="TOML file of cases and thresholds (default mvc's own for the device)"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="run only these cases of the file")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="run all cases on this device (default the file's, or cpu)"
    )
    parser.add_argument("--rounds", type=positive, metavar="N", help="most rounds of a run (default the file's)")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _suite(args: argparse.Namespace) -> cases.Suite:
    suite = cases.load(args.cases, device=args.device or "cpu").only(args.only)
    if args.device:
        suite = dataclasses.replace(
            suite, cases=tuple(dataclasses.replace(case, device=args.device) for case in suite.cases)
        )
    if suite.cases[0].device == "cuda" and not torch.cuda.is_available():
        raise UserError("the cases run on CUDA, but torch finds no device; use --device cpu, or a CUDA build of torch")
    if args.rounds:
        rounds = (min(suite.thresholds.rounds[0], args.rounds), args.rounds)
        suite = dataclasses.replace(suite, thresholds=dataclasses.replace(suite.thresholds, rounds=rounds))
    return suite


def _record(args: argparse.Namespace) -> int:
    suite = _suite(args)
    store.require_writable(args.output or args.baselines / "recording")
    recording, obstacles = compare.record(suite, Progress(quiet=args.quiet))
    for obstacle in obstacles:
        print(f"not recorded: {obstacle}", file=sys.stderr)
    if recording.cases:
        path = args.output or store.baseline_path(args.baselines, recording)
        print(f"wrote {store.write(recording, path)}")
    return 3 if obstacles else 0


def _compare(args: argparse.Namespace) -> int:
    for option, path in (("--json", args.json), ("--junit", args.junit), ("--markdown", args.markdown)):
        if path and path != "-":
            files.require_folder(Path(path), option)
    comparison = _compared(args)
    if args.json:
        write_json(summary.as_dict(comparison), args.json)
    if args.json != "-":
        print(summary.table(comparison))
    for path, text in ((args.junit, summary.junit), (args.markdown, summary.markdown)):
        if path:
            try:
                files.replace(path, text(comparison))
            except OSError as error:
                raise UserError(f"cannot write {path}: {error.strerror}") from error
    return comparison.exit_status


def _compared(args: argparse.Namespace) -> compare.Comparison:
    base, head = Path(args.base), Path(args.head)
    if base.is_file() != head.is_file() and not (base.is_dir() and head.is_file()):
        raise UserError(f"of {base} and {head} one is a file; give two recordings, or two git revisions")
    if not head.is_file():
        return compare.revisions(args.base, args.head, _suite(args), Progress(quiet=args.quiet), exact=args.exact)
    for option in ("exact", "device", "rounds"):
        if getattr(args, option):
            raise UserError(f"--{option} is for git revisions; of recordings leave it out")
    ours = store.read(head)
    if base.is_dir():
        base = store.newest(base, ours)
    device = next(iter(ours.cases.values())).case.device
    thresholds = cases.load(args.cases, device=device).thresholds
    pair = (store.only(store.read(base), args.only), store.only(ours, args.only))
    return compare.recordings(*pair, thresholds, names=(str(base), args.head))


def _selftest(args: argparse.Namespace) -> int:
    if args.json and args.json != "-":
        files.require_folder(Path(args.json), "--json")
    suite, progress = _suite(args), Progress(quiet=args.quiet)
    slowdowns = [0.0, args.slowdown] if args.slowdown else [0.0]
    trials: list[selftest.Trial] = []
    obstacles: list[str] = []
    for case in suite.cases:
        with compare.fresh_sides(("base", None), ("head", None)) as new_sides:
            sides = new_sides()  # one pair: compiled once
            try:
                for slowdown, seed in itertools.product(slowdowns, range(args.comparisons)):
                    with progress.step(f"{case.name}, {slowdown:.0%} slower, {seed + 1} of {args.comparisons}"):
                        trials.append(selftest.trial(case, slowdown, lambda: sides, suite.thresholds, seed=seed))  # noqa: B023
            except CaseFailed as error:
                obstacles.append(f"{case.name}: {error}")
                print(f"not tried: {obstacles[-1]}", file=sys.stderr)
    if args.json:
        machine = environment(torch.device(suite.cases[0].device))
        write_json(selftest.as_dict(trials, obstacles, machine, suite.thresholds), args.json)
    if args.json != "-" and trials:
        print(selftest.table(trials, suite.thresholds.effect))
    return selftest.exit_status(trials, obstacles)


if __name__ == "__main__":
    sys.exit(main())
