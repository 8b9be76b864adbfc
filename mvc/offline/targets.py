"""The cards that code can be generated for, as their makers specify them."""

from __future__ import annotations

import dataclasses

from mvc.errors import UserError


@dataclasses.dataclass(frozen=True)
class Target:
    """One card.

    Attributes:
        name: what `--target` takes: the architecture's for the card that stands for it, of any other card its own.
        card: the product that the figures are of.
        capability: major and minor.
        sms: multiprocessors.
        clock: of the multiprocessors, at most, Hz.
        shared_sm, shared_block: bytes of shared memory of a multiprocessor, and most that one block may ask for.
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
        """As Triton writes it: 90."""
        return 10 * self.capability[0] + self.capability[1]

    @property
    def architecture(self) -> str:
        """As the compilers call it; cards that share it run the same binaries and have the same budgets."""
        return f"sm_{self.compute_capability}"

    def resident(self, *, warps: int, registers: int, shared: int) -> int:
        """Programs of so many warps, registers a thread and bytes of shared memory that a multiprocessor holds at once.

        A warp's registers lie with its scheduler, and are given out in steps of 8 a thread; a program takes 1 KiB of
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

A100 = Target(
    name="sm_80",
    card="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    sms=108,
    clock=1.41e9,
    shared_sm=164 * 2**10,
    shared_block=163 * 2**10,
    l2=40 * 2**20,
    memory=80 * 2**30,
    bandwidth=2.039e12,
    matrix_flops={"float16": 312e12, "bfloat16": 312e12, "float32": 19.5e12},
    source="NVIDIA A100 data sheet (June 2021); CUDA C++ programming guide, technical specifications",
)
H100 = Target(
    name="sm_90",
    card="NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    sms=132,
    clock=1.98e9,
    shared_sm=228 * 2**10,
    shared_block=227 * 2**10,
    l2=50 * 2**20,
    memory=80 * 2**30,
    bandwidth=3.35e12,
    matrix_flops={"float16": 989.4e12, "bfloat16": 989.4e12, "float32": 66.9e12},
    source="NVIDIA H100 architecture white paper (SXM5); CUDA C++ programming guide, technical specifications",
)
H200 = dataclasses.replace(
    H100,
    name="h200",
    card="NVIDIA H200",
    memory=141 * 2**30,
    bandwidth=4.8e12,
    source="NVIDIA H200 data sheet; the processor is the H100's, whose sources hold for the rest",
)
B200 = Target(
    name="sm_100",
    card="NVIDIA B200",
    capability=(10, 0),
    sms=148,
    clock=1.965e9,
    shared_sm=228 * 2**10,
    shared_block=227 * 2**10,
    l2=126 * 2**20,
    memory=180 * 2**30,
    bandwidth=7.7e12,
    matrix_flops={"float16": 2.25e15, "bfloat16": 2.25e15, "float32": 75e12},
    source="NVIDIA DGX B200 data sheet, an eighth of the system; CUDA C++ programming guide",
)
TARGETS = {target.name: target for target in (A100, H100, H200, B200)}


def find(name: str) -> Target:
    """The target of that name.

    Raises:
        UserError: an unknown name.
    """
    if name not in TARGETS:
        raise UserError(f"target is {name!r}; it must be one of {', '.join(TARGETS)}")
    return TARGETS[name]
