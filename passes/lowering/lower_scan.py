"""Lowering: which implementation each scan in the graph runs on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import fx

from mvc.kernels import implementations
from mvc.kernels.recurrence import linear_recurrence, ops as recurrence_ops
from mvc.kernels.scan import chunked, ops, selective_scan
from mvc.kernels.schemas import ScanInputs, op
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import op_calls, value
from mvc.passes.graph.regions import regions

PORTABLE = ("selective_scan", "linear_recurrence")


@dataclasses.dataclass(frozen=True)
class LowerScan(Pass):
    """Replaces the portable scan, or linear recurrence, by the op of one implementation, which has its own backward.

    Before, on a CPU::

        mvc.selective_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, True, False)
        mvc.linear_recurrence(a, b, initial, 1, False)

    After::

        mvc.selective_scan_cpu(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, True, False)
        mvc.linear_recurrence_cpu(a, b, initial, 1, False)

    By default it is the fastest one, as `mvc.kernels.implementations` has it. The chunked ops become torch's own
    operations by `decompositions`.

    Attributes:
        impl: forces one implementation. Where it cannot run, the portable op stays and a near miss says why.
    """

    name: ClassVar[str] = "lower_scan"
    impl: implementations.Name | None = None

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        for node in [node for name in PORTABLE for node in op_calls(graph, getattr(torch.ops.mvc, name))]:
            result = value(node)[0] if isinstance(value(node), (tuple, list)) else value(node)
            impl = self.impl or implementations.fastest(result.device, result.dtype)
            if (obstacle := implementations.obstacle(impl, result.device, result.dtype)) is not None:
                outcome.near_misses.append(NearMiss.at(node, obstacle))
                continue
            node.target = target(node.target, impl)
            outcome.matches += 1
        return outcome


def target(portable: Callable, impl: str) -> Callable:
    """What a graph calls to run the portable op on the implementation."""
    name = str(getattr(portable, "overloadpacket", portable)).removeprefix("mvc.")
    lowered = implementations.op_name(name, impl)
    return IN_TORCH.get(lowered) or op(lowered)


def reference_scan(*inputs: torch.Tensor | bool | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The sequential scan, which the compiler unrolls: for short lengths, and to compare with."""
    given = ScanInputs(*inputs)._asdict()
    return selective_scan(**given, return_last_state=True, impl="reference")


def reference_recurrence(a, b, initial, dim, reverse):
    """The sequential recurrence, which the compiler unrolls."""
    return linear_recurrence(a, b, initial, dim=dim, reverse=reverse, impl="reference")


# What stands for the ops of the implementation that has none.
IN_TORCH = {"selective_scan_reference": reference_scan, "linear_recurrence_reference": reference_recurrence}


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    """Torch's own operations for the portable and the chunked ops and their backwards, in linear time.

    For `torch.export.ExportedProgram.run_decompositions`, where a format knows no custom ops, and for Inductor.
    """
    table: dict[torch._ops.OpOverload, Callable] = {}
    for impl in (None, "chunked"):
        scan, recurrence = (implementations.op_name(name, impl) for name in PORTABLE)
        table[op(scan)] = chunked.selective_scan
        table[op(scan, backward=True)] = ops.run_chunked_backward
        table[op(recurrence)] = recurrence_ops.in_torch
    return table


def holds_chunked(module: fx.GraphModule) -> bool:
    """Whether the module's graph, or a body in it, holds an op that stays slow without `decompositions`."""
    targets = [op(implementations.op_name(name, "chunked")) for name in PORTABLE]
    return any(node.target in targets for region in regions(module) for node in region.module.graph.nodes)
