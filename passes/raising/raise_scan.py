"""Raises a linear recurrence with its producers and its read-out to one selective scan."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import fx

from mvc.kernels.recurrence import api as recurrence  # noqa: F401  registers mvc::linear_recurrence
from mvc.kernels.scan.checks import SEQUENCE_DTYPES
from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert, op_calls, shape, value
from mvc.passes.graph.memory import same_strides
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import is_call
from mvc.passes.graph.views import is_one
from mvc.passes.raising.axes import Term
from mvc.passes.raising.index_notation import Product
from mvc.passes.raising.scan_match import Scan, match
from mvc.passes.raising.scan_safety import Effects
from mvc.passes.torch_private import surely_equal, without_autocast

Groups = tuple[tuple[int, ...], ...]  # numbered axes, in groups that become one axis each


@dataclasses.dataclass(frozen=True)
class RaiseScan(Pass):
    """Absorbs exp(Δ·A), Δ·u·B and Σ C·h into the scan, so that no tensor of all the states remains.

    Before, in any layout and with any spelling of the products::

        a = exp(einsum("bdl,dn->bdln", softplus(delta + bias), A))
        b = einsum("bdl,bnl,bdl->bdln", softplus(delta + bias), B, u)
        states = mvc.linear_recurrence(a, b, initial, 2, False)
        y = (einsum("bdln,bnl->bdl", states, C) + u * D) * silu(z)
        last_state = states[:, :, -1]

    After::

        scan = mvc.selective_scan(u.mT, delta.mT, A, B.mT.unsqueeze(2), C.mT.unsqueeze(2), D, z.mT, bias, initial,
                                  None, True, False)
        y = scan[0].mT
        last_state = scan[1]

    D, z, bias with softplus, initial and last_state may be absent. Nothing is rounded that was not rounded before.
    """

    name: ClassVar[str] = "raise_scan"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        if not (nodes := op_calls(graph, torch.ops.mvc.linear_recurrence)):
            return outcome
        surroundings = Surroundings(graph)
        effects = Effects(graph, surroundings.contexts)
        for node in nodes:
            try:
                scan = match(node)
                effects.check(node, scan)
                _Rewrite(surroundings, node, scan).run()
            except Declined as reason:
                outcome.near_misses.append(NearMiss.at(node, f"no selective scan: {reason}"))
            else:
                outcome.matches += 1
        return outcome


class _Rewrite:
    """Writes the scan op into the graph, with the views between its layout and the graph's."""

    def __init__(self, surroundings: Surroundings, node: fx.Node, scan: Scan) -> None:
        self.scan = scan
        self.node = node
        self.surroundings = surroundings
        self.insert = functools.partial(insert, node.graph)
        dtypes = {value(each).dtype for each in (node, scan.y.node, *(term.node for term in scan.terms))}
        self.wide = torch.float64 if torch.float64 in dtypes else torch.float32

    def run(self) -> None:
        scan, graph = self.scan, self.node.graph
        sequence = (scan.batch, (scan.time,), scan.channels)
        state = (scan.batch, scan.channels, (scan.states,))
        targets = [scan.y, *scan.last_states]
        with self.surroundings.at(scan.site):
            inputs = self._inputs(sequence, state)
            op = self._without_autocast(torch.ops.mvc.selective_scan.default, *inputs)
            op.meta["stack_trace"] = self.node.meta.get("stack_trace")
            results = [self._result(op, 0, sequence, scan.y)]
            results += [self._result(op, 1, state, term) for term in scan.last_states]
            pairs = {term.node: result for term, result in zip(targets, results, strict=True)}
            self.surroundings.replace(pairs)
            for result in results:
                _drop_copy(result)
        self.node.target = torch.ops.mvc.linear_recurrence.default  # a packet no clean-up takes for dead
        for node in reversed(scan.epilogue):  # additions in place among them, which no clean-up takes for dead
            graph.erase_node(node)

    def _without_autocast(self, target: Callable, *args: Any) -> fx.Node:
        device = value(self.node).device.type
        if device not in dict(self.surroundings.contexts.of(self.scan.site).autocast):
            return self.insert(target, *args)
        with without_autocast(self.node.graph, device):
            return self.insert(target, *args)

    def _inputs(self, sequence: Groups, state: Groups) -> tuple:
        scan = self.scan
        u = self._to(self._arrange(scan.u, sequence), self._dtype_of_u)
        delta = self._arrange(scan.delta, sequence)
        A = self._to(self._arrange(scan.A, (scan.channels, (scan.states,))), self.wide)
        B, C = self._same_groups(self._weights(scan.B), self._weights(scan.C))
        z = self._arrange(scan.z, sequence)
        D, bias = (self._arrange(each, (scan.channels,)) for each in (scan.D, scan.delta_bias))
        initial = self._to(self._arrange(scan.initial_state, state), self.wide)
        delta, B, C, D, z, bias = map(self._allowed, (delta, B, C, D, z, bias))
        return (u, delta, A, B, C, D, z, bias, initial, None, scan.delta_softplus, scan.reverse)

    @property
    def _dtype_of_u(self) -> torch.dtype:
        """The dtype of the scan's y, which rounds neither u nor y."""
        if self.wide == torch.float64:
            return torch.float64
        dtypes = [value(term.node).dtype for term in (*self.scan.u.terms, self.scan.y)]
        dtype = functools.reduce(torch.promote_types, dtypes)
        return dtype if dtype in SEQUENCE_DTYPES else self.wide

    def _to(self, tensor: fx.Node | None, dtype: torch.dtype) -> fx.Node | None:
        return tensor if tensor is None or value(tensor).dtype == dtype else self.insert("to", tensor, dtype)

    def _allowed(self, tensor: fx.Node | None) -> fx.Node | None:
        known = tensor is None or value(tensor).dtype in (*SEQUENCE_DTYPES, torch.float64)
        return tensor if known else self._to(tensor, self.wide)

    def _weights(self, product: Product) -> fx.Node:
        """B or C: (batch, length, groups, N), or (dim, N) where it does not depend on batch and time."""
        scan = self.scan
        numbers = set().union(*(term.numbers for term in product.terms))
        if numbers <= {*scan.channels, scan.states}:
            return self._arrange(product, (scan.channels, (scan.states,)))
        groups = (scan.batch, (scan.time,), scan.channels, (scan.states,))
        return self._arrange(product, groups, shared=scan.channels)

    def _same_groups(self, B: fx.Node, C: fx.Node) -> tuple[fx.Node, fx.Node]:
        if len(shape(B)) == 2 or len(shape(C)) == 2 or surely_equal(shape(B)[2], shape(C)[2]):
            return B, C
        groups = math.lcm(shape(B)[2], shape(C)[2])
        return self._in_groups(B, groups), self._in_groups(C, groups)

    def _in_groups(self, weights: fx.Node, groups: int) -> fx.Node:
        if shape(weights)[2] == groups:
            return weights
        repeated = self.insert("unsqueeze", weights, 3)
        repeated = self.insert("expand", repeated, -1, -1, -1, groups // shape(weights)[2], -1)
        return self.insert("flatten", repeated, 2, 3)

    def _arrange(self, product: Product | None, groups: Groups, shared: tuple[int, ...] = ()) -> fx.Node | None:
        """The product with its axes in the order of the groups, each group one axis of full size but for those that
        are `shared`, whose neighbours may have one entry."""
        if product is None:
            return None
        order = tuple(itertools.chain(*groups))
        tensor = self._product([self._ordered(term, order) for term in product.terms], product.scale)
        sizes = [
            -1 if number in shared or not is_one(size) or is_one(self.scan.sizes[number]) else self._size(number)
            for number, size in zip(order, shape(tensor), strict=True)
        ]
        if any(size != -1 for size in sizes):
            tensor = self.insert("expand", tensor, *sizes)
        return self._joined(tensor, groups)

    def _product(self, tensors: list[fx.Node], scale: float) -> fx.Node:
        if len(tensors) > 1 or scale != 1:
            tensors = [self._to(tensor, self.wide) for tensor in tensors]
        product = functools.reduce(functools.partial(self.insert, torch.mul), tensors)
        if scale == -1:
            return self.insert(torch.neg, product)
        return product if scale == 1 else self.insert(torch.mul, product, scale)

    def _ordered(self, term: Term, order: tuple[int, ...]) -> fx.Node:
        """The term's tensor with an axis for each number in `order`, of size 1 where it has none."""
        at = {axis.number: place for place, axis in enumerate(term.axes) if axis is not None}
        broadcast = iter([place for place, axis in enumerate(term.axes) if axis is None])
        places = [at[number] if number in at else next(broadcast, None) for number in order]
        tensor = self._moved(term.node, [place for place in places if place is not None])
        for place in (place for place, source in enumerate(places) if source is None):
            tensor = self.insert("unsqueeze", tensor, place)
        return tensor

    def _moved(self, tensor: fx.Node, places: list[int]) -> fx.Node:
        """The axes at `places` in that order; the others, of size 1, are dropped."""
        rank = len(shape(tensor))
        rest = [place for place in range(rank) if place not in places]
        if [*places, *rest] != list(range(rank)):
            tensor = self.insert("permute", tensor, *places, *rest)
        return self.insert("squeeze", tensor, tuple(range(len(places), rank))) if rest else tensor

    def _size(self, number: int) -> int | fx.Node:
        """The size of a numbered axis; where it is unknown, a node that computes it."""
        size = self.scan.sizes[number]
        if isinstance(size, int):
            return size
        terms = (
            (term, place) for term in self.scan.terms for place, axis in enumerate(term.axes) if axis == (number, 1)
        )
        term, place = next(terms)
        return self.insert("size", term.node, place)

    def _joined(self, tensor: fx.Node, groups: Groups) -> fx.Node:
        for place, group in enumerate(groups):
            if not group:
                tensor = self.insert("unsqueeze", tensor, place)
            elif len(group) > 1:
                tensor = self.insert("flatten", tensor, place, place + len(group) - 1)
        return tensor

    def _result(self, op: fx.Node, index: int, groups: Groups, term: Term) -> fx.Node:
        """An output of the scan, with the axes and the dtype of the term that it replaces."""
        tensor = self._parted(self.insert(operator.getitem, op, index), groups)
        order = list(itertools.chain(*groups))
        tensor = self._moved(tensor, [order.index(axis.number) for axis in term.axes if axis is not None])
        for place, axis in enumerate(term.axes):
            if axis is None:
                tensor = self.insert("unsqueeze", tensor, place)
        return self._to(tensor, value(term.node).dtype)

    def _parted(self, tensor: fx.Node, groups: Groups) -> fx.Node:
        for place, group in reversed(list(enumerate(groups))):
            if not group:
                tensor = self.insert("squeeze", tensor, place)
            elif len(group) > 1:
                sizes = [self.scan.sizes[number] for number in group]
                tensor = self.insert("unflatten", tensor, place, [n if isinstance(n, int) else -1 for n in sizes])
        return tensor


def _drop_copy(tensor: fx.Node) -> None:
    """A copy that alone reads a tensor of its own memory is that tensor; the moves are those that `Surroundings` makes
    around a copy."""
    copy, copied = tensor, False
    while len(copy.users) == 1 and is_call(next(iter(copy.users)), "clone", "unsqueeze", "movedim", "squeeze"):
        (copy,) = copy.users
        copied |= is_call(copy, "clone")
        if copied and shape(copy) == shape(tensor) and same_strides(value(copy), value(tensor)):
            copy.replace_all_uses_with(tensor)
            return
