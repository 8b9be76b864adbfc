"""Values of parameters alone, computed once: what moves, what must not, and that changed weights take effect."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mvc.passes.constants import constants
from mvc.passes.freeze import Frozen, freeze, split_constants
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]


def compiled(module: nn.Module, splits: list | None = None):
    """The module with its constants apart, both graphs run as they are; splits go into the list."""

    def backend(graph_module, inputs):
        if splits is not None:
            splits.append(split_constants(graph_module))
        return freeze(graph_module, inputs, lambda main, _: main.forward)

    torch._dynamo.reset()
    return torch.compile(module, backend=backend, fullgraph=True)


def names(graph_module) -> list[str]:
    return [str(getattr(n.target, "__name__", n.target)) for n in graph_module.graph.nodes if "call" in n.op]


class Decay(nn.Module):
    """Computes exp of a parameter, of which it takes a view; a buffer is used as it is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.log = nn.Parameter(torch.randn(4))
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.register_buffer("shift", torch.randn(3))

    def forward(self, x):
        decay = -torch.exp(self.log.float())
        return F.linear(x * decay.view(2, 2).flatten(), self.weight.t()) + self.shift


@torch.no_grad()
def test_what_parameters_alone_decide_moves():
    splits, module, x = [], Decay(), torch.randn(2, 4)
    run = compiled(module, splits)
    torch.testing.assert_close(run(x), module(x))
    (split,) = splits
    assert names(split.constants) == ["float", "exp", "neg"]
    assert names(split.main) == ["view", "flatten", "mul", "t", "linear", "add"], "views stay with their users"
    assert len(split.parameters) == len(split.fakes) == 1
    assert len(split.kept) == 3, "x, weight and shift; log is not an input of the main graph any more"


@torch.no_grad()
def test_constants_are_computed_once():
    splits, module, x = [], Decay(), torch.randn(2, 4)

    def backend(graph_module, inputs):
        frozen = freeze(graph_module, inputs, lambda main, _: main.forward)
        splits.append(frozen)
        return frozen

    torch._dynamo.reset()
    run = torch.compile(module, backend=backend)
    run(x)
    (frozen,) = splits
    assert isinstance(frozen, Frozen)
    before = frozen._current[1]
    run(torch.randn(2, 4))
    assert frozen._current[1] is before


def in_place(module):
    module.log.mul_(2)


def through_load_state_dict(module):
    module.load_state_dict({name: value + 1 for name, value in module.state_dict().items()})


def through_assignment(module):
    state = {name: value + 1 for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def another_parameter(module):
    module.log = nn.Parameter(torch.randn(4))


def other_memory(module):
    module.log.data = torch.randn(4)


def through_data_then_told(module):
    module.log.data.mul_(2)
    torch.autograd.graph.increment_version(module.log)


def optimizer_step(module):
    module.log.grad = torch.ones(4)
    torch.optim.SGD([module.log], lr=0.5).step()


CHANGES = [
    in_place,
    through_load_state_dict,
    through_assignment,
    another_parameter,
    other_memory,
    through_data_then_told,
    optimizer_step,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@torch.no_grad()
def test_changed_weights_take_effect(change):
    module, x = Decay(), torch.randn(2, 4)
    run = compiled(module)
    before = run(x)
    change(module)
    torch.testing.assert_close(run(x), module(x))
    assert not torch.equal(run(x), before)


@torch.no_grad()
def test_two_modules_of_one_graph_do_not_share_constants():
    first, x = Decay(), torch.randn(2, 4)
    second = copy.deepcopy(first)
    second.log.add_(1)

    def backend(graph_module, inputs):
        return freeze(graph_module, inputs, lambda main, _: main.forward)

    torch._dynamo.reset()
    run = torch.compile(lambda module, x: module(x), backend=backend)
    for module in (first, second, first):
        torch.testing.assert_close(run(module, x), module(x))


def frozen_decay() -> tuple[Frozen, list[torch.Tensor]]:
    """The frozen function itself, and inputs for it."""
    made = []

    def backend(graph_module, inputs):
        made.extend((freeze(graph_module, inputs, lambda main, _: main.forward), inputs))
        return graph_module.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(Decay(), backend=backend)(torch.randn(2, 4))
    frozen, inputs = made
    return frozen, [tensor.detach().clone() for tensor in inputs]


@torch.no_grad()
def test_a_tensor_in_a_freed_ones_place_is_another():
    frozen, inputs = frozen_decay()
    frozen(*inputs)
    assert frozen._current[1]
    del inputs
    gc.collect()
    assert frozen._current == (None, (), [])


def test_inference_tensors_are_computed_with_each_time():
    frozen, inputs = frozen_decay()
    with torch.inference_mode():
        inputs = [tensor.clone() for tensor in inputs]
        before = frozen(*inputs)[0]
        for tensor in inputs:
            tensor.mul_(2)
        assert not torch.equal(frozen(*inputs)[0], before)


class Written(nn.Module):
    """A buffer that the graph writes to: here through a view, later than its first use."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.ones(3))

    def forward(self, x):
        y = x * self.steps.exp()
        self.steps.view(3, 1)[0].add_(1)
        return y


class Returned(nn.Module):
    """A result that a caller may write to."""

    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.randn(3))

    def forward(self, x):
        decay = self.log.exp()
        return x * decay, decay[:2]


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))

    def forward(self, x):
        return x * F.dropout(self.weight, 0.5, training=True)


class Running(nn.Module):
    """BatchNorm in training mode writes to its statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(x) * self.norm.running_var.sqrt()


class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ (self.weight @ self.weight)


class OwnSize(nn.Module):
    """What depends on an input's size is not a matter of parameters alone."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 3))

    def forward(self, x):
        return x * self.weight.repeat(x.shape[0], 1)


@pytest.mark.parametrize(
    ("module", "size"),
    [(Written(), 3), (Returned(), 3), (Random(), 64), (Running(), 3), (Autocast(), 3), (OwnSize(), 3)],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
@torch.no_grad()
def test_what_must_not_move_stays(module, size):
    splits, x = [], torch.randn(2, size)
    torch._dynamo.mark_dynamic(x, 0)
    reference = copy.deepcopy(module)
    run = compiled(module, splits)
    for _ in range(3):
        y = run(x)
        if not isinstance(module, Random):
            torch.testing.assert_close(y, reference(x))
    assert splits[0] is None


def test_a_graph_that_turns_gradients_on_has_no_constants():
    class Enabling(Decay):
        def forward(self, x):
            with torch.enable_grad():
                return super().forward(x)

    graphs = []
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(Enabling(), backend=lambda g, _: graphs.append(g) or g.forward)(torch.randn(2, 4))
    assert constants(graphs[0].graph) == set()


CACHED = """
import torch
from mvc.passes.freeze import freeze
from torch._dynamo.utils import counters
from torch._inductor.compile_fx import compile_fx
from tests.test_freeze import Decay

module, x = Decay(), torch.randn(2, 4)
with torch.no_grad():
    run = torch.compile(module, backend=lambda g, inputs: freeze(g, inputs, compile_fx))
    torch.testing.assert_close(run(x), module(x))
    module.log.add_(1)
    torch.testing.assert_close(run(x), module(x))
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


def test_a_second_process_finds_the_compiled_graph(tmp_path):
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_AUTOGRAD_CACHE": "0"}
    counts = []
    for _ in range(2):
        command = [sys.executable, "-c", CACHED]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        counts.append(done.stdout.split()[-2:])
    assert counts == [["1", "0"], ["0", "1"]]
