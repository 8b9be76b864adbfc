"""show all cases over their recordings on one HTML page that needs no network"""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mvc.errors import UserError
from mvc.regress import history
from mvc.regress.commands import options
from mvc.regress.recordings import baselines
from mvc.regress.results import report
from mvc.regress.results.summary import SCHEMA

EXAMPLES = """examples:
  python -m mvc.regress report bench/baselines --output page.html
  python -m mvc.regress report --branch mvc-baselines --comparison result.json --title "Ours" --output page.html

result.json is what compare --json writes

exit status: 0 the page is written; whether a slowdown stands is the exit status of history"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_recordings(parser)
    options.add_choice_of_recordings(parser)
    options.add_thresholds(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="page to write")
    parser.add_argument("--comparison", type=Path, metavar="FILE", help="also show this result of compare --json")
    parser.add_argument("--title", default="Latency over time", metavar="TEXT", help="of the page")


def run(args: argparse.Namespace) -> int:
    options.require_writable(output=args.output)
    comparison = args.comparison and _comparison(args.comparison)
    found = options.recordings(args)
    chosen, left_out = baselines.of_main(found.recordings.values(), main=args.main_branch, allow_dirty=args.allow_dirty)
    if not chosen:
        raise UserError(f"nothing is left to show: {'; '.join([*left_out, *found.unreadable])}")
    contents = report.Contents(
        args.title,
        history.series(chosen, thresholds_of=options.thresholds_of(args)),
        comparison,
        unreadable=found.unreadable,
        left_out=left_out,
        made=datetime.now(timezone.utc),
    )
    options.write(args.output, report.page(contents))
    print(f"wrote {args.output}: {report.verdict(contents)}")
    return 0


def _comparison(path: Path) -> dict[str, Any]:
    """What compare --json wrote.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    remedy = "name a file that compare --json wrote with this version"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--comparison {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--comparison {path} is no JSON; {remedy}") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise UserError(f"--comparison {path} is not of the format {SCHEMA}; {remedy}")
    return facts
