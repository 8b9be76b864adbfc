"""decide whether HEAD is slower than BASE: two git revisions, or two recordings"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mvc import files
from mvc.errors import UserError
from mvc.progress import Progress
from mvc.regress import apart, cases, compare
from mvc.regress.commands import options
from mvc.regress.compare import Comparison
from mvc.regress.recordings import baselines, branch, store
from mvc.regress.recordings.recording import Recording, fields_across, merged, only
from mvc.regress.results import junit, summary
from mvc.regress.sources.revisions import resolve

EXAMPLES = """examples:
  python -m mvc.regress compare main...HEAD                      the last commit, against where its branch left main
  python -m mvc.regress compare main .                           this checkout, changes included, against a branch
  python -m mvc.regress compare main...HEAD --only scan T --markdown comment.md --junit regress.xml
  python -m mvc.regress compare main...HEAD --device cuda        the cases for GPUs, by the device's time
  python -m mvc.regress compare main...HEAD --exact              graphs, launches, matches of passes: nothing is timed
  python -m mvc.regress compare HEAD HEAD --head-python /opt/nightly/bin/python --across torch,triton
  python -m mvc.regress compare before.json after.json
  python -m mvc.regress compare bench/baselines after.json       against the last of main on this kind of machine
  python -m mvc.regress compare --branch mvc-baselines after.json
  python -m mvc.regress compare a1.json,a2.json b1.json,b2.json  of pytest-benchmark: each file is one process

exit status, the first that applies: 1 regression, 3 not comparable, 2 inconclusive, 73 a file could not be written,
0 no change or better"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help="git revision, recordings, or folder of them; or BASE...HEAD")
    parser.add_argument("head", metavar="HEAD", nargs="?", help="git revision, . for this checkout, or recordings")
    options.add_choice_of_cases(parser)
    options.add_processes(parser)
    parser.add_argument("--exact", action="store_true", help="only numbers that do not vary; for revisions")
    parser.add_argument(
        "--across",
        default="",
        metavar="NAMES",
        help="compare although these differ, such as torch,driver",
    )
    parser.add_argument("--base-python", metavar="FILE", help="interpreter of base's processes (default this one)")
    parser.add_argument("--head-python", metavar="FILE", help="interpreter of head's processes (default this one)")
    parser.add_argument("--branch", metavar="NAME", help="branch of recordings that is the base; then give HEAD alone")
    options.add_window(parser)
    parser.add_argument("--json", metavar="FILE", help="also write JSON; - prints it instead of the table")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write Markdown, for a pull request")


def run(args: argparse.Namespace) -> int:
    options.require_writable(json=args.json, junit=args.junit, markdown=args.markdown)
    results = _Results(args)
    comparison = _compared(args, results.keep)
    results.keep(comparison)  # first, whether or not somebody reads the output to its end
    if args.json == "-":
        print(summary.json(comparison), end="")
    else:
        print(summary.table(comparison))
    return comparison.exit_status or (options.CANNOT_CREATE if results.failed else 0)


class _Results:
    """The files that the command was asked for. One that cannot be written is told and loses nothing but itself."""

    def __init__(self, args: argparse.Namespace) -> None:
        wanted = ((args.json, summary.json), (args.junit, junit.junit), (args.markdown, summary.markdown))
        self._texts = {Path(path): text for path, text in wanted if path and path != "-"}
        self.failed: set[Path] = set()

    def keep(self, comparison: Comparison) -> None:
        for path, text in self._texts.items():
            try:
                files.replace(path, text(comparison))
                self.failed.discard(path)
            except OSError as error:
                if path not in self.failed:
                    print(f"error: cannot write {path}: {error.strerror}", file=sys.stderr)
                self.failed.add(path)


def _compared(args: argparse.Namespace, keep: Callable[[Comparison], None]) -> Comparison:
    if args.branch or _files(args.head or "") or _files(args.base):
        return _of_recordings(args)
    _refuse(args, "many recordings; leave it out with revisions", "window", "main_branch", "allow_dirty")
    how = compare.How(
        exact=args.exact,
        across=fields_across(args.across),
        pythons=(args.base_python, args.head_python),
        timeout=args.timeout,
        wait=not args.no_wait,
    )
    suite, progress = options.suite(args), Progress(quiet=args.quiet)
    return compare.revisions(resolve(args.base, args.head), suite, how, progress, keep=keep)


def _of_recordings(args: argparse.Namespace) -> Comparison:
    _refuse(
        args, "git revisions; leave it out with recordings", "exact", "device", "rounds", "base_python", "head_python"
    )
    ours = _files(args.base if args.branch else args.head or "")
    theirs = [] if args.branch else _files(args.base)
    folder = None if theirs or args.branch else Path(args.base)
    if not ours or (args.branch and args.head) or not (theirs or args.branch or folder.is_dir()):
        raise UserError(
            f"of {args.base} and {args.head} one is a file; give two recordings, a folder of them or --branch and then"
            " a recording, or two git revisions"
        )
    head = _read(ours, args.only)
    suite, across = cases.load(args.cases, device=head.device), fields_across(args.across)
    if theirs:
        bases, left_out = [_read(theirs, args.only)], []
    else:
        bases, left_out = _window(args, folder, head, across)
    _require_distinct([*theirs, *ours])
    if not bases:
        return apart.without_base(head, left_out)
    return apart.recordings(bases, head, suite, across=across, deleted=bool(args.cases), remarks=left_out)


def _window(
    args: argparse.Namespace, folder: Path | None, head: Recording, across: frozenset[str]
) -> tuple[list[Recording], list[str]]:
    """The recordings of a folder, or of the branch, that are the base, and why others are not."""
    with contextlib.ExitStack() as stack:
        found = baselines.window(
            folder or stack.enter_context(branch.opened(args.branch)).folder,
            head,
            size=args.window or baselines.SIZE,
            main=args.main_branch,
            allow_dirty=args.allow_dirty,
            across=across,
            branch=args.branch,
        )
    bases = found.recordings
    if args.only:
        bases = [base.with_cases(head.cases) for base in bases]
    return bases, found.left_out


def _refuse(args: argparse.Namespace, why: str, *options: str) -> None:
    for option in options:
        if getattr(args, option):
            raise UserError(f"--{option.replace('_', '-')} is for {why}")


def _files(named: str) -> list[Path]:
    """The files that an argument names, separated by commas; none where it names something else."""
    paths = [Path(named)] if Path(named).is_file() else [Path(each) for each in named.split(",")]
    return paths if all(path.is_file() for path in paths) else []


def _require_distinct(paths: Sequence[Path]) -> None:
    """Refuse a recording that is named twice: it is never its own base, nor two processes.

    Raises:
        UserError: a file is another, or a copy of it.
    """
    seen: dict[bytes, Path] = {}
    for path in paths:
        first = seen.setdefault(path.read_bytes(), path)
        if first is not path:
            raise UserError(f"{first} and {path} are the same recording; a recording is compared with others")


def _read(paths: Sequence[Path], names: Sequence[str]) -> Recording:
    return only(merged([store.read(path) for path in paths]), names)
