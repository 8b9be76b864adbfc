"""What a piece of a graph computes, found out by running it on random numbers modulo a prime.

Sums, products and movements of elements are exact in the integers modulo a prime, so two polynomials that agree on
random numbers are the same one: a wrong answer has a chance below degree / 2³¹ for each of the elements compared. Axes
that only carry the computation along are cut to two elements, which still shows any exchange along them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from mvc.passes import torch_private
from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import name_of, shape, value
from mvc.passes.graph.memory import written_by
from mvc.passes.graph.torch_ops import CALLS, Call, Kind, call
from mvc.passes.graph.views import index_parts, is_cast, is_whole, regrouped
from mvc.passes.torch_private import example_size

PRIME = 2**31 - 1

Values = dict[fx.Node, Tensor]


def sample(fake: Tensor, *, whole: Collection[int] = (), seed: int, modulus: int = PRIME) -> Tensor:
    """Random residues in the tensor's shape: whole along some axes, two elements along the others."""
    shape = [example_size(size) if axis in whole else _cut(size) for axis, size in enumerate(fake.shape)]
    with torch_private.no_modes():
        return torch.randint(1, modulus, shape, generator=torch.Generator().manual_seed(seed), device="cpu")


def evaluate(nodes: Sequence[fx.Node], values: Values) -> tuple[Values, Declined | None]:
    """All that the nodes, in order, compute from the given values, and the first thing that could not be followed.

    Nothing is computed past it where nodes write in place.
    """
    return run(Interpreter(dict(values), in_place=any(written_by(node) for node in nodes)), nodes)


def run(interpreter: Interpreter, nodes: Sequence[fx.Node]) -> tuple[Values, Declined | None]:
    """`evaluate` with an interpreter that holds the given values."""
    failure = None
    with torch_private.no_modes():
        for node in nodes:
            try:
                interpreter.step(node)
            except Declined as unsupported:
                failure = failure or unsupported
                if interpreter.in_place:
                    break
    return interpreter.values, failure


def is_followed_movement(node: fx.Node) -> bool:
    """Whether the node only moves, copies or casts elements of tensors, in a way that can be followed."""
    known = call(node)
    return known is not None and known.name in _MOVEMENTS


def is_arithmetic(node: fx.Node) -> bool:
    known = call(node)
    return known is not None and known.name.removesuffix("_") in _ARITHMETIC


def same(left: Tensor, right: Tensor) -> bool:
    """Whether two computed values are equal, shapes included."""
    with torch_private.no_modes():
        return left.shape == right.shape and bool((left.remainder(PRIME) == right.remainder(PRIME)).all())


def multiply_add(a: Tensor, h: Tensor, b: Tensor) -> Tensor:
    """a·h + b."""
    with torch_private.no_modes():
        return (a * h % PRIME + b) % PRIME


def shifted(h: Tensor, dim: int, *, reverse: bool) -> Tensor:
    """At each step, h of the step before, and zero before the first."""
    steps = h.shape[dim]
    with torch_private.no_modes():
        zero = torch.zeros_like(h.narrow(dim, 0, 1))
        return torch.cat([h.narrow(dim, 1, steps - 1), zero] if reverse else [zero, h.narrow(dim, 0, steps - 1)], dim)


def is_recurrence(h: Tensor, a: Tensor, b: Tensor, dim: int, *, reverse: bool = False) -> bool:
    """Whether h_t = a_t h_{t-1} + b_t along the axis, from a zero state."""
    return h.shape[dim] > 0 and same(h, multiply_add(a, shifted(h, dim, reverse=reverse), b))


def _cut(size: int | torch.SymInt) -> int:
    """A size that is not that of the whole axis; for a symbol that means any other than in the example."""
    if isinstance(size, int):
        return min(size, 2)
    return 3 if example_size(size) == 2 else 2


class Interpreter:
    """Computes node by node; a subclass follows more calls."""

    def __init__(self, values: Values, *, in_place: bool) -> None:
        self.values = values
        self.in_place = in_place
        self.batched: set[fx.Node] = set()  # inside vmap, the mapped axis in front

    def modulus(self, node: fx.Node) -> int:
        return PRIME

    def step(self, node: fx.Node) -> None:
        if shape(node) is None and not written_by(node):
            return  # a size, of which the example is taken
        if node.op not in ("call_function", "call_method"):
            raise Declined(f"it holds a {node.op}", node)
        for source in node.all_input_nodes:
            if source not in self.values and shape(source) is not None:
                raise Declined(f"it also uses {source.name}", node)
        marker, known = torch_private.vmap_call(node), call(node)
        try:
            if marker is not None:
                self.values[node] = self._vmap(node, marker)
            elif known is None:
                raise Declined(f"it calls {name_of(node)}", node)
            else:
                self.values[node] = self.compute(node, known)
        except (RuntimeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise Declined(f"it calls {name_of(node)} in a way that is not followed", node) from error

    def _vmap(self, node: fx.Node, marker: str) -> Tensor:
        if marker == "add":
            self.batched.add(node)
            return self.values[node.args[0]].movedim(node.args[1], 0)
        if marker == "remove" and node.args[0] in self.batched:
            return self.values[node.args[0]].movedim(0, node.args[3])
        raise Declined(f"it calls {name_of(node)}", node)

    def compute(self, node: fx.Node, known: Call) -> Tensor:
        batched = [source for source in node.all_input_nodes if source in self.batched]
        if batched:
            self.batched.add(node)
            ranks = {self.values[source].dim() for source in node.all_input_nodes if source in self.values}
            if len(ranks) > 1 or not (known.name in _ARITHMETIC or known.name == "clone" or known.kind is Kind.CAST):
                raise Declined(f"it calls {name_of(node)}", node)
        base = known.name.removesuffix("_")
        if base in _ARITHMETIC:
            return self._arithmetic(node, known, base)
        if known.name == "setitem":
            return self._set(node, known)
        if known.name not in _MOVEMENTS or (known.name in _MAY_COPY and self.in_place):
            raise Declined(f"it calls {name_of(node)}", node)
        return _MOVEMENTS[known.name](self, node, known)

    def _arithmetic(self, node: fx.Node, known: Call, base: str) -> Tensor:
        given = {name: self.number(node, each) for name, each in known.args.items()}
        result = _ARITHMETIC[base](**given).remainder(self.modulus(node))
        if not known.name.endswith("_"):
            return result
        return given["input"].copy_(result)

    def number(self, node: fx.Node, argument: Any) -> Tensor | int:
        if isinstance(argument, fx.Node):
            return self.values[argument]
        if isinstance(argument, (int, float)) and argument == int(argument):
            return int(argument) % self.modulus(node)
        raise Declined(f"it has the factor {argument}", node)

    def _set(self, node: fx.Node, known: Call) -> Tensor:
        self._index(node, known)[...] = self.number(node, known.args["value"])
        return self.values[known.args["input"]]

    def _index(self, node: fx.Node, known: Call) -> Tensor:
        source, index = known.args["input"], self._plain(known.args["index"])
        parts = index_parts(index, self.values[source].dim())
        if parts is None:
            raise Declined(f"it calls {name_of(node)} with more than numbers and slices", node)
        for axis, item in parts:
            if axis is not None and item != slice(None):
                self.need_whole(node, source, axis)
        return self.values[source][index]

    def need_whole(self, node: fx.Node, source: fx.Node, axis: int) -> None:
        """Raise unless all elements along the axis are there."""
        if self.values[source].shape[axis] != example_size(value(source).shape[axis]):
            raise Declined(f"it calls {name_of(node)} along another axis", node)

    def _along(self, node: fx.Node, known: Call) -> Tensor:
        """A call that needs every element along its `dim`."""
        sources = known.args.get("tensors", [known.args.get("input")])
        for source in sources:
            self.need_whole(node, source, known.args.get("dim", 0))
        return self._as_written(node, known)

    def _as_written(self, node: fx.Node, known: Call) -> Tensor:
        args, kwargs = self._plain((node.args, node.kwargs))
        function = getattr(type(args[0]), node.target) if node.op == "call_method" else node.target
        return function(*args, **kwargs)

    def _plain(self, argument: Any) -> Any:
        """An argument with its nodes replaced by what they are here."""
        return map_arg(argument, lambda node: self.values[node] if node in self.values else example_size(value(node)))

    def _pad(self, node: fx.Node, known: Call) -> Tensor:
        source, pad = known.args["input"], self._plain(known.args["pad"])
        for place, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
            if (before, after) != (0, 0):
                self.need_whole(node, source, value(source).dim() - 1 - place)
        if known.args.get("mode", "constant") != "constant" or known.args.get("value"):
            raise Declined("it pads with other than zeros", node)
        return torch.nn.functional.pad(self.values[source], list(pad))

    def _view(self, node: fx.Node, known: Call) -> Tensor:
        """Axes that were cut must stay as they are; the others take their sizes from the example."""
        source, before = known.args["input"], value(known.args["input"]).shape
        made_of = regrouped(before, value(node).shape)
        if made_of is None:
            raise Declined(f"it calls {name_of(node)} in a way that is not followed", node)
        sizes: list[int] = []
        for size, pieces in zip(value(node).shape, made_of, strict=True):
            if len(pieces) == 1 and is_whole(pieces, before):
                sizes.append(self.values[source].shape[pieces[0].axis])
                continue
            for piece in pieces:
                self.need_whole(node, source, piece.axis)
            sizes.append(example_size(size))
        return self.values[source].view(sizes) if known.name == "view" else self.values[source].reshape(sizes)

    def _cast(self, node: fx.Node, known: Call) -> Tensor:
        source = known.args["input"]
        if not is_cast(node):
            raise Declined(f"it calls {name_of(node)}", node)
        copies = value(node).dtype != value(source).dtype or known.args.get("copy", False)
        return self.values[source].clone() if copies else self.values[source]

    def _zeros(self, node: fx.Node, known: Call) -> Tensor:
        return torch.zeros_like(self.values[known.args["input"]])


def _add(input: Any, other: Any, alpha: int = 1) -> Any:
    return input + other * alpha % PRIME


def _sub(input: Any, other: Any, alpha: int = 1) -> Any:
    return input - other * alpha % PRIME


def _addcmul(input: Any, tensor1: Any, tensor2: Any, value: int = 1) -> Any:
    return input + tensor1 * tensor2 % PRIME * value % PRIME


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _sub,
    "mul": lambda input, other: input * other,
    "neg": operator.neg,
    "addcmul": _addcmul,
}
_MAY_COPY = ("contiguous", "reshape", "flatten")  # or not, depending on strides that are not known here
# Movements of which it is written here how they are done where axes are cut. Trees and mamba.py's scan have no others.
_MOVEMENTS: dict[str, Callable[[Interpreter, fx.Node, Call], Tensor]] = {
    **dict.fromkeys((*CALLS[Kind.PERMUTATION], "unsqueeze", "squeeze", "stack", "flip"), Interpreter._as_written),
    **dict.fromkeys((*CALLS[Kind.COPY], "flatten"), Interpreter._as_written),
    **dict.fromkeys(("slice", "narrow", "select", "cat"), Interpreter._along),
    **dict.fromkeys(CALLS[Kind.CAST], Interpreter._cast),
    **dict.fromkeys(("view", "reshape", "unflatten"), Interpreter._view),
    "getitem": Interpreter._index,
    "pad": Interpreter._pad,
    "zeros_like": Interpreter._zeros,
}
