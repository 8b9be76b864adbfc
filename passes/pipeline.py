"""Runs passes over a graph in order: clean-up, bookkeeping, and a graph restored whole when a pass fails."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor, fx

from mvc.kernels import implementations
from mvc.passes import torch_private
from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.frozen.join_linear import JoinLinear
from mvc.passes.frozen.prepack_convolution import PrepackConvolution
from mvc.passes.frozen.prepack_linear import PrepackLinear
from mvc.passes.fusing.fuse_batch_norm import FuseBatchNorm
from mvc.passes.fusing.fuse_bias import FuseBias
from mvc.passes.fusing.fuse_cat import FuseCat
from mvc.passes.fusing.fuse_convolution import FuseConvolution
from mvc.passes.fusing.fuse_delta_bias import FuseDeltaBias
from mvc.passes.fusing.fuse_depthwise import FuseDepthwise
from mvc.passes.fusing.fuse_linear import FuseLinear
from mvc.passes.fusing.fuse_movement import FuseMovement
from mvc.passes.fusing.join_depthwise import JoinDepthwise
from mvc.passes.graph import transforms
from mvc.passes.graph.contexts import Contexts
from mvc.passes.graph.fx_utils import value
from mvc.passes.graph.memory import written_by
from mvc.passes.graph.regions import Region, difference, regions
from mvc.passes.graph.torch_ops import call
from mvc.passes.lowering.lower_attention import LowerAttention
from mvc.passes.lowering.lower_gelu import LowerGelu
from mvc.passes.lowering.lower_scan import LowerScan
from mvc.passes.measured_choice import Kernels
from mvc.passes.raising.raise_higher_order import RaiseHigherOrder
from mvc.passes.raising.raise_log_scan import RaiseLogScan
from mvc.passes.raising.raise_loop import RaiseLoop
from mvc.passes.raising.raise_pscan import RaisePscan
from mvc.passes.raising.raise_scan import RaiseScan
from mvc.passes.raising.raise_ssd import RaiseSsd
from mvc.passes.raising.raise_tree import RaiseTree
from mvc.passes.torch_private import copy_graph

# In the order in which they run: scans are raised from loops and trees, what surrounds them is fused, they are given to
# an implementation, and what only that one can do is fused. Own kernels then take in what surrounds a library's call.
# What libraries still do in one call is taken apart last.
PASSES: dict[str, type[Pass]] = {
    each.name: each
    for each in (
        RaiseLoop,
        RaiseHigherOrder,
        RaiseTree,
        RaisePscan,
        RaiseLogScan,
        RaiseSsd,
        RaiseScan,
        FuseDeltaBias,
        JoinDepthwise,
        FuseDepthwise,
        FuseMovement,
        FuseBatchNorm,
        JoinLinear,
        PrepackConvolution,
        PrepackLinear,
        LowerScan,
        LowerAttention,
        FuseCat,
        FuseConvolution,
        FuseLinear,
        FuseBias,
        LowerGelu,
    )
}

Observer = Callable[["PassRecord", fx.GraphModule, fx.GraphModule], None]


@dataclasses.dataclass(frozen=True)
class PassRecord:
    """What one pass did to one graph."""

    name: str
    region: str  # "" for the outermost graph, else the name of the body, as in "cond_true_0"
    matches: int
    near_misses: tuple[NearMiss, ...]
    nodes_before: int
    nodes_after: int
    seconds: float
    error: str | None = None  # what the pass raised; the graph is then as it was before

    @property
    def fired(self) -> bool:
        return self.error is None and self.matches > 0


def run(
    passes: Sequence[Pass], module: fx.GraphModule, *, strict: bool = False, observers: Sequence[Observer] = ()
) -> list[PassRecord]:
    """Rewrite the module's graph, and then the bodies of its higher-order operators, by each pass in order.

    Bodies that may not be rewritten are looked at: what a pass would have done there is a near miss.

    Args:
        strict: raise what a pass raises; otherwise it is recorded and the graph restored.
        observers: called for every pass that fired, with its record and the region before and after.
    """
    records = []
    for region in regions(module):
        if not region.is_called:
            continue
        if region.obstacle is None:
            records += _rewrite(passes, region, strict, observers)
        else:
            records += [_look(each, region, strict) for each in passes]
    return records


def _rewrite(passes: Sequence[Pass], region: Region, strict: bool, observers: Sequence[Observer]) -> list[PassRecord]:
    module = region.module
    if region.transformed:
        with region.entered():
            transforms.settle(module.graph)
    kept = copy_graph(module.graph)  # copied again only when a pass has changed something
    records = []
    for each in passes:
        record = _run_one(each, region, kept, strict)
        records.append(record)
        if record.fired:
            module.recompile()
            for observer in observers:
                observer(record, fx.GraphModule(module, kept), module)
            kept = copy_graph(module.graph)
    return records


def build(
    names: Sequence[str],
    own: Sequence[Pass] = (),
    *,
    impl: implementations.Name | None = None,
    kernels: Kernels = "measured",
    frozen: bool = False,
    inference: bool = False,
) -> list[Pass]:
    """The named passes in the order of `PASSES`, with passes of the caller's own before the lowering.

    Args:
        impl: what scans are lowered to.
        kernels: what runs products, convolutions and attention on a GPU.
        frozen: parameters do not change from call to call; passes that need this are left out otherwise.
        inference: no gradients are asked for; passes that allow none are left out otherwise.
    """
    options = {"impl": impl, "kernels": kernels, "frozen": frozen}
    order, lowering = list(PASSES), list(PASSES).index(LowerScan.name)
    before, after = [], []
    for name, each in PASSES.items():
        if name not in names or (each.needs_frozen and not frozen) or (each.inference_only and not inference):
            continue
        fields = {field.name for field in dataclasses.fields(each)}
        built = each(**{key: value for key, value in options.items() if key in fields})
        (before if order.index(name) < lowering else after).append(built)
    return [*before, *own, *after]


def digest(passes: Sequence[Pass]) -> str:
    """Of the passes' uuids, in order: what compiled code depends on besides its graph. Empty for no passes."""
    if not passes:
        return ""
    return hashlib.sha256("".join(each.uuid() for each in passes).encode()).hexdigest()


def _run_one(each: Pass, region: Region, kept: fx.Graph, strict: bool) -> PassRecord:
    module, before, start = region.module, len(kept.nodes), time.perf_counter()
    outcome, error = Outcome(), None
    try:
        with region.entered():
            outcome = _apply(each, region)
            miss = _misfit(region, kept) if outcome.matches else None
        if miss is not None:
            module.graph = copy_graph(kept)
            outcome = Outcome(0, [miss])
    except Exception as failure:
        if strict:
            raise
        error = f"{type(failure).__name__}: {failure}"
        module.graph = copy_graph(kept)
        outcome = Outcome()
    seconds = time.perf_counter() - start
    after = len(module.graph.nodes)
    misses = tuple(outcome.near_misses)
    return PassRecord(each.name, region.name, outcome.matches, misses, before, after, seconds, error)


def _apply(each: Pass, region: Region) -> Outcome:
    graph = region.module.graph
    if region.transformed:
        transforms.write_ops(graph)
    there = set(graph.nodes)
    with _without_collections():
        outcome = each(graph)
    if outcome.matches:
        remove_dead_code(graph)
        _drop_unknown_lines(graph)
        check_examples(graph, set(graph.nodes) - there)
    if region.transformed:
        transforms.write_functions(graph)
    if region.transformed and outcome.matches:
        transforms.keep_strides(graph)
    graph.lint()
    return outcome


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Over a graph of many nodes a pass makes so many objects that Python would search all that there are for garbage,
    which takes as long as the pass."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _drop_unknown_lines(graph: fx.Graph) -> None:
    """Torch takes the line of a node's source for text where it has any, and fails on None."""
    for node in graph.nodes:
        if node.meta.get("stack_trace", "") is None:
            del node.meta["stack_trace"]


def _misfit(region: Region, kept: fx.Graph) -> NearMiss | None:
    """What keeps the rewritten graph from its place: its operator, or a transform of torch.func in it."""
    graph, call = region.module.graph, region.call
    if region.transformed and (found := transforms.obstacle(graph)) is not None:
        return NearMiss.at(*found)
    if call is not None and (change := difference(kept, graph)) is not None:
        return NearMiss.at(call, f"{call.target.name()} would see {change}")
    return None


def _look(each: Pass, region: Region, strict: bool) -> PassRecord:
    """What the pass would do to a body that it may not rewrite, as a near miss."""
    copy, start = fx.GraphModule(region.module, copy_graph(region.module.graph)), time.perf_counter()
    copied = dataclasses.replace(region, module=copy, call=None)
    with region.entered():
        transforms.settle(copy.graph)  # its call may be inside one
    record = _run_one(each, copied, region.module.graph, strict)
    misses = [NearMiss.at(region.call, region.obstacle)] if record.matches else []
    seconds, nodes = time.perf_counter() - start, record.nodes_before
    return PassRecord(each.name, region.name, 0, tuple(misses), nodes, nodes, seconds)


def check_examples(graph: fx.Graph, inserted: Collection[fx.Node]) -> None:
    """Run what a pass inserted on its arguments' example values, in the graph's order.

    Raises:
        Exception: what a call raises; TypeError where it gives another tensor than the node says.
    """
    contexts = Contexts(graph)
    for node in graph.nodes:
        expected = value(node)
        if node not in inserted or node.op not in ("call_function", "call_method"):
            continue
        if not isinstance(expected, Tensor) or torch_private.is_transformed(expected):
            continue
        result = contexts.computed(node, {})
        kinds = [(each.dtype, each.device, each.dim()) for each in (expected, result)]
        if kinds[0] != kinds[1]:
            raise TypeError(f"{node.name} is {kinds[1]} for its arguments; the pass took it for {kinds[0]}")


def remove_dead_code(graph: fx.Graph) -> None:
    """Erase calls without users that cannot have an effect: torch's own clean-up considers in-place calls pure."""
    for node in reversed(graph.nodes):
        if not node.users and _is_pure(node):
            graph.erase_node(node)


def _is_pure(node: fx.Node) -> bool:
    if node.op == "get_attr":
        return True
    if isinstance(node.target, torch._ops.OpOverload):
        return not node.is_impure()
    return call(node) is not None and not written_by(node)
