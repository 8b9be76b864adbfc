"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import torch

from mvc import files
from mvc.cli import positive
from mvc.errors import UserError
from mvc.regress import cases
from mvc.regress.recordings import baselines, branch
from mvc.regress.worker import TIMEOUT

CANNOT_CREATE = 73  # of sysexits.h: a result could not be written


def add_choice_of_cases(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured, and on which device."""
    parser.add_argument(
        "--cases", metavar="FILE", help="TOML file of cases and thresholds (default mvc's own for the device)"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="run only these cases of the file")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="run all cases on this device (default the file's, or cpu)"
    )
    parser.add_argument("--rounds", type=positive, metavar="N", help="most rounds of a run (default the file's)")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that measure."""
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"limit for each answer of a process that is measured (default {TIMEOUT:.0f})",
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="refuse instead of waiting for another run of the gate on the device"
    )


def _seconds(text: str) -> float:
    if not 0 < (seconds := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def share(text: str) -> float:
    """The type of an argument that is a share between 0 and 1."""
    if not 0 < (value := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_window(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which of many recordings are the base."""
    parser.add_argument("--window", type=positive, metavar="N", help=f"how many at most (default {baselines.SIZE})")
    add_choice_of_recordings(parser)


def add_choice_of_recordings(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which recordings tell of the main branch."""
    parser.add_argument("--main-branch", metavar="NAME", help="whose recordings count (default main or master; * any)")
    parser.add_argument("--allow-dirty", action="store_true", help="also of trees with changes that were not committed")


def suite(args: argparse.Namespace) -> cases.Suite:
    """The cases that the options choose.

    Raises:
        UserError: unknown cases, or a device that is not there.
    """
    chosen = cases.load(args.cases, device=args.device or "cpu").only(args.only)
    if args.device:
        moved = tuple(dataclasses.replace(case, device=args.device) for case in chosen.cases)
        chosen = dataclasses.replace(chosen, cases=moved)
    if chosen.cases[0].device == "cuda" and not torch.cuda.is_available():
        raise UserError("the cases run on CUDA, but torch finds no device; use --device cpu, or a CUDA build of torch")
    if args.rounds:
        chosen = chosen.limited(args.rounds)
    return chosen


def require_writable(**paths: str | Path | None) -> None:
    """Refuse at once files that could not be written after long measuring, and one that two options name; the names
    are those of the options."""
    owners: dict[Path, str] = {}
    for option, path in paths.items():
        if path and str(path) != "-":
            files.require_folder(Path(path), f"--{option}")
            owner = owners.setdefault(Path(path).resolve(), option)
            if owner != option and not Path(path).is_char_device():
                raise UserError(f"--{owner} and --{option} both name {path}; give each a file of its own")


def write(path: Path, text: str) -> None:
    """Write a text to a file that a user named.

    Raises:
        UserError: it cannot be written.
    """
    try:
        files.replace(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def add_recordings(parser: argparse.ArgumentParser) -> None:
    """Add the two ways of naming many recordings."""
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="folder of recordings")
    place.add_argument("--branch", metavar="NAME", help="branch of recordings")


def recordings(args: argparse.Namespace) -> baselines.Found:
    """The recordings that `add_recordings` lets a user name, at least one.

    Raises:
        UserError: there is no such place, or nothing in it can be read.
    """
    if args.branch:
        with branch.opened(args.branch) as opened:
            found, where = baselines.found(opened.folder, branch=opened.name), opened.where
    else:
        found, where = baselines.found(args.folder), args.folder
    if not found.recordings:
        why = "; ".join(found.unreadable) or "it has no recording"
        option = f"--branch {args.branch}" if args.branch else f"--baselines {args.folder}"
        raise UserError(f"nothing in {where} can be read: {why}; fill it with record {option}")
    return found


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which changes count over many recordings."""
    parser.add_argument("--cases", metavar="FILE", help="TOML file of thresholds (default mvc's own for the device)")
    parser.add_argument("--effect", type=share, metavar="SHARE", help="smallest change that counts, of any time")


def thresholds_of(args: argparse.Namespace) -> Callable[[cases.Case], cases.Thresholds]:
    """The thresholds of each case: of the file that was named, or of mvc's own for the case's device."""
    suites = {device: cases.load(args.cases, device=device) for device in ("cpu", "cuda")}

    def of(case: cases.Case) -> cases.Thresholds:
        thresholds = suites[case.device].thresholds_of(case)
        effects = {"effect": args.effect, "call_effect": args.effect} if args.effect else {}
        return dataclasses.replace(thresholds, **effects)

    return of
