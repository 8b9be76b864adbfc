"""Which tensors play which part in Mamba-2's chunked matrix form (SSD, arXiv 2405.21060), by what it computes.

From sequences in chunks, (batch, chunks, steps, heads) and (batch, chunks, steps, heads, P or N), it computes

    h_t = exp(A_t) h_{t-1} + B_t X_tᵀ          from a zero state; h (batch, heads, P, N)
    y_t = h_t C_t

as the sum of what a chunk's own steps and what the chunks before it contribute. Where both are added is the end of the
form; the reshapes into chunks are its beginning.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, fx
from torch.fx.node import map_arg

from mvc.passes import torch_private
from mvc.passes.base import Declined
from mvc.passes.graph.fx_utils import shape, value
from mvc.passes.graph.torch_ops import Kind, call, is_call, is_kind
from mvc.passes.raising import exponentials, modular
from mvc.passes.raising.clusters import Cluster
from mvc.passes.raising.modular import PRIME
from mvc.passes.torch_private import example_size

CHUNKS, STEPS = 1, 2  # axes of the sequences

Known = dict[str, "tuple[int, ...] | str"]  # by a cluster's text: which sources are A, X, B and C, or why it is none


class Form(NamedTuple):
    """The parts of a chunked form: its sequences, y, and the states after the last step."""

    A: fx.Node
    X: fx.Node
    B: fx.Node
    C: fx.Node
    y: fx.Node
    last_states: list[fx.Node]
    nodes: list[fx.Node]

    @property
    def sequences(self) -> tuple[fx.Node, ...]:
        return (self.A, self.X, self.B, self.C)

    @property
    def site(self) -> fx.Node:
        return min([self.y, *self.last_states])


def is_of_segment_sums(node: fx.Node) -> bool:
    """Whether it is exp of sums from one step to another, with minus infinity above the diagonal."""
    known = call(call(node).args["input"]) if is_call(node, "exp") else None
    if known is None or known.name != "masked_fill" or known.args["value"] != float("-inf"):
        return False
    inner = call(known.args["input"])
    if inner is not None and inner.name == "sub":
        inner = call(getattr(call(inner.args["input"]), "args", {}).get("input"))
    return inner is not None and inner.name == "cumsum"


def grow(graph: fx.Graph) -> list[Cluster]:
    """What may be a chunked form: a sum of two terms from segment sums, with all that it is computed from."""
    found: set[fx.Node] = set()
    clusters = []
    for node in graph.nodes:
        inputs = found.intersection(node.all_input_nodes)
        if is_of_segment_sums(node):
            found.add(node)
        elif inputs and exponentials.is_followed(node):
            if is_call(node, "add") and len(inputs) == 2:
                clusters.append(_computed(node))
                found.difference_update(clusters[-1].nodes)
            else:
                found.add(node)
    return clusters


def _computed(y: fx.Node) -> Cluster:
    """What y is computed from, back to what cannot be followed."""
    nodes: set[fx.Node] = set()
    sources: set[fx.Node] = set()
    pending = [y]
    while pending:
        node = pending.pop()
        if node in nodes or node in sources or shape(node) is None:
            continue
        if exponentials.is_followed(node):
            nodes.add(node)
            pending += node.all_input_nodes
        else:
            sources.add(node)
    return Cluster(sorted(sources), sorted(nodes))


def match(cluster: Cluster, known: Known) -> Form:
    """The chunked form that the cluster is.

    Args:
        known: what was found out of other clusters, as the layers of a model are written alike.

    Raises:
        Declined: it is none.
    """
    nodes, sources, y = cluster.nodes, cluster.sources, cluster.nodes[-1]
    last = list(_read_elsewhere(nodes, y))
    written = _written(sources, [*nodes, *last])
    if written not in known:
        try:
            known[written] = _parts(sources, nodes, last)
        except Declined as reason:
            known[written] = str(reason)
    if isinstance(parts := known[written], str):
        raise Declined(parts, y)
    return Form(*(sources[part] for part in parts), y, last, nodes)


def _written(sources: list[fx.Node], nodes: list[fx.Node]) -> str:
    """The calls as text, alike for clusters that are written alike."""
    numbers = {node: f"%{number}" for number, node in enumerate([*sources, *nodes])}
    calls = [map_arg((node.target, node.args, node.kwargs), lambda each: numbers.get(each, each)) for node in nodes]
    kinds = [(value(node).dtype, *shape(node)) for node in (*sources, *nodes)]
    return f"{calls} {kinds}"


def _parts(sources: list[fx.Node], nodes: list[fx.Node], last: list[fx.Node]) -> tuple[int, ...]:
    """Which of the sources are A, X, B and C."""
    y, under = nodes[-1], exponentials.exponents(nodes)
    decays, others = ([each for each in sources if (each in under) == is_decay] for is_decay in (True, False))
    if len(decays) != 1 or len(others) != 3:
        raise Declined(f"it combines {len(sources)} tensors; without an initial state there are 4: A, X, B and C")
    (A,) = decays
    _check_shapes(A, others, y)
    given = {each: modular.sample(value(each), whole=(CHUNKS, STEPS), seed=i) for i, each in enumerate(sources)}
    given[A] = given[A] % (PRIME - 1)
    found = exponentials.evaluate([*nodes, *last], given, under)
    for X, B, C in itertools.permutations(others):
        if shape(B) != shape(C) or shape(X) != shape(y):
            continue
        expected, last_state = _scan(given[A], given[X], given[B], given[C])
        if modular.same(found[y], expected):
            if not all(modular.same(found[each], last_state) for each in last):
                raise Declined("other states than the last are read")
            return tuple(map(sources.index, (A, X, B, C)))
    raise Declined("it does not compute h_t = exp(A_t) h_{t-1} + B_t X_t and y_t = C_t h_t")


def _check_shapes(A: fx.Node, others: list[fx.Node], y: fx.Node) -> None:
    sizes = shape(A)
    if len(sizes) != 4 or any(len(shape(each)) != 5 or shape(each)[:4] != sizes for each in (*others, y)):
        raise Declined("its sequences are not (batch, chunks, steps, heads) and (batch, chunks, steps, heads, ...)")
    if not all(isinstance(size, int) for each in (A, *others) for size in shape(each)[CHUNKS:]):
        raise Declined("the length of the sequence is a symbol")
    if any(example_size(size) == 0 for each in (A, *others) for size in shape(each)):
        raise Declined("it is empty")
    if any(value(each).dtype != value(A).dtype for each in (*others, y)):
        raise Declined("its sequences are of several dtypes")


def _read_elsewhere(nodes: list[fx.Node], y: fx.Node) -> Iterator[fx.Node]:
    """What is taken of the nodes beside y: states, as far as is known yet."""
    members = set(nodes)
    for node in nodes:
        if node is y or exponentials.is_mask(node):
            continue
        for user in node.users:
            if user in members or shape(user) is None:
                continue
            if not is_kind(user, Kind.SELECTION) or not exponentials.is_followed(user):
                raise Declined(f"what it computes on the way is used by {user.name}", user)
            yield user


def _scan(A: Tensor, X: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """y and the last states modulo `PRIME`, by doubling."""
    with torch_private.no_modes():
        chunks = A.shape[CHUNKS : STEPS + 1]
        A, X, B, C = (each.flatten(CHUNKS, STEPS) for each in (A, X, B, C))
        a = exponentials.power(A)[..., None, None]
        h = X[..., None] * B[..., None, :] % PRIME
        apart = 1
        while apart < h.shape[1]:
            h[:, apart:] = (h[:, apart:] + a[:, apart:] * h[:, :-apart]) % PRIME
            a[:, apart:] = a[:, apart:] * a[:, :-apart] % PRIME
            apart *= 2
        y = (h * C[..., None, :] % PRIME).sum(-1) % PRIME
        return y.unflatten(1, chunks), h[:, -1]
