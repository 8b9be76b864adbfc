"""accept the slowdown of a case: from now on it is the base"""

from __future__ import annotations

import argparse

from mvc.errors import UserError
from mvc.regress import accepted, cases
from mvc.regress.sources.git import root

EXAMPLES = """examples:
  python -m mvc.regress accept scan --reason "exact in the last place since #123"
  python -m mvc.regress accept T --cases bench/cases/gpu.toml --reason "float32 sums, see DESIGN.md"

The file that it writes is committed with the change that is slower. The regression of the case is then told and passes,
and only recordings that were made with the acceptance are its base.

exit status: 0 written"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", metavar="CASE", help="name of the case in the file of cases")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why the slowdown is meant")
    parser.add_argument("--cases", metavar="FILE", help="TOML file of the cases (default mvc's own for the device)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="whose own cases (default cpu)")


def run(args: argparse.Namespace) -> int:
    suite = cases.load(args.cases, device=args.device).only([args.case])  # refuses an unknown case
    path = accepted.path_for(suite.path)
    if not path.is_relative_to(root()):
        raise UserError(f"{suite.path} lies outside of this checkout; give your repository's cases with --cases")
    accepted.add(path, args.case, args.reason)
    print(f"wrote {path}: commit it with the change that makes {args.case} slower")
    return 0
