"""Predicts the time of a launch of a scan's kernel on a card from its machine code, without a card and without a run.

One warp alone is simulated: an instruction issues when those before it have stalled as long as ptxas says, when the
scoreboards that it waits for are free, and when its unit is free. A loop is simulated twice, and its second round
counts. Barriers cut the simulation into parts, since the warps of a program pass a barrier together:

    alone         cycles of a part as simulated
    busy(w, W)    cycles that w warps of a scheduler, W of the multiprocessor, keep a unit busy with the part:
                  issue * instructions * w, 8 * special * w or lanes * passes * W
    beside(w, W)  sqrt(alone^2 + the most of busy(w, W)^2 - busy(1, 1)^2 over the units): warps hide each other's
                  waits as far as the units allow, and none is faster than alone
    program       sum over parts of beside(the program's own warps), times how often each part runs
    wave          the same square root once more, over whole programs that are resident beside one another
    launch        max(waves, bytes / bandwidth) + fixed

The number of waves follows from how many programs are resident, which registers, shared memory and warps decide. The
special-function unit computes the 32 lanes of a warp in 8 cycles; the path to shared memory and the first-level cache,
which all schedulers share, moves 32 lanes of 4 bytes in a pass.
`bench/calibrate_scan.py` fits the seven constants to measured kernels, and says what they miss.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mvc.errors import UserError
from mvc.offline.machine_code import NONE, PIPES, Code, Event, Stretch, read_ahead
from mvc.offline.targets import SCHEDULERS, Target
from mvc.table import tabulate

CONSTANTS = Path(__file__).parent / "scan_cost.json"  # written by bench/calibrate_scan.py

SPECIAL_CYCLES = 8  # of a warp's operation in the special-function unit
# Cycles until a result is there: assumed, of the order that such cards are known for; not fitted.
LATENCIES = {"shared 4": 28, "shared 8": 28, "shared 16": 28, "shuffle": 24, "near": 36, "constant": 40}
PASSES = {"shared 4": 1, "shared 8": 2, "shared 16": 4, "shuffle": 1}  # of 32 lanes of 4 bytes
GLOBAL = ("far", "near", "store")
CALLS = 6  # whose inputs took turns where the constants were measured: they stay in the second-level cache if they fit


class Constants(NamedTuple):
    """The fitted constants, in cycles except where another unit is named.

    Attributes:
        memory: latency of a load from memory.
        cache: latency of a load from the second-level cache.
        barrier: cost of a barrier besides the wait for other warps.
        special: latency of the special-function unit.
        issue: cycles of an instruction where the scheduler always has one ready.
        lanes: cycles of one pass of 32 lanes of 4 bytes to shared memory or the first-level cache.
        fixed: microseconds of a launch, whatever it runs.
    """

    memory: float
    cache: float
    barrier: float
    special: float
    issue: float
    lanes: float
    fixed: float


class Geometry(NamedTuple):
    """The size of a launch and of its data.

    Attributes:
        programs: how many programs the launch has.
        warps: how many warps each program has.
        iterations: how often in all a program runs the body of each loop, in the order of the loops' heads in the code.
        bytes_moved: between the card's memory and all programs, in whole sectors of 32 bytes.
        rest: how often a program runs the code after the last loop; 0 if it exits before.
        reuse: iterations for which a load asks for the same 32 bytes: 4 for 8 bytes a lane along the length, 1 across.
        lines: lines of 128 bytes that an access to global memory touches on average; each is a pass.
    """

    programs: int
    warps: int
    iterations: Sequence[int]
    bytes_moved: int
    rest: float = 1.0
    reuse: float = 1.0
    lines: float = 1.0


class Part(NamedTuple):
    """The work of one warp up to a barrier, or that of all of a program's parts together.

    Attributes:
        cycles: the time of the warp alone.
        instructions, special, passes: how many of each the work has.
    """

    cycles: float = 0.0
    instructions: float = 0.0
    special: float = 0.0
    passes: float = 0.0

    def beside(self, warps: int, own: int, fitted: Constants) -> float:
        """Cycles where a multiprocessor runs `warps` warps, if `cycles` already includes `own` of them."""
        busy = zip(self.busy(warps, fitted), self.busy(own, fitted), strict=True)
        return math.sqrt(self.cycles**2 + max(all_warps**2 - own_warps**2 for all_warps, own_warps in busy))

    def busy(self, warps: int, fitted: Constants) -> tuple[float, float, float]:
        """Cycles that `warps` warps keep a scheduler, its special-function unit and the path to shared memory busy."""
        on_scheduler = math.ceil(warps / SCHEDULERS)
        return (
            fitted.issue * self.instructions * on_scheduler,
            SPECIAL_CYCLES * self.special * on_scheduler,
            fitted.lanes * self.passes * warps,
        )


@functools.cache
def constants() -> Constants:
    return Constants(**json.loads(CONSTANTS.read_text(encoding="utf-8"))["constants"])


def predict(code: Code, geometry: Geometry, target: Target, fitted: Constants | None = None) -> float:
    """The predicted seconds of one launch.

    Args:
        fitted: the constants, by default the committed ones.

    Raises:
        UserError: `geometry.iterations` does not have one number for each loop.
    """
    if len(geometry.iterations) != code.loops:
        raise UserError(
            f"geometry.iterations has {len(geometry.iterations)} numbers, {list(geometry.iterations)}, but the code "
            f"has {code.loops} loops; pass one for each, in the order of their heads"
        )
    fitted = fitted or constants()
    resident, of_each = _resident(code, geometry, target), math.ceil(geometry.programs / target.sms)
    program = one_program(code, geometry, target, fitted)

    def wave(programs: int) -> float:
        return program.beside(programs * geometry.warps, geometry.warps, fitted)

    full, rest = divmod(of_each, resident)
    cycles = full * wave(resident) + (wave(rest) if rest else 0.0)
    return max(cycles / target.clock, geometry.bytes_moved / target.bandwidth) + fitted.fixed * 1e-6


def _resident(code: Code, geometry: Geometry, target: Target) -> int:
    """How many programs are resident, at least one: this module does not refuse launches that cannot run."""
    return max(1, target.resident(warps=geometry.warps, registers=code.registers, shared=code.shared))


def one_program(code: Code, geometry: Geometry, target: Target, fitted: Constants) -> Part:
    """A whole program, with its own warps beside one another."""
    total = Part()
    for place in range(len(code.stretches)):
        times = _times(code, geometry, place)
        for part in parts(code.stretches[place], geometry, target, fitted) if times else ():
            total = Part(*(so_far + times * more for so_far, more in zip(total, part, strict=True)))
    return total


def _times(code: Code, geometry: Geometry, place: int) -> float:
    """How often a program runs a stretch of code."""
    loop = code.stretches[place].loop
    if loop is not None:
        return geometry.iterations[loop]
    return geometry.rest if place == len(code.stretches) - 1 else 1.0


def parts(stretch: Stretch, geometry: Geometry, target: Target, fitted: Constants) -> list[Part]:
    """The parts between barriers of one program, with its warps beside one another."""
    return [
        part._replace(cycles=part.beside(geometry.warps, 1, fitted))
        for part in _played(stretch, geometry, target, fitted)[0]
    ]


def _played(stretch: Stretch, geometry: Geometry, target: Target, fitted: Constants) -> tuple[list[Part], Counter[str]]:
    """The parts between barriers of one warp alone, and its cycles of waiting by what it waits for. The second round of
    a loop counts."""
    far = fitted.cache if geometry.bytes_moved * CALLS <= target.l2 else fitted.memory
    far = LATENCIES["near"] + (far - LATENCIES["near"]) / geometry.reuse
    warp = _Warp(fitted, far, geometry.lines)
    for _ in range(2 if stretch.whole else 1):
        warp.waited.clear()
        alone = list(warp.run(stretch.events))
    return alone, warp.waited


class _Warp:
    """A warp that runs alone on its multiprocessor."""

    def __init__(self, fitted: Constants, far: float, lines: float) -> None:
        self._fitted = fitted
        self._latencies = {**LATENCIES, "special": fitted.special, "far": far}
        self._passes = {**PASSES, **dict.fromkeys(GLOBAL, lines)}
        self._now = self._line = 0.0
        self._ready = [(0.0, "")] * (NONE + 1)  # by scoreboard: when it is free, and what is waited for
        self._free: Counter[str] = Counter()  # by unit: when it accepts another operation
        self.waited: Counter[str] = Counter()

    def run(self, events: Iterable[Event]) -> Iterator[Part]:
        """Run events; the parts between barriers, as a warp alone runs them."""
        start, done = self._now, Counter()
        for event in events:
            self._issue(event)
            done["instructions"] += event.instructions
            done["special"] += event.kind == "special"
            done["passes"] += self._passes.get(event.kind, 0)
            if event.kind == "barrier":
                self._now += self._fitted.barrier
                self.waited["barrier"] += self._fitted.barrier
                yield Part(self._now - start, **done)
                start, done = self._now, Counter()
        yield Part(self._now - start, **done)

    def _issue(self, event: Event) -> None:
        passes = self._fitted.lanes * self._passes.get(event.kind, 0)
        unit, busy = ("special", SPECIAL_CYCLES) if event.kind == "special" else ("lanes", passes)
        waits = [(self._now, ""), *(self._ready[board] for board in range(NONE) if event.waits >> board & 1)]
        if busy:
            waits.append((self._free[unit], f"{unit} busy"))
        now, what = max(waits)
        self.waited[what] += now - self._now
        self._now = now + event.cycles
        if busy:
            self._free[unit] = now + busy
        if event.sets == NONE:
            return
        ready = now + passes + self._latencies.get(event.kind, 0.0)
        if event.kind == "far":
            self._line = ready
        elif event.kind == "near":
            ready = max(ready, self._line)
        self._ready[event.sets] = max(self._ready[event.sets], (ready, event.kind))


def explain(code: Code, geometry: Geometry, target: Target) -> str:
    """Explain a prediction, for the design of kernels: a table in Markdown with a line for each stretch of code.

        binary = torch_private.compiled_launch(kernel, arguments, target.compute_capability, warps=4)
        code = machine_code.read_cubin(binary.image, shared=binary.shared)
        print(explain(code, Geometry(programs, 4, [iterations], bytes_moved), target))

    Cycles are those of one program, with its warps beside one another. "read ahead" has the fewest and the median of
    the cycles, without waits, between a far load and the first wait for it; "waits" has the cycles that one warp alone
    waits in a round, by what it waits for.
    """
    fitted, seconds = constants(), predict(code, geometry, target)
    resident = _resident(code, geometry, target)
    program = one_program(code, geometry, target, fitted)
    units = program.busy(resident * geometry.warps, fitted)
    lines = []
    for place, stretch in enumerate(code.stretches):
        found, (_, waited) = parts(stretch, geometry, target, fitted), _played(stretch, geometry, target, fitted)
        kinds, ahead = Counter(event.kind for event in stretch.events), read_ahead(stretch)
        lines.append(
            ["" if stretch.loop is None else stretch.loop, _times(code, geometry, place)]
            + [f"{sum(part.cycles for part in found):.0f}", f"{sum(part.instructions for part in found):.0f}"]
            + [stretch.pipes.get(pipe, 0) for pipe in (*PIPES, "integer")]
            + [f"{sum(part.passes for part in found):.0f}", kinds["barrier"], kinds["far"], kinds["near"]]
            + [f"{min(ahead)}, {statistics.median(ahead):.0f}" if ahead else ""]
            + [", ".join(f"{what} {cycles:.0f}" for what, cycles in waited.most_common() if cycles >= 1)]
        )
    headers = ["loop", "times", "cycles", "instructions", *PIPES, "integer", "passes", "barriers", "far loads"]
    table = tabulate(lines, headers=[*headers, "near loads", "read ahead", "waits"], markdown=True)
    return (
        f"{seconds * 1e6:.1f} µs on {target.card}: {geometry.programs} programs of "
        f"{geometry.warps} warps, {math.ceil(geometry.programs / target.sms)} for each multiprocessor, "
        f"{resident} at once; {code.registers} registers, {code.shared} bytes of shared memory, {code.local} of local "
        f"memory.\nCycles of a program alone {program.cycles:.0f}; of {resident} beside one another "
        f"{program.beside(resident * geometry.warps, geometry.warps, fitted):.0f}, in which they keep a scheduler busy "
        f"for {units[0]:.0f}, its special-function unit for {units[1]:.0f}, the path to shared memory for "
        f"{units[2]:.0f}.\n\n{table}"
    )
