"""What a piece of a graph with exponentials of sums computes, found out modulo a prime as in `modular`.

Where g generates the numbers modulo p, x → gˣ takes sums modulo p - 1 to products modulo p, as exp takes sums to
products. So what is under an exponential is computed modulo p - 1, and minus infinity there is zero behind it. Masks
are computed as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from mvc.passes import torch_private
from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import name_of, shape, value
from mvc.passes.graph.torch_ops import Call, Kind, call, is_call
from mvc.passes.graph.views import einsum_letters, is_tensor, view_of
from mvc.passes.raising import modular
from mvc.passes.raising.modular import PRIME, Values
from mvc.passes.torch_private import example_size

GENERATOR = 7  # of the numbers modulo PRIME
MINUS_INFINITY = -1  # under an exponential, where residues are not negative
_DIGIT = 2**16


def is_followed(node: fx.Node) -> bool:
    """Whether `evaluate` follows the call; of reshapes, those that only add and drop axes of size 1."""
    known = call(node)
    if known is None or shape(node) is None:
        return False
    if is_mask(node):
        return known.name in _MASKS
    if known.kind is Kind.RESHAPE and view_of(node) is None:
        return False
    return known.name in _CALCULATIONS or modular.is_arithmetic(node) or modular.is_followed_movement(node)


def is_mask(node: fx.Node) -> bool:
    return value(node).dtype == torch.bool


def exponents(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Those that are under an exponential, and what they are computed from.

    Raises:
        Declined: one is read by more than exponentials.
    """
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        if node in found or is_call(node, "exp"):
            if node in found and is_call(node, "exp"):
                raise Declined("an exponential is under another", node)
            found.update(each for each in node.all_input_nodes if is_tensor(each) and not is_mask(each))
    for node in nodes:
        if node not in found and not is_call(node, "exp") and not found.isdisjoint(node.all_input_nodes):
            raise Declined("an exponent is read by more than exponentials", node)
    return found


def evaluate(nodes: Sequence[fx.Node], values: Values, under: Collection[fx.Node]) -> Values:
    """All that the nodes compute, those `under` an exponential modulo `PRIME - 1`.

    Raises:
        Declined: a call cannot be followed.
    """
    computed, failure = modular.run(_Interpreter(values, under), nodes)
    if failure is not None:
        raise failure
    return computed


def power(exponent: Tensor) -> Tensor:
    """The generator to that power, zero for minus infinity."""
    low, high = _powers()
    whole = exponent.clamp(min=0)
    return (low[whole % _DIGIT] * high[whole // _DIGIT] % PRIME).masked_fill(exponent == MINUS_INFINITY, 0)


@functools.cache
def _powers() -> tuple[Tensor, Tensor]:
    """By the lower and by the upper digit of an exponent."""
    step = pow(GENERATOR, _DIGIT, PRIME)
    tables = [[1], [1]]
    for table, factor, size in zip(tables, (GENERATOR, step), (_DIGIT, _DIGIT // 2), strict=True):
        while len(table) < size:
            table.append(table[-1] * factor % PRIME)
    with torch_private.no_modes():
        low, high = (torch.tensor(table, device="cpu") for table in tables)
    return low, high


class _Interpreter(modular.Interpreter):
    def __init__(self, values: Values, under: Collection[fx.Node]) -> None:
        super().__init__(dict(values), in_place=False)
        self.under = under

    def modulus(self, node: fx.Node) -> int:
        return PRIME - 1 if node in self.under else PRIME

    def number(self, node: fx.Node, argument: Any) -> Tensor | int:
        """No factors: where an axis that is summed is cut, one could stand for its size."""
        if isinstance(argument, (int, float)) and argument != 0:
            raise Declined(f"it has the factor {argument}", node)
        return super().number(node, argument)

    def compute(self, node: fx.Node, known: Call) -> Tensor:
        moves = modular.is_followed_movement(node) or known.name in ("exp", "expand")
        infinite = (self.values[each] for each in node.all_input_nodes if each in self.under and not moves)
        if any(bool((each == MINUS_INFINITY).any()) for each in infinite):
            raise Declined(f"it calls {name_of(node)} on minus infinity", node)
        if known.name in _CALCULATIONS:
            return _CALCULATIONS[known.name](self, node, known)
        if is_mask(node):
            return _MASKS[known.name](self, node, known)
        return super().compute(node, known)

    def _exp(self, node: fx.Node, known: Call) -> Tensor:
        return power(self.values[known.args["input"]])

    def _masked_fill(self, node: fx.Node, known: Call) -> Tensor:
        source, mask, filling = known.args["input"], known.args["mask"], known.args["value"]
        if filling == -torch.inf and node in self.under:
            return self.values[source].masked_fill(self.values[mask], MINUS_INFINITY)
        return self.values[source].masked_fill(self.values[mask], self.number(node, filling))

    def _ones(self, node: fx.Node, known: Call) -> Tensor:
        return torch.ones([*map(example_size, shape(node))], dtype=torch.bool, device="cpu")

    def _not(self, node: fx.Node, known: Call) -> Tensor:
        return ~self.values[known.args["input"]]

    def _triangle(self, node: fx.Node, known: Call) -> Tensor:
        for axis in (-2, -1):
            self.need_whole(node, known.args["input"], axis)
        return getattr(torch, known.name)(self.values[known.args["input"]], known.args.get("diagonal", 0))

    def _expand(self, node: fx.Node, known: Call) -> Tensor:
        source = known.args["input"]
        ahead = len(shape(node)) - len(shape(source))
        kept = [*(1,) * ahead, *shape(source)]
        sizes = [
            example_size(new) if isinstance(old, int) and old == 1 else -1
            for old, new in zip(kept, shape(node), strict=True)
        ]
        return self.values[source].expand(sizes)

    def _cumsum(self, node: fx.Node, known: Call) -> Tensor:
        self.need_whole(node, known.args["input"], known.args["dim"])
        return self.values[known.args["input"]].cumsum(known.args["dim"]).remainder(self.modulus(node))

    def _sum(self, node: fx.Node, known: Call) -> Tensor:
        summed = self.values[known.args["input"]].sum(known.args["dim"], known.args.get("keepdim", False))
        return summed.remainder(self.modulus(node))

    def _matmul(self, node: fx.Node, known: Call) -> Tensor:
        left, right = (
            self.values[known.args[name]] for name in ("input", "other" if "other" in known.args else "mat2")
        )
        if min(left.dim(), right.dim()) < 2 or left.shape[-1] != right.shape[-2]:
            raise Declined(f"it calls {name_of(node)} on vectors", node)
        modulus = self.modulus(node)
        return (left[..., None] * right[..., None, :, :]).remainder(modulus).sum(-2).remainder(modulus)

    def _einsum(self, node: fx.Node, known: Call) -> Tensor:
        letters = einsum_letters(known)
        if letters is None or any(len(set(each)) < len(each) for each in letters):
            raise Declined("an einsum is not followed", node)
        *terms, output = letters
        operands = [self.values[each] for each in known.args["operands"]]
        return _contracted(operands, terms, output, self.modulus(node))


def _contracted(operands: Sequence[Tensor], terms: Sequence[str], output: str, modulus: int) -> Tensor:
    """An einsum, the operands multiplied one after another, each axis summed as soon as nothing else has it."""
    product, axes = operands[0], terms[0]
    for index, own in enumerate(terms):
        if index:
            every = axes + "".join(letter for letter in own if letter not in axes)
            left, right = (_aligned(*pair, every) for pair in ((product, axes), (operands[index], own)))
            product, axes = (left * right).remainder(modulus), every
        later = output + "".join(terms[index + 1 :])
        summed = [place for place, letter in enumerate(axes) if letter not in later]
        product = product.sum(summed).remainder(modulus) if summed else product
        axes = "".join(letter for letter in axes if letter in later)
    return product.permute([axes.index(letter) for letter in output])


def _aligned(tensor: Tensor, own: str, every: str) -> Tensor:
    order = [own.index(letter) for letter in every if letter in own]
    return tensor.permute(order)[tuple(slice(None) if letter in own else None for letter in every)]


_CALCULATIONS = {
    "exp": _Interpreter._exp,
    "masked_fill": _Interpreter._masked_fill,
    "cumsum": _Interpreter._cumsum,
    "sum": _Interpreter._sum,
    **dict.fromkeys(("matmul", "bmm"), _Interpreter._matmul),
    "einsum": _Interpreter._einsum,
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _Interpreter._expand),
    **dict.fromkeys(("tril", "triu"), _Interpreter._triangle),
}
_MASKS = {
    "ones": _Interpreter._ones,
    **dict.fromkeys(("logical_not", "bitwise_not"), _Interpreter._not),
    **dict.fromkeys(("tril", "triu"), _Interpreter._triangle),
}
