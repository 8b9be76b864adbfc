"""Jobs side by side: they compile in a bounded number of processes, then are timed in turns, one at a time."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.on_gpu.children import Child, Failed, first
from bench.on_gpu.jobs import Job
from bench.on_gpu.session import Session
from mvc.measure.profiler import HOST_LIMIT, Timing

ROUNDS, QUICK_ROUNDS = 9, 3
TURN_SECONDS, MOST_CALLS = 0.2, 200
RATIOS = "ratios"  # the part of the rows that `ratios` yields
ANSWER_SECONDS = 30.0  # for one turn, or a profile
# Jobs that are compared with the first one that could be measured.
Comparison = tuple[Job, ...]


@dataclasses.dataclass
class Ready:
    """A job whose process has compiled.

    Attributes:
        facts: what the process reported of its start, and later of its profile.
        end: when the wait for an answer ends.
        calls: how many calls a turn has.
        turns: what the process reported of each turn.
    """

    job: Job
    child: Child
    facts: dict[str, Any]
    end: float
    calls: int = 0
    turns: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self.child.ask(message)
        return self.child.answer(min(self.end, time.monotonic() + ANSWER_SECONDS))

    def take_turn(self) -> None:
        if not self.calls:
            guess = self.ask({"calls": 3})["seconds"]
            self.calls = max(1, min(MOST_CALLS, round(TURN_SECONDS / guess)))
        self.turns.append(self.ask({"calls": self.calls}))


def measure(
    session: Session, part: str, comparisons: Sequence[Comparison], *, compile_until: float, until: float
) -> None:
    """Measure jobs that are all alive at once and are compared. Both limits are moments of `time.monotonic`."""
    jobs = list(dict.fromkeys(itertools.chain.from_iterable(comparisons)))
    ready = compiled(session, part, jobs, compile_until)
    started = list(ready)
    try:
        for _ in range(QUICK_ROUNDS if session.quick else ROUNDS):
            if time.monotonic() > until:
                break
            ready = _kept(session, part, ready[::-1], Ready.take_turn)
            _write(session, part, comparisons, ready)
        for row in rows(comparisons, ready):
            session.say(f"{part}: {line(row)}")
        for each in ready:
            if time.monotonic() < until:
                _kept(session, part, [each], _profile)
        _write(session, part, comparisons, ready)
        for row in rows(comparisons, ready):
            if "families" in row:
                session.say(f"{part}: {kernels_line(row)}")
    finally:
        session.children.end([each.child for each in started])


def compiled(session: Session, part: str, jobs: Sequence[Job], until: float) -> list[Ready]:
    """The jobs that are ready in time, in the order of `jobs`."""
    waiting, starting, ready = list(jobs), dict[Child, Job](), list[Ready]()
    while waiting or starting:
        while waiting and len(starting) < session.limits.compiling and (session.has_room() or not starting):
            job = waiting.pop(0)
            facts = {"job": dataclasses.asdict(job), "device": str(session.device), "lock": str(session.lock)}
            starting[session.children.start("bench.on_gpu.jobs", facts, name=str(job))] = job
        if (child := first(starting, until)) is None:
            break
        job = starting.pop(child)
        try:
            ready.append(Ready(job, child, child.take(), session.end))
        except Failed as error:
            session.fail(part, str(job), str(error))
            session.children.end([child])
        else:
            session.say(f"{part}: {job}: ready, {_start(ready[-1].facts)}")
    for job in (*starting.values(), *waiting):
        session.skip(part, str(job), "it was not compiled in time")
    session.children.end(starting)
    return sorted(ready, key=lambda each: jobs.index(each.job))


def _start(facts: dict[str, Any]) -> str:
    said = [f"peak {facts['peak_bytes'] / 2**20:,.0f} MiB"]
    if "compile_seconds" in facts:
        said = [f"compiled in {facts['compile_seconds']:.1f} s", f"error {facts['error']:.1e}", *said]
    return ", ".join(said)


def _kept(session: Session, part: str, ready: Sequence[Ready], do: Callable[[Ready], None]) -> list[Ready]:
    """Do something with each job, and return those that did not fail."""
    kept = []
    for each in ready:
        try:
            do(each)
        except Failed as error:
            session.fail(part, str(each.job), f"while it was measured: {error}")
        except TimeoutError as error:
            if session.left > 0:
                session.fail(part, str(each.job), f"while it was measured: {error}")
        else:
            kept.append(each)
    return kept


def _profile(each: Ready) -> None:
    each.facts |= each.ask({"profile": True})


def _write(session: Session, part: str, comparisons: Sequence[Comparison], ready: Sequence[Ready]) -> None:
    for row in rows(comparisons, ready):
        session.add(part, **row)
    for ratio in ratios(comparisons, ready):
        session.add(RATIOS, **ratio)


def rows(comparisons: Sequence[Comparison], ready: Sequence[Ready]) -> Iterator[dict[str, Any]]:
    """The row of each job that took turns, with how many times as fast as the first of its comparison it is."""
    measured = {each.job: each for each in ready if each.turns}
    for comparison in comparisons:
        known = [measured[job] for job in comparison if job in measured]
        for each in known:
            timing, against = _timing(each), None
            if each is not known[0]:
                against = {"name": str(known[0].job), "times_as_fast": list(_timing(known[0]).ratio_to(timing))}
            yield {
                "name": str(each.job),
                "job": dataclasses.asdict(each.job),
                **timing.spread._asdict(),
                "images_per_second": each.job.batch / timing.median,
                "wall_seconds": Timing(tuple(turn["wall_seconds"] for turn in each.turns)).median,
                "seconds": list(timing.seconds),
                "against": against,
                **each.facts,
            }


def ratios(comparisons: Sequence[Comparison], ready: Sequence[Ready]) -> Iterator[dict[str, Any]]:
    """How many times as fast the first of our compiled models in each comparison is as the others there: by the clock
    round by round and, where all were profiled, by their kernels; and its peak memory over theirs."""
    measured = {each.job: each for each in ready if each.turns}
    for comparison in comparisons:
        known = [measured[job] for job in comparison if job in measured]
        ours = next((each for each in known if each.job.ours), None)
        for other in known:
            if ours is None or other is ours:
                continue
            kernels = [each.facts.get("kernel_seconds") for each in (other, ours)]
            yield {
                "name": f"{ours.job} over {other.job}",
                "by_clock": list(_timing(other).ratio_to(_timing(ours))),
                "by_kernels": kernels[0] / kernels[1] if all(kernels) else None,
                "memory": ours.facts["peak_bytes"] / other.facts["peak_bytes"],
            }


def _timing(each: Ready) -> Timing:
    return Timing(tuple(turn["seconds"] for turn in each.turns))


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    low, middle, high = (row[f"{share}_seconds"] * 1e3 for share in ("p10", "median", "p90"))
    said = f"{row['name']}: {middle:.3f} ms ({low:.3f} to {high:.3f}), {row['images_per_second']:,.0f} images/s"
    if row["against"]:
        said += f", {row['against']['times_as_fast'][0]:.3f} times as fast as {row['against']['name']}"
    return said


def kernels_line(row: dict[str, Any]) -> str:
    """The kernels of a call, in a line for people."""
    families = ", ".join(f"{family} {seconds * 1e3:.3f}" for family, seconds in row["families"].items())
    said = f"{row['name']}: {row['kernel_seconds'] * 1e3:.3f} ms in {row['launches']:.0f} kernels: {families}"
    return f"{said}; the host is the limit" if limited_by_host(row) else said


def limited_by_host(row: dict[str, Any]) -> bool:
    """Whether calls one after the other take much longer than their kernels."""
    return row["median_seconds"] > HOST_LIMIT * row["kernel_seconds"]
