"""Random programs with recurrences in them: what eager computes beside the graphs that the passes leave.

    python tests/program_fuzz.py --programs 2000 --seed 0
    python tests/program_fuzz.py --seconds 60 --seed 20261126
    python tests/program_fuzz.py --seed 17 --show

What differs from eager in Dynamo's graphs already, ahead of any pass, is no pass's doing and is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import linecache
import logging
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from random_programs import Program, generate

from mvc.compile.backend import Options, compile_graph
from mvc.passes import pipeline
from mvc.passes.accuracy import REWRITTEN, rounding
from mvc.passes.observation import AsDescribed, Observation, observe
from mvc.passes.raising.raise_loop import always
from mvc.passes.raising.raise_scan import RaiseScan
from mvc.passes.verify import VerificationError, Verifier

# What can differ, the gravest first.
KINDS = ("raises", "error", "afterwards", "requires grad", "memory", "bytes", "strides", "offset", "")
Backend = Callable[[torch.fx.GraphModule, Sequence[Any]], Callable]


PARTITIONED = "aot_eager_decomp_partition"  # AOTAutograd as Inductor runs it, without code to compile


class Skipped(Exception):
    """Why a seed gives no program to compare."""


@dataclasses.dataclass
class Report:
    """One program: what differs, in words, and the names of the passes that rewrote something."""

    program: Program
    failures: dict[tuple[str, str], str]  # by place and property
    fired: set[str]


class Rewriting:
    """A backend that runs all passes on Dynamo's graphs, and gives the graphs to another backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.fired: set[str] = set()
        self.complaint: str | None = None  # of the verifier

    def __call__(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable:
        passes = always(pipeline.build(list(pipeline.PASSES), inference=not torch.is_grad_enabled()))
        verifier = Verifier(module, inputs)

        def verify(*arguments: Any) -> None:
            try:
                verifier(*arguments)
            except VerificationError as error:
                self.complaint = self.complaint or f"verify: {error}".partition(";")[0]

        records = pipeline.run(passes, module, strict=True, observers=[verify])
        self.fired.update(record.name for record in records if record.fired)
        return self.backend(module, inputs)


def plain(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable:
    """A backend that runs Dynamo's graphs as they are."""
    return AsDescribed(module).run


def compiled(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable:
    """A backend that compiles graphs as "mvc" does, without its passes."""
    return compile_graph(module, inputs, Options(passes="none"))[0]


def check(program: Program, *, inductor: bool = False) -> Report:
    """Compare the program as eager runs it with what the passes make of it; with `inductor`, both compiled by it.

    What differs between eager and Dynamo's graphs ahead of the passes is no pass's doing. A difference must be there
    for several inputs: where bfloat16 is rounded, a last bit may decide about a large one.

    Raises:
        Skipped: eager, Dynamo or Inductor cannot run it; or neither AOTAutograd can, which keeps inputs for a backward
            that the program writes to after a break of the graph.
    """
    report = _check(program, 0, inductor)
    for seed in (1, 2):
        if report.failures:
            again = _check(program, seed, inductor).failures
            report.failures = {key: text for key, text in report.failures.items() if key in again}
    return report


def _check(program: Program, seed: int, inductor: bool) -> Report:
    if inductor and "as_strided" in program.source:
        raise Skipped("Inductor drops products with 1, whose memory as_strided would read")
    functions = _functions(program)
    backend = compiled if inductor else plain
    rewriting = Rewriting(backend)
    eager = _seen(functions, None, seed)
    if isinstance(eager, Exception):
        raise Skipped(f"eager: {type(eager).__name__}")
    rewritten = _seen(functions, rewriting, seed)
    if isinstance(rewritten, Exception) and isinstance(stock := _seen(functions, PARTITIONED, seed), Exception):
        raise Skipped(f"without passes: {type(stock).__name__}")
    # A read-out that a scan absorbs is not rounded to the dtype of autocast around it.
    unrounded = RaiseScan.name in rewriting.fired and "autocast('cpu', torch.bfloat16)" in program.source
    budget = REWRITTEN.tolerance(rounding(torch.bfloat16 if unrounded else getattr(torch, program.dtype)))
    found = _differences(eager, rewritten, budget)
    if found or rewriting.complaint:
        stock = _seen(functions, backend, seed)
        if isinstance(stock, Exception):
            raise Skipped(f"without passes: {type(stock).__name__}")
        ours, theirs = _differences(stock, rewritten, budget), _differences(eager, stock, budget)
        found = {key: text for key, text in found.items() if key in ours and key not in theirs}
    if inductor:  # which returns a view of more where it drops a product with 1
        found = {key: text for key, text in found.items() if key[1] not in ("storage offset", "storage bytes")}
    if rewriting.complaint:
        found["verify", ""] = rewriting.complaint
    return Report(program, found, rewriting.fired)


def kind(report: Report) -> str | None:
    """The gravest of what differs."""
    return next((each for each in KINDS for text in report.failures.values() if each in text), None)


def reduced(report: Report) -> Report:
    """The failing program without the features that it fails without, in the same gravest way."""
    without: frozenset[str] = frozenset()
    for feature in report.program.features:
        try:
            smaller = check(generate(report.program.seed, without | {feature}))
        except Skipped:
            continue
        if kind(smaller) == kind(report):
            without, report = without | {feature}, smaller
    return report


def reports(seed: int, *, programs: int | None = None, seconds: float | None = None) -> Iterator[Report | Skipped]:
    """One program after the other from that seed on, until there are so many, or the time is over."""
    end, done = time.monotonic() + (seconds or float("inf")), 0
    for each in itertools.count(seed):
        if done == programs or time.monotonic() > end:
            return
        try:
            yield check(generate(each))
            done += 1
        except Skipped as reason:
            yield reason


def _functions(program: Program) -> dict[str, Any]:
    """The program's functions, with its text where tracebacks and Dynamo look for it."""
    name = f"<program {program.seed}>"
    linecache.cache[name] = (len(program.source), None, program.source.splitlines(True), name)
    functions: dict[str, Any] = {"__name__": "program"}
    exec(compile(program.source, name, "exec"), functions)
    return functions


def _seen(functions: dict[str, Any], backend: Backend | None, seed: int) -> Observation | Exception:
    torch.compiler.reset()
    run = functions["program"]
    if backend is not None:
        run = torch.compile(run, backend=backend)
    try:
        with torch._inductor.config.patch(fallback_random=True):  # the random numbers that eager draws
            return observe(lambda *inputs: functions["caller"](run, *inputs), functions["inputs"](seed))
    except Exception as error:
        return error


def _differences(expected: Observation, actual: Observation | Exception, budget: float) -> dict[tuple[str, str], str]:
    if isinstance(actual, Exception):
        return {("the run", "raises"): f"raises {type(actual).__name__}: {actual}"}
    return {(each.where, each.what): str(each) for each in expected.differences(actual, budget)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of the first program; those after it have the next ones")
    add("--programs", type=int, help="how many to compare")
    add("--seconds", type=float, help="how long to go on")
    add("--inductor", type=int, metavar="N", help="let Inductor compile every N-th program too")
    add("--show", action="store_true", help="print the program of the seed, compare it, and reduce it if it fails")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}, torch {torch.__version__}")
    if options.show:
        return _show(options.seed)
    failed, skipped, count = [], Counter(), 0
    features, fired = Counter(), Counter()
    start = time.monotonic()
    for report in reports(options.seed, programs=options.programs, seconds=options.seconds):
        if isinstance(report, Skipped):
            skipped[str(report)] += 1
            continue
        count += 1
        features.update(feature.partition(":")[0] for feature in report.program.features)
        fired.update(report.fired)
        if options.inductor and count % options.inductor == 0 and not report.failures:
            with contextlib.suppress(Skipped):
                report.failures |= check(report.program, inductor=True).failures
        if report.failures:
            failed.append(report.program.seed)
            print(f"seed {report.program.seed} differs: {'; '.join(report.failures.values())[:300]}", flush=True)
        if count % 100 == 0:
            print(f"{count} programs, {len(failed)} differ, {time.monotonic() - start:.0f} s", flush=True)
    print(
        f"\n{count} programs from seed {options.seed} in {time.monotonic() - start:.0f} s; {skipped.total()} seeds gave"
    )
    print(f"none: {dict(skipped)}")
    for name, times in fired.most_common():
        print(f"{name:>20}: rewrote {times / count:.0%}")
    print("; ".join(f"{name} {times}" for name, times in features.most_common()))
    print(f"{len(failed)} differ from eager: {failed}")
    return bool(failed)


def _show(seed: int) -> int:
    print(generate(seed).source)
    report = check(generate(seed))
    if report.failures:
        report = reduced(report)
        print(f"Reduced:\n\n{report.program.source}")
    print(f"Passes that rewrote it: {', '.join(sorted(report.fired)) or 'none'}")
    print("\n".join(report.failures.values()) or "The same as eager.")
    return bool(report.failures)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable()  # of Dynamo, about programs that are skipped
    sys.exit(main())
