"""Which Triton kernels a selective scan and its backward launch.

Many sequences run each in one piece; where few channels of few sequences would leave a GPU idle, the length is cut into
chunks that run side by side. Plans depend on shapes alone, so that results are the same in every run. Tensors go by
the names of `schemas.TENSORS`; the gradient of one is `grad_` and its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from triton import cdiv

from mvc.kernels.scan import triton_tiles
from mvc.kernels.scan.triton_backward import backward_kernel
from mvc.kernels.scan.triton_chunks import COMBINE, combine_kernel, summary_kernel
from mvc.kernels.scan.triton_forward import forward_kernel
from mvc.kernels.scan.triton_launch import Meta, Plan
from mvc.kernels.scan.triton_tiles import Tile


def plan_forward(given: Mapping[str, Meta | None], *, softplus: bool, reverse: bool, keep: bool = False) -> Plan:
    """For "y" and "last_state"; with a "y" among the given tensors, which may lie over u, for that alone.

    keep: also for "states", which `plan_backward` starts from.
    """
    scan = _Scan(given, softplus, reverse)
    plan, u = scan.plan, given["u"]
    y = Meta(u.shape, (u.shape[1] * u.shape[2], u.shape[2], 1), u.dtype)
    if given.get("y") is None:
        plan.add("y", u.shape, u.dtype)
        plan.add("last_state", scan.cut.state_shape)
    else:
        y = given["y"]
    if keep:
        scan.keep_states()
    scan.forward(y.strides[:2])
    return plan


def plan_states(given: Mapping[str, Meta | None], *, softplus: bool, reverse: bool) -> Plan:
    """For the "states" alone."""
    scan = _Scan(given, softplus, reverse)
    scan.keep_states()
    scan.forward((0, 0))
    return scan.plan


def plan_backward(given: Mapping[str, Meta | None], *, softplus: bool, reverse: bool) -> Plan:
    """For the gradients, from "grad_y", "grad_last_state" and "states" beside the scan's own inputs.

    Those of A, B, C, D and delta_bias are partial sums: `sum_axes` says over which axes. That of the initial state is
    the first of "flow", (chunks, batch, dim, N).
    """
    scan = _Scan(given, softplus, reverse)
    scan.gradients()
    return scan.plan


def sum_axes(name: str, rank: int) -> tuple[int, ...]:
    """The axes over which the partial sums of an input's gradient are to be added up."""
    return (0,) if name in ("B", "C") and rank == 4 else (0, 1)


class _Scan:
    """One scan's plan under way."""

    def __init__(self, given: Mapping[str, Meta | None], softplus: bool, reverse: bool) -> None:
        self.given, self.softplus, self.reverse = given, softplus, reverse
        self.plan = Plan(given)
        u, A, B, C = (given[name] for name in ("u", "A", "B", "C"))
        groups = next((each.shape[2] for each in (B, C) if each.rank == 4), 1)
        self.cut = triton_tiles.cut(*u.shape, A.shape[1], groups)
        self.constant_B, self.constant_C = (given[name].rank == 2 for name in "BC")

    def keep_states(self) -> None:
        self.plan.add("states", (self.cut.kept_states, *self.cut.state_shape))

    def forward(self, y_strides: Sequence[int]) -> None:
        """From the initial state on for what of "y", "last_state" and "states" there is."""
        tile, chunk = self.cut.forward, self.cut.forward_chunk
        start = self._chunk_states("u", "B", "initial_state", chunk, adjoint=False)
        names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", start, "reset", "y", "last_state", "states")
        self._launch(
            forward_kernel,
            tile,
            chunk,
            names,
            (*self._strides("u", "delta", "z", "B", "C", "reset"), *y_strides),
            CONSTANT_B=self.constant_B,
            CONSTANT_C=self.constant_C,
            EVERY=self.cut.backward.length // tile.length,
        )

    def gradients(self) -> None:
        plan, cut, tile = self.plan, self.cut, self.cut.backward
        chunk = cut.backward_chunk
        chunks, programs = cdiv(cut.length, chunk), cdiv(cut.width, tile.span)
        from_later = self._chunk_states("grad_y", "C", "grad_last_state", chunk, adjoint=True)
        for name in ("u", "delta", "z"):
            if self.given[name] is not None:
                plan.add(f"grad_{name}", self.given["u"].shape, self.given[name].dtype)
        sums, per_step = (chunks, *cut.state_shape), (programs, cut.batch, cut.length, cut.groups, cut.states)
        plan.add("grad_A", sums)
        for name, constant in (("B", self.constant_B), ("C", self.constant_C)):
            finished = programs == 1 and not constant  # nothing to sum
            dtype = self.given[name].dtype if finished else torch.float32
            plan.add(f"grad_{name}", sums if constant else per_step, dtype)
        for name in ("grad_D", "grad_delta_bias"):
            plan.add(name, sums[:-1])
        plan.add("flow", sums)
        names = (
            "grad_y", "u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state", "reset", "states",
            from_later, "grad_u", "grad_delta", "grad_z", "grad_A", "grad_B", "grad_C", "grad_D", "grad_delta_bias",
            "flow",
        )  # fmt: skip
        self._launch(
            backward_kernel,
            tile,
            chunk,
            names,
            self._strides("grad_y", "u", "delta", "z", "B", "C", "reset"),
            CONSTANT_B=self.constant_B,
            CONSTANT_C=self.constant_C,
            BLOCKS=tile.blocks,
        )

    def _chunk_states(self, x: str, weights: str, initial: str, chunk: int, *, adjoint: bool) -> str:
        """The name of what each chunk starts from, (chunks, batch, dim, N); `adjoint`: of what flows into its end.

        That is `initial` itself where there is one chunk.
        """
        chunks = cdiv(self.cut.length, chunk)
        if chunks == 1:
            return initial
        own, decay = (self.plan.add(f"{x}_{part}", (chunks, *self.cut.state_shape)) for part in ("start", "decay"))
        z = "z" if adjoint else None
        self._launch(
            summary_kernel,
            self.cut.summary,
            chunk,
            (x, "delta", "A", weights, z, "delta_bias", "reset", own, decay),
            self._strides(x, "delta", z, weights, "reset"),
            CONSTANT=self.given[weights].rank == 2,
            ADJOINT=adjoint,
        )
        count = self.cut.batch * self.cut.dim * self.cut.states
        self.plan.launch(
            combine_kernel,
            (cdiv(count, COMBINE["BLOCK"]),),
            [self.plan.pointer(name) for name in (own, decay, initial)],
            (count, chunks),
            REVERSE=adjoint,
            MAY_RESET=self.given["reset"] is not None,
            **COMBINE,
        )
        return own

    def _launch(
        self, kernel: Any, tile: Tile, chunk: int, names: Sequence[str | None], strides: Sequence[int], **constants: Any
    ) -> None:
        cut = self.cut
        self.plan.launch(
            kernel,
            (cut.groups * cdiv(cut.width, tile.span), cut.batch, cdiv(cut.length, chunk)),
            [self.plan.pointer(name) for name in names],
            (cut.length, cut.dim, cut.states, cut.width, chunk, *strides),
            CH=tile.channels,
            G=tile.steps,
            W=tile.rows,
            R=cut.padded // tile.lanes,
            S=tile.lanes,
            EVEN=cut.width % tile.span == 0,
            PADDED=cut.padded != cut.states,
            SOFTPLUS=self.softplus,
            REVERSE=self.reverse,
            num_warps=tile.warps,
            **constants,
        )

    def _strides(self, *names: str | None) -> tuple[int, ...]:
        """Of tensors by name one after the other; zeros for one that is absent."""
        found: tuple[int, ...] = ()
        for name in names:
            meta = self.given.get(name)
            if name in ("B", "C"):
                found += (0, 0, *meta.strides) if meta.rank == 2 else meta.strides  # constant: channels for groups
            else:
                found += (0,) * (2 if name == "reset" else 3) if meta is None else meta.strides
        return found
