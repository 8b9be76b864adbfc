"""Instruction sets that the code of a package may be built for, and what this processor has.

On x86 they have names, each of which holds those after it. Any other processor has one, the name of its machine. The
matrix units of x86 (AMX) are in none: oneDNN, which computes the products, takes them by itself wherever it runs.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

from mvc.arguments import require
from mvc.errors import UserError

CPUINFO = Path("/proc/cpuinfo")


class InstructionSet(NamedTuple):
    """One of x86.

    Attributes:
        flags: what Linux lists of a processor that has it.
        architecture: the compiler's name of it.
        capability: how ATen's vectors name the widest that it has.
        vectors: how Inductor names it.
    """

    flags: frozenset[str]
    architecture: str
    capability: str
    vectors: str


_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
X86 = {
    "avx512": InstructionSet(_AVX512, "x86-64-v4", "AVX512", "VecAVX512"),
    "avx2": InstructionSet(_AVX2, "x86-64-v3", "AVX2", "VecAVX2"),
    "baseline": InstructionSet(frozenset(), "x86-64", "DEFAULT", ""),
}
NAMES = tuple(X86)


def here(flags: Set[str] | None = None) -> str:
    """The widest instruction set of this processor, or of an x86 one that has these flags."""
    if not _is_x86():
        return platform.machine()
    found = processor_flags() if flags is None else flags
    return next(name for name, each in X86.items() if each.flags <= found)


@functools.cache
def processor_flags() -> frozenset[str]:
    """What Linux lists of this x86 processor; nothing on other systems, for which code of the baseline is built."""
    if not CPUINFO.exists():
        return frozenset()
    lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


def require_name(isa: str) -> None:
    """Raise UserError unless code for this instruction set can be built here."""
    names = NAMES if _is_x86() else (platform.machine(),)
    require(isinstance(isa, str) and isa in names, "isa", isa, f"one of {', '.join(names)}")


def obstacle(isa: str, flags: Set[str] | None = None, machine: str | None = None) -> str | None:
    """Why a processor cannot run code for an instruction set, in one clause; None where it can.

    Args:
        flags, machine: what the processor has, and its kind as Python names it; by default those of this one.
    """
    machine = machine or platform.machine()
    if isa not in X86:
        return None if isa == machine else f"its code is for {isa}, and this processor is {machine}"
    if not _is_x86(machine):
        return f"its code is for x86 with {isa}, and this processor is {machine}"
    missing = sorted(X86[isa].flags - (processor_flags() if flags is None else flags))
    return f"its code needs {isa}, and this processor lacks {', '.join(missing)}" if missing else None


def check(isa: str | None, path: str, flags: Set[str] | None = None) -> None:
    """Raise UserError for a package whose code this processor cannot run.

    Args:
        isa: what the package records; None where it holds no code of a processor.
        flags: as for `obstacle`.
    """
    if isa is not None and (reason := obstacle(isa, flags)) is not None:
        remedy = f"with --isa {here(flags)}, or on this machine" if _is_x86() else "on this machine"
        raise UserError(f"{path} cannot run here: {reason}; export it again {remedy}")


def _is_x86(machine: str | None = None) -> bool:
    return (machine or platform.machine()) in ("x86_64", "AMD64")
