"""compare a version with itself: false alarms, and what can be detected here"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import torch

from mvc.cli import positive, write_json
from mvc.measure.environment import environment
from mvc.progress import Progress
from mvc.regress import compare, record, selftest
from mvc.regress.commands import options
from mvc.regress.sources.scratch import Scratch, device_lock
from mvc.regress.worker import CaseFailed

EXAMPLES = """examples:
  python -m mvc.regress selftest --only scan
  python -m mvc.regress selftest --device cuda --only scan-language --comparisons 1 --slowdown 0.05

exit status: 0 the gate was right, 1 wrong, 2 inconclusive, 3 a case could not run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_choice_of_cases(parser)
    options.add_processes(parser)
    parser.add_argument("--comparisons", type=positive, default=10, metavar="N", help="for each case (default 10)")
    parser.add_argument(
        "--slowdown",
        type=options.share,
        metavar="SHARE",
        help="also with this share of extra work, on CUDA the device's",
    )
    parser.add_argument("--json", metavar="FILE", help="also write JSON; - prints it instead of the table")


def run(args: argparse.Namespace) -> int:
    options.require_writable(json=args.json)
    suite, progress = options.suite(args), Progress(quiet=args.quiet)
    slowdowns = [0.0, args.slowdown] if args.slowdown else [0.0]
    trials: list[selftest.Trial] = []
    obstacles: list[str] = []
    version = record.subject(suite)
    folder, device = Path(version.folder), torch.device(suite.cases[0].device)
    with Scratch() as scratch, device_lock(device, progress, wait=not args.no_wait):
        for case in suite.cases:
            sides = compare.fresh_sides(scratch, ("base", folder, None), ("head", folder, None))()  # compiled once
            thresholds = suite.thresholds_of(case)
            for slowdown, seed in itertools.product(slowdowns, range(args.comparisons)):
                try:
                    with progress.step(f"{case.name}, {slowdown * 100:g} % slower, {seed + 1} of {args.comparisons}"):
                        trials.append(selftest.trial(case, slowdown, lambda: sides, thresholds, seed=seed))  # noqa: B023
                except CaseFailed as error:
                    obstacles.append(f"{case.name}: {error}")
                    print(f"not tried: {obstacles[-1]}", file=sys.stderr)
                    break
    if args.json:
        write_json(selftest.as_dict(trials, obstacles, version, environment(device), suite.thresholds), args.json)
    if args.json != "-" and trials:
        print(selftest.table(trials, suite.thresholds.effect))
    return selftest.exit_status(trials, obstacles)
