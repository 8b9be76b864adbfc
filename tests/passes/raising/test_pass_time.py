"""The time of the raising passes is linear in the steps of a loop, whether it is raised or not."""

from __future__ import annotations

import operator
import time

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from mvc.passes import pipeline
from mvc.passes.graph.fx_utils import insert
from mvc.passes.torch_private import copy_graph

RAISING = [name for name in pipeline.PASSES if name.startswith("raise")]


def updated(graph, h, a, b):
    return insert(graph, operator.add, insert(graph, operator.mul, a, h), b)


def plain(graph, h, a, b):
    h = updated(graph, h, a, b)
    return h, h


def read_first(graph, h, a, b):
    """RWKV's: what is put out is of the state before."""
    return updated(graph, h, a, b), insert(graph, operator.add, h, b)


def activated(graph, h, a, b):
    h = insert(graph, torch.relu, updated(graph, h, a, b))
    return h, h


def multiplied(graph, h, a, b):
    h = insert(graph, operator.add, insert(graph, operator.matmul, h, a), b)
    return h, h


def last_alone(graph, h, a, b):
    return updated(graph, h, a, b), None


def unrolled(step, length: int) -> fx.Graph:
    """The graph of a loop over square matrices, as Dynamo unrolls it."""
    graph = fx.Graph()
    with FakeTensorMode():
        sizes = {"a": (length, 2, 2), "b": (length, 2, 2), "h": (2, 2)}
        a, b, h = (graph.placeholder(name) for name in sizes)
        for node, size in zip((a, b, h), sizes.values(), strict=True):
            node.meta["example_value"] = torch.empty(size)
    outputs = []
    for t in range(length):
        h, output = step(graph, h, insert(graph, operator.getitem, a, t), insert(graph, operator.getitem, b, t))
        outputs.append(output)
    graph.output((insert(graph, torch.stack, outputs) if outputs[0] else h,))
    return graph


def measured(step, length: int) -> tuple[int, float]:
    """Nodes, and the least of the processor's seconds in three runs."""
    graph, took = unrolled(step, length), []
    for _ in range(3):
        module = fx.GraphModule(torch.nn.Module(), copy_graph(graph))
        start = time.process_time()
        pipeline.run(pipeline.build(RAISING), module, strict=True)
        took.append(time.process_time() - start)
    return len(graph.nodes), min(took)


@pytest.mark.parametrize("step", [plain, read_first, activated, multiplied, last_alone], ids=lambda step: step.__name__)
def test_four_times_the_steps_take_four_times_as_long(step):
    """Of a quadratic pass each node would take four times as long."""
    (few, short), (many, long) = (measured(step, length) for length in (64, 256))
    assert many > 3.9 * few
    assert long / many < 2 * short / few
