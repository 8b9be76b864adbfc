"""Measures the selective scan in processes of their own, which a faulty kernel may end."""

from __future__ import annotations

import time
from typing import Any

from bench.on_gpu.children import Failed, first
from bench.on_gpu.scan_job import FORWARD, STEP, Shape
from bench.on_gpu.session import Session

PART = "scan"
ROUNDS, ROW_SECONDS, COMPILE_SHARE = 11, 60.0, 0.5
# The model's own at batch 128 and 1, its stage 3 at 1,792 pixels, and language models'; in the order of importance.
SHAPES = (
    Shape(128, 160, 196, 8, "float16"),
    Shape(128, 320, 49, 8, "float16"),
    Shape(1, 160, 196, 8, "float16"),
    Shape(8, 1536, 2048, 16, "bfloat16"),
    Shape(1, 1536, 2048, 16, "bfloat16"),
    Shape(2, 160, 12544, 8, "float16"),
    Shape(1, 5120, 4096, 16, "bfloat16"),
    Shape(1, 1536, 16384, 16, "bfloat16"),
    Shape(8, 1536, 2048, 16, "float32"),
    Shape(1, 512, 65536, 16, "bfloat16"),
    Shape(128, 320, 196, 8, "float16"),
)
QUICK_SHAPES = (Shape(2, 16, 49, 8, "float32"), Shape(1, 32, 128, 16, "bfloat16"))
Row = tuple[Shape, str]


def planned(quick: bool) -> list[Row]:
    return [(shape, direction) for shape in (QUICK_SHAPES if quick else SHAPES) for direction in (FORWARD, STEP)]


def name(row: Row) -> str:
    return f"{row[0]}, {row[1]}"


def run(session: Session, until: float) -> None:
    """Compile in several processes, then time row by row in one process; a row that ends its process is given up."""
    rows = planned(session.quick)
    _compile(session, rows, time.monotonic() + COMPILE_SHARE * (until - time.monotonic()))
    while rows and time.monotonic() < until:
        child = session.children.start("bench.on_gpu.scan_job", _asked(session, rows, timed=True), name=PART)
        try:
            session.facts["rates"] = child.answer(until)["rates"]
            while rows:
                figures = child.answer(min(until, time.monotonic() + ROW_SECONDS))
                session.add(PART, name(rows[0]), **figures)
                session.say(f"{PART}: {name(rows.pop(0))}: {line(figures)}")
        except (Failed, TimeoutError) as error:
            if time.monotonic() < until:
                session.fail(PART, name(rows.pop(0)), str(error))
        finally:
            session.children.end([child])


def _compile(session: Session, rows: list[Row], until: float) -> None:
    """Fill the caches. What fails here fails again when it is timed, and is reported then."""
    count = min(session.limits.compiling, len(rows))
    children = {
        session.children.start("bench.on_gpu.scan_job", _asked(session, rows[index::count], timed=False), name=PART)
        for index in range(count)
    }
    started, waiting = time.monotonic(), set(children)
    while waiting and (child := first(waiting, until)):
        waiting.discard(child)
    session.children.end(children)
    session.say(f"{PART}: kernels compiled in {time.monotonic() - started:.0f} s by {count} processes")


def _asked(session: Session, rows: list[Row], *, timed: bool) -> dict[str, Any]:
    return {
        "rows": rows,
        "timed": timed,
        "device": str(session.device),
        "lock": str(session.lock),
        "clock_mhz": session.facts["environment"]["sm_clock_mhz"],
        "rounds": 5 if session.quick else ROUNDS,
    }


def line(figures: dict[str, Any]) -> str:
    """A row for people."""
    times = ", ".join(f"{way} {seconds[1] * 1e6:.1f} us" for way, seconds in figures["seconds"].items())
    limits = ", ".join(f"{limit} {seconds * 1e6:.1f}" for limit, seconds in figures["limits"].items())
    return f"{times}; limits: {limits}; {figures['share']:.0%} reached"
