"""Products of one input as one product with their weights put together, computed once.

A product of some columns of another is a product of the same input, with the product of both weights::

    y = linear(x, W1)                               w = cat([W2 @ W1[:r], W1[r:]])        # once, see freeze.py
    z = linear(y[..., :r], W2); rest = y[..., r:]   both = linear(x, w); z, rest = both.split(...)

    a, b = linear(x, W1), linear(x, W2)             a, b = linear(x, cat([W1, W2])).split(...)

Mamba's time step is of the first form. The first one adds operations where r is small; whether fewer bytes and one
launch less are worth them is decided by a roofline.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import fx
from torch.nn import functional as F

from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.frozen.constants import constants
from mvc.passes.graph.fx_utils import between, cast, insert, shape, value
from mvc.passes.graph.memory import storages, writers
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call
from mvc.passes.graph.views import is_tensor, selection
from mvc.passes.torch_private import example_size


class Machine(NamedTuple):
    """What decides whether one product is faster than several, roughly: where it matters they are level.

    Attributes:
        launch: how many bytes are moved in the time of a launch.
        intensity, wide_intensity: operations in the time of a byte, in half precision and wider.
        strided: whether products read columns of another tensor without copying them.
    """

    launch: float
    intensity: float
    wide_intensity: float
    strided: bool


MACHINES = {"cuda": Machine(8e6, 150, 15, strided=True), "cpu": Machine(0, 15, 15, strided=False)}


class Linear(NamedTuple):
    """A product with constant weights of sizes that are known."""

    node: fx.Node
    input: fx.Node
    weight: fx.Node
    bias: fx.Node | None

    @property
    def columns(self) -> int:
        return shape(self.weight)[0]


class Part(NamedTuple):
    """Columns of the joined product: the result that they are, and the rows of a weight that compute them.

    Attributes:
        then: the product of those rows' results that is meant; None where these are meant themselves.
    """

    result: fx.Node
    of: Linear
    rows: slice
    then: Linear | None = None

    @property
    def columns(self) -> int:
        return shape(self.result)[-1]


@dataclasses.dataclass(frozen=True)
class JoinLinear(Pass):
    """Linear layers with constant weights that read one tensor, or columns of each other, as one."""

    name: ClassVar[str] = "join_linear"
    needs_frozen: ClassVar[bool] = True

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome, surroundings = Outcome(), Surroundings(graph)
        found = constants(graph)
        for node in list(graph.nodes):
            first = _linear(node, found) if node.users else None
            if first is None:
                continue
            for products, parts in (_chain(first, found), _siblings(first, found)):
                if len(products) < 2:
                    continue
                try:
                    _check(surroundings, products, parts)
                    _join(surroundings, first, parts)
                except Declined as reason:
                    outcome.near_misses.append(NearMiss.at(node, str(reason)))
                else:
                    outcome.matches += 1
                    break
        return outcome


def _linear(node: fx.Node, found: set[fx.Node]) -> Linear | None:
    known = call(node)
    if known is None or known.name != "linear" or value(node).device.type not in MACHINES:
        return None
    x, weight, bias = (known.args.get(name) for name in ("input", "weight", "bias"))
    same = value(x).dtype == value(weight).dtype == value(node).dtype  # autocast would round the weights once more
    constant = weight in found and (bias is None or (bias in found and shape(bias) == shape(weight)[:1]))
    return Linear(node, x, weight, bias) if same and constant and len(shape(weight)) == 2 else None


def _chain(first: Linear, found: set[fx.Node]) -> tuple[list[Linear], list[Part]]:
    """A product, another of some of its columns that nothing else reads, and what is read of the other columns."""
    pieces = _pieces(first)
    for piece, rows in pieces.items():
        users = [_linear(user, found) for user in piece.users]
        if len(users) == 1 and users[0] is not None and users[0].input is piece:
            others = [Part(other, first, pieces[other]) for other in pieces if other is not piece]
            return [first, users[0]], [Part(users[0].node, first, rows, users[0]), *others]
    return [first], []


def _pieces(product: Linear) -> dict[fx.Node, slice]:
    """What is read of the product, and the columns that it is; nothing where these are not known of every user."""
    found: dict[fx.Node, slice] = {}
    for user in product.node.users:
        for piece in (user,) if is_tensor(user) else user.users:
            chosen = selection(piece)
            if chosen is None or chosen.input is not product.node:
                return {}
            *others, last = chosen.index
            bounds = (last.start, last.stop, last.step) if isinstance(last, slice) else ("",)
            if any(item != slice(None) for item in others) or not all(b is None or type(b) is int for b in bounds):
                return {}
            start, stop, step = last.indices(product.columns)
            if step != 1:
                return {}
            found[piece] = slice(start, stop)
    return found


def _siblings(first: Linear, found: set[fx.Node]) -> tuple[list[Linear], list[Part]]:
    """All products of one input, where what reads their results does not mind that these are columns."""
    if not MACHINES[value(first.node).device.type].strided:
        return [first], []
    others = (_linear(user, found) for user in first.input.users if user > first.node and user.users)
    products = [first, *sorted((each for each in others if each and each.input is first.input), key=lambda p: p.node)]
    return products, [Part(each.node, each, slice(0, each.columns)) for each in products]


def _check(surroundings: Surroundings, products: Sequence[Linear], parts: Sequence[Part]) -> None:
    """Raises:
    Declined: why the products cannot or should not be one.
    """
    first, last = products[0], products[-1]
    if (reason := surroundings.contexts.obstacle([each.node for each in products])) is not None:
        raise Declined(reason)
    if parts[0].then is not None and surroundings.is_seen(first.node):
        raise Declined("the first product's memory is written to or returned")
    if surroundings.contexts.of(first.node).autocast:
        raise Declined("autocast would round what is computed once")
    if any(each is not None and each > first.node for one in products for each in (one.weight, one.bias)):
        raise Declined("a weight is computed after the first product")
    read = storages(first.input) | storages(first.node)
    if (writer := next(writers(between(first.node, last.node), read), None)) is not None:
        raise Declined(f"{writer.name} writes to what the products read")
    if _cost(first, sum(part.columns for part in parts)) >= sum(_cost(each, each.columns) for each in products):
        raise Declined("one product of its input would take more operations than it saves bytes and launches")


def _cost(product: Linear, columns: int) -> float:
    """The time of a product of its input and so many columns, as bytes that could be moved meanwhile."""
    machine, dtype = MACHINES[value(product.node).device.type], value(product.node).dtype
    *leading, inner = map(example_size, shape(product.input))
    rows, intensity = math.prod(leading), machine.intensity if dtype.itemsize < 4 else machine.wide_intensity
    moved = (rows * inner + rows * columns + inner * columns) * dtype.itemsize
    return machine.launch + max(moved, 2 * rows * inner * columns / intensity)


def _join(surroundings: Surroundings, first: Linear, parts: Sequence[Part]) -> None:
    graph, dtype = first.node.graph, value(first.node).dtype
    with surroundings.at(first.node):
        weight = insert(graph, torch.cat, [_weight(part, dtype) for part in parts])
        bias = None
        if any(each is not None for part in parts for each in (part.of.bias, part.then and part.then.bias)):
            bias = insert(graph, torch.cat, [_bias(part, dtype) for part in parts])
        y = _product_of_rows(first, weight, bias)
        ends = itertools.accumulate(part.columns for part in parts)
        places = [(end - part.columns, part.columns) for part, end in zip(parts, ends, strict=True)]
        results = [insert(graph, torch.narrow, y, -1, *place) for place in places]
        surroundings.replace(dict(zip((part.result for part in parts), results, strict=True)))


def _product_of_rows(first: Linear, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
    """`linear` of its input as a matrix, since torch makes a batched product of some layouts where no weight needs a
    gradient."""
    graph, x, sizes = weight.graph, first.input, shape(first.input)[:-1]
    matrix = x if len(sizes) <= 1 else insert(graph, torch.flatten, x, 0, -2)
    rows = insert(graph, F.linear, matrix, weight, bias)
    rows.meta["stack_trace"] = first.node.meta.get("stack_trace")
    known = [size if isinstance(size, int) else insert(graph, "size", x, axis) for axis, size in enumerate(sizes)]
    return rows if len(sizes) <= 1 else insert(graph, "view", rows, *known, shape(weight)[0])


# What is computed once. In float64, since it is rounded again.


def _weight(part: Part, dtype: torch.dtype) -> fx.Node:
    rows = insert(part.of.weight.graph, operator.getitem, part.of.weight, part.rows)
    return rows if part.then is None else cast(_product(part.then, rows), dtype)


def _bias(part: Part, dtype: torch.dtype) -> fx.Node:
    graph, own, last = part.of.weight.graph, part.of.bias, part.then and part.then.bias
    terms = []
    if own is not None:
        rows = insert(graph, operator.getitem, own, part.rows)
        terms.append(rows if part.then is None else _product(part.then, rows))
    if last is not None:
        terms.append(insert(graph, "double", last))
    if not terms:
        return insert(graph, "new_zeros", part.of.weight, (part.columns,))
    return cast(terms[0] if len(terms) == 1 else insert(graph, torch.add, *terms), dtype)


def _product(then: Linear, rows: fx.Node) -> fx.Node:
    graph = rows.graph
    return insert(graph, torch.matmul, insert(graph, "double", then.weight), insert(graph, "double", rows))
