"""Raises Mamba-2's chunked matrix form, of a scan with one decay for each head, to the scan."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import torch
from torch import fx
from torch.nn import functional as F

from mvc.kernels.scan import rules  # noqa: F401  registers mvc::selective_scan
from mvc.kernels.scan.checks import MAX_STATES
from mvc.passes.base import Declined, NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert, shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import Kind, call, is_kind
from mvc.passes.raising.axes import Axis, Term
from mvc.passes.raising.index_notation import Frame, Product
from mvc.passes.raising.ssd_match import Form, grow, is_of_segment_sums, match, written_meanwhile

TINY = 1e-20  # exp(±TINY) is 1 in every dtype


@dataclasses.dataclass(frozen=True)
class RaiseSsd(Pass):
    """Writes the matrix form (`ssd_minimal` of mamba-ssm, Mamba-2 and Bamba in transformers) as a selective scan.

    Before, of sequences in chunks, (batch, chunks, steps, heads, ...)::

        A, X = A_h * delta, x * delta.unsqueeze(-1)                       # and these in chunks
        within = einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, exp(segment_sums(A)), X)
        states = einsum("bclhn,bhcl,bclhp->bchpn", B, exp(A_sums[..., -1:] - A_sums), X)
        states = einsum("bhzc,bchpn->bzhpn", exp(segment_sums(A_sums[..., -1])), states)
        y = within + einsum("bclhn,bchpn,bhcl->bclhp", C, states, exp(A_sums))

    After::

        y, last_state = mvc.selective_scan(x.flatten(2), delta, A_h, B, C, ...)     # of whole sequences

    The matrix form is left alone on a GPU, where nothing was measured.
    """

    name: ClassVar[str] = "raise_ssd"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        reasons = dict.fromkeys(_segment_sums(graph.nodes), "Mamba-2's segment sums, but not in its chunked form")
        surroundings = Surroundings(graph)
        for cluster in grow(graph) if reasons else ():
            try:
                _raise(surroundings, match(cluster))
            except Declined as reason:
                no_scan = f"no scan with one decay for each head (Mamba-2's chunked form): {reason}"
                reasons |= dict.fromkeys(_segment_sums(cluster.nodes), no_scan)
            else:
                outcome.matches += 1
                for node in _segment_sums(cluster.nodes):
                    reasons.pop(node, None)
        outcome.near_misses += [NearMiss.at(node, reason) for node, reason in reasons.items()]
        return outcome


def _segment_sums(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    return [node for node in nodes if is_of_segment_sums(node)]


def _raise(surroundings: Surroundings, form: Form) -> None:
    _check(surroundings, form)
    y, graph, site = form.y, form.y.graph, form.site
    with surroundings.at(site):
        put = functools.partial(insert, graph)
        parts = _whole(form)
        u, delta, rate = _discretised(parts) or _divided(parts, learned=value(y).requires_grad)
        B, C = parts.B, parts.C
        *_, heads, width = shape(u)
        states = shape(B)[-1]
        delta = put("flatten", put("expand", put("unsqueeze", delta, 3), -1, -1, -1, width), 2)
        rate = put("flatten", put("expand", put("reshape", rate, (heads, 1, 1)), -1, width, states), 0, 1)
        inputs = [surroundings.kept(each) for each in (put("flatten", u, 2), delta, rate, B, C)]
        scan = put(torch.ops.mvc.selective_scan.default, *inputs, *[None] * 5, False, False)
        scan.meta["stack_trace"] = y.meta.get("stack_trace")
        result = put("unflatten", put(operator.getitem, scan, 0), 2, (heads, width))
        if missing := shape(y)[1] * shape(y)[2] - shape(result)[1]:
            result = put(F.pad, result, (0, 0, 0, 0, 0, missing))
        pairs = {y: put("unflatten", result, 1, shape(y)[1:3])}
        for each in form.last_states:
            pairs[each] = put("unflatten", put(operator.getitem, scan, 1), 1, (heads, width))
        surroundings.replace(pairs)


def _check(surroundings: Surroundings, form: Form) -> None:
    """Raise Declined where the scan is not known to be faster, or the program would see it."""
    fake = value(form.y)
    if fake.device.type != "cpu":
        raise Declined("left alone on a GPU, where its matrix products use tensor cores and nothing was measured")
    if fake.dtype not in (torch.float32, torch.float64):
        raise Declined(f"left alone in {fake.dtype}, in which nothing was measured")
    if not 1 <= shape(form.B)[-1] <= MAX_STATES:
        raise Declined(f"it has {shape(form.B)[-1]} states; the scan accepts up to {MAX_STATES}")
    if not all(each < form.site for each in form.sequences):
        raise Declined("the last state is read before all of the sequences are computed")
    contexts = surroundings.contexts
    if (obstacle := contexts.obstacle([*form.nodes, *form.last_states])) is not None:
        raise Declined(obstacle)
    if fake.device.type in dict(contexts.of(form.site).autocast):
        raise Declined("autocast would round the scan's inputs")
    if (writer := written_meanwhile(form)) is not None:
        raise Declined("something is written to while it runs", writer)


class _Whole(NamedTuple):
    """The sequences not in chunks: (batch, length, heads) and (batch, length, heads, P or N)."""

    A: fx.Node
    X: fx.Node
    B: fx.Node
    C: fx.Node


def _whole(form: Form) -> _Whole:
    """The sequences as they were before the reshapes into chunks, without zeros that only fill the last chunk."""
    before = [_before_chunks(each) for each in form.sequences]
    if None not in before:
        unpadded = [_unpadded(each) for each in before]
        if len({shape(each)[1] for each in unpadded}) == 1:
            return _Whole(*unpadded)
    return _Whole(*(insert(each.graph, "flatten", each, 1, 2) for each in form.sequences))


def _before_chunks(node: fx.Node) -> fx.Node | None:
    if not is_kind(node, Kind.RESHAPE):
        return None
    source = call(node).args["input"]
    batch, chunks, steps, *rest = shape(node)
    return source if shape(source) == (batch, chunks * steps, *rest) else None


def _unpadded(node: fx.Node) -> fx.Node:
    """What was padded with zeros at the end of its axis 1, or not at all."""
    known = call(node)
    if known is None or known.name != "pad" or known.args.get("mode", "constant") != "constant":
        return node
    pad = tuple(known.args["pad"])
    end = 2 * (len(shape(node)) - 2) + 1
    fills = all(isinstance(size, int) and (size == 0 or (at == end and size > 0)) for at, size in enumerate(pad))
    return known.args["input"] if fills and not known.args.get("value") else node


def _discretised(parts: _Whole) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    """u, delta and the rate with A = rate · delta and X = u · delta, where the graph computes them so."""
    axes = tuple(map(Axis, range(4)))
    frame = Frame(shape(parts.X))
    decay = frame.expand(Term(parts.A, axes[:3]), lambda term: term.has(1))
    deltas = [term for term in decay.terms if term.has(1)]
    rates = [term for term in decay.terms if not term.has(1)]
    delta = frame.end(deltas[0]) if len(deltas) == len(rates) == 1 and decay.scale == 1 else None
    if delta is None or delta.axes != axes[:3] or rates[0].numbers != {2}:
        return None
    rest = frame.without(Product((Term(parts.X, axes),)), delta)
    if rest is None or len(rest.terms) != 1 or rest.scale != 1 or rest.terms[0].axes != axes:
        return None
    nodes = (rest.terms[0].node, delta.node, rates[0].node)
    return nodes if all(value(each).dtype == value(parts.X).dtype for each in nodes) else None


def _divided(parts: _Whole, *, learned: bool) -> tuple[fx.Node, fx.Node, fx.Node]:
    """u, delta and the rate -1. Where A is zero delta has no effect on the decay, and is not divided by zero."""
    if learned:
        raise Declined("A and X have no common factor Δ, and gradients through a division by A would lose accuracy")
    put = functools.partial(insert, parts.A.graph)
    tiny = put(torch.lt, put(torch.abs, parts.A), TINY)
    delta = put("masked_fill", put(torch.neg, parts.A), tiny, TINY)
    rate = put("new_full", parts.A, (shape(parts.A)[2],), -1.0)
    return put(torch.div, parts.X, put("unsqueeze", delta, 3)), delta, rate
