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
from mvc.passes.graph.fx_utils import cast, insert, shape, value
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import Kind, call, is_kind
from mvc.passes.raising.axes import Axis, Term
from mvc.passes.raising.index_notation import Frame, Product
from mvc.passes.raising.scan_safety import absorbed
from mvc.passes.raising.ssd_match import Form, grow, is_of_segment_sums, match

TINY = 1e-20  # exp(±TINY) is 1 in every dtype
# Of the matrix form without and with gradients, as `_work` counts. On a CPU the scan took 2.1 / work of its time under
# Inductor, and 3.3 / work with gradients, for N from 16 to 128, chunks of 16 to 256 and lengths of 256 to 2,048.
LEAST_WORK = {False: 3, True: 4}


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

    The matrix form is left alone where the scan is not known to be faster: on a GPU, and in chunks of few steps.
    """

    name: ClassVar[str] = "raise_ssd"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome = Outcome()
        reasons = dict.fromkeys(_segment_sums(graph.nodes), "Mamba-2's segment sums, but not in its chunked form")
        surroundings, known = Surroundings(graph), {}
        for cluster in grow(graph) if reasons else ():
            try:
                _raise(surroundings, match(cluster, known))
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
    _check_kind(form)
    whole = _whole(form)
    parts = _discretised(whole)
    if parts is None and value(form.y).requires_grad:
        raise Declined("A and X have no common factor Δ, and gradients through a division by A would lose accuracy")
    _check_effects(surroundings, form, {*(parts or whole[:2]), whole.B, whole.C})
    put = functools.partial(insert, form.y.graph)
    with surroundings.at(form.site):
        dtype = value(form.y).dtype
        u, delta, rate = (cast(each, dtype) for each in parts or _divided(whole))
        *_, heads, width = shape(u)
        delta = put("flatten", put("expand", put("unsqueeze", delta, 3), -1, -1, -1, width), 2)
        rate = put("expand", put("reshape", rate, (heads, 1, 1)), -1, width, shape(whole.B)[-1])
        inputs = (put("flatten", u, 2), delta, put("flatten", rate, 0, 1), whole.B, whole.C)
        scan = put(torch.ops.mvc.selective_scan.default, *inputs, *[None] * 5, False, False)
        scan.meta["stack_trace"] = form.y.meta.get("stack_trace")
        y = put("unflatten", put(operator.getitem, scan, 0), 2, (heads, width))
        _, chunks, steps, *_ = shape(form.y)
        if filling := chunks * steps - shape(y)[1]:
            y = put(F.pad, y, (0, 0, 0, 0, 0, filling))
        pairs = {form.y: put("unflatten", y, 1, (chunks, steps))}
        for each in form.last_states:
            pairs[each] = put("unflatten", put(operator.getitem, scan, 1), 1, (heads, width))
        surroundings.replace(pairs)


def _work(form: Form) -> float:
    """Multiply-adds of the matrix form for each state and step: within chunks, to and from states, between chunks."""
    _, chunks, steps, _, width = shape(form.X)
    return steps * (1 / width + 1 / shape(form.B)[-1]) + 2 + chunks / steps


def _check_kind(form: Form) -> None:
    """Raise Declined where the scan is not known to be faster."""
    fake = value(form.y)
    if fake.device.type != "cpu":
        raise Declined("left alone on a GPU, where its matrix products use tensor cores and nothing was measured")
    if fake.dtype != torch.float32:
        raise Declined(f"left alone in {fake.dtype}, in which nothing was measured")
    if not 1 <= shape(form.B)[-1] <= MAX_STATES:
        raise Declined(f"it has {shape(form.B)[-1]} states; the scan accepts up to {MAX_STATES}")
    if _work(form) < LEAST_WORK[fake.requires_grad]:
        raise Declined("left alone in short chunks, where its matrix products are as fast as a scan")


def _check_effects(surroundings: Surroundings, form: Form, inputs: set[fx.Node]) -> None:
    """Raise Declined where the scan of the inputs, at its place, would not compute what the graph computes."""
    if late := [each for each in inputs if not each < form.site]:
        raise Declined(f"the last state is read before {late[0].name} is computed")
    passed = absorbed([form.y, *form.last_states], inputs)
    contexts = surroundings.contexts
    if (obstacle := contexts.obstacle(passed)) is not None:
        raise Declined(obstacle)
    if value(form.y).device.type in dict(contexts.of(form.site).autocast):
        raise Declined("autocast would round the scan's inputs")
    if (writer := next(filter(None, map(surroundings.writer, passed | inputs)), None)) is not None:
        raise Declined("what it computes with is written to", writer)


class _Whole(NamedTuple):
    """The sequences not in chunks: (batch, length, heads) and (batch, length, heads, P or N)."""

    A: fx.Node
    X: fx.Node
    B: fx.Node
    C: fx.Node


def _whole(form: Form) -> _Whole:
    """The sequences as they were before the reshapes into chunks, without zeros that only fill the last chunk."""
    before = [_before_chunks(each) for each in form.sequences]
    unpadded = [_unpadded(each) for each in before]
    return _Whole(*(unpadded if len({shape(each)[1] for each in unpadded}) == 1 else before))


def _before_chunks(node: fx.Node) -> fx.Node:
    source = call(node).args["input"] if is_kind(node, Kind.RESHAPE) else None
    batch, chunks, steps, *rest = shape(node)
    if source is None or shape(source) != (batch, chunks * steps, *rest):
        raise Declined("its chunks are not made by a reshape of axis 1", node)
    return source


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
    return rest.terms[0].node, delta.node, rates[0].node


def _divided(parts: _Whole) -> tuple[fx.Node, fx.Node, fx.Node]:
    """u, delta and the rate -1; where A is zero, delta is not, but as good as zero for the decay."""
    put = functools.partial(insert, parts.A.graph)
    tiny = put(torch.lt, put(torch.abs, parts.A), TINY)
    delta = put("masked_fill", put(torch.neg, parts.A), tiny, TINY)
    rate = put("new_full", parts.A, (shape(parts.A)[2],), -1.0)
    return put(torch.div, parts.X, put("unsqueeze", delta, 3)), delta, rate
