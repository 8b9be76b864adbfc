"""python -m mvc.regress: record latencies, compare two versions, follow them over time, and test the gate itself."""

from __future__ import annotations

import argparse
import sys
import traceback
from typing import NoReturn

from mvc import cli
from mvc.cli import exit_status
from mvc.regress.commands import accept, bisect, compare, history, record, report, selftest

COMMANDS = (compare, record, accept, history, report, bisect, selftest)
EPILOG = """python -m mvc.regress COMMAND --help shows the examples and the exit statuses of a command

exit status of all: 64 unusable input, 70 a defect of mvc, 129 hung up, 130 interrupted, 141 output not read,
143 terminated"""
USAGE, SOFTWARE = 64, 70  # of sysexits.h: argparse's own 2, and Python's 1 for an exception, have a meaning here


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parser().parse_args(arguments)
    try:
        return exit_status(lambda: args.run(args), unusable=USAGE)
    except Exception:
        traceback.print_exc()
        return SOFTWARE


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__.partition(": ")[2], prog="python -m mvc.regress", epilog=EPILOG, kind=_Parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        command = commands.add_parser(
            module.__name__.rpartition(".")[2],
            help=module.__doc__,
            description=module.__doc__,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
