"""measure the cases with the installed mvc, and write pytest-benchmark's JSON"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mvc.progress import Progress
from mvc.regress import compare
from mvc.regress.commands import options
from mvc.regress.recordings import store

EXAMPLES = """examples:
  python -m mvc.regress record --output before.json
  python -m mvc.regress record --baselines bench/baselines

exit status: 0 done, 3 a case could not run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_choice_of_cases(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, metavar="FILE", help="file to write; nothing is overwritten")
    target.add_argument("--baselines", type=Path, metavar="DIR", help="folder to add the file to, by kind of device")


def run(args: argparse.Namespace) -> int:
    suite = options.suite(args)
    store.require_writable(args.output or args.baselines / "recording")
    recording, obstacles = compare.record(suite, Progress(quiet=args.quiet))
    for obstacle in obstacles:
        print(f"not recorded: {obstacle}", file=sys.stderr)
    if recording.cases:
        path = args.output or store.baseline_path(args.baselines, recording)
        print(f"wrote {store.write(recording, path)}")
    return 3 if obstacles else 0
