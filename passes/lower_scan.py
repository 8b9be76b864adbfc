"""Lowering: which implementation each scan in the graph runs on."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from mvc.kernels import chunked, ops
from mvc.kernels.rules import op
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.fx_utils import value
from torch import fx

Implementation = Literal["triton", "cpp", "chunked", "reference"]


@dataclasses.dataclass(frozen=True)
class LowerScan(Pass):
    """Replaces the portable scan by the op of one implementation, which has its own backward.

    Before, on a CPU::

        mvc.selective_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, True, False)

    After::

        mvc.selective_scan_cpu(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, True, False)

    By default Triton runs CUDA graphs and C++ CPU graphs; float64, other devices and machines that lack triton or a C++
    compiler get the chunked scan, which `decompositions` turns into torch's own operations.

    Attributes:
        impl: forces one implementation. Where it cannot run, the portable op stays and a near miss says why.
    """

    name: ClassVar[str] = "lower_scan"
    impl: Implementation | None = None

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        portable = torch.ops.mvc.selective_scan
        calls = (graph.find_nodes(op="call_function", target=each) for each in (portable, portable.default))
        for node in itertools.chain(*calls):
            u = value(node.args[0])
            impl = self.impl or suited(u)
            if (obstacle := _obstacle(impl, u)) is not None:
                outcome.near_misses.append(NearMiss.at(node, obstacle))
                continue
            node.target = target(impl)
            outcome.matches += 1
        return outcome


def suited(u: torch.Tensor) -> Implementation:
    """The implementation that suits a scan of `u`."""
    for impl in ("cpp", "triton"):
        if _obstacle(impl, u) is None:
            return impl
    return "chunked"


def target(impl: Implementation) -> Callable:
    """What a graph calls to run a scan on the implementation."""
    if impl == "reference":
        return reference_scan
    name = {"cpp": "selective_scan_cpu", "triton": "selective_scan_triton", "chunked": "selective_scan_chunked"}[impl]
    return getattr(torch.ops.mvc, name).default


def reference_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse):
    """The sequential scan, which the compiler unrolls: for short lengths, and to compare with."""
    from mvc.kernels.scan import selective_scan

    return selective_scan(
        u, delta, A, B, C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state, reset=reset,
        delta_softplus=delta_softplus, reverse=reverse, return_last_state=True, impl="reference",
    )  # fmt: skip


def _obstacle(impl: Implementation, u: torch.Tensor) -> str | None:
    """Why the implementation cannot scan `u`, or None."""
    if impl in ("chunked", "reference"):
        return None
    if u.dtype == torch.float64:
        return f"impl {impl!r} takes no float64"
    if impl == "cpp":
        from mvc.kernels import cpu_scan

        if u.device.type != "cpu":
            return f"impl 'cpp' needs CPU tensors; these are on {u.device.type}"
        return None if cpu_scan.available() else "impl 'cpp' could not be built"
    if u.device.type != "cuda":
        return f"impl 'triton' needs CUDA tensors; these are on {u.device.type}"
    return None if ops.triton_available() else "impl 'triton' needs the package triton"


def decompositions() -> dict[torch._ops.OpOverload, Callable]:
    """Torch's own operations for the portable and the chunked scan and their backwards, in linear time.

    For `torch.export.ExportedProgram.run_decompositions`, where a format knows no custom ops, and for Inductor.
    """
    table: dict[torch._ops.OpOverload, Callable] = {}
    for name in ("selective_scan", "selective_scan_chunked"):
        table[op(name)] = chunked.selective_scan
        table[op(name, backward=True)] = ops.run_chunked_backward
    return table
