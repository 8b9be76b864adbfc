"""Runs the operations of one time step on all steps at once: each becomes the same one with a leading axis of time."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import insert, name_of, shape, value
from mvc.passes.graph.torch_ops import MOVEMENTS, Kind, call
from mvc.passes.graph.views import axis_order, einsum_letters, selection


class Steps:
    """Inserts into a graph what the nodes of a step compute, for all steps.

    Args:
        graph: where to insert, at its insertion point.
        stacked: for nodes of the step, the node of the graph with the values of all steps along its first axis.
        constant: for nodes of the step, the node of the graph with the value that they have in every step.
    """

    def __init__(self, graph: fx.Graph, stacked: dict[fx.Node, fx.Node], constant: dict[fx.Node, fx.Node]) -> None:
        self.graph = graph
        self.stacked = dict(stacked)
        self.constant = dict(constant)

    def insert(self, target: Callable | str, *args: Any, **kwargs: Any) -> fx.Node:
        return insert(self.graph, target, *args, **kwargs)

    def compute(self, node: fx.Node) -> None:
        """Insert the node, whose inputs are known."""
        if not any(source in self.stacked for source in node.all_input_nodes):
            self._repeat(node)
            return
        known = call(node)
        rule = (_RULES.get(known.name) or _RULES_OF_KINDS.get(known.kind)) if known else None
        if known is not None and known.kind in MOVEMENTS and known.args.get("input") in self.constant:
            raise Declined(f"{name_of(node)} of what is the same in each step")
        if rule is None:
            raise Declined(f"{name_of(node)} is not known over all steps")
        result = rule(self, node)
        if value(result).dtype != value(node).dtype:  # a scalar of the step weighs more as a vector
            result = self.insert("to", result, value(node).dtype)
        self.stacked[node] = result

    def stack(self, node: fx.Node, *, rank: int | None = None) -> fx.Node:
        """The node's values over all steps, or once for all, with as many axes after that of time as asked for."""
        result = self.stacked.get(node)
        if result is None:
            result = self.insert("unsqueeze", self.constant[node], 0)
        return result if rank is None else self.widen(result, rank)

    def widen(self, node: fx.Node, rank: int) -> fx.Node:
        """A stacked value with axes of size 1 after that of time, up to `rank` besides it."""
        for _ in range(rank + 1 - len(shape(node))):
            node = self.insert("unsqueeze", node, 1)
        return node

    def plain(self, argument: Any) -> Any:
        """An argument of the step with its nodes replaced by those of the graph."""
        return map_arg(argument, lambda node: self.stacked.get(node) or self.constant[node])

    def _repeat(self, node: fx.Node) -> None:
        if call(node) is None:
            raise Declined(f"{name_of(node)} is not known to be the same in each step")
        args, kwargs = self.plain((node.args, node.kwargs))
        self.constant[node] = self.graph.create_node(node.op, node.target, args, kwargs)
        self.constant[node].meta.update(example_value=value(node), stack_trace=node.meta.get("stack_trace"))


def _elementwise(steps: Steps, node: fx.Node) -> fx.Node:
    """Broadcasting counts axes from the last one, so those that are missing go after that of time."""
    if call(node).args.get("memory_format") in (torch.channels_last, torch.channels_last_3d):
        raise Declined(f"{name_of(node)} into a memory format of so many axes")
    rank = len(shape(node))
    args, kwargs = map_arg(
        (node.args, node.kwargs),
        lambda each: steps.stack(each, rank=rank) if each in steps.stacked else steps.constant[each],
    )
    return steps.insert(node.target, *args, **kwargs)


def _selection(steps: Steps, node: fx.Node) -> fx.Node:
    chosen = selection(node)
    if chosen is None or call(node).args["input"] is not chosen.input:
        raise Declined(f"{name_of(node)} of other than numbers and slices")
    return steps.insert(operator.getitem, steps.stack(chosen.input), (slice(None), *steps.plain(chosen.index)))


def _permutation(steps: Steps, node: fx.Node) -> fx.Node:
    order = (0, *(axis + 1 for axis in axis_order(node)))
    return steps.insert(torch.permute, steps.stack(call(node).args["input"]), order)


def _along_dims(steps: Steps, node: fx.Node) -> fx.Node:
    """A call whose argument `dim` is an axis, or a sequence of them."""
    known = call(node)
    args = dict(known.args)
    first = args["input"] if "input" in args else args["tensors"][0]
    rank = len(shape(node if known.name in ("unsqueeze", "stack") else first))
    dims = args.get("dim")
    if dims is None:
        dims = 0 if known.name in ("stack", "cat") else tuple(range(rank))
    if dims == ():
        raise Declined(f"{known.name} of a number")
    args["dim"] = tuple(each % rank + 1 for each in dims) if isinstance(dims, (tuple, list)) else dims % rank + 1
    for name in args.keys() & {"input", "tensors"}:
        args[name] = map_arg(args[name], steps.stack)
    return steps.insert(getattr(torch, known.name), **args)


def _expansion(steps: Steps, node: fx.Node) -> fx.Node:
    sizes = _sizes(steps, node, "size")
    return steps.insert("expand", steps.stack(call(node).args["input"], rank=len(sizes)), -1, *sizes)


def _reshape(steps: Steps, node: fx.Node) -> fx.Node:
    source = steps.stack(call(node).args["input"])
    length = shape(source)[0]
    length = length if isinstance(length, int) else steps.insert("size", source, 0)
    return steps.insert("reshape", source, length, *_sizes(steps, node, "size", "shape"))


def _sizes(steps: Steps, node: fx.Node, *names: str) -> list[Any]:
    """The sizes that the node is given under one of these names, or else those that it has, where they are known."""
    given = next((each for name, each in call(node).args.items() if name in names), None)
    if given is not None:
        return list(steps.plain(given))
    if not all(isinstance(size, int) for size in shape(node)):
        raise Declined(f"{name_of(node)} to a size that is not known")
    return list(shape(node))


def _matmul(steps: Steps, node: fx.Node) -> fx.Node:
    left, right = (call(node).args[name] for name in ("input", "other"))
    is_row, is_column = (len(shape(each)) == 1 for each in (left, right))
    rank = max(2, len(shape(left)), len(shape(right)))
    left = steps.insert("unsqueeze", steps.stack(left), 1) if is_row else steps.stack(left)
    right = steps.insert("unsqueeze", steps.stack(right), -1) if is_column else steps.stack(right)
    product = steps.insert(torch.matmul, *(steps.widen(each, rank) for each in (left, right)))
    product = steps.insert("squeeze", product, -1) if is_column else product
    return steps.insert("squeeze", product, -1 if is_column else -2) if is_row else product


def _baddbmm(steps: Steps, node: fx.Node) -> fx.Node:
    known = call(node)
    if not {"beta", "alpha"}.isdisjoint(known.args):
        raise Declined("baddbmm with factors")
    product = steps.insert(torch.matmul, *(steps.stack(known.args[name]) for name in ("batch1", "batch2")))
    return steps.insert(torch.add, steps.stack(known.args["input"], rank=3), product)


def _bmm(steps: Steps, node: fx.Node) -> fx.Node:
    known = call(node)
    return steps.insert(torch.matmul, *(steps.stack(known.args[name]) for name in ("input", "mat2")))


def _linear(steps: Steps, node: fx.Node) -> fx.Node:
    known = call(node)
    if any(each in steps.stacked for each in (known.args["weight"], known.args.get("bias"))):
        raise Declined("weights that differ from step to step")
    args = {name: steps.plain(each) for name, each in known.args.items()}
    return steps.insert(torch.nn.functional.linear, **args)


def _einsum(steps: Steps, node: fx.Node) -> fx.Node:
    letters, operands = einsum_letters(call(node)), call(node).args["operands"]
    if letters is None:
        raise Declined("an einsum that does not name all axes")
    *terms, result = letters
    time = next(letter for letter in "tTsSzZyYxXwWvVuU" if letter not in "".join(letters))
    terms = [time * (each in steps.stacked) + term for each, term in zip(operands, terms, strict=True)]
    return steps.insert(torch.einsum, f"{','.join(terms)}->{time}{result}", *map(steps.plain, operands))


# By name where the axis of time changes how the call is written; else by kind. No rule: convolutions, normalisations,
# and what reorders elements along an axis.
_RULES: dict[str, Callable[[Steps, fx.Node], fx.Node]] = {
    **dict.fromkeys(("unsqueeze", "squeeze", "stack", "cat"), _along_dims),
    "matmul": _matmul,
    "bmm": _bmm,
    "baddbmm": _baddbmm,
    "linear": _linear,
    "einsum": _einsum,
}
_RULES_OF_KINDS: dict[Kind, Callable[[Steps, fx.Node], fx.Node]] = {
    **dict.fromkeys((Kind.POINTWISE, Kind.CAST, Kind.COPY), _elementwise),
    **dict.fromkeys((Kind.REDUCTION, Kind.CUMULATION), _along_dims),
    Kind.PERMUTATION: _permutation,
    Kind.RESHAPE: _reshape,
    Kind.EXPANSION: _expansion,
    Kind.SELECTION: _selection,
}
