"""Serves the driver: builds a case, tells its facts, and times it whenever it is told to."""

import json
import sys

import torch

from . import call, clocks, models
from .built import Refused
from .extra_work import slowed, slowed_on_device
from .facts import implementations, require_source, resident_peak, versions


def serve(asked, answers, warned):
    """Answer the lines of `asked` until they end.

    Args:
        warned: has the `texts` of this process's warnings.
    """

    def answer(**facts):
        answers.write(json.dumps(facts) + "\n")

    first = json.loads(asked.readline())
    try:
        built = build(first["case"], first["paths"])
        try:
            facts, by_name = prepared(built, **first)
            answer(ready={**facts, "warnings": [*warned.texts, *facts["warnings"]]})
            once = clocks.until_done(built.run, first["case"]["device"])
            for line in asked:
                turn = json.loads(line)
                once()  # since the last turn, another process has used the processor's caches
                answer(seconds=by_name[turn["clock"]](turn["calls"]))
        finally:
            built.close()
    except Refused as error:
        answer(error=str(error))
    except Exception as error:
        answer(error=f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}")


def build(case, paths=()):
    """The case, built.

    Args:
        paths: folders that the package which is measured must come from, if any.

    Raises:
        Refused: it cannot run here. What the case itself raises comes through.
    """
    if case["device"] == "cuda" and not torch.cuda.is_available():
        raise Refused("torch finds no CUDA device")
    if case["kind"] == "call":
        return call.build(case, paths)
    built = models.build(case)
    require_source("mvc", built.facts["source"], paths)
    return built


def prepared(built, *, case, timed, slowdown, paths):
    """The facts of a case that is built, and its clocks by name; it is warm then.

    Args:
        timed: without it there are no clocks.
        slowdown: share of extra work to insert.
    """
    facts = {**built.facts, "versions": versions()}
    one_of_each = lambda: [built.run() for _ in range(built.every)]  # noqa: E731
    facts["implementations"] = implementations(one_of_each, hidden=built.hidden)
    until_done = clocks.until_done(built.run, case["device"])
    if timed:
        facts["seconds"] = clocks.warm(until_done, built.every)
    for _ in range(2 * built.every):  # by then, what is compiled for an argument set has been
        until_done()
    exact = built.exact()
    if case["device"] == "cuda":  # what tensors take is the same each time; a process's memory is not
        torch.cuda.reset_peak_memory_stats()
        one_of_each()
        torch.cuda.synchronize()
        if not built.chosen_by_time:
            exact["peak bytes"] = torch.cuda.max_memory_allocated()
    elif sys.platform != "win32":
        facts["peak_bytes"] = resident_peak()
    wanted = exact.keys() if case["exact"] is None else case["exact"]
    facts["exact"] = {name: exact[name] for name in exact if name in wanted and exact[name] is not None}
    facts["warnings"] = [f"{name}: not known here" for name in exact if name in wanted and exact[name] is None]
    return facts, clocks_of(built, case["device"], slowdown, facts) if timed else {}


def clocks_of(built, device, slowdown, facts):
    """The clocks by name; `facts` notes which can be the case's time."""
    run, every = built.run, built.every
    call = clocks.until_done(run, device)
    if device == "cpu":
        facts["clocks"] = ["wall"]
        if slowdown:
            call = slowed(call, facts["seconds"], slowdown)
        return {"wall": clocks.by_wall(call, every)}
    by_name, facts["no_graph"] = clocks.device_clocks(run, every, built.no_graph)
    facts["clocks"] = list(by_name)
    if slowdown:
        clock = clocks.by_graph if "graph" in by_name else clocks.by_kernels
        run, every = slowed_on_device(run, slowdown, clock, device, every)
        by_name, call = clocks.device_clocks(run, every, built.no_graph)[0], clocks.until_done(run, device)
    return {**by_name, "wall": clocks.by_wall(call, every)}
