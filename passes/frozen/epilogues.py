"""What follows a product and can be computed with it: a bias, then an activation, each the only user of the last."""

from __future__ import annotations

import math
from numbers import Number
from typing import NamedTuple

from torch import fx

from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.torch_ops import call

SIGMOID_OF = {  # x·σ(p(x)): the coefficients of p by degree
    "silu": {1: 1.0},
    "gelu_tanh": {1: 2 * math.sqrt(2 / math.pi), 3: 2 * math.sqrt(2 / math.pi) * 0.044715},
}


class Epilogue(NamedTuple):
    """A product's bias and activation, and the nodes that give the result with the bias and with both."""

    bias: fx.Node | None
    biased: fx.Node
    activation: str  # "none", or a name in `onednn_ops.ACTIVATIONS`
    last: fx.Node


def epilogue_of(product: fx.Node, bias: fx.Node | None, channels: int | None = None) -> Epilogue:
    """What follows the product; its own bias is given, another of so many channels is looked for where it has none."""
    biased = product
    if bias is None and channels is not None:
        biased, bias = _added_bias(product, channels)
    last, activation = activation_of(biased)
    return Epilogue(bias, biased, activation, last)


def _added_bias(node: fx.Node, channels: int) -> tuple[fx.Node, fx.Node | None]:
    user = only_user(node)
    added = call(user) if user is not None else None
    if added is None or added.name != "add" or added.args.get("alpha", 1) != 1:
        return node, None
    bias = next((x for x in (added.args["input"], added.args["other"]) if x is not node), None)
    fits = isinstance(bias, fx.Node) and shape(bias) == (channels,) and value(bias).dtype == value(node).dtype
    return (user, bias) if fits else (node, None)


def only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def activation_of(node: fx.Node) -> tuple[fx.Node, str]:
    """The last node of the activation that is all that uses the node, and its name; the node and "none" without one."""
    user = only_user(node)
    known = call(user) if user is not None else None
    if known is not None and known.args.get("input") is node:
        name = known.name.removesuffix("_")
        if name == "gelu" and known.args.get("approximate", "none") == "tanh":
            return user, "gelu_tanh"
        if name in ("relu", "silu", "gelu"):
            return user, name
    return _sigmoid_form(node)


def _sigmoid_form(x: fx.Node) -> tuple[fx.Node, str]:
    """x·σ(p(x)), however its polynomial is spelled."""
    for last in x.users:
        product = call(last)
        if product is None or product.name != "mul" or x not in last.all_input_nodes:
            continue
        gate = next((y for y in (product.args["input"], product.args["other"]) if y is not x), None)
        sigmoid = call(gate) if isinstance(gate, fx.Node) else None
        if sigmoid is None or sigmoid.name != "sigmoid":
            continue
        seen = {gate, last}
        polynomial = _polynomial(sigmoid.args["input"], x, seen)
        inner = seen - {last}
        if not set(x.users) <= seen or any(not set(node.users) <= seen for node in inner):
            continue
        for name, wanted in SIGMOID_OF.items():
            if polynomial is not None and _is_close(polynomial, wanted):
                return last, name
    return x, "none"


def _is_close(polynomial: dict[int, float], wanted: dict[int, float]) -> bool:
    same = polynomial.keys() == wanted.keys()
    return same and all(math.isclose(polynomial[n], wanted[n], rel_tol=1e-4) for n in wanted)


def _polynomial(term: object, x: fx.Node, seen: set[fx.Node], depth: int = 12) -> dict[int, float] | None:
    """The coefficients by degree of a term that is a polynomial of x, else None; adds its nodes to `seen`."""
    if term is x:
        return {1: 1.0}
    if isinstance(term, Number):
        return {0: float(term)}
    known = call(term) if isinstance(term, fx.Node) and depth else None
    if known is None or known.name not in ("add", "mul") or known.args.get("alpha", 1) != 1:
        return None
    seen.add(term)
    sides = [_polynomial(known.args[side], x, seen, depth - 1) for side in ("input", "other")]
    if None in sides:
        return None
    left, right = sides
    result: dict[int, float] = {}
    if known.name == "add":
        for degree in left.keys() | right.keys():
            result[degree] = left.get(degree, 0.0) + right.get(degree, 0.0)
    else:
        for n, a in left.items():
            for m, b in right.items():
                result[n + m] = result.get(n + m, 0.0) + a * b
    return result
