"""Memory: whose tensors share it, who writes to it, who looks at how its elements lie, and in which order they do."""

from __future__ import annotations

import dataclasses
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from mvc.passes.graph import torch_ops
from mvc.passes.graph.fx_utils import name_of, value
from mvc.passes.torch_private import example_size, is_of_transform, storage_address, surely_equal

# Modules whose functions say by their names or arguments that they write.
_SPEAKING = ("torch", "math", "builtins", "_operator")
# Those that write to an argument without saying so.
_WRITERS = {"batch_norm", "native_batch_norm", "instance_norm", "embedding", "embedding_bag", "backward"} | {
    f"i{operator}" for operator in ("add", "and", "floordiv", "lshift", "matmul", "mod", "or", "pow", "rshift", "xor")
}
# Calls whose result, or effect, depends on where the elements of their argument lie.
_READS_LAYOUT = (
    *("as_strided", "as_strided_", "as_strided_scatter", "set_", "resize_", "resize_as_", "data_ptr"),
    *("storage", "untyped_storage", "storage_offset", "stride", "is_contiguous"),
)


# Aliasing


def memory(result: Any) -> set[int]:
    """What identifies the memory of the tensors in a result, as long as they are alive."""
    if isinstance(result, Tensor):
        return {storage_address(result)}
    return {storage_address(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)}


def storages(node: fx.Node) -> set[int]:
    """What identifies the memory of the tensors that the node returns; views share it with their base."""
    return memory(value(node))


def shares(result: Any, inputs: Iterable[Any]) -> bool:
    """Whether the result shares memory with an input."""
    return not memory(result).isdisjoint(set().union(*map(memory, inputs)))


def is_view(node: fx.Node) -> bool:
    """Whether the node is, or may be, in the memory of one that it is computed from, and writes to none."""
    return not written_by(node) and shares(value(node), map(value, node.all_input_nodes))


# Writes


def written_by(node: fx.Node) -> list[fx.Node]:
    """The arguments whose memory the call writes to, or may write to for all that is known of it."""
    if node.op not in ("call_function", "call_method"):
        return []
    known = torch_ops.call(node)
    if known is not None:
        if not (written := _written_by_known(known)):
            return []
    elif isinstance(node.target, torch._ops.OpOverload):
        written = node.all_input_nodes if node.target._schema.is_mutable else []
    elif not _speaks(node) or name_of(node).endswith("_") or name_of(node) in _WRITERS or _is_in_place(node):
        written = node.all_input_nodes
    else:
        written = [node.kwargs.get("out")]
    return [each for each in tree_leaves(written) if isinstance(each, fx.Node)]


def writes_by_memory(nodes: Iterable[fx.Node]) -> dict[int, list[fx.Node]]:
    """Those of the nodes that write, in their order, by the memory that they write to."""
    found: dict[int, list[fx.Node]] = defaultdict(list)
    for node in nodes:
        for each in set().union(*map(storages, written_by(node))):
            found[each].append(node)
    return found


def writers(nodes: Iterable[fx.Node], to: set[int]) -> Iterator[fx.Node]:
    """Those of the nodes that write to that memory."""
    return (node for node in nodes if any(storages(each) & to for each in written_by(node)))


def _written_by_known(known: torch_ops.Call) -> list[object]:
    if known.kind is torch_ops.Kind.WRITE:
        return [known.args.get("input")]
    if known.name == "batch_norm" and known.args.get("training"):
        return [known.args.get("running_mean"), known.args.get("running_var")]
    return []


def _speaks(node: fx.Node) -> bool:
    if isinstance(node.target, (torch._ops.HigherOrderOperator, torch._ops.OpOverloadPacket)):
        return False
    module = (getattr(node.target, "__module__", None) or "").split(".")[0]
    return node.op == "call_method" or module in _SPEAKING


def _is_in_place(node: fx.Node) -> bool:
    """Whether `inplace` is among the call's arguments, by its name or by its place."""
    try:
        bound = inspect.signature(node.target).bind_partial(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):  # a method's name, or a function of C, which takes none by its place
        bound = node.kwargs
    return bool(bound.get("inplace"))


# Strides


def reads_layout(node: fx.Node) -> bool:
    """Whether the node may see more of its arguments than their values: how they lie, and in whose memory."""
    if node.op not in ("call_function", "call_method"):
        return node.op not in ("placeholder", "get_attr")
    if name_of(node) in _READS_LAYOUT or is_of_transform(node):
        return True
    if node.op == "call_method":
        return False
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return True
    if isinstance(node.target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return str(node.target).split(".")[0] not in ("aten", "prims", "mvc")
    return not _speaks(node)


def same_kind(first: Tensor, second: Tensor) -> bool:
    """Whether both have the same dtype, device and sizes, whatever the symbols in these stand for; makes no guard."""
    kinds = [(each.dtype, each.device, each.dim()) for each in (first, second)]
    return kinds[0] == kinds[1] and all(map(surely_equal, first.shape, second.shape))


def same_strides(first: Tensor, second: Tensor) -> bool:
    """Whether both have the same strides along every axis of more than one element."""
    strides = zip(first.shape, first.stride(), second.stride(), strict=True)
    return all(surely_equal(size, 1) or surely_equal(one, other) for size, one, other in strides)


def memory_order(tensor: Tensor) -> list[int]:
    """The axes from the one with the longest strides to that with the shortest."""
    strides = [example_size(stride) for stride in tensor.stride()]
    return sorted(range(tensor.dim()), key=lambda axis: -strides[axis])


def overlaps(tensor: Tensor) -> bool:
    """Whether several elements lie in one place, as where a tensor was expanded: that cannot be written to."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    return any(surely_equal(stride, 0) and not surely_equal(size, 1) for size, stride in axes)


def is_dense(tensor: Tensor, order: Sequence[int]) -> bool:
    """Whether the tensor fills its memory with its axes in that order."""
    stride = 1
    for axis in reversed(order):
        if not (surely_equal(tensor.shape[axis], 1) or surely_equal(tensor.stride(axis), stride)):
            return False
        stride = stride * tensor.shape[axis]
    return True


# Of a whole graph


@dataclasses.dataclass
class Holders:
    """Who holds which memory of a graph."""

    seen: set[int] = dataclasses.field(default_factory=set)
    writers: dict[int, fx.Node] = dataclasses.field(default_factory=dict)
    stands_for: dict[int, set[int]] = dataclasses.field(default_factory=dict)  # what the program had in its place
    kept_alive: list[Any] = dataclasses.field(default_factory=list)  # what identifies memory is its address

    @classmethod
    def of(cls, graph: fx.Graph) -> Holders:
        holders = cls(kept_alive=[value(node) for node in graph.nodes])
        for node in graph.nodes:
            holders.stands_for.update((each, {each}) for each in storages(node))
            for each in written_by(node):
                holders.writers.update(dict.fromkeys(storages(each), node))
            if node.op in ("placeholder", "get_attr"):
                holders.seen |= storages(node)
            elif reads_layout(node):
                holders.seen.update(*map(storages, node.all_input_nodes))
        return holders
