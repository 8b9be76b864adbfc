"""Lowering: which implementation each scan in the graph runs on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import fx

from mvc.kernels.recurrence import api as recurrence, ops as recurrence_ops
from mvc.kernels.scan import api as scan, chunked, ops
from mvc.kernels.scan.rules import op
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import value

Implementation = Literal["triton", "cpp", "chunked", "reference"]


SUFFIXES = {"cpp": "_cpu", "triton": "_triton", "chunked": "_chunked"}


@dataclasses.dataclass(frozen=True)
class LowerScan(Pass):
    """Replaces the portable scan, or linear recurrence, by the op of one implementation, which has its own backward.

    Before, on a CPU::

        mvc.selective_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, True, False)
        mvc.linear_recurrence(a, b, initial, 1, False)

    After::

        mvc.selective_scan_cpu(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, True, False)
        mvc.linear_recurrence_cpu(a, b, initial, 1, False)

    By default Triton runs CUDA graphs and C++ CPU graphs; float64, other devices and machines that lack triton or a C++
    compiler get the chunked forms, which `decompositions` turns into torch's own operations.

    Attributes:
        impl: forces one implementation. Where it cannot run, the portable op stays and a near miss says why.
    """

    name: ClassVar[str] = "lower_scan"
    impl: Implementation | None = None

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        for node in _portable_calls(graph):
            tensor = value(node)[0] if isinstance(value(node), (tuple, list)) else value(node)
            impl = self.impl or suited(tensor)
            if (obstacle := _obstacle(impl, tensor)) is not None:
                outcome.near_misses.append(NearMiss.at(node, obstacle))
                continue
            node.target = target(node.target, impl)
            outcome.matches += 1
        return outcome


def _portable_calls(graph: fx.Graph) -> list[fx.Node]:
    packets = (torch.ops.mvc.selective_scan, torch.ops.mvc.linear_recurrence)
    targets = [each for packet in packets for each in (packet, packet.default)]
    return [node for each in targets for node in graph.find_nodes(op="call_function", target=each)]


def suited(result: torch.Tensor) -> Implementation:
    """The implementation that suits a scan with this result."""
    for impl in ("cpp", "triton"):
        if _obstacle(impl, result) is None:
            return impl
    return "chunked"


def target(portable: Callable, impl: Implementation) -> Callable:
    """What a graph calls to run the portable op on the implementation."""
    name = str(getattr(portable, "overloadpacket", portable)).removeprefix("mvc.")
    if impl == "reference":
        return {"selective_scan": reference_scan, "linear_recurrence": reference_recurrence}[name]
    return getattr(torch.ops.mvc, name + SUFFIXES[impl]).default


def reference_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse):
    """The sequential scan, which the compiler unrolls: for short lengths, and to compare with."""
    return scan.selective_scan(
        u, delta, A, B, C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state, reset=reset,
        delta_softplus=delta_softplus, reverse=reverse, return_last_state=True, impl="reference",
    )  # fmt: skip


def reference_recurrence(a, b, initial, dim, reverse):
    """The sequential recurrence, which the compiler unrolls."""
    return recurrence.linear_recurrence(a, b, initial, dim=dim, reverse=reverse, impl="reference")


def _obstacle(impl: Implementation, result: torch.Tensor) -> str | None:
    """Why the implementation cannot give this result, or None."""
    if impl in ("chunked", "reference"):
        return None
    if result.dtype == torch.float64:
        return f"impl {impl!r} takes no float64"
    if impl == "cpp":
        from mvc.kernels import cpu_scan

        if result.device.type != "cpu":
            return f"impl 'cpp' needs CPU tensors; these are on {result.device.type}"
        return None if cpu_scan.available() else "impl 'cpp' could not be built"
    if result.device.type != "cuda":
        return f"impl 'triton' needs CUDA tensors; these are on {result.device.type}"
    available = ops.triton_available() and recurrence_ops.triton_available()
    return None if available else "impl 'triton' needs the package triton"


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    """Torch's own operations for the portable and the chunked ops and their backwards, in linear time.

    For `torch.export.ExportedProgram.run_decompositions`, where a format knows no custom ops, and for Inductor.
    """
    table: dict[torch._ops.OpOverload, Callable] = {}
    for name in ("selective_scan", "selective_scan_chunked"):
        table[op(name)] = chunked.selective_scan
        table[op(name, backward=True)] = ops.run_chunked_backward
    for name in ("linear_recurrence", "linear_recurrence_chunked"):
        table[op(name)] = recurrence_ops.in_torch
    return table
