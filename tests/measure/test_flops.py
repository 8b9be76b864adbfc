"""FLOPs of what runs, of nodes of a graph and of calls by their shapes: all are those of torch's counter."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from mvc import selective_scan
from mvc.measure import flops


def test_a_run_counts_products_and_leaves_scans_out():
    assert flops.count(lambda: torch.randn(3, 5) @ torch.randn(5, 7)) == 2 * 3 * 5 * 7
    u, A, B = torch.ones(1, 4, 6), -torch.ones(6, 2), torch.ones(1, 4, 2)
    assert flops.count(lambda: selective_scan(u, u, A, B, B)) == 0


@pytest.mark.versions
@pytest.mark.parametrize("training", [False, True], ids=["forward", "backward"])
def test_attention_counts_on_a_cpu(training):
    """Two products, and five backward, which computes the scores again."""

    def run():
        q, k, v = (torch.zeros(2, 4, 16, 8, requires_grad=training) for _ in range(3))
        y = F.scaled_dot_product_attention(q, k, v)
        if training:
            y.sum().backward()

    product = 2 * 2 * 4 * 16 * 16 * 8
    assert flops.count(run) == (7 if training else 2) * product


@pytest.mark.versions
def test_nodes_count_what_running_them_does():
    x, weight, matrix = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(8, 5)

    def run(x, weight, matrix):
        return (F.conv2d(x, weight, padding=1) @ matrix).relu()

    graph = make_fx(run, tracing_mode="fake")(x, weight, matrix).graph
    calls = graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)
    assert [flops.of_node(node) for node in calls] == [0]
    total = sum(flops.of_node(node) for node in graph.nodes if node.op == "call_function")
    assert total == flops.count(lambda: run(x, weight, matrix)) > 0


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "expected"),
    [
        ("aten::mm", [[3, 5], [5, 7]], [[3, 7]], 2 * 3 * 5 * 7),
        ("aten::relu", [[3, 5]], [[3, 5]], None),
        ("aten::mm", [], [], None),
        ("aten::_flash_attention_forward", [[96, 4, 8]] * 3, [[96, 4, 8]], None),
    ],
    ids=["product", "elementwise", "without tensors", "packed sequences"],
)
def test_a_call_counts_by_its_shapes_or_is_unknown(name, inputs, outputs, expected):
    assert flops.of_call(name, inputs, outputs) == expected
