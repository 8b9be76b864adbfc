"""A recurrence's step as factor · h + offset of its state h, as nodes beside those of the step."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import fx
from torch.fx.node import map_arg

from mvc.passes import torch_private
from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import insert, name_of, shape, value
from mvc.passes.graph.torch_ops import MOVEMENTS, Call, Kind, call, is_kind
from mvc.passes.graph.views import einsum_letters, is_cast, is_one, view_of

Operand = fx.Node | float  # what a step computes without its state, or a number


class Affine(NamedTuple):
    """factor · h + offset, elementwise."""

    factor: Operand
    offset: Operand


ONE = Affine(0, 1)  # the number


def affine(graph: fx.Graph, state: fx.Node, result: fx.Node) -> Affine:
    """What the result is of the state; new nodes are inserted after those that they are made of.

    Raises:
        Declined: it is something else.
    """
    rules = _Rules(graph, state)
    for node in needed(result, {state}):
        if not rules.known.keys().isdisjoint(node.all_input_nodes):
            with graph.inserting_after(node):
                rules.known[node] = rules.of_call(node)
    return rules.of_result(result)


def needed(result: fx.Node, known: set[fx.Node] | frozenset[fx.Node]) -> list[fx.Node]:
    """The nodes that the result is computed from, itself last, in an order to compute them in; not beyond the known."""
    order: dict[fx.Node, None] = {}
    pending = [(result, False)]
    while pending:
        node, ready = pending.pop()
        if ready:
            order[node] = None
        elif node not in order and node not in known:
            pending.append((node, True))
            pending += [(source, False) for source in node.all_input_nodes]
    return list(order)


class _Rules:
    """Calls on affine values; of sums and products no more is written than needed.

    Attributes:
        known: what nodes are of the state.
        axes: for each of their axes that of the state; None for one that it has not.
    """

    def __init__(self, graph: fx.Graph, state: fx.Node) -> None:
        self.graph = graph
        self.state = state
        self.known = {state: Affine(1, 0)}
        self.axes: dict[fx.Node, tuple[int | None, ...]] = {state: tuple(range(len(shape(state))))}

    def of(self, argument: Operand) -> Affine:
        return self.known.get(argument) or Affine(0, argument)

    def of_result(self, result: fx.Node) -> Affine:
        """Of what is the state after the step."""
        if result in self.known:
            axes, own = self.axes[result], self.axes[self.state]
            kept = (
                axis == before or is_one(size) for axis, before, size in zip(axes, own, shape(self.state), strict=False)
            )
            if len(axes) != len(own) or not all(kept):
                raise Declined(_MOVES.format("over all, the axes"), result)
        return self.of(result)

    def of_call(self, node: fx.Node) -> Affine:
        if shape(node) is None:  # a size
            raise Declined(_why_not(node), node)
        known, rank = call(node), len(shape(node))
        states = [each for each in node.all_input_nodes if each in self.known]
        aligned = {(None,) * (rank - len(self.axes[each])) + self.axes[each] for each in states}
        view = None if is_kind(node, Kind.COPY) else view_of(node)
        if view is not None and states == [view.input] and not view.picked:
            axes = self.axes[view.input]
            self.axes[node] = tuple(None if source is None else axes[source] for source in view.sources)
            return Affine(*(self._moved(node, view.input, term) for term in self.of(view.input)))
        if len(aligned) > 1:
            raise Declined(_MOVES.format("in one place"), node)
        (self.axes[node],) = aligned
        if is_kind(node, Kind.COPY):
            return self.of(known.args["input"])
        if is_cast(node) and known.args["input"] in self.known:
            return Affine(*(self._cast(node, term) for term in self.of(known.args["input"])))
        if known is not None and known.name == "einsum":
            return self._einsum(known)
        rule = _RULES.get(known.name) if known is not None else None
        if rule is None or "rounding_mode" in known.args:
            raise Declined(_why_not(node), node)
        return rule(self, **{key: self.of(argument) for key, argument in known.args.items()})

    def _moved(self, node: fx.Node, source: fx.Node, term: Operand) -> Operand:
        """The term under the same movement of axes as the state."""
        if not isinstance(term, fx.Node):
            return term
        whole, known = term, call(node)
        for _ in range(len(shape(source)) - len(shape(term))):
            whole = insert(self.graph, torch.unsqueeze, whole, 0)
        if known.kind is not Kind.PERMUTATION and not (known.name in ("unsqueeze", "squeeze") and "dim" in known.args):
            if not all(isinstance(size, int) for size in shape(source)):
                raise Declined(f"each step moves axes of the state ({known.name}), whose sizes are not known", node)
            whole = insert(self.graph, "expand", whole, shape(source))
        args, kwargs = map_arg((node.args, node.kwargs), lambda each: whole if each is source else each)
        return insert(self.graph, node.target, *args, **kwargs)

    def _cast(self, node: fx.Node, term: Operand) -> Operand:
        return (
            insert(self.graph, node.target, term, *node.args[1:], **node.kwargs) if isinstance(term, fx.Node) else term
        )

    def _add(self, input: Affine, other: Affine, alpha: Affine = ONE) -> Affine:
        scaled = self._mul(other, alpha)
        return Affine(*(self._write(torch.add, one, two) for one, two in zip(input, scaled, strict=True)))

    def _sub(self, input: Affine, other: Affine, alpha: Affine = ONE) -> Affine:
        return self._add(input, self._neg(self._mul(other, alpha)))

    def _neg(self, input: Affine) -> Affine:
        return self._mul(input, Affine(0, -1))

    def _mul(self, input: Affine, other: Affine) -> Affine:
        state, factor = (other, input) if input.factor == 0 else (input, other)
        if factor.factor != 0:
            raise Declined("each step multiplies the state by itself; its factors must not depend on it")
        return Affine(*(self._write(torch.mul, term, factor.offset) for term in state))

    def _div(self, input: Affine, other: Affine) -> Affine:
        if other.factor != 0:
            raise Declined("each step divides by the state; its factors must not depend on it")
        return Affine(*(self._write(torch.div, term, other.offset) for term in input))

    def _addcmul(self, input: Affine, tensor1: Affine, tensor2: Affine, value: Affine = ONE) -> Affine:
        return self._add(input, self._mul(tensor1, tensor2), value)

    def _lerp(self, input: Affine, end: Affine, weight: Affine) -> Affine:
        return self._add(input, self._mul(self._sub(end, input), weight))

    def _where(self, condition: Affine, input: Affine, other: Affine) -> Affine:
        factors = [each.factor for each in (input, other)]
        if 0 in factors and factors != [0, 0]:
            raise Declined(
                "where discards the state at some steps; a recurrence would multiply it by zero, which keeps NaN and "
                "infinities"
            )
        return Affine(*(self._choose(condition.offset, *terms) for terms in zip(input, other, strict=True)))

    def _choose(self, condition: fx.Node, one: Operand, other: Operand) -> Operand:
        if not isinstance(one, fx.Node) and not isinstance(other, fx.Node):
            if one == other:
                return one
            state = value(self.state)
            with torch_private.fake_mode([state]):
                one = insert(self.graph, torch.full, (), one, dtype=state.dtype, device=state.device)
        return insert(self.graph, torch.where, condition, one, other)

    def _einsum(self, known: Call) -> Affine:
        """An elementwise product, written as one."""
        operands, letters = known.args["operands"], einsum_letters(known)
        states = [place for place, each in enumerate(operands) if each in self.known]
        if letters is None or len(states) != 1 or not _is_elementwise(letters, states[0]):
            raise Declined(_MIXES.format("an einsum"))
        *terms, result = letters
        (place,) = states
        product = self.of(operands[place])
        for term, operand in zip(terms, operands, strict=True):
            if operand is not operands[place]:
                product = self._mul(product, Affine(0, self._aligned(operand, term, result)))
        return product

    def _aligned(self, operand: fx.Node, term: str, result: str) -> fx.Node:
        """The operand with its axes as the result names them, and of size 1 where it has none."""
        order = [term.index(letter) for letter in result if letter in term]
        if order != sorted(order):
            operand = insert(self.graph, torch.permute, operand, order)
        for axis, letter in enumerate(result):
            if letter not in term:
                operand = insert(self.graph, torch.unsqueeze, operand, axis)
        return operand

    def _write(self, function, left: Operand, right: Operand) -> Operand:
        """left + right, left · right or left / right."""
        if function is torch.add and (left == 0 or right == 0):
            return right if left == 0 else left
        if function is not torch.add and (left == 0 or right == 1):
            return left
        if function is torch.mul and (right == 0 or left == 1):
            return right
        if not isinstance(left, fx.Node) and not isinstance(right, fx.Node):
            return _ON_NUMBERS[function](left, right)
        if isinstance(left, fx.Node) or function is torch.div:
            return insert(self.graph, function, left, right)
        return insert(self.graph, function, right, left)


_MOVES = "each step moves elements of the state ({}); a linear recurrence keeps each in its place"
_MIXES = "each step multiplies the state by a matrix ({}); only elementwise factors make a linear recurrence"


def _why_not(node: fx.Node) -> str:
    name, kind = name_of(node), call(node).kind if call(node) else None
    if kind is Kind.PRODUCT:
        return _MIXES.format(name)
    if kind in MOVEMENTS:
        return _MOVES.format(name)
    if kind in (Kind.REDUCTION, Kind.CUMULATION, Kind.NORMALIZATION):
        return f"each step takes {name} over elements of the state; a linear recurrence keeps each by itself"
    return f"each step calls {name} on the state; a linear recurrence only multiplies it and adds to it"


def _is_elementwise(letters: list[str], state: int) -> bool:
    """Whether an einsum multiplies that operand, elementwise, with others that are broadcast to it."""
    *terms, result = letters
    plain = all(set(term) <= set(result) and len(set(term)) == len(term) for term in terms)
    return plain and terms[state] == result


# What is affine in the state if its operands are; all other calls of it are no linear recurrence.
_RULES: dict[str, Callable[..., Affine]] = {
    "add": _Rules._add,
    "sub": _Rules._sub,
    "neg": _Rules._neg,
    "mul": _Rules._mul,
    "div": _Rules._div,
    "addcmul": _Rules._addcmul,
    "lerp": _Rules._lerp,
    "where": _Rules._where,
}
_ON_NUMBERS = {torch.add: operator.add, torch.mul: operator.mul, torch.div: operator.truediv}
