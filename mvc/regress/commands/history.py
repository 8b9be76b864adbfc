"""find the steps and creeps in many recordings; fails while a slowdown stands"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mvc.cli import write_json
from mvc.errors import UserError
from mvc.regress import history
from mvc.regress.commands import options
from mvc.regress.recordings import baselines
from mvc.regress.recordings.recording import Recording, moment, recorded_at
from mvc.regress.results import trends

EXAMPLES = """examples:
  python -m mvc.regress history bench/baselines
  python -m mvc.regress history --branch mvc-baselines --since 2026-06-01 --markdown history.md
  python -m mvc.regress history bench/baselines --effect 0.03 --only scan --json -

exit status: 1 a slowdown of at least the effect stands and was not accepted, 3 too few recordings to judge, 0 none"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_recordings(parser)
    options.add_choice_of_recordings(parser)
    options.add_thresholds(parser)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these cases")
    parser.add_argument("--since", metavar="DATE|COMMIT", help="only changes then or later, such as 2026-06-01")
    parser.add_argument("--json", metavar="FILE", help="also write JSON; - prints it instead of the table")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write Markdown")


def run(args: argparse.Namespace) -> int:
    options.require_writable(json=args.json, markdown=args.markdown)
    found = options.recordings(args)
    chosen, left_out = baselines.of_main(found.recordings.values(), main=args.main_branch, allow_dirty=args.allow_dirty)
    series = history.series(_only(chosen, args.only), thresholds_of=options.thresholds_of(args))
    if args.since:
        first = _first(args.since, chosen)
        series = [each.since(first) for each in series]
    shown = trends.Trends(series, [*found.unreadable, *left_out])
    if args.json != "-":
        print(trends.table(shown))
    if args.json:
        write_json(trends.as_dict(shown), args.json)
    if args.markdown:
        options.write(args.markdown, trends.markdown(shown))
    return shown.exit_status


def _only(recordings: Sequence[Recording], names: Sequence[str]) -> list[Recording]:
    """The recordings with the cases of these names, or with all."""
    known = {name for each in recordings for name in each.cases}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--only has {unknown[0]!r}; recorded are {', '.join(sorted(known)) or 'no cases'}")
    return [each.with_cases(names or known) for each in recordings]


def _first(text: str, recordings: Sequence[Recording]) -> datetime:
    """The moment that a date names, or that at which a commit was first recorded.

    Raises:
        UserError: it is no date, and no recording is of such a commit.
    """
    of_commit = [each for each in recordings if (each.version.commit or "").startswith(text)]
    if of_commit:
        return min(map(recorded_at, of_commit))
    try:
        return moment(text)
    except ValueError:
        raise UserError(f"--since is {text!r}; give a date such as 2026-06-01, or a commit that was recorded") from None
