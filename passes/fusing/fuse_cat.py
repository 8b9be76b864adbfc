"""Fusion: a scan whose result is put beside the other half of its own input writes it there."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import fx

from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import between, insert, only_user, shape, value
from mvc.passes.graph.memory import storages, writers
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call


@dataclasses.dataclass(frozen=True)
class FuseCat(Pass):
    """Replaces a Triton scan and the concatenation after it by a scan in place.

    Before::

        u, rest = x.chunk(2, dim=-1)
        y, _ = mvc.selective_scan_triton(u, delta, A, B, C, ...)
        out = torch.cat((y, rest), dim=-1)

    After, where Inductor gives `out` the memory of `x` if it can::

        out = mvc.selective_scan_triton_cat(x, delta, A, B, C, ...)
    """

    name: ClassVar[str] = "fuse_cat"
    inference_only: ClassVar[bool] = True

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        surroundings = Surroundings(graph)
        for node in list(graph.nodes):
            if (scan := _scan_in(node)) is None or (whole := _whole(scan, node)) is None:
                continue
            if (reason := _obstacle(surroundings, scan, node)) is not None:
                outcome.near_misses.append(NearMiss.at(node, reason))
                continue
            with surroundings.at(node):
                fused = insert(graph, torch.ops.mvc.selective_scan_triton_cat.default, whole, *scan.args[1:])
                fused.meta["stack_trace"] = scan.meta.get("stack_trace")
                surroundings.replace({node: fused})
            outcome.matches += 1
        return outcome


def _scan_in(node: fx.Node) -> fx.Node | None:
    """The scan whose result is the first part of a concatenation, and that nothing else uses."""
    known = call(node)
    if known is None or known.name != "cat" or known.args.get("dim", 0) not in (-1, 2):
        return None
    parts = known.args["tensors"]
    first = parts[0] if isinstance(parts, (tuple, list)) and len(parts) == 2 else None
    if not isinstance(first, fx.Node) or only_user(first) is not node:
        return None
    scan = _piece(first, 0)
    is_scan = scan is not None and str(getattr(scan.target, "overloadpacket", "")) == "mvc.selective_scan_triton"
    others = [user for user in scan.users if user is not first] if is_scan else []
    return scan if is_scan and not any(user.users for user in others) else None


def _whole(scan: fx.Node, cat: fx.Node) -> fx.Node | None:
    """The tensor of which the scan's u is the first part and what stands beside its result the rest."""
    rest = call(cat).args["tensors"][1]
    pieces, beside = _piece(scan.args[0], 0), _piece(rest, 1)
    known = call(pieces) if pieces is not None and pieces is beside else None
    if known is None or known.name not in ("chunk", "split") or known.args.get("dim", 0) not in (-1, 2):
        return None
    whole = known.args["input"]
    return whole if shape(whole) == shape(cat) else None  # there are no further pieces


def _obstacle(surroundings: Surroundings, scan: fx.Node, cat: fx.Node) -> str | None:
    """Why the scan cannot run where the two are put together."""
    if value(cat).requires_grad:
        return "gradients are needed, which the scan in place does not have"
    if (reason := surroundings.contexts.obstacle([scan, cat])) is not None:
        return reason
    read = set().union(*map(storages, scan.all_input_nodes))
    writer = next(writers(between(scan, cat), read), None)
    if writer is None:
        return None
    return f"{writer.name} writes to what the scan reads before its result is put beside the rest"


def _piece(node: Any, index: int) -> fx.Node | None:
    """What the node is the element `index` of."""
    known = call(node) if isinstance(node, fx.Node) else None
    if known is None or known.name != "getitem" or known.args["index"] != index:
        return None
    return known.args["input"]
