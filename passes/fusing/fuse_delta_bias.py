"""Fusion: the bias of the projection that computes a scan's time step is added by the scan.

Before::                                            After::

    delta = linear(dt, weight, bias)                    delta = linear(dt, weight)
    mvc.selective_scan(u, delta, ..., delta_bias)       mvc.selective_scan(u, delta, ..., delta_bias + bias)

The scan adds a bias for nothing, and does not round the sum; a product without one can become part of another.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import fx
from torch.nn import functional as F

from mvc.kernels.schemas import ScanInputs
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import between, cast, insert, only_user, op_calls, shape, value
from mvc.passes.graph.memory import storages, writers
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call

DELTA, DELTA_BIAS = map(ScanInputs._fields.index, ("delta", "delta_bias"))


@dataclasses.dataclass(frozen=True)
class FuseDeltaBias(Pass):
    """The bias of a time step's projection as the scan's own."""

    name: ClassVar[str] = "fuse_delta_bias"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome, surroundings = Outcome(), Surroundings(graph)
        for scan in op_calls(graph, torch.ops.mvc.selective_scan):
            delta = scan.args[DELTA]
            linear = call(delta)
            if linear is None or linear.name != "linear" or linear.args.get("bias") is None:
                continue
            if (reason := _obstacle(surroundings, scan, linear.args["bias"])) is not None:
                outcome.near_misses.append(NearMiss.at(scan, reason))
                continue
            _move(surroundings, scan, **linear.args)
            outcome.matches += 1
        return outcome


def _obstacle(surroundings: Surroundings, scan: fx.Node, bias: fx.Node) -> str | None:
    """Why the bias should stay in the product; None if it need not."""
    delta = scan.args[DELTA]
    if only_user(delta) is not scan or scan.args.count(delta) > 1:
        return "its time step is used elsewhere too"
    if shape(bias) != shape(delta)[-1:]:
        return "the bias of its time step is not one number for each channel"
    if (reason := surroundings.contexts.obstacle([delta, scan])) is not None:
        return reason
    writer = next(writers(between(delta, scan), storages(bias)), None)
    return None if writer is None else f"{writer.name} writes to the bias of its time step before it"


def _move(surroundings: Surroundings, scan: fx.Node, input: fx.Node, weight: fx.Node, bias: fx.Node) -> None:
    graph, delta, own = scan.graph, scan.args[DELTA], scan.args[DELTA_BIAS]
    with surroundings.at(delta):
        product = insert(graph, F.linear, input, weight)
        product.meta["stack_trace"] = delta.meta.get("stack_trace")
    with surroundings.at(scan):
        wide = torch.promote_types(value(delta).dtype, torch.float32)
        total = cast(bias, wide)
        if own is not None:
            total = insert(graph, torch.add, cast(own, wide), total)
    scan.update_arg(DELTA, product)
    scan.update_arg(DELTA_BIAS, total)
