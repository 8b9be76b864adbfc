"""Where the axes and elements of a call's result lie in its input: indices, orders of axes, reshapes, casts.

Each of these is parsed here and nowhere else, however it is spelled.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.fx.node import map_arg

from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.torch_ops import Call, Kind, call
from mvc.passes.torch_private import surely_equal

Size = Any  # int or torch.SymInt


def is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1


def is_tensor(node: object) -> bool:
    return isinstance(node, fx.Node) and shape(node) is not None


# Indices


class Part(NamedTuple):
    """What an index does along one axis of a tensor, or for a new axis, where `axis` and `item` are None."""

    axis: int | None
    item: int | slice | None


def index_parts(index: Any, rank: int) -> tuple[Part, ...] | None:
    """A Python index of a tensor with so many axes, a part for each of them and for each new one, in order.

    None for an index with more than numbers, slices, `None` and an ellipsis. Bounds of slices may be nodes.
    """
    items = index if isinstance(index, tuple) else (index,)
    plain = (each is None or each is Ellipsis or isinstance(each, slice) or type(each) is int for each in items)
    if not all(plain) or items.count(Ellipsis) > 1:
        return None
    rest = (slice(None),) * (rank - sum(each is not None and each is not Ellipsis for each in items))
    at = items.index(Ellipsis) if Ellipsis in items else len(items)
    axes = itertools.count()
    items = (*items[:at], *rest, *items[at + 1 :])
    return tuple(Part(None if item is None else next(axes), item) for item in items)


class Selection(NamedTuple):
    """A tensor and the parts of the index that selects from it."""

    input: fx.Node
    parts: tuple[Part, ...]

    @property
    def index(self) -> tuple[int | slice | None, ...]:
        return tuple(part.item for part in self.parts)

    def axis(self, place: int) -> int:
        """The axis of the result that a place of the index, no number, makes."""
        return sum(not isinstance(part.item, int) for part in self.parts[:place])


def selection(node: fx.Node) -> Selection | None:
    """The node as `input[index]`, which a piece of an `unbind`, `split` or `chunk` is as well; None for others."""
    known = call(node)
    if known is None or known.kind is not Kind.SELECTION or not is_tensor(node):
        return None
    source = known.args["input"]
    if not is_tensor(source):
        return _piece(source, known.args["index"])
    rank = len(shape(source))
    if known.name == "getitem":
        parts = index_parts(known.args["index"], rank)
    else:
        item = _item(known, shape(source))
        parts = None if item is None else _along(known.args.get("dim", 0), item, rank)
    return None if parts is None else Selection(source, parts)


def _item(known: Call, sizes: torch.Size) -> int | slice | None:
    """What a call along one axis takes of that."""
    args = known.args
    if known.name == "slice":
        return slice(*(args.get(name) for name in ("start", "end", "step")))
    start = args["index"] if known.name == "select" else args["start"]
    if not isinstance(start, int):
        return None
    if known.name == "select":
        return start
    size, length = sizes[args["dim"]], args["length"]
    start = start + size if start < 0 and isinstance(size, int) else start
    if isinstance(length, int) and start >= 0:
        return slice(start, start + length)
    return slice(0, length) if start == 0 else None


def _along(dim: int, item: int | slice, rank: int) -> tuple[Part, ...]:
    axis = dim % rank
    return tuple(Part(each, item if each == axis else slice(None)) for each in range(rank))


def _piece(pieces: object, index: object) -> Selection | None:
    known = call(pieces)
    if known is None or known.name not in ("unbind", "split", "chunk") or not isinstance(index, int):
        return None
    source, dim = known.args["input"], known.args.get("dim", 0)
    item: int | slice = index % len(value(pieces))
    if known.name != "unbind":
        sizes = [piece.shape[dim] for piece in value(pieces)]
        if not all(isinstance(size, int) for size in sizes):
            return None
        start = sum(sizes[:item])
        item = slice(start, start + sizes[item])
    return Selection(source, _along(dim, item, len(shape(source))))


# Axes


class View(NamedTuple):
    """How the axes of a view, or a copy, come from those of its input.

    Attributes:
        sources: for each axis of the view that of the input; None for one that is new, or along which it is broadcast.
        picked: by axis of the input, the entry that alone is left of it.
    """

    input: fx.Node
    sources: tuple[int | None, ...]
    picked: dict[int, int]


def view_of(node: fx.Node) -> View | None:
    """The node as what moves, adds, drops or broadcasts axes, or picks an entry; None for others."""
    if (chosen := selection(node)) is not None:
        return _selected(chosen)
    known = call(node)
    source = known.args.get("input") if known else None
    if not (is_tensor(node) and is_tensor(source)) or value(node).dtype != value(source).dtype:
        return None
    if known.kind is Kind.COPY:
        sources = tuple(range(len(shape(source))))
    elif known.kind is Kind.PERMUTATION:
        sources = axis_order(node)
    elif known.kind is Kind.EXPANSION:
        sources = _broadcast(shape(source), shape(node))
    elif known.kind is Kind.RESHAPE:
        sources = _kept(known, shape(source), shape(node))
    else:
        sources = None
    return None if sources is None or len(sources) != len(shape(node)) else View(source, sources, {})


def axis_order(node: fx.Node) -> tuple[int, ...]:
    """For each axis of a permutation that of its input: torch moves a tensor whose sizes say which axis is which."""
    source = call(node).args["input"]
    names = torch.empty(tuple(range(1, len(shape(source)) + 1)), device="meta")
    args, kwargs = map_arg((node.args, node.kwargs), lambda each: names if each is source else value(each))
    permute = getattr(torch.Tensor, node.target) if node.op == "call_method" else node.target
    return tuple(size - 1 for size in permute(*args, **kwargs).shape)


def _selected(chosen: Selection) -> View | None:
    sources: list[int | None] = []
    picked: dict[int, int] = {}
    for axis, item in chosen.parts:
        left = item if axis is None or isinstance(item, int) else _left(item, shape(chosen.input)[axis])
        if isinstance(left, int):
            picked[axis] = left
        elif axis is not None and left is None:
            return None
        if not isinstance(item, int):
            sources.append(None if axis is None or isinstance(left, int) else axis)
    return View(chosen.input, tuple(sources), picked)


def _left(part: slice, size: Size) -> int | slice | None:
    """The one entry that the slice keeps of an axis, the slice itself if it keeps all, None for others."""
    whole = part.stop is None or surely_equal(part.stop, size)
    if whole and part.start in (None, 0) and part.step in (None, 1):
        return part
    bounds = (part.start, part.stop, part.step)
    if not isinstance(size, int) or not all(bound is None or isinstance(bound, int) for bound in bounds):
        return None
    kept = range(*part.indices(size))
    if kept == range(size):
        return part
    return kept[0] if len(kept) == 1 else None


def _broadcast(before: torch.Size, after: torch.Size) -> tuple[int | None, ...]:
    ahead = len(after) - len(before)
    return tuple(
        axis - ahead if axis >= ahead and (is_one(size) or not is_one(before[axis - ahead])) else None
        for axis, size in enumerate(after)
    )


def _kept(known: Call, before: torch.Size, after: torch.Size) -> tuple[int | None, ...] | None:
    """The sources of a reshape that does no more than add and drop axes of size 1."""
    rank, dim = len(before), known.args.get("dim")
    if known.name == "unsqueeze":
        return (*range(dim % (rank + 1)), None, *range(dim % (rank + 1), rank))
    if known.name == "squeeze" and dim is not None and rank:
        dropped = {each % rank for each in (dim if isinstance(dim, (tuple, list)) else (dim,))}
        return tuple(axis for axis in range(rank) if axis not in dropped or not is_one(before[axis]))
    made_of = regrouped(before, after)
    if made_of is None or not all(len(pieces) < 2 and is_whole(pieces, before) for pieces in made_of):
        return None
    return tuple(pieces[0].axis if pieces else None for pieces in made_of)


# Reshapes


class Piece(NamedTuple):
    """`size` of the entries along an axis, each `stride` entries from the next."""

    axis: int
    size: Size
    stride: Size


def regrouped(before: Sequence[Size], after: Sequence[Size]) -> list[list[Piece]] | None:
    """For each axis of a reshape the pieces of its input's axes that it joins, the outermost first.

    Axes of size 1 are paired off from the left, and left out where they are new or dropped. None where an axis is no
    product of such pieces.
    """
    rest = [Piece(axis, size, 1) for axis, size in enumerate(before)]
    made_of = []
    for size in after:
        if rest and surely_equal(rest[0].size, size):
            made_of.append([rest.pop(0)])
            continue
        pieces: list[Piece] = []
        while not surely_equal(size, 1):
            while rest and surely_equal(rest[0].size, 1):
                rest.pop(0)
            if not rest or surely_equal(rest[0].size, 0):
                return None
            first = rest.pop(0)
            if surely_equal(size % first.size, 0):
                pieces.append(first)
                size = size // first.size
            elif surely_equal(first.size % size, 0):
                inner = first.size // size
                pieces.append(Piece(first.axis, size, first.stride * inner))
                rest.insert(0, Piece(first.axis, inner, first.stride))
                size = 1
            else:
                return None
        made_of.append(pieces)
    return made_of if all(surely_equal(piece.size, 1) for piece in rest) else None


def is_whole(pieces: Iterable[Piece], sizes: Sequence[Size]) -> bool:
    """Whether each piece is all of its axis."""
    return all(surely_equal(piece.size, sizes[piece.axis]) for piece in pieces)


# Casts


def is_cast(node: fx.Node) -> bool:
    """Whether the node is its input in another floating-point type, on the same device."""
    known = call(node)
    source = known.args["input"] if known is not None and known.kind is Kind.CAST else None
    if not (is_tensor(node) and is_tensor(source)):
        return False
    old, new = value(source), value(node)
    return old.is_floating_point() and new.is_floating_point() and old.device == new.device


def is_exact_cast(node: fx.Node) -> bool:
    """Whether it is a cast that loses nothing, be it because an earlier cast was the other way."""
    if not is_cast(node):
        return False
    source, dtype = call(node).args["input"], value(node).dtype
    while not _holds(dtype, value(source).dtype) and is_exact_cast(source):
        source = call(source).args["input"]
    return _holds(dtype, value(source).dtype)


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    return torch.promote_types(wide, narrow) == wide


# Einsum


def einsum_letters(known: Call) -> list[str] | None:
    """The letters of each operand of an einsum, and last of its result, those of an ellipsis in capitals; None where
    they are not given as text."""
    equation, operands = known.args["equation"], known.args.get("operands", ())
    if not isinstance(equation, str) or not all(map(is_tensor, operands)):
        return None
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        output = "..." * ("..." in inputs)
        output += "".join(sorted(letter for letter in set(inputs) - {",", "."} if inputs.count(letter) == 1))
    terms = inputs.split(",")
    if len(terms) != len(operands):
        return None
    return _without_ellipsis([*terms, output], [len(shape(each)) for each in operands])


def _without_ellipsis(terms: list[str], ranks: list[int]) -> list[str] | None:
    """The terms of an equation with letters in the place of each ellipsis; axes are counted from the last."""
    free = [letter for letter in string.ascii_uppercase if letter not in "".join(terms)]
    hidden = [rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=False) if "..." in term]
    most = max(hidden, default=0)
    if most > len(free):
        return None
    counts = iter([*hidden, most])
    return [term.replace("...", "".join(free[most - next(counts) : most])) if "..." in term else term for term in terms]
