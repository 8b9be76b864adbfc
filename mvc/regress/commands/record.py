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
from mvc.regress.recordings import baselines, branch, store
from mvc.regress.recordings.recording import Recording

EXAMPLES = """examples:
  python -m mvc.regress record --output before.json
  python -m mvc.regress record --baselines bench/baselines
  python -m mvc.regress record --branch mvc-baselines --keep 30d,26w,24m      each night, on a branch of its own

Until all cases are measured, those that are done stand in NAME.partial beside the file.

exit status: 0 done, 3 a case could not be recorded, 73 the file could not be written and was printed instead"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_choice_of_cases(parser)
    options.add_processes(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, metavar="FILE", help="file to write; nothing is overwritten")
    target.add_argument("--baselines", type=Path, metavar="DIR", help="folder to add the file to, by kind of machine")
    target.add_argument("--branch", metavar="NAME", help="branch of recordings to add the file to, and to push if there"
                        " is a remote; the work tree is not touched")  # fmt: skip
    parser.add_argument(
        "--keep",
        type=_schedule,
        metavar="AGES",
        help="then delete older ones: 30d,26w,24m keeps all of 30 days, one a week for 26 weeks, one a month for 24",
    )


def _schedule(text: str) -> baselines.Keep:
    try:
        return baselines.keep(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    if args.keep and args.output:
        raise UserError("--keep is for many recordings; give --baselines or --branch instead of --output")
    suite = options.suite(args)
    version = record.subject(suite)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(branch.opened(args.branch)) if args.branch else None
        if opened:
            opened.require_writable()
        place = _Place(args.output, opened.folder if opened else args.baselines)
        store.require_writable(place.partial)
        recording, obstacles = record.record(
            suite,
            version,
            Progress(quiet=args.quiet),
            timeout=args.timeout,
            wait=not args.no_wait,
            keep=place.keep,
        )
        for obstacle in obstacles:
            print(f"not recorded: {obstacle}", file=sys.stderr)
        if recording.cases:
            try:
                written = _written(recording, place, args.keep, opened)
            except UserError as error:
                print(f"error: {error}; the recording follows on standard output", file=sys.stderr)
                print(store.text(recording), end="")
                return options.CANNOT_CREATE
            print(f"wrote {written}: {', '.join(recording.cases)} of {version}")
        place.partial.unlink(missing_ok=True)
    return 3 if obstacles else 0


class _Place:
    """Where a recording is written: a file, or a folder of many.

    Attributes:
        partial: what is measured so far.
    """

    def __init__(self, output: Path | None, folder: Path | None) -> None:
        self.output, self.folder = output, folder
        name = output or folder / "recording.json"
        self.partial = name.with_name(f"{name.name}.partial")

    def keep(self, recording: Recording) -> None:
        with contextlib.suppress(OSError):  # told when the whole is written
            files.replace(self.partial, store.text(recording))

    def file(self, recording: Recording) -> Path:
        return self.output or store.baseline_path(self.folder, recording)


def _written(recording: Recording, place: _Place, schedule: baselines.Keep | None, opened: branch.Branch | None) -> str:
    """Write a recording, and delete those that a schedule does not keep; say where it is.

    Raises:
        UserError: it cannot be written, or not pushed.
    """
    path = store.write(recording, place.file(recording))
    if schedule:
        thinned = baselines.thin(place.folder, schedule)
        for line in [*thinned.left, *(f"deleted, since --keep does not keep it: {each}" for each in thinned.deleted)]:
            print(line, file=sys.stderr)
    if opened is None:
        return str(path)
    opened.save(f"Recording of {recording.version.name}")
    return f"{path.relative_to(place.folder)} on {opened.where}"
