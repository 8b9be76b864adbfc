"""The cards that code can be generated for, as their makers specify them in `targets.json`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from mvc.errors import UserError


@dataclasses.dataclass(frozen=True)
class Target:
    """One card.

    Attributes:
        name: the value for `--target`: the architecture's name for the card that stands for it, or else the card's own.
        card: the product whose figures these are.
        capability: major and minor.
        sms: multiprocessors.
        clock: of the multiprocessors, at most, Hz.
        shared_sm, shared_block: bytes of shared memory of a multiprocessor, and the most that one block may ask for.
        l2, memory: bytes.
        bandwidth: of the memory, bytes/s.
        matrix_flops: FLOP/s of dense matrix products by dtype; float32 without TF32.
        source: of the figures.
    """

    name: str
    card: str
    capability: tuple[int, int]
    sms: int
    clock: float
    shared_sm: int
    shared_block: int
    l2: int
    memory: int
    bandwidth: float
    matrix_flops: dict[str, float]
    source: str

    @property
    def compute_capability(self) -> int:
        """The compute capability as Triton writes it: 90."""
        return 10 * self.capability[0] + self.capability[1]

    @property
    def architecture(self) -> str:
        """The architecture's name for compilers; cards that share it run the same binaries and share budgets."""
        return f"sm_{self.compute_capability}"

    def resident(self, *, warps: int, registers: int, shared: int) -> int:
        """How many programs with these warps, registers a thread and bytes of shared memory a multiprocessor can hold.

        A warp's registers belong to its scheduler and are allocated in steps of 8 a thread; a program uses 1 KiB of
        shared memory for the system (CUDA C++ programming guide, technical specifications; cuda_occupancy.h).
        """
        on_scheduler = REGISTERS_SM // SCHEDULERS // (32 * -(-registers // 8) * 8)
        most_warps = min(WARPS_SM, on_scheduler * SCHEDULERS)
        return min(most_warps // warps, self.shared_sm // (shared + 1024), PROGRAMS_SM)


# A multiprocessor of any of them.
SCHEDULERS = 4
REGISTERS_SM = 65536
WARPS_SM = 64
PROGRAMS_SM = 32


def _target(name: str, facts: dict[str, Any]) -> Target:
    shared = facts["shared memory KiB"] * 2**10
    return Target(
        name=name,
        card=facts["card"],
        capability=tuple(facts["capability"]),
        sms=facts["multiprocessors"],
        clock=facts["clock MHz"] * 1e6,
        shared_sm=shared,
        shared_block=shared - 2**10,  # the rest is the system's
        l2=facts["L2 MiB"] * 2**20,
        memory=facts["memory GiB"] * 2**30,
        bandwidth=facts["memory GB/s"] * 1e9,
        matrix_flops={dtype: rate * 1e9 for dtype, rate in facts["dense GFLOP/s"].items()},
        source=facts["source"],
    )


_CARDS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
TARGETS = {name: _target(name, facts) for name, facts in _CARDS.items()}


def find(name: str) -> Target:
    """The target of that name.

    Raises:
        UserError: an unknown name.
    """
    if name not in TARGETS:
        raise UserError(f"target is {name!r}; it must be one of {', '.join(TARGETS)}")
    return TARGETS[name]
