"""Indices, orders of axes and reshapes: what torch does with a tensor is what the parsers say."""

from __future__ import annotations

import pytest
import torch
from toy_passes import capture

from mvc.passes.graph.memory import written_by
from mvc.passes.graph.torch_ops import Kind, call
from mvc.passes.graph.views import Piece, axis_order, index_parts, is_cast, is_exact_cast, regrouped, selection, view_of

pytestmark = pytest.mark.versions  # what Dynamo's graphs hold differs from one torch to the next

SIZES = (2, 3, 1, 5)


def last_call(function, *sizes):
    """The last call in Dynamo's graph of the function of a tensor."""
    module, _ = capture(function, torch.arange(float(torch.Size(sizes).numel())).reshape(sizes))
    return [node for node in module.graph.nodes if node.op in ("call_function", "call_method")][-1]


INDICES = [
    0,
    (slice(None), -1),
    (..., 2),
    (None, ..., slice(1, None)),
    (slice(0, 2), None, 1),
    (...,),
    slice(None, None, 2),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_index_by_its_parts_selects_the_same(index):
    x = torch.rand(SIZES)
    parts = index_parts(index, x.dim())
    assert [part.axis for part in parts if part.axis is not None] == [0, 1, 2, 3]
    assert torch.equal(x[tuple(part.item for part in parts)], x[index])


@pytest.mark.parametrize("index", [True, [0, 1], torch.tensor([0]), (..., ...)], ids=str)
def test_other_indices_are_not_parsed(index):
    assert index_parts(index, 4) is None


SELECTIONS = {
    "getitem": lambda x: x[..., 1:3],
    "select": lambda x: x.select(-1, -2),
    "narrow": lambda x: x.narrow(1, -2, 2),
    "unbind": lambda x: x.unbind(1)[-1],
    "chunk": lambda x: x.chunk(2, 3)[1],
    "split": lambda x: x.split([1, 3, 1], -1)[1],
    "split-evenly": lambda x: x.split(2, 1)[1],
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_selection_is_an_index(name):
    node = last_call(SELECTIONS[name], *SIZES)
    x = torch.rand(SIZES)
    chosen = selection(node)
    assert chosen.input.op == "placeholder"
    assert torch.equal(x[chosen.index], SELECTIONS[name](x))


def test_pieces_of_unknown_sizes_are_no_index():
    graphs = []

    def backend(module, _):
        graphs.append(module.graph)
        return module.forward

    x = torch.rand(6, 4)
    torch._dynamo.mark_dynamic(x, 0)
    torch.compiler.reset()
    torch.compile(lambda x: [2 * x.chunk(2)[1], 2 * x.chunk(2, 1)[1]], backend=backend, fullgraph=True)(x)
    (graph,) = graphs
    first, second = (node.args[1] for node in graph.nodes if call(node) is not None and call(node).name == "mul")
    assert selection(first) is None
    assert selection(second).index == (slice(None), slice(2, 4))


ORDERS = {
    "transpose": lambda x: x.transpose(-1, 0),
    "swapaxes": lambda x: torch.swapaxes(x, axis0=1, axis1=2),
    "permute": lambda x: x.permute(3, 0, -2, 1),
    "movedim": lambda x: x.movedim(-1, 1),
    "moveaxis-of-two": lambda x: torch.moveaxis(x, (0, 1), (2, 0)),
    "mT": lambda x: x.mT,
}


@pytest.mark.parametrize("name", ORDERS)
def test_every_permutation_is_an_order(name):
    node = last_call(ORDERS[name], *SIZES)
    assert call(node).kind is Kind.PERMUTATION
    x = torch.rand(SIZES)
    assert torch.equal(x.permute(axis_order(node)), ORDERS[name](x))


VIEWS = {
    "unsqueeze": (lambda x: x.unsqueeze(-1), (0, 1, 2, 3, None)),
    "squeeze": (lambda x: x.squeeze(2), (0, 1, 3)),
    "squeeze-all": (lambda x: x.squeeze(), (0, 1, 3)),
    "squeeze-some": (lambda x: x.squeeze((0, 2)), (0, 1, 3)),
    "view": (lambda x: x.view(2, 1, 3, 5), (0, None, 1, 3)),
    "flatten": (lambda x: x.flatten(1, 2), (0, 1, 3)),
    "expand": (lambda x: x.expand(2, 3, 4, 5), (0, 1, None, 3)),
    "entry": (lambda x: x[:, 1:2, None], (0, None, None, 2, 3)),
    "clone": (lambda x: x.clone(), (0, 1, 2, 3)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_axes_come_from_those_of_the_input(name):
    function, sources = VIEWS[name]
    assert view_of(last_call(function, *SIZES)).sources == sources


@pytest.mark.parametrize("method", ["transpose_", "unsqueeze_", "squeeze_"])
def test_a_tensor_that_is_moved_in_place_is_no_view(method):
    node = last_call(lambda x: getattr(x.clone(), method)(*((0, 1) if method == "transpose_" else (2,))), *SIZES)
    assert call(node).kind is Kind.WRITE
    assert view_of(node) is None
    assert written_by(node) == [node.args[0]]


def test_what_joins_or_splits_axes_is_no_view_of_axes():
    assert view_of(last_call(lambda x: x.flatten(0, 1), *SIZES)) is None
    assert view_of(last_call(lambda x: x[..., ::2], *SIZES)) is None


RESHAPES = [
    ((2, 3, 4), (6, 4), [[Piece(0, 2, 1), Piece(1, 3, 1)], [Piece(2, 4, 1)]]),
    ((6, 4), (2, 3, 4), [[Piece(0, 2, 3)], [Piece(0, 3, 1)], [Piece(1, 4, 1)]]),
    ((4, 6), (8, 3), [[Piece(0, 4, 1), Piece(1, 2, 3)], [Piece(1, 3, 1)]]),
    ((2, 1, 3), (2, 3), [[Piece(0, 2, 1)], [Piece(2, 3, 1)]]),
    ((1, 3), (1, 1, 3), [[Piece(0, 1, 1)], [], [Piece(1, 3, 1)]]),
    ((0, 3), (0, 3), [[Piece(0, 0, 1)], [Piece(1, 3, 1)]]),
    ((2, 3), (3, 2), None),
    ((0, 3), (3, 0), None),
    ((2, 3), (2,), None),
]


@pytest.mark.parametrize(("before", "after", "expected"), RESHAPES, ids=str)
def test_axes_of_a_reshape_are_pieces_of_axes(before, after, expected):
    assert regrouped(before, after) == expected


@pytest.mark.parametrize(("before", "after"), [each[:2] for each in RESHAPES if each[2] and 0 not in each[0]], ids=str)
def test_pieces_say_where_each_element_lies(before, after):
    """Elements that are numbered by their places before have, along each axis after, the steps of the pieces."""
    numbers = torch.arange(torch.Size(before).numel()).reshape(before)
    for axis, pieces in enumerate(regrouped(before, after)):
        steps = torch.zeros((), dtype=torch.int64)
        for piece in pieces:
            stride = piece.stride * numbers.stride(piece.axis)
            steps = (steps[..., None] + torch.arange(piece.size) * stride).flatten()
        along = numbers.reshape(after).movedim(axis, 0).flatten(1)[:, 0]
        assert torch.equal(along, steps.reshape(-1))


def test_casts_are_between_floating_types():
    assert is_cast(last_call(lambda x: x.type(torch.float64), 3))
    assert is_exact_cast(last_call(lambda x: x.double(), 3))
    assert not is_exact_cast(last_call(lambda x: x.half(), 3))
    assert is_exact_cast(last_call(lambda x: x.half().float().half(), 3))
    assert not is_cast(last_call(lambda x: x.to(torch.int64), 3))
