"""measure the cases of this checkout, and write pytest-benchmark's JSON"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from mvc import files
from mvc.errors import UserError
from mvc.progress import Progress
from mvc.regress import record
from mvc.regress.commands import options
from mvc.regress.recordings import store
from mvc.regress.recordings.recording import Recording

EXAMPLES = """examples:
  python -m mvc.regress record --output before.json
  python -m mvc.regress record --baselines bench/baselines

Until all cases are measured, those that are done stand in NAME.partial beside the file.

exit status: 0 done, 3 a case could not be recorded, 73 the file could not be written and was printed instead"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_choice_of_cases(parser)
    options.add_processes(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, metavar="FILE", help="file to write; nothing is overwritten")
    target.add_argument("--baselines", type=Path, metavar="DIR", help="folder to add the file to, by kind of machine")


def run(args: argparse.Namespace) -> int:
    suite, progress = options.suite(args), Progress(quiet=args.quiet)
    place = args.output or args.baselines / "recording.json"
    store.require_writable(place)
    partial = place.with_name(f"{place.name}.partial")

    def keep(recording: Recording) -> None:
        with contextlib.suppress(OSError):  # told when the whole is written
            files.replace(partial, store.text(recording))

    version = record.subject(suite)
    recording, obstacles = record.record(
        suite, version, progress, timeout=args.timeout, wait=not args.no_wait, keep=keep
    )
    for obstacle in obstacles:
        print(f"not recorded: {obstacle}", file=sys.stderr)
    if recording.cases:
        try:
            path = store.write(recording, args.output or store.baseline_path(args.baselines, recording))
        except UserError as error:
            print(f"error: {error}; the recording follows on standard output", file=sys.stderr)
            print(store.text(recording), end="")
            return options.CANNOT_CREATE
        print(f"wrote {path}: {', '.join(recording.cases)} of {version}")
    partial.unlink(missing_ok=True)
    return 3 if obstacles else 0
