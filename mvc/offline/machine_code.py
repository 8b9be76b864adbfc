"""Reads the machine code of a kernel, nvdisasm's text with encodings, into the events that decide a warp's time.

An instruction of these cards (compute capability 7 to 10) has 128 bits. 21 of them steer the scheduler: how many cycles
to stall after it, which of six scoreboards it sets until its result is there, and which ones to wait for first. ptxas
writes the latencies that it knows as stalls. Scoreboards are for latencies that vary: those of memory, shared memory,
shuffles and the special-function unit. (Scoreboards that guard operands until they are read are left out, since they
made no difference.)
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mvc.errors import UserError

TOOL_TIMEOUT = 120.0  # seconds
RESOURCES = re.compile(r"REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)")
INSTRUCTION = re.compile(
    r"^(?P<label>\.L_\w+):|"
    r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@(?P<predicate>!?U?P\w+)\s+)?(?P<opcode>[A-Z][A-Z0-9_.]*)(?P<operands>[^;]*);"
    r"\s*/\* 0x[0-9a-f]{16} \*/\s*/\* 0x(?P<high>[0-9a-f]{16}) \*/",
    re.MULTILINE,
)
NONE = 7  # the number that means no scoreboard
LINE = 128  # bytes that a first-level cache holds or misses together

# The unit that issues an opcode; those that start with U belong to the uniform one, all others to the integer unit.
PIPES = {
    "fma": "FFMA FMUL FADD HFMA2 HADD2 HMUL2 IMAD",
    "special": "MUFU I2F F2I F2F FRND POPC",
    "shared": "LDS STS LDSM STSM ATOMS",
    "shuffle": "SHFL REDUX",
    "global": "LDG STG ATOMG RED LDL STL",
    "uniform": "R2UR S2UR S2R CS2R LDC",
    "control": "BRA EXIT BAR NOP BSSY BSYNC BREAK WARPSYNC CALL RET DEPBAR",
}
PIPE = {opcode: pipe for pipe, opcodes in PIPES.items() for opcode in opcodes.split()}


class Event(NamedTuple):
    """An instruction that waits for or sets a scoreboard, or uses a scarce unit, and the plain instructions after it.

    Attributes:
        kind: "plain"; "special"; "shared 4", "shared 8", "shared 16" (bytes a lane); "shuffle"; "barrier"; for global
            memory "far" (a load), "near" (a load whose line an earlier load has asked for), "store"; "constant"
            (anything else that sets a scoreboard).
        waits: the scoreboards to wait for, a bit for each.
        sets: the scoreboard of the result, or `NONE`.
        cycles: from the issue of the first instruction to the end of the last one's stall.
        instructions: how many instructions the event has, the first included.
    """

    kind: str
    waits: int
    sets: int
    cycles: int
    instructions: int


class Stretch(NamedTuple):
    """Code between the ends of loops.

    Attributes:
        loop: the innermost loop around the stretch, numbered by the order of the loops' heads; None outside of loops.
        whole: whether the stretch is that loop's whole body.
        pipes: the number of instructions by unit.
    """

    loop: int | None
    whole: bool
    pipes: dict[str, int]
    events: tuple[Event, ...]


class Code(NamedTuple):
    """The machine code of one kernel.

    Attributes:
        registers: of a thread.
        shared: bytes of shared memory of a program.
        local: bytes of a thread that do not fit into registers.
        stretches: in order, up to the end of the program; code after the end is left out.
    """

    registers: int
    shared: int
    local: int
    stretches: tuple[Stretch, ...]

    @property
    def loops(self) -> int:
        return 1 + max((each.loop for each in self.stretches if each.loop is not None), default=-1)


class _Instruction(NamedTuple):
    opcode: str
    operands: str
    predicate: str | None
    control: int

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def pipe(self) -> str:
        return PIPE.get(self.name, "uniform" if self.name.startswith("U") else "integer")


def read(sass: str, *, registers: int, shared: int, local: int = 0) -> Code:
    """Read what nvdisasm printed with `-c -hex`.

    Raises:
        UserError: the text has no encodings or no instructions.
    """
    instructions, labels = [], {}
    for found in INSTRUCTION.finditer(sass):
        if found["label"]:
            labels[found["label"]] = len(instructions)
        else:
            opcode, operands, predicate, high = found.group("opcode", "operands", "predicate", "high")
            instructions.append(_Instruction(opcode, operands.strip(), predicate, int(high, 16) >> 41))
    if not instructions:
        raise UserError("sass has no instruction with its encoding; print it with `nvdisasm -c -hex`")
    return Code(registers, shared, local, tuple(_stretches(instructions, labels)))


def read_cubin(image: bytes, *, shared: int) -> Code:
    """Read the only kernel of a binary. `shared` is the bytes in Triton's metadata, which the binary does not have."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(image)
        found = RESOURCES.search(tool("cuobjdump", "--dump-resource-usage", cubin))
        sass = tool("nvdisasm", "-c", "-hex", cubin)
    local = int(found["local"]) + int(found["stack"])
    return read(sass, registers=int(found["registers"]), shared=shared, local=local)


def read_ahead(stretch: Stretch) -> list[int]:
    """For each far load, the cycles from its issue to the first wait for its scoreboard, not counting other waits. In a
    loop, that wait may be in the next round."""
    found = []
    for place, load in enumerate(stretch.events):
        if load.kind == "far":
            behind = stretch.events[place + 1 :] + (stretch.events[: place + 1] if stretch.whole else ())
            passed = load.cycles
            for event in behind:
                if event.waits >> load.sets & 1:
                    break
                passed += event.cycles
            found.append(passed)
    return found


def tool(name: str, *arguments: object) -> str:
    """The output of one of the tools that come with triton."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    command = [path, *map(str, arguments)]  # in this process's session, and so ended with it
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=TOOL_TIMEOUT).stdout


def _stretches(instructions: Sequence[_Instruction], labels: dict[str, int]) -> Iterator[Stretch]:
    loops = sorted(_loops(instructions, labels), key=lambda loop: (loop[0], -loop[1]))
    last = max((stop for _, stop in loops), default=0)
    leaves = [each.name == "EXIT" and each.predicate is None for each in instructions]
    end = leaves.index(True, last) + 1 if any(leaves[last:]) else len(instructions)
    edges = sorted({0, end, *(edge for loop in loops for edge in loop)})
    for start, stop in itertools.pairwise(edges):
        around = [number for number, loop in enumerate(loops) if loop[0] <= start and stop <= loop[1]]
        inner = max(around, default=None)
        part = instructions[start:stop]
        pipes = Counter(each.pipe for each in part)
        yield Stretch(inner, inner is not None and loops[inner] == (start, stop), dict(pipes), tuple(_events(part)))


def _loops(instructions: Sequence[_Instruction], labels: dict[str, int]) -> Iterator[tuple[int, int]]:
    """The first instruction of each loop and the one after its last; the final branch to itself is not a loop."""
    for place, each in enumerate(instructions):
        target = re.search(r"\.L_\w+", each.operands) if each.name == "BRA" else None
        if target and labels[target[0]] < place:
            yield labels[target[0]], place + 1


def _events(part: Sequence[_Instruction]) -> Iterator[Event]:
    event = None
    for each, kind in zip(part, _kinds(part), strict=True):
        waits, sets = each.control >> 11 & 63, each.control >> 5 & 7
        cycles = max(each.control & 15, 1)
        plain = kind == "plain" and not waits and sets == NONE
        if plain and event is not None and event.kind != "barrier":
            event = event._replace(cycles=event.cycles + cycles, instructions=event.instructions + 1)
            continue
        if event is not None:
            yield event
        event = Event(kind, waits, sets, cycles, 1)
    if event is not None:
        yield event


def _kinds(part: Sequence[_Instruction]) -> Iterator[str]:
    """The kind of each instruction, as in `Event`.

    A load is near if an earlier load through the same register, not written since, lies less than a line away.
    """
    asked: dict[int, list[int]] = {}  # by address register, the offsets of far loads
    for each in part:
        yield _kind(each, asked)
        written = re.match(r"R(\d+)", each.operands)
        if written and not each.name.startswith("ST"):
            first = int(written[1])
            count = 4 if "128" in each.opcode else 2 if "64" in each.opcode or "WIDE" in each.opcode else 1
            for register in [one for one in asked if one + 1 >= first and one < first + count]:
                del asked[register]


def _kind(each: _Instruction, asked: dict[int, list[int]]) -> str:
    if each.name == "BAR":
        return "barrier"
    if each.pipe in ("special", "shuffle"):
        return each.pipe
    if each.pipe == "shared":
        matrices = re.search(r"\.M88\.([24])", each.opcode)
        wide = int(matrices[1]) if matrices else 4 if ".128" in each.opcode else 2 if ".64" in each.opcode else 1
        return f"shared {4 * wide}"
    if each.name == "LDG":
        address = re.search(r"\[R(\d+)(?:\.64)?(?:\+(-?0x[0-9a-f]+))?\]", each.operands)
        if address is None:
            return "far"
        offset, others = int(address[2] or "0", 16), asked.setdefault(int(address[1]), [])
        if any(abs(offset - other) < LINE for other in others):
            return "near"
        others.append(offset)
        return "far"
    if each.pipe == "global":
        return "near" if each.name == "LDL" else "store"
    return "plain" if each.control >> 5 & 7 == NONE else "constant"
