"""Recurrences that others published: which are raised, why others are not, and what compiling them costs and gives.

    python bench/recurrences.py --quick                      # raised or why not, and errors; nothing is timed
    python bench/recurrences.py --only "RWKV-6" GAE
    python bench/recurrences.py --output bench/results/recurrences --page docs/recurrences.md

The second and third also compile each one with stock Inductor and with mvc, each with empty caches, and time both in
interleaved rounds, forward. The last writes recurrences.json and recurrences.md, and the table in the page. Errors are
those of the graph that the passes leave, which is run as it is. Loops of more than 64 steps are always raised.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.zoo.catalogue import ENTRIES, is_installed
from bench.zoo.entry import SMALL, Entry, Size
from bench.zoo.page import table, with_table
from bench.zoo.trial import is_gradient, raised
from mvc import cli, files, selective_scan
from mvc.cli import exit_status, finite, json_text, positive
from mvc.compile.caches import empty_caches
from mvc.errors import UserError
from mvc.measure import profiler
from mvc.measure.environment import environment
from mvc.passes.accuracy import Check, worst

BACKENDS = ("inductor", "mvc")


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    return exit_status(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    made = cli.parser(__doc__)
    made.add_argument("--only", nargs="+", choices=ENTRIES, default=[*ENTRIES], metavar="NAME", help="default all")
    made.add_argument("--quick", action="store_true", help="compile and time nothing")
    made.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default cpu")
    made.add_argument("--length", type=_length, default=72, metavar="N", help="steps, a multiple of 4 (default 72)")
    made.add_argument("--rounds", type=positive, default=15, metavar="N", help="interleaved rounds (default 15)")
    made.add_argument("--json", metavar="PATH", help="the facts, for programs; - for standard output")
    made.add_argument("--output", type=Path, metavar="NAME", help="results, as NAME.json and NAME.md")
    made.add_argument("--page", type=Path, metavar="FILE", help="a page of Markdown whose table is written anew")
    return made


def _length(text: str) -> int:
    if positive(text) % 4:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 4")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    for path, option in ((args.output, "--output"), (args.page, "--page")):
        if path is not None:
            files.require_folder(path, option)
    if args.page:
        with_table(_text(args.page), "")
    size = SMALL if args.quick else Size(4, args.length, 64, 16)
    facts: dict[str, Any] = {
        "command": command(args),
        "environment": dataclasses.asdict(environment(args.device)),
        "size": size._asdict(),
        "rounds": None if args.quick else args.rounds,
        "rows": [],
    }
    if not args.quick:
        _warm_up(args.device)
    for name in args.only:
        if not is_installed(ENTRIES[name]):
            print(f"{name}: {ENTRIES[name].needs} is not installed", file=sys.stderr)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        facts["rows"].append(row(ENTRIES[name], size, args))
        _write(facts, args)
    print(json_text(facts) if args.json == "-" else table(facts), end="")
    return 0


def command(args: argparse.Namespace) -> str:
    """What measures the same again."""
    measured = ["--quick"] if args.quick else ["--length", str(args.length), "--rounds", str(args.rounds)]
    only = [] if args.only == [*ENTRIES] else ["--only", *args.only]
    return shlex.join(["python", "bench/recurrences.py", *measured, *only])


def _write(facts: dict[str, Any], args: argparse.Namespace) -> None:
    """What was measured so far."""
    if args.json and args.json != "-":
        cli.write_json(facts, args.json)
    if args.output:
        files.replace(args.output.with_suffix(".json"), json_text(facts))
        files.replace(args.output.with_suffix(".md"), table(facts))
    if args.page:
        files.replace(args.page, with_table(_text(args.page), table(facts)))


def _text(page: Path) -> str:
    if not page.is_file():
        raise UserError(f"there is no file --page {page}; name one that has the marks of the table")
    return page.read_text(encoding="utf-8")


def _warm_up(device: torch.device) -> None:
    """What is built or imported once for all, so that no entry is charged for it."""
    selective_scan(*torch.ones(2, 1, 8, 4), -torch.ones(4, 1), *torch.ones(2, 1, 8, 1))
    run, inputs = next(iter(ENTRIES.values())).example(SMALL, device)
    for backend in BACKENDS:
        torch.compiler.reset()
        torch.compile(run, backend=backend)(*inputs)


def row(entry: Entry, size: Size, args: argparse.Namespace) -> dict[str, Any]:
    """What is known of an entry; what fails is told in its place."""
    facts: dict[str, Any] = {"name": entry.name, "source": entry.source, "wanted": entry.recurrences, "failed": {}}
    facts["loop"] = entry.has_loop
    with _told(facts["failed"], "rewritten"):
        found, checks = raised(entry, size, args.device)
        facts |= {"ops": found.ops, "reasons": list(found.reasons)}
        if entry.learns and not found.ops:
            inference, _ = raised(dataclasses.replace(entry, learns=False), size, args.device)
            facts["inference_ops"] = inference.ops
        facts |= {"forward": _worst(checks, gradients=False), "gradients": _worst(checks, gradients=True)}
    if not args.quick:
        facts |= timed(entry, size, args, facts["failed"])
    return facts


@contextlib.contextmanager
def _told(failed: dict[str, str], what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        failed[what] = f"{type(error).__name__}: {error}".partition("\n")[0]


def _worst(checks: list[Check], *, gradients: bool) -> dict[str, Any] | None:
    of_kind = [each for each in checks if is_gradient(each) == gradients]
    if not of_kind:
        return None
    check = worst(of_kind)
    numbers = {name: finite(getattr(check, name)) for name in ("error", "eager_error", "tolerance")}
    return {"tensor": check.tensor, "passed": check.passed, **numbers}


def timed(entry: Entry, size: Size, args: argparse.Namespace, failed: dict[str, str]) -> dict[str, Any]:
    """Seconds of a cold compilation by each backend, and forward times side by side."""
    torch.compiler.reset()
    runs, seconds = {}, {}
    with torch.no_grad():
        run, inputs = entry.example(size, args.device)
        for backend in BACKENDS:
            with _told(failed, backend), empty_caches():
                start = time.perf_counter()
                compiled = torch.compile(run, backend=backend, fullgraph=True)
                compiled(*inputs)
                seconds[backend], runs[backend] = time.perf_counter() - start, compiled
        if len(runs) < len(BACKENDS):
            return {"compile_seconds": seconds}
        timings = profiler.measure(runs, rounds=args.rounds, device=args.device, inputs=[inputs]).timings
    return {
        "compile_seconds": seconds,
        "seconds": {name: timing.median for name, timing in timings.items()},
        "ratio": timings["mvc"].ratio_to(timings["inductor"])._asdict(),
    }


if __name__ == "__main__":
    sys.exit(main())
