"""Elementwise products and sums in index notation: what a node multiplies, and along which axes it sums.

Every spelling of a product is the same here: `a * b`, an einsum, a matrix product over an axis of size 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import fx

from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.torch_ops import Call, call, is_call
from mvc.passes.graph.views import einsum_letters, is_one, is_tensor
from mvc.passes.raising.axes import Axes, Axis, Term, aligned, is_labelled, steps_back
from mvc.passes.torch_private import surely_equal


class Product(NamedTuple):
    """Tensors and numbers, multiplied elementwise."""

    terms: tuple[Term, ...] = ()
    scale: float = 1.0


def chain(*products: Product) -> Product:
    """The product of products."""
    terms = itertools.chain.from_iterable(each.terms for each in products)
    return Product(tuple(terms), math.prod(each.scale for each in products))


def factors(term: Term) -> Product | None:
    """What the node is the elementwise product of; None where it is none."""
    known = call(term.node)
    if known is None:
        return None
    if known.name == "mul":
        return _product_of(known.args["input"], known.args["other"], term.axes)
    if known.name == "neg":
        return Product((aligned(known.args["input"], term.axes),), -1.0)
    if known.name == "einsum":
        letters = _letters(known)
        if letters is None or set("".join(letters[:-1])) != set(letters[-1]):
            return None
        axes = dict(zip(letters[-1], term.axes, strict=True))
        return _labelled(known.args["operands"], letters, axes)
    if known.name in ("matmul", "bmm"):
        return _outer(known.args, term.axes)
    return None


def _product_of(left: object, right: object, axes: Axes) -> Product | None:
    terms, scale = [], 1.0
    for each in (left, right):
        if is_tensor(each):
            terms.append(aligned(each, axes))
        elif isinstance(each, (int, float)):
            scale *= each
        else:
            return None
    return Product(tuple(terms), scale)


def _outer(args: dict, axes: Axes) -> Product | None:
    """A matrix product over an axis of size 1, which sums nothing."""
    left, right = args["input"], args.get("other", args.get("mat2"))
    if not all(is_tensor(each) and len(shape(each)) >= 2 for each in (left, right)) or not is_one(shape(left)[-1]):
        return None
    *ahead, row, column = axes
    return Product((aligned(left, (*ahead, row, None)), aligned(right, (*ahead, None, column))))


def _letters(einsum: Call) -> list[str] | None:
    """The letters of each operand of an einsum, and last of its result; None where one stands twice in a tensor."""
    letters = einsum_letters(einsum)
    return None if letters is None or any(len(set(each)) < len(each) for each in letters) else letters


def _labelled(operands: Sequence[fx.Node], letters: list[str], axes: dict[str, Axis | None]) -> Product:
    pairs = zip(operands, letters, strict=False)
    return Product(tuple(Term(node, tuple(axes.get(letter) for letter in own)) for node, own in pairs))


class Contraction(NamedTuple):
    """A product of a term with others, summed over one axis; not summed where `summed` is None."""

    result: Term
    others: Product
    summed: int | None


def contraction(term: Term, user: fx.Node) -> Contraction | None:
    """The user as a product of the term, a sum of it, or both at once; None for any other user."""
    known = call(user)
    if known is None or not is_tensor(user):
        return None
    if known.name == "mul":
        left, right = known.args["input"], known.args["other"]
        other = right if left is term.node else left
        axes = (None,) * (len(shape(user)) - len(term.axes)) + term.axes
        others = None if left is right else _product_of(1.0, other, axes)
        return None if others is None else Contraction(Term(user, axes), others, None)
    if known.name == "sum":
        return _summed(term, user, known.args)
    if known.name == "einsum":
        return _einsum(term, user, known)
    if known.name in ("matmul", "bmm"):
        return _matmul(term, user, known.args)
    return None


def _summed(term: Term, user: fx.Node, args: dict) -> Contraction | None:
    dims = args.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or ())
    if len(dims) != 1 or not value(user).is_floating_point():
        return None
    axes = list(term.axes)
    axis = axes[dims[0]]
    if args.get("keepdim"):
        axes[dims[0]] = None
    else:
        del axes[dims[0]]
    return None if axis is None else Contraction(Term(user, tuple(axes)), Product(), axis.number)


def _einsum(term: Term, user: fx.Node, known: Call) -> Contraction | None:
    letters = _letters(known)
    operands = known.args.get("operands", ())
    if letters is None or list(operands).count(term.node) != 1:
        return None
    at = list(operands).index(term.node)
    axes = dict(zip(letters[at], term.axes, strict=True))
    summed = set("".join(letters[:-1])) - set(letters[-1])
    if len(summed) > 1 or not summed <= set(letters[at]):
        return None
    others = _labelled([*operands[:at], *operands[at + 1 :]], [*letters[:at], *letters[at + 1 :]], axes)
    result = Term(user, tuple(axes.get(letter) for letter in letters[-1]))
    if not summed:
        return Contraction(result, others, None)
    axis = axes[summed.pop()]
    return None if axis is None else Contraction(result, others, axis.number)


def _matmul(term: Term, user: fx.Node, args: dict) -> Contraction | None:
    """A product with one vector for each matrix: (..., rows, n) @ (..., n, 1), or (..., 1, n) @ (..., n, columns)."""
    left, right = args["input"], args.get("other", args.get("mat2"))
    if left is right or not (is_tensor(left) and is_tensor(right)) or len(term.axes) < 2:
        return None
    other = right if left is term.node else left
    if len(shape(other)) == 1:
        *ahead, row, column = term.axes
        inner, kept = (column, row) if left is term.node else (row, column)
        return _over(inner, Term(user, (*ahead, kept)), Term(other, (inner,)))
    ahead = (None,) * (len(shape(user)) - len(term.axes)) + term.axes[:-2]
    row, column = term.axes[-2:]
    if left is term.node and is_one(shape(right)[-1]):
        return _over(column, Term(user, (*ahead, row, None)), aligned(right, (*ahead, column, None)))
    if right is term.node and is_one(shape(left)[-2]):
        return _over(row, Term(user, (*ahead, None, column)), aligned(left, (*ahead, None, row)))
    return None


def _over(axis: Axis | None, result: Term, other: Term) -> Contraction | None:
    return None if axis is None else Contraction(result, Product((other,)), axis.number)


def other_operand(term: Term, user: fx.Node, name: str) -> Term | None:
    """The other operand of an addition or multiplication of the term, in place or not."""
    if not is_call(user, name, f"{name}_"):
        return None
    args = call(user).args
    left, right = args["input"], args["other"]
    other = right if left is term.node else left
    if left is right or not is_tensor(other) or args.get("alpha", 1) != 1:
        return None
    if name != call(user).name and left is not term.node:
        return None
    ahead = (None,) * (len(shape(user)) - len(term.axes))
    return aligned(other, ahead + term.axes)


def addend(term: Term, user: fx.Node) -> Product | None:
    """What the user adds to the term."""
    if is_call(user, "addcmul", "addcmul_"):
        args = call(user).args
        multiplied = (args["tensor1"], args["tensor2"])
        if args["input"] is not term.node or args.get("value", 1) != 1 or term.node in multiplied:
            return None
        ahead = (None,) * (len(shape(user)) - len(term.axes))
        return Product(tuple(aligned(each, ahead + term.axes) for each in multiplied))
    other = other_operand(term, user, "add")
    return None if other is None else Product((other,))


def summands(term: Term) -> tuple[Term, ...]:
    """The two tensors that an addition adds."""
    if not is_call(term.node, "add") or call(term.node).args.get("alpha", 1) != 1:
        return ()
    args = call(term.node).args
    operands = (args["input"], args["other"])
    return tuple(aligned(each, term.axes) for each in operands) if all(map(is_tensor, operands)) else ()


class Frame:
    """The numbered axes that terms are seen from, by their sizes."""

    def __init__(self, sizes: Sequence[int | torch.SymInt]) -> None:
        self.sizes = tuple(sizes)

    def end(self, term: Term, *, grouped: bool = False) -> Term | None:
        """What the term is a view, copy or exact cast of in the end, as long as its axes are those of the states."""
        ends = [step for step in self.back(term) if self._covers(step, grouped)]
        return ends[-1] if ends else None

    def _covers(self, term: Term, grouped: bool) -> bool:
        if not is_labelled(term):
            return False
        labelled = [(axis, size) for axis, size in zip(term.axes, shape(term.node), strict=True) if axis is not None]
        return all((grouped or axis.stride == 1) and self._is_whole(axis, size) for axis, size in labelled)

    def _is_whole(self, axis: Axis, size: int | torch.SymInt) -> bool:
        """Whether an axis of that size reaches over all of the states', and is no digit of it."""
        whole = self.sizes[axis.number]
        unknown = not (isinstance(size, int) and isinstance(whole, int))
        return (unknown and axis.stride == 1) or surely_equal(axis.stride * size, whole)

    def back(self, term: Term, *, rounding: bool = False) -> Iterator[Term]:
        return map(self.trimmed, steps_back(term, rounding=rounding))

    def trimmed(self, term: Term) -> Term:
        """Without the axes of size 1 that are broadcast."""
        sizes, full = shape(term.node), self.sizes
        axes = (
            None if axis is not None and is_one(size) and not is_one(full[axis.number]) else axis
            for axis, size in zip(term.axes, sizes, strict=True)
        )
        return Term(term.node, tuple(axes))

    def expand(self, term: Term, is_mixed: Callable[[Term], bool]) -> Product:
        """The term as a product of terms that are not mixed, as far as it is one."""
        for step in self.back(term, rounding=True):
            if not is_mixed(step):
                return Product((step,))
            if (product := factors(step)) is not None:
                return chain(Product(scale=product.scale), *(self.expand(each, is_mixed) for each in product.terms))
        return Product((self.trimmed(term),))

    def without(self, product: Product, factor: Term) -> Product | None:
        """The product without a factor that it has; None if it has no such factor."""
        terms = product.terms
        for at, term in enumerate(terms):
            if self.end(term) == factor:
                return Product(terms[:at] + terms[at + 1 :], product.scale)
        for at, term in enumerate(terms):
            inner = self._first_product(term)
            rest = None if inner is None else self.without(inner, factor)
            if rest is not None:
                return chain(Product(terms[:at]), rest, Product(terms[at + 1 :], product.scale))
        return None

    def _first_product(self, term: Term) -> Product | None:
        products = map(factors, self.back(term, rounding=True))
        return next((product for product in products if product is not None), None)
