"""Which implementation a scan is lowered to, and what is left where it cannot run."""

import pytest
import torch
from scan_cases import Case, make_inputs, tensors_of
from toy_passes import capture

from mvc import selective_scan
from mvc.kernels import cpu_scan, implementations
from mvc.kernels.recurrence import linear_recurrence
from mvc.passes.graph.fx_utils import insert, op_counts
from mvc.passes.lowering.lower_scan import LowerScan, decompositions

pytestmark = pytest.mark.versions

IMPLS = {None: "mvc.selective_scan_cpu", "cpp": "mvc.selective_scan_cpu", "chunked": "mvc.selective_scan_chunked"}


def scan(tensors):
    return selective_scan(**tensors, delta_softplus=True, return_last_state=True)


def scan_graph(dtype=torch.float32, **changes):
    tensors = {
        name: t.requires_grad_(t.is_floating_point()) for name, t in tensors_of(make_inputs(Case(), dtype)).items()
    }
    module, inputs = capture(scan, {**tensors, **changes})
    return module, inputs, tensors


@pytest.mark.parametrize("impl", [None, "cpp", "chunked", "reference"])
def test_lowered_scan_computes_the_same(impl):
    module, inputs, tensors = scan_graph()
    expected = scan(tensors)
    assert LowerScan(impl)(module.graph).matches == 1
    module.recompile()
    counts = op_counts(module.graph)
    assert counts["mvc.selective_scan"] == 0
    assert counts[IMPLS.get(impl, "reference_scan")] == 1
    actual = module(*inputs)
    names = [name for name, t in tensors.items() if t.requires_grad]
    gradients = [
        torch.autograd.grad(sum(each.sum() for each in result), [tensors[name] for name in names], retain_graph=True)
        for result in (actual, expected)
    ]
    for result, oracle in zip((*actual, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(result, oracle, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("impl", "dtype", "reason"),
    [
        ("triton", torch.float32, "impl='triton' runs on cuda, the result is on cpu"),
        ("cpp", torch.float64, "torch.float64, which impl='cpp' does not accept"),
    ],
    ids=["triton-on-cpu", "cpp-float64"],
)
def test_impossible_choice_leaves_the_portable_op(impl, dtype, reason):
    module, _, _ = scan_graph(dtype)
    outcome = LowerScan(impl)(module.graph)
    assert outcome.matches == 0
    assert reason in outcome.near_misses[0].reason
    assert "return selective_scan" in outcome.near_misses[0].source
    assert op_counts(module.graph)["mvc.selective_scan"] == 1


@pytest.mark.parametrize("why", ["float64", "no-compiler"])
def test_chunked_where_nothing_else_runs(why, monkeypatch):
    if why == "no-compiler":
        monkeypatch.setattr(cpu_scan, "available", lambda: False)
    module, _, _ = scan_graph(torch.float64 if why == "float64" else torch.float32)
    assert LowerScan()(module.graph).matches == 1
    assert op_counts(module.graph)["mvc.selective_scan_chunked"] == 1


def test_cuda_graph_gets_triton():
    """Shapes and device alone decide, so fake CUDA tensors show it."""
    if not implementations.triton_available():
        pytest.skip("triton is not installed")
    graph = torch.fx.Graph()
    nodes = []
    with torch._subclasses.FakeTensorMode():
        for name, t in tensors_of(make_inputs(Case())).items():
            node = graph.placeholder(name)
            node.meta["example_value"] = torch.empty(t.shape, dtype=t.dtype, device="cuda")
            nodes.append(node)
    insert(graph, torch.ops.mvc.selective_scan.default, *nodes, True, False)
    assert LowerScan()(graph).matches == 1
    assert op_counts(graph)["mvc.selective_scan_triton"] == 1


def test_packet_is_lowered_too():
    def call(u, A, B):
        return torch.ops.mvc.selective_scan(u, u, A, B, B, None, None, None, None, None, False, False)

    module, _ = capture(call, torch.ones(1, 3, 2), torch.ones(2, 4), torch.ones(1, 3, 1, 4))
    assert LowerScan()(module.graph).matches == 1


def test_exported_program_without_custom_ops():
    """What a format without custom ops needs: aten alone, with the scan's results."""
    tensors = tensors_of(make_inputs(Case()))

    class Scan(torch.nn.Module):
        def forward(self, tensors):
            y, last_state = scan(tensors)
            return linear_recurrence(y.sigmoid(), y, dim=1), last_state

    program = torch.export.export(Scan(), (tensors,))
    lowered = program.run_decompositions(decompositions())
    assert not [name for name in op_counts(lowered.graph) if name.startswith("mvc")]
    for actual, expected in zip(lowered.module()(tensors), Scan()(tensors), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", [None, "cpp", "chunked", "reference"])
def test_lowered_recurrence_computes_the_same(impl):
    def run(a, b, h):
        return linear_recurrence(a, b, h, dim=1, reverse=True)

    tensors = [torch.rand(2, 5, 3), torch.rand(2, 5, 1), torch.rand(2, 3)]
    module, inputs = capture(run, *tensors)
    assert LowerScan(impl)(module.graph).matches == 1
    module.recompile()
    assert op_counts(module.graph)["mvc.linear_recurrence"] == 0
    torch.testing.assert_close(module(*inputs)[0], run(*tensors))
