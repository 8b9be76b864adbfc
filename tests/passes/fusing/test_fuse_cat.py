"""A Triton scan and the concatenation after it become one scan in place; without a GPU, up to its kernel."""

import pytest
import torch
from torch import fx

from mvc.kernels.implementations import triton_available
from mvc.kernels.scan import selective_scan
from mvc.passes import pipeline
from mvc.passes.fusing.fuse_cat import FuseCat
from mvc.passes.graph.fx_utils import op_counts, shape

pytestmark = [
    pytest.mark.versions,
    pytest.mark.skipif(not triton_available(), reason="triton is not installed"),
]

DIM, STATES = 6, 4


def scan(u):
    steps = torch.ones(DIM, STATES)
    weights = u[..., :STATES]
    return selective_scan(u, u * 0.5, -steps, weights, weights)


def by_chunk(x):
    u, rest = x.chunk(2, dim=-1)
    return torch.cat((scan(u), rest), dim=-1)


def by_split(x):
    u, rest = x.split((DIM, x.shape[-1] - DIM), dim=2)
    return torch.concat([scan(u), rest], 2)


def used_twice(x):
    u, rest = x.chunk(2, dim=-1)
    y = scan(u)
    return torch.cat((y, rest), dim=-1) + y.sum()


def halves_changed(x):
    rest, u = x.chunk(2, dim=-1)
    return torch.cat((scan(u), rest), dim=-1)


def of_another(x):
    u, _ = x.chunk(2, dim=-1)
    return torch.cat((scan(u), (x + 1).chunk(2, dim=-1)[1]), dim=-1)


def along_the_length(x):
    u, rest = x.chunk(2, dim=-1)
    return torch.cat((scan(u), rest), dim=1)


def changed_between(x):
    x = x + 1
    u, rest = x.chunk(2, dim=-1)
    y = scan(u)
    u.mul_(2)
    return torch.cat((y, rest), dim=-1)


def weights_changed_between(x):
    u, rest = x.chunk(2, dim=-1)
    weights = torch.ones(2, 5, STATES)
    y = selective_scan(u, u * 0.5, -torch.ones(DIM, STATES), weights, weights)
    weights.zero_()
    return torch.cat((y, rest), dim=-1)


class OnCpu(fx.Interpreter):
    """Runs a graph with Triton's scans computed by torch's operations."""

    def call_function(self, target, args, kwargs):
        if target is torch.ops.mvc.selective_scan_triton.default:
            return torch.ops.mvc.selective_scan_chunked.default(*args)
        if target is torch.ops.mvc.selective_scan_triton_cat.default:
            x, delta, A, *others = args
            u, rest = x[..., : A.shape[0]], x[..., A.shape[0] :]
            y, _ = torch.ops.mvc.selective_scan_chunked.default(u, delta, A, *others)
            return torch.cat((y, rest), dim=-1)
        return super().call_function(target, args, kwargs)


def run_pass(function, channels=2 * DIM):
    """The graph of a function, its scans given to Triton as on a GPU, after the pass, and its matches; what it computes
    is what the function does."""
    graphs = []

    def backend(graph_module, inputs):
        for node in graph_module.graph.find_nodes(op="call_function", target=torch.ops.mvc.selective_scan.default):
            node.target = torch.ops.mvc.selective_scan_triton.default
        graphs.append((graph_module, FuseCat()(graph_module.graph).matches))
        pipeline.remove_dead_code(graph_module.graph)
        graph_module.recompile()
        return OnCpu(graph_module).run

    torch._dynamo.reset()
    x = torch.randn(2, 5, channels)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(function, backend=backend, fullgraph=True)(x), function(x))
    return graphs[0]


@pytest.mark.parametrize(("function", "channels"), [(by_chunk, 2 * DIM), (by_split, 2 * DIM), (by_split, DIM + 3)])
def test_scan_and_concatenation_become_one(function, channels):
    module, matches = run_pass(function, channels)
    calls = op_counts(module.graph)
    assert matches == calls["mvc.selective_scan_triton_cat"] == 1
    assert not calls.keys() & {"mvc.selective_scan_triton", "cat", "concat"}
    (fused,) = module.graph.find_nodes(op="call_function", target=torch.ops.mvc.selective_scan_triton_cat.default)
    assert shape(fused) == (2, 5, channels)


@pytest.mark.parametrize(
    "function", [used_twice, halves_changed, of_another, along_the_length, changed_between, weights_changed_between]
)
def test_what_looks_alike_is_left_alone(function):
    module, matches = run_pass(function)
    assert matches == 0
    assert op_counts(module.graph)["mvc.selective_scan_triton"] == 1
