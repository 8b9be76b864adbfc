"""Which Triton kernels a selective scan and its backward launch.

Many sequences run each in one piece; where few channels of few sequences would leave a GPU idle, the length is cut into
chunks that run side by side. Plans depend on shapes alone, so that results are the same in every run. Tensors go by
the names of `rules.TENSORS`; the gradient of one is `grad_` and its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import triton
from mvc.kernels.triton_backward import backward_kernel
from mvc.kernels.triton_forward import combine_kernel, forward_kernel, summary_kernel
from mvc.kernels.triton_launch import Meta, Plan

BLOCK = 32  # channels of a program: one for each thread of its one warp
FORWARD_WIDE, BACKWARD_WIDE = 4, 2  # steps read at once; the backward keeps the states of so many in registers
FORWARD_STATES, BACKWARD_STATES = 16, 8  # run by one launch, so that they fit in registers
PROGRAMS = 1024  # as many keep the largest GPUs busy
SHORTEST_CHUNK = 128  # steps; a multiple of both widths


class Cut(NamedTuple):
    """Sizes of a call and how it is cut."""

    batch: int
    length: int
    dim: int
    states: int
    groups: int
    chunk: int  # steps
    chunks: int

    @property
    def width(self) -> int:
        return self.dim // self.groups

    @property
    def blocks_per_group(self) -> int:
        return triton.cdiv(self.width, BLOCK)

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.groups * self.blocks_per_group, self.batch, self.chunks

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.length, self.dim, self.states, self.width, self.chunk

    @property
    def state_shape(self) -> tuple[int, int, int]:
        return self.batch, self.dim, self.states

    def state_blocks(self, most: int) -> list[tuple[int, int]]:
        """(first, how many) of each block of at most so many states; a launch handles one."""
        return [(first, min(most, self.states - first)) for first in range(0, self.states, most)]


def cut(u: Meta, A: Meta, B: Meta, C: Meta) -> Cut:
    batch, length, dim = u.shape
    groups = next((each.shape[2] for each in (B, C) if each.rank == 4), 1)
    programs = batch * groups * triton.cdiv(dim // groups, BLOCK)
    chunks = max(1, min(PROGRAMS // programs, length // SHORTEST_CHUNK))
    chunk = triton.cdiv(triton.cdiv(length, chunks), SHORTEST_CHUNK) * SHORTEST_CHUNK
    return Cut(batch, length, dim, A.shape[1], groups, chunk, triton.cdiv(length, chunk))


def plan_forward(given: Mapping[str, Meta | None], *, softplus: bool, reverse: bool) -> Plan:
    """For "y" and "last_state"; with a "y" among the given tensors, which may lie over u, for that alone."""
    scan = _Scan(given, softplus, reverse)
    plan, u = scan.plan, given["u"]
    y = Meta(u.shape, (u.shape[1] * u.shape[2], u.shape[2], 1), u.dtype)
    if given.get("y") is None:
        plan.add("y", u.shape, u.dtype)
        plan.add("last_state", scan.cut.state_shape)
    else:
        y = given["y"]
    start = scan.chunk_states("u", "B", "initial_state", adjoint=False)
    scan.forward(start, y=y)
    return plan


def plan_backward(given: Mapping[str, Meta | None], *, softplus: bool, reverse: bool) -> Plan:
    """For the gradients, from "grad_y" and "grad_last_state" beside the scan's own inputs.

    Those of A, B, C, D and delta_bias are partial sums in float32: `sum_axes` says over which axes.
    """
    scan = _Scan(given, softplus, reverse)
    start = scan.chunk_states("u", "B", "initial_state", adjoint=False)
    from_later = scan.chunk_states("grad_y", "C", "grad_last_state", adjoint=True)
    scan.checkpoints(start)
    scan.gradients(from_later)
    return scan.plan


def sum_axes(name: str, rank: int) -> tuple[int, ...]:
    """The axes over which the partial sums of an input's gradient are to be added up."""
    return (0,) if name in ("B", "C") and rank == 4 else (0, 1)


class _Scan:
    """One scan's plan under way."""

    def __init__(self, given: Mapping[str, Meta | None], softplus: bool, reverse: bool) -> None:
        self.given, self.softplus, self.reverse = given, softplus, reverse
        self.plan = Plan(given)
        self.cut = cut(*(given[name] for name in ("u", "A", "B", "C")))
        self.constant_B, self.constant_C = (given[name].rank == 2 for name in "BC")
        # With constant B or C, and with resets, fewer states fit in registers.
        crowded = given["reset"] is not None or self.constant_B or self.constant_C
        self.forward_states = FORWARD_STATES // 2 if crowded else FORWARD_STATES

    def strides(self, *names: str | None) -> tuple[int, ...]:
        """Of tensors by name one after the other; zeros for one that is absent."""
        found: tuple[int, ...] = ()
        for name in names:
            meta = self.given.get(name)
            if name in ("B", "C"):
                found += _weight_strides(meta)
            else:
                found += (0,) * (2 if name == "reset" else 3) if meta is None else meta.strides
        return found

    def along(self, name: str, wide: int) -> bool:
        """Whether `wide` neighbouring steps of a channel are one aligned piece of memory."""
        meta = self.given[name]
        if meta is None or meta.strides[1] != 1 or meta.strides[2] == 1:
            return False
        return meta.strides[0] % wide == 0 and meta.strides[2] % wide == 0 and meta.offset % wide == 0

    def chunk_states(self, x: str, weights: str, initial: str, *, adjoint: bool) -> str:
        """The name of what each chunk starts from, (chunks, batch, dim, states); `adjoint`: the gradients that end it.

        That is `initial` itself where there is one chunk.
        """
        if self.cut.chunks == 1:
            return initial
        plan, shape = self.plan, (self.cut.chunks, *self.cut.state_shape)
        own, decay = (plan.add(f"{x}_{part}", shape) for part in ("start", "decay"))
        z = "z" if adjoint else None
        against = self.reverse != adjoint
        for first, count in self.cut.state_blocks(self.forward_states):
            named = [(x, 0), ("delta", 0), ("A", first), (weights, first), (z, 0), ("delta_bias", 0), ("reset", 0)]
            plan.launch(
                summary_kernel,
                self.cut.grid,
                [plan.pointer(*each) for each in (*named, (own, first), (decay, first))],
                (*self.cut.sizes, *self.strides(x, "delta", z, weights, "reset")),
                N=count, BLOCK=BLOCK, CONSTANT=self.given[weights].rank == 2, SOFTPLUS=self.softplus, REVERSE=against,
                ADJOINT=adjoint,
            )  # fmt: skip
        states = self.cut.batch * self.cut.dim * self.cut.states
        plan.launch(
            combine_kernel,
            (triton.cdiv(states, 128),),
            [plan.pointer(name) for name in (own, decay, initial)],
            (states, self.cut.chunks),
            BLOCK=128,
            REVERSE=against,
            MAY_RESET=self.given["reset"] is not None,
            num_warps=4,
        )
        return own

    def forward(self, start: str, *, y: Meta) -> None:
        """From `start` on for y, and for the last state where that is a new tensor."""
        blocks = self.cut.state_blocks(self.forward_states)
        partial = self.plan.add("partial", self.given["u"].shape) if len(blocks) > 1 else None
        for first, count in blocks:
            end = None if self.given.get("y") is not None else "last_state"
            outputs = [(partial, 0), ("y", 0), (end, first), (None, 0)]
            self._forward_kernel(start, first, count, outputs, y.strides[:2], FORWARD_WIDE)

    def checkpoints(self, start: str) -> None:
        """The states before each group of `BACKWARD_WIDE` steps, and before each step beyond the groups."""
        slots = self.cut.length // BACKWARD_WIDE + self.cut.length % BACKWARD_WIDE
        checkpoint = self.plan.add("checkpoint", (slots, *self.cut.state_shape))
        for first, count in self.cut.state_blocks(self.forward_states):
            outputs = [(None, 0), (None, 0), (None, 0), (checkpoint, first)]
            self._forward_kernel(start, first, count, outputs, (0, 0), BACKWARD_WIDE)

    def _forward_kernel(
        self, start: str, first: int, count: int, outputs: list[tuple], y_strides: tuple[int, ...], wide: int
    ) -> None:
        named = [
            ("u", 0), ("delta", 0), ("A", first), ("B", first), ("C", first), ("D", 0), ("z", 0), ("delta_bias", 0),
            (start, first), ("reset", 0),
        ]  # fmt: skip
        self.plan.launch(
            forward_kernel,
            self.cut.grid,
            [self.plan.pointer(*each) for each in (*named, *outputs)],
            (*self.cut.sizes, *self.strides("u", "delta", "z", "B", "C", "reset"), *y_strides),
            N=count, BLOCK=BLOCK, CONSTANT_B=self.constant_B, CONSTANT_C=self.constant_C, SOFTPLUS=self.softplus,
            REVERSE=self.reverse, U_ALONG=self.along("u", wide), DELTA_ALONG=self.along("delta", wide),
            Z_ALONG=self.along("z", wide), FIRST=first == 0, LAST=first + count == self.cut.states, WIDE=wide,
        )  # fmt: skip

    def gradients(self, from_later: str) -> None:
        plan, shape = self.plan, self.given["u"].shape
        sums = (self.cut.chunks, *self.cut.state_shape)
        per_step = (self.cut.blocks_per_group, self.cut.batch, self.cut.length, self.cut.groups, self.cut.states)
        for name in ("u", "delta", "z"):
            if self.given[name] is not None:
                plan.add(f"grad_{name}", shape, self.given[name].dtype)
        plan.add("grad_A", sums)
        for name, constant in (("grad_B", self.constant_B), ("grad_C", self.constant_C)):
            plan.add(name, sums if constant else per_step)
        for name in ("grad_D", "grad_delta_bias"):
            plan.add(name, sums[:-1])
        plan.add("grad_initial_state", self.cut.state_shape)
        blocks, wide = self.cut.state_blocks(BACKWARD_STATES), BACKWARD_WIDE
        partial = plan.add("partial", (3, *shape)) if len(blocks) > 1 else None
        for first, count in blocks:
            named = [
                ("grad_y", 0), ("u", 0), ("delta", 0), ("A", first), ("B", first), ("C", first), ("D", 0), ("z", 0),
                ("delta_bias", 0), ("reset", 0), ("checkpoint", first), (from_later, first), (partial, 0),
                ("grad_u", 0), ("grad_delta", 0), ("grad_z", 0), ("grad_A", first), ("grad_B", first),
                ("grad_C", first), ("grad_D", 0), ("grad_delta_bias", 0), ("grad_initial_state", first),
            ]  # fmt: skip
            plan.launch(
                backward_kernel,
                self.cut.grid,
                [plan.pointer(*each) for each in named],
                (*self.cut.sizes, *self.strides("grad_y", "u", "delta", "z", "B", "C", "reset")),
                N=count, BLOCK=BLOCK, CONSTANT_B=self.constant_B, CONSTANT_C=self.constant_C, SOFTPLUS=self.softplus,
                REVERSE=self.reverse, GRAD_Y_ALONG=self.along("grad_y", wide), U_ALONG=self.along("u", wide),
                DELTA_ALONG=self.along("delta", wide), Z_ALONG=self.along("z", wide), FIRST=first == 0,
                LAST=first + count == self.cut.states, WIDE=wide,
            )  # fmt: skip


def _weight_strides(weights: Meta) -> tuple[int, ...]:
    """Over batch, length, groups (channels of a constant) and states."""
    return (0, 0, *weights.strides) if weights.rank == 2 else weights.strides
