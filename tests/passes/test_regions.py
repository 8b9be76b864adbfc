"""Passes inside the bodies of higher-order operators."""

import dataclasses

import pytest
import torch
from recurrences import decayed, pair
from torch import fx
from torch._higher_order_ops.map import map as map_over
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint
from toy_passes import Replace, capture

from mvc.passes import pipeline
from mvc.passes.base import Outcome, Pass
from mvc.passes.graph.fx_utils import insert
from mvc.passes.graph.regions import op_counts, regions
from mvc.passes.raising.raise_higher_order import RaiseHigherOrder
from mvc.passes.raising.raise_loop import RaiseLoop
from mvc.passes.raising.raise_pscan import RaisePscan

pytestmark = pytest.mark.versions

RAISE = RaiseLoop(always=True)
region = torch.compiler.nested_compile_region(decayed)


class Decayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return decayed(a, b)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return grad * b, decayed(a.flip(1), grad.flip(1)).flip(1)


def in_cond(a, b):
    return torch.cond(a.sum() > 0, lambda a, b: decayed(a, b), lambda a, b: decayed(b, a) + 1, (a, b))


def in_while_loop(a, b):
    def going(i, x):
        return (i < 2) & (decayed(a, x).sum() < 1e9)

    return while_loop(going, lambda i, x: (i + 1, decayed(a, x)), (torch.tensor(0), b.clone()))


def in_map(a, b):
    return map_over(lambda x, y: decayed(x, y), torch.stack([a, -a]), b)


def in_scan(a, b):
    return scan(lambda h, x: (torch.tanh(h) + decayed(x, x), h.sum(1)), a, torch.stack([a, b]), dim=0)


def without_gradients(a, b):
    return torch.ops.higher_order.wrap_with_set_grad_enabled(False, lambda a, b: decayed(a, b), a, b)


def in_autocast(a, b):
    return torch.ops.higher_order.wrap_with_autocast(
        "cpu", torch.bfloat16, True, True, lambda a, b: decayed(a, b), a, b
    )


def in_two_conds(a, b):
    return torch.cond(b.sum() > 0, in_cond, lambda a, b: a + b, (a, b))


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda a, b: checkpoint(decayed, a, b, use_reentrant=False), ["wrap_body_0"]),
        (lambda a, b: region(region(a, b), b), ["subgraph_0"]),
        (in_cond, ["cond_true_0", "cond_false_0"]),
        (in_while_loop, ["cond_fn_0", "body_fn_0"]),
        (in_map, ["map_body_0"]),
        (in_scan, ["scan_combine_fn_0"]),
        (without_gradients, ["wrap_body_0"]),
        (in_autocast, ["wrap_body_0"]),
        (in_two_conds, ["cond_true_1.cond_true_0", "cond_true_1.cond_false_0"]),
    ],
    ids=["checkpoint", "region", "cond", "while_loop", "map", "scan", "gradients", "autocast", "nested"],
)
def test_loops_in_bodies_are_raised(function, names):
    inputs = pair(2, 5, 3, dtype=torch.float64)
    module, given = capture(function, *inputs)
    expected = module(*given)
    records = pipeline.run([RAISE], module)
    assert [record.region for record in records if record.fired] == names
    assert not any(record.error for record in records)
    assert op_counts(module)["mvc.linear_recurrence"] == len(names)
    torch.testing.assert_close(module(*given), expected)


def test_observers_are_outside_of_a_bodys_context():
    """What compares whole runs would take its autocast for something that the run has left switched on."""
    module, _ = capture(in_autocast, *pair(2, 5, 3))
    seen = []
    pipeline.run([RAISE], module, observers=[lambda *_: seen.append(torch.is_autocast_enabled("cpu"))])
    assert seen == [False]


def test_forward_and_backward_of_a_function_are_raised():
    inputs = [each.requires_grad_() for each in pair(2, 5, 3, dtype=torch.float64)]
    module, given = capture(Decayed.apply, *inputs)
    records = pipeline.run([RAISE], module)
    assert [record.region for record in records if record.fired] == ["fwd_body_0", "bwd_body_0"]
    got = torch.autograd.grad(module(*given)[0].sin().sum(), given)
    wanted = torch.autograd.grad(Decayed.apply(*given).sin().sum(), given)
    torch.testing.assert_close(got, wanted)


def test_bodies_of_other_operators_are_only_looked_at():
    def program(x):
        return flex_attention(x, x, x, score_mod=lambda score, b, h, q, k: torch.sin(score))

    module, _ = capture(program, torch.ones(1, 1, 16, 16))
    records = pipeline.run([Replace()], module)
    assert not any(record.matches for record in records)
    (miss,) = [miss for record in records if record.region for miss in record.near_misses]
    assert miss.reason.startswith("flex_attention hides it")
    assert "test_regions.py" in miss.source
    assert op_counts(module)["sin"] == 1


def test_a_loop_under_vmap_in_a_branch_names_both():
    module, _ = capture(torch.vmap(in_cond), *pair(3, 2, 5, 3))
    records = pipeline.run([RAISE], module)
    reasons = [miss.reason for record in records for miss in record.near_misses]
    assert reasons == ["cond hides it inside torch.func.vmap"] * 2


def test_a_body_called_in_two_contexts_is_left_alone():
    module, _ = capture(lambda a, b: region(region(a, b), b), *pair(2, 5, 3))
    calls = [each for each in module.graph.nodes if each.target is torch.ops.higher_order.invoke_subgraph]
    with module.graph.inserting_before(calls[1]):
        module.graph.call_function(torch._C._set_grad_enabled, (False,))
    _, record = pipeline.run([RAISE], module)
    assert [miss.reason for miss in record.near_misses] == [
        "it is called in two contexts: gradients are switched on or off inside it"
    ]


def test_bodies_run_in_the_context_of_their_call():
    def program(a, b):
        with torch.autocast("cpu", torch.bfloat16):
            return checkpoint(lambda a, b: decayed(a, b) @ torch.ones(3, 3), a, b, use_reentrant=False)

    module, given = capture(program, *pair(2, 5, 3))
    expected = module(*given)
    *_, record = pipeline.run([RAISE], module)
    assert (record.region, record.matches) == ("wrap_body_0", 1)
    (y,) = module(*given)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected[0])


@dataclasses.dataclass(frozen=True)
class Transposed(Pass):
    """Puts a copy with other strides in the place of what the graph returns."""

    name = "transposed"

    def __call__(self, graph: fx.Graph) -> Outcome:
        output = graph.output_node()
        (result,) = output.all_input_nodes
        with graph.inserting_before(output):
            turned = insert(graph, "contiguous", insert(graph, torch.transpose, result, 0, 1))
            output.replace_input_with(result, insert(graph, torch.transpose, turned, 0, 1))
        return Outcome(1)


def test_what_a_body_returns_keeps_its_strides():
    module, _ = capture(lambda a, b: checkpoint(torch.add, a, b, use_reentrant=False).exp(), *pair(2, 3))
    _, inner = pipeline.run([Transposed()], module)
    assert inner.matches == 0
    assert inner.nodes_after == inner.nodes_before
    assert [miss.reason for miss in inner.near_misses] == [
        "tag_activation_checkpoint would see results of another kind or with other strides"
    ]


def test_bodies_whose_call_is_replaced_are_not_visited():
    def program(a, b):
        return scan(lambda h, x: (x * h + 1, h.clone()), b, a, dim=0)[0]

    module, _ = capture(program, torch.rand(5, 3), torch.rand(3))
    records = pipeline.run([RaiseHigherOrder(), RAISE], module)
    assert [(record.name, record.region, record.matches) for record in records] == [
        ("raise_higher_order", "", 1),
        ("raise_loop", "", 0),
    ]


def test_a_function_is_looked_at_before_its_bodies():
    """A parallel scan in an autograd function is raised with its backward, and not each for itself."""
    module, _ = capture(Decayed.apply, *(each.requires_grad_() for each in pair(2, 4, 3)))
    assert [each.name for each in regions(module)] == ["", "fwd_body_0", "bwd_body_0"]
    assert [record.region for record in pipeline.run([RaisePscan()], module)] == ["", "fwd_body_0", "bwd_body_0"]


def test_a_body_counts_once():
    module, _ = capture(lambda a, b: region(region(a, b), b), *pair(2, 5, 3))
    assert op_counts(module)["sigmoid"] == 5
