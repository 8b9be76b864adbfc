"""Everything that a card can tell about mvc, in minutes: scan, models, latency, gate, tests, training, tasks.

Runs from a checkout on a bare machine: torch, triton and numpy suffice; timm, mamba-ssm and pytest are used where they
are installed. What matters most runs first, and each figure is printed and written at once. The command ends when its
time is up and lists what it did not run. DIR then holds results.json, report.md and charts. Compare cards by the
ratios, since both times of a ratio were measured in turns in one run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import checkout, published_scan
from bench.on_gpu import gate, models, report, scan, tests
from bench.on_gpu.children import Children
from bench.on_gpu.session import Session, limits
from mvc import cli
from mvc.cli import exit_status
from mvc.errors import UserError
from mvc.measure import nvml
from mvc.measure.environment import environment

RESERVE = 10.0  # seconds reserved at the end, for processes to end and the report to be written
OPTIONAL = {
    "timm": "no other backbones",
    "pytest": "no tests",
    published_scan.EXTENSION: "no mamba-ssm to compare the scan with",
    "pynvml": "no driver, clocks or throttling",
    "tabulate": "no columns in line",
}
EXAMPLES = """examples:
  python bench/gpu.py --output results                           all of it, in 8 minutes
  python bench/gpu.py --minutes 3 --only scan latency --output results
  python bench/gpu.py --device cpu --quick --output trial        the same code on small sizes, on any machine

exit status: 0 everything was run, or listed as not run when the time was up; 1 something failed; 2 unusable input or
machine; 130 interrupted, with what was found until then written"""


class Part(NamedTuple):
    """A part of the measurements, which gets a share of the time.

    Attributes:
        key: the part's name for `--only`.
        name: the part's name in its rows.
        names: a function that returns the names of what the part runs.
        run: runs the part until a moment of `time.monotonic`.
        weight: of the part's time relative to that of the other parts.
    """

    key: str
    name: str
    names: Callable[[bool], Sequence[str]]
    run: Callable[[Session, float], None]
    weight: float


def _models(key: str, name: str, chosen: Callable[[bool], Sequence[models.Comparison]], weight: float) -> Part:
    def run(session: Session, until: float) -> None:
        models.run(session, name, chosen(session.quick), until)

    return Part(key, name, lambda quick: models.names(chosen(quick)), run, weight)


# In the order of importance.
PARTS = (
    Part("scan", scan.PART, lambda quick: [scan.name(row) for row in scan.planned(quick)], scan.run, 75),
    _models("models", "models", models.throughput, 105),
    _models("latency", "latency", models.latency, 80),
    Part("gate", gate.PART, gate.planned, gate.run, 50),
    Part("tests", tests.PART, tests.planned, tests.run, 40),
    _models("training", "training", models.training, 70),
    _models("models", "further models", models.others, 65),
    _models("tasks", "dense tasks", models.tasks, 60),
    _models("peers", "peers", models.peers, 80),
)
KEYS = tuple(dict.fromkeys(part.key for part in PARTS))


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    return exit_status(lambda: run(args))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="folder for results.json, report.md and charts")
    add("--minutes", type=_minutes, metavar="M", help="the command's time limit (default 8, with --quick 4)")
    add("--only", nargs="+", type=_keys, metavar="PART", help=f"parts to run: {', '.join(KEYS)} (default all)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for --quick (default cuda)")
    add("--commit", metavar="NAME", help="commit of the sources, where they are not a checkout")
    add("--quick", action="store_true", help="a trial of the command on small sizes; its figures mean nothing")
    return parser


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0.5 <= minutes <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes from 0.5 to 600")
    return minutes


def _keys(text: str) -> list[str]:
    """Parts with spaces or commas between them."""
    keys = [key for key in text.split(",") if key]
    if unknown := [key for key in keys if key not in KEYS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of the parts {', '.join(KEYS)}")
    return keys


def run(args: argparse.Namespace) -> int:
    """Run everything that was asked for and return the exit status."""
    start, minutes = time.monotonic(), args.minutes or (4.0 if args.quick else 8.0)
    chosen = {key for keys in args.only for key in keys} if args.only else set(KEYS)
    parts = [part for part in PARTS if part.key in chosen]
    with _session(args, start, minutes) as session:
        for part in parts:
            session.plan(part.name, part.names(args.quick))
        ended = "interrupted"
        try:
            run_parts(session, parts)
            ended = "when the time was up" if session.left <= 0 else "when all was tried"
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what follows is short, and keeps what was found
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            session.close(ended)
            page = report.write(session.facts, args.output)
    for each in session.facts["not_run"]:
        print(f"not run: {each['part']}: {each['name']}: {each['why']}")
    for each in session.facts["failed"]:
        print(f"FAILED: {each['part']}: {each['name']}")
    print(f"ended {ended}: {len(session.facts['rows'])} rows in {session.facts['seconds']:.0f} s; see {page}")
    return 1 if session.facts["failed"] else 0


def run_parts(session: Session, parts: Sequence[Part]) -> None:
    """Run the parts one after the other. Time that a part leaves of its share goes to the others. In a trial the parts
    are short, and each may use all the time that is left."""
    for index, part in enumerate(parts):
        if session.left <= 0:
            return
        share = 1.0 if session.quick else part.weight / sum(each.weight for each in parts[index:])
        until = time.monotonic() + share * session.left
        session.say(f"{part.name}: {share * session.left:.0f} s at most")
        with nvml.Watch(session.device) as watch:
            try:
                part.run(session, until)
            except Exception as error:
                traceback.print_exc()
                session.fail(part.name, "the whole part", f"{type(error).__name__}: {error}")
        if session.device.type == "cuda":
            session.facts["gpu"][part.name] = dataclasses.asdict(nvml.summary(watch))


@contextlib.contextmanager
def _session(args: argparse.Namespace, start: float, minutes: float) -> Iterator[Session]:
    """A session in which nothing has been run yet; at the end of the block none of its processes is left."""
    device = _device(args)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "results.json").touch()
    except OSError as error:
        raise UserError(f"cannot write --output {args.output}: {error.strerror}") from error
    known, bounds = environment(device), limits(device)
    absent = [f"{name} ({without})" for name, without in OPTIONAL.items() if importlib.util.find_spec(name) is None]
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": args.commit or checkout.commit(),
        "environment": dataclasses.asdict(known),
        "quick": args.quick,
        "minutes": minutes,
        "limits": bounds._asdict(),
        "absent": absent,
        "published_scan": published_scan.best(device),
    }
    with (
        tempfile.TemporaryDirectory(prefix="mvc-gpu-", ignore_cleanup_errors=True) as scratch,
        Children(Path(scratch), compile_threads=bounds.compile_threads) as children,
    ):
        session = Session(
            device=device,
            quick=args.quick,
            folder=args.output,
            scratch=Path(scratch),
            children=children,
            limits=bounds,
            start=start,
            end=start + 60 * minutes - RESERVE,
            facts=facts,
        )
        session.say(f"{known}, driver {known.driver}, commit {facts['commit']}")
        for each in absent:
            session.say(f"not installed: {each}")
        scans = facts["published_scan"]
        session.say(f"the published model's scans: {scans}, {published_scan.SCANS[scans]}")
        session.say(f"at most {bounds.compiling} processes compile and {bounds.alive} are alive at once")
        yield session


def _device(args: argparse.Namespace) -> torch.device:
    if args.device == "cpu":
        if not args.quick:
            raise UserError("--device cpu would take hours; add --quick, which tries the command on small sizes")
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("torch finds no CUDA device; use a CUDA build of torch, or --device cpu --quick")
    return torch.device("cuda", torch.cuda.current_device())


if __name__ == "__main__":
    sys.exit(main())
