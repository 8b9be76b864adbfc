"""Which tensor plays which part in a recurrence that is a selective scan.

A `mvc::linear_recurrence` h_t = a_t h_{t-1} + b_t is one where, seen from the states' axes,

    a = exp(Δ · A)      Δ lies along time, A along channels and states
    b = Δ · u · B       in any order; B along states
    y = Σ_n h · C       n is the states' axis; axes that are none of these are the batch

and nothing else reads the states but for the last. What follows belongs to it where it is there: y + D·u, y · silu(z),
Δ = softplus(raw + bias), and casts of y.
"""

from __future__ import annotations

import dataclasses
from itertools import permutations
from typing import Any

import torch
from torch import fx

from mvc.kernels.scan.checks import MAX_STATES
from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.torch_ops import call, filled_with, is_call
from mvc.passes.graph.views import is_cast, is_exact_cast, is_one
from mvc.passes.raising.axes import Axis, Term, aligned, forward, is_labelled, pick
from mvc.passes.raising.index_notation import (
    Frame,
    Product,
    addend,
    chain,
    contraction,
    factors,
    other_operand,
    summands,
)

ONE = Product()


@dataclasses.dataclass
class Scan:
    """The parts of a selective scan in a graph, their axes numbered as those of the states."""

    sizes: tuple[int | torch.SymInt, ...]
    time: int
    reverse: bool
    states: int = -1
    channels: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    u: Product = ONE
    delta: Product = ONE
    A: Product = ONE
    B: Product = ONE
    C: Product = ONE
    D: Product | None = None
    z: Product | None = None
    delta_bias: Product | None = None
    initial_state: Product | None = None
    delta_softplus: bool = False
    y: Term | None = None  # what the scan's y stands for
    epilogue: list[fx.Node] = dataclasses.field(default_factory=list)  # what led from the sum to y
    last_states: list[Term] = dataclasses.field(default_factory=list)

    @property
    def terms(self) -> list[Term]:
        optional = (self.D, self.z, self.delta_bias, self.initial_state)
        products = (self.u, self.delta, self.A, self.B, self.C, *(each for each in optional if each is not None))
        return [term for product in products for term in product.terms]

    @property
    def sequence(self) -> set[int]:
        return {*self.batch, self.time, *self.channels}

    @property
    def site(self) -> fx.Node:
        """The node before which the scan runs: y or a last state, or, for inputs computed later, what reads that."""
        first = min([self.y.node, *(term.node for term in self.last_states)])
        if all(term.node < first for term in self.terms):
            return first
        return min([self.y.node, *(user for term in self.last_states for user in term.node.users)])


def match(node: fx.Node) -> Scan:
    """The selective scan around a recurrence.

    Raises:
        Declined: it is another recurrence.
    """
    return _Matcher(node).match()


class _Matcher:
    def __init__(self, node: fx.Node) -> None:
        self.node = node
        self.a, self.b, self.initial, dim, reverse = recurrence_arguments(node)
        sizes = tuple(shape(node))
        self.scan = Scan(sizes, dim % len(sizes), reverse)
        self.axes = tuple(map(Axis, range(len(sizes))))
        self.frame = Frame(sizes)

    def match(self) -> Scan:
        scan = self.scan
        weights = self._match_read_out()
        self._match_decay()
        scan.channels = tuple(sorted({n for term in scan.A.terms for n in term.numbers} - {scan.states}))
        scan.batch = tuple(n for n in range(len(scan.sizes)) if n not in {scan.time, scan.states, *scan.channels})
        if len(scan.batch) > 1 and sum(not isinstance(scan.sizes[n], int) for n in scan.batch) > 1:
            raise Declined("more than one of its batch axes has an unknown size")
        scan.A = self._ends(scan.A, {*scan.channels, scan.states}, "A")
        scan.delta = self._ends(scan.delta, scan.sequence, "Δ")
        scan.C = self._weights(weights, "C")
        self._match_input()
        self._match_initial_state()
        self._match_softplus()
        self._match_epilogue()
        return scan

    def _match_read_out(self) -> Product:
        """Finds y, the last states and the states' axis; what multiplies the states."""
        scan, found = self.scan, []
        pending = [(Term(self.node, self.axes), ONE)]
        while pending:
            term, others = pending.pop()
            for user in term.node.users:
                if (view := forward(term, user)) is not None:
                    pending.append((view, others))
                elif (entry := pick(term, user, scan.time)) is not None and others == ONE:
                    scan.last_states.append(self._last(*entry))
                elif (product := contraction(term, user)) is None:
                    raise Declined(_elsewhere(user))
                elif product.summed is None:
                    pending.append((product.result, chain(others, product.others)))
                else:
                    found.append((product.result, product.summed, chain(others, product.others)))
        if not found:
            raise Declined("no sum over a state axis reads the states")
        if len(found) > 1:
            raise Declined(f"{len(found)} sums read the states")
        (scan.y, scan.states, weights), sizes = found[0], scan.sizes
        if scan.states == scan.time:
            raise Declined("the read-out sums over time")
        if not isinstance(sizes[scan.states], int) or not 1 <= sizes[scan.states] <= MAX_STATES:
            raise Declined(f"it has {sizes[scan.states]} states; the scan accepts up to {MAX_STATES}")
        missing = set(range(len(sizes))) - {scan.states} - scan.y.numbers
        if not is_labelled(scan.y) or not all(is_one(sizes[number]) for number in missing):
            raise Declined("the read-out has other axes than the states")
        return weights

    def _last(self, entry: Term, index: int) -> Term:
        length = self.scan.sizes[self.scan.time]
        last = 0 if self.scan.reverse else -1
        if index != last and (not isinstance(length, int) or index % length != last % length):
            raise Declined(f"the state of step {index} is read, which is not the last")
        return entry

    def _match_decay(self) -> None:
        scan = self.scan
        decay = self.frame.back(aligned(self.a, self.axes), rounding=True)
        exponential = next((step for step in decay if is_call(step.node, "exp")), None)
        if exponential is None:
            raise Declined("the decay is no exponential")
        exponent = self.frame.trimmed(Term(call(exponential.node).args["input"], exponential.axes))
        whole = exponent.has(scan.states)
        product = self.frame.expand(exponent, lambda term: term.has(scan.time) and term.has(scan.states) == whole)
        scan.delta = Product(tuple(term for term in product.terms if term.has(scan.time)))
        scan.A = Product(tuple(term for term in product.terms if not term.has(scan.time)), product.scale)
        if not scan.delta.terms or not scan.A.terms or any(term.has(scan.states) for term in scan.delta.terms):
            raise Declined("the decay's exponent is no product of a Δ along time and an A along the states")

    def _match_input(self) -> None:
        scan = self.scan
        outside, channels = {*scan.batch, scan.time}, set(scan.channels)

        def is_mixed(term: Term) -> bool:
            numbers = term.numbers
            return scan.states in numbers and bool(numbers & outside) and bool(numbers & channels)

        product = self.frame.expand(aligned(self.b, self.axes), is_mixed)
        for delta in scan.delta.terms:
            product = self.frame.without(product, delta)
            if product is None:
                raise Declined("the input term has no factor that is the decay's Δ")
        inputs = tuple(term for term in product.terms if not term.has(scan.states))
        if not inputs:
            raise Declined("the input term has no factor u beside Δ and B")
        scan.u = self._ends(Product(inputs), scan.sequence, "u")
        scan.B = self._weights(Product(tuple(t for t in product.terms if t not in inputs), product.scale), "B")

    def _match_initial_state(self) -> None:
        scan = self.scan
        if self.initial is None:
            return
        initial = aligned(self.initial, self.axes[: scan.time] + self.axes[scan.time + 1 :])
        if not any(filled_with(step.node) == 0 for step in self.frame.back(initial)):
            allowed = {*scan.batch, *scan.channels, scan.states}
            scan.initial_state = self._ends(Product((initial,)), allowed, "the initial state")

    def _match_softplus(self) -> None:
        scan = self.scan
        if len(scan.delta.terms) != 1 or not is_call(scan.delta.terms[0].node, "softplus"):
            return
        softplus, axes = call(scan.delta.terms[0].node).args, scan.delta.terms[0].axes
        if softplus.get("beta", 1) != 1 or softplus.get("threshold", 20) != 20:
            return
        raw, bias = Term(softplus["input"], axes), None
        for step in self.frame.back(raw):
            operands = tuple(map(self.frame.trimmed, summands(step)))
            for first, second in permutations(operands, 2):
                if second.numbers <= set(scan.channels) and (end := self.frame.end(second)) is not None:
                    raw, bias = first, Product((end,))
                    break
            if operands:
                break
        scan.delta_softplus, scan.delta_bias = True, bias
        scan.delta = self._ends(Product((raw,)), scan.sequence, "Δ")

    def _match_epilogue(self) -> None:
        """Follows y as long as one user reads it, through views, casts, D·u and the gate; not to a wider type alone."""
        scan = self.scan
        term, passed, widened = scan.y, [], False
        while len(term.node.users) == 1:
            (user,) = term.node.users
            passed.append(user)
            if (view := forward(term, user)) is not None:
                term = view
                widened = _widens(user) if is_cast(user) else widened
            elif (added := self._skip(term, user)) is not None:
                scan.D, term, widened = added, _result_of(user, term), False
            elif (gate := self._gate(term, user)) is not None:
                scan.z, term, widened = gate, _result_of(user, term), False
            else:
                return
            if not widened:
                scan.y, scan.epilogue = term, passed.copy()

    def _skip(self, term: Term, user: fx.Node) -> Product | None:
        """D, where the user adds D·u to y."""
        scan = self.scan
        product = addend(term, user) if scan.D is None and scan.z is None else None
        for u in scan.u.terms:
            product = product and self.frame.without(product, u)
        if product is None or not product.terms:
            return None
        return self._absorbed(product, set(scan.channels))

    def _gate(self, term: Term, user: fx.Node) -> Product | None:
        """z, where the user multiplies y by silu(z)."""
        other = other_operand(term, user, "mul") if self.scan.z is None else None
        z = None if other is None else self._silu(other)
        return None if z is None else self._absorbed(Product((z,)), self.scan.sequence)

    def _silu(self, term: Term) -> Term | None:
        for step in self.frame.back(term, rounding=True):
            if is_call(step.node, "silu"):
                return Term(call(step.node).args["input"], step.axes)
            product = factors(step)
            if product is None:
                continue
            if len(product.terms) != 2 or product.scale != 1:
                return None
            for z, gate in permutations(product.terms, 2):
                for sigmoid in self.frame.back(gate, rounding=True):
                    if is_call(sigmoid.node, "sigmoid"):
                        source = Term(call(sigmoid.node).args["input"], sigmoid.axes)
                        if self.frame.end(z) is not None and self.frame.end(z) == self.frame.end(source):
                            return z
            return None
        return None

    def _absorbed(self, product: Product, allowed: set[int]) -> Product | None:
        """The product as an input of the scan, if it is computed before a last state is read."""
        try:
            product = self._ends(product, allowed, "")
        except Declined:
            return None
        readers = [user for term in self.scan.last_states for user in term.node.users]
        return product if all(term.node < reader for term in product.terms for reader in readers) else None

    def _weights(self, product: Product, name: str) -> Product:
        """B or C, which stay as small as they are."""
        scan = self.scan
        product = self._ends(product, set(range(len(scan.sizes))), name, grouped=True)
        if not any(term.has(scan.states) for term in product.terms):
            raise Declined(f"no factor {name} lies along the states")
        every = set().union(*(term.numbers for term in product.terms))
        channels = set(scan.channels)
        if every & channels and not any(every <= term.numbers for term in product.terms):
            raise Declined(f"{name} is a product that would have the states' size")
        strides = {(axis.number, axis.stride) for term in product.terms for axis in term.axes if axis is not None}
        if len(strides) != len(every):
            raise Declined(f"{name} is a product of weights in unlike groups")
        ends = False  # groups are neighbours: channel axes are whole up to one that may be divided
        for number in scan.channels if every - channels - {scan.states} else ():
            if number in every and ends:
                raise Declined(f"{name} is shared by channels that are no neighbours")
            ends = ends or (number, 1) not in strides
        return product

    def _ends(self, product: Product, allowed: set[int], name: str, *, grouped: bool = False) -> Product:
        """The product's terms, each at its origin."""
        terms = []
        for term in product.terms:
            end = self.frame.end(term, grouped=grouped)
            if end is None or value(end.node).is_complex() or value(end.node).device != value(self.node).device:
                raise Declined(f"{name} is no real tensor on the states' device with axes of theirs: {term.node.name}")
            if end.numbers - allowed:
                raise Declined(f"{name} varies along an axis along which the scan's does not: {end.node.name}")
            terms.append(end)
        return Product(tuple(terms), product.scale)


def recurrence_arguments(node: fx.Node) -> list[Any]:
    """a, b, the initial state, the axis of time and whether time runs backwards, however they were passed."""
    arguments = torch.ops.mvc.linear_recurrence.default._schema.arguments
    given = dict(zip((argument.name for argument in arguments), node.args, strict=False)) | node.kwargs
    return [given.get(argument.name, argument.default_value) for argument in arguments]


def _result_of(user: fx.Node, term: Term) -> Term:
    """An elementwise function of the term and others that are broadcast with it."""
    return Term(user, (None,) * (len(shape(user)) - len(term.axes)) + term.axes)


def _widens(cast: fx.Node) -> bool:
    return is_exact_cast(cast) and value(cast).dtype != value(call(cast).args["input"]).dtype


def _elsewhere(user: fx.Node) -> str:
    return "the states are returned" if user.op == "output" else f"the states are used by {user.name}"
