"""Linear layers on oneDNN with packed weights: numerics, what is fused, what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._inductor.compile_fx import compile_fx
from torch.nn import functional as F

from mvc.passes import measured_choice, torch_private
from mvc.passes.base import Outcome
from mvc.passes.frozen.freeze import freeze
from mvc.passes.frozen.prepack_linear import PrepackLinear
from mvc.passes.graph.fx_utils import op_counts

pytestmark = pytest.mark.skipif(not torch_private.has_onednn(torch.float32), reason="this torch is without oneDNN")
DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if torch_private.has_onednn(dtype)]


@torch.no_grad()
def run(module: nn.Module, x: torch.Tensor, which=None, *, compile=None):
    """The rewritten and frozen module as a function, what the pass did, and the main graph's calls."""
    found = []

    def backend(graph_module, inputs):
        outcome = (which or PrepackLinear(force="fused"))(graph_module.graph)
        graph_module.graph.eliminate_dead_code()
        graph_module.graph.lint()
        graph_module.recompile()

        def record(main, main_inputs):
            found.extend((outcome, op_counts(main.graph)))
            return compile(main, main_inputs) if compile else main.forward

        return freeze(graph_module, inputs, record)

    torch._dynamo.reset()
    function = torch.compile(module, backend=backend, fullgraph=True)
    function(x)
    return function, *found


class Layer(nn.Module):
    """A linear layer and what follows it."""

    def __init__(self, after=lambda y: y, *, bias: bool = True, dtype: torch.dtype = torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 6).to(dtype))
        self.bias = nn.Parameter(torch.randn(8).to(dtype)) if bias else None
        self.after = after

    def forward(self, x):
        return self.after(F.linear(x, self.weight, self.bias))


ACTIVATIONS = {
    "relu": F.relu,
    "relu-in-place": lambda y: y.relu_(),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu-tanh": lambda y: F.gelu(y, approximate="tanh"),
    "none": lambda y: y,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@torch.no_grad()
def test_one_call_for_bias_and_activation(activation, bias, dtype):
    module = Layer(ACTIVATIONS[activation], bias=bias, dtype=dtype)
    x = torch.randn(2, 3, 6).to(dtype)
    function, outcome, calls = run(module, x)
    assert outcome == Outcome(matches=1)
    assert calls == {"mvc.packed_linear": 1}
    torch.testing.assert_close(function(x), module(x), rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.versions
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (2, 1, 3, 6)], ids=str)
@torch.no_grad()
def test_inductor_calls_onednn_itself(shape, bias):
    """No call through Python, no copy of the packed weight; inputs that are not contiguous are made so."""
    from torch._inductor.utils import run_and_get_code

    module = Layer(lambda y: F.gelu(y) + 1, bias=bias)
    x = torch.randn(shape).transpose(0, 1).contiguous().transpose(0, 1)
    function, _, _ = run(module, x, compile=compile_fx)
    torch.testing.assert_close(function(x), module(x))
    torch._dynamo.reset()
    _, (code,) = run_and_get_code(lambda: run(module, x, compile=compile_fx)[0](x))
    assert "mkldnn._linear_pointwise" in code
    assert "mvc.packed_linear.default(" not in code
    module.weight.mul_(2)
    torch.testing.assert_close(function(x), module(x))


@pytest.mark.versions
@torch.no_grad()
def test_batch_may_be_symbolic():
    module = Layer(F.gelu)
    x = torch.randn(5, 3, 6)
    torch._dynamo.mark_dynamic(x, 0)
    function, outcome, _ = run(module, x, compile=compile_fx)
    assert outcome.matches == 1
    for batch in (5, 2, 9):
        x = torch.randn(batch, 3, 6)
        torch.testing.assert_close(function(x), module(x))


@torch.no_grad()
def test_packed_alone_leaves_the_activation():
    module, x = Layer(F.gelu), torch.randn(2, 6)
    function, _, calls = run(module, x, PrepackLinear(force="packed"))
    assert calls == {"mvc.packed_linear": 1, "gelu": 1}
    torch.testing.assert_close(function(x), module(x))


@torch.no_grad()
def test_a_weight_used_twice_is_packed_once():
    class Twice(Layer):
        def forward(self, x):
            return F.linear(x, self.weight) + F.linear(x.relu(), self.weight, self.bias)

    graphs = []

    def backend(graph_module, inputs):
        PrepackLinear(force="packed")(graph_module.graph)
        graphs.append(op_counts(graph_module.graph))
        graph_module.recompile()
        return graph_module.forward

    torch._dynamo.reset()
    module, x = Twice(), torch.randn(2, 6)
    torch.testing.assert_close(torch.compile(module, backend=backend)(x), module(x))
    assert graphs[0]["mvc.pack_linear"] == 1
    assert graphs[0]["mvc.packed_linear"] == 2


def test_what_is_not_only_the_next_activations_stays_apart():
    module, x = Layer(lambda y: F.gelu(y) + y), torch.randn(2, 6)
    function, outcome, calls = run(module, x)
    assert outcome.matches == 1
    assert calls["gelu"] == 1
    torch.testing.assert_close(function(x), module(x))


@pytest.mark.parametrize(
    "after",
    [lambda y: y * torch.sigmoid(1.702 * y), lambda y: y * torch.sigmoid(y), lambda y: y * torch.sigmoid(-y)],
    ids=["quick-gelu", "silu-as-product", "negative"],
)
def test_other_gates_stay(after):
    module, x = Layer(after), torch.randn(2, 6)
    function, _, calls = run(module, x)
    assert calls["sigmoid"] == 1
    torch.testing.assert_close(function(x), module(x))


class Computed(nn.Module):
    """A weight that depends on the input."""

    def forward(self, x):
        return F.linear(x, x + 1)


class Mixed(Layer):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


@pytest.mark.parametrize(
    ("module", "dtype", "reason"),
    [
        (Computed(), torch.float32, "not constant"),
        (Layer(dtype=torch.float64), torch.float64, "does not run torch.float64"),
        (Mixed(), torch.float32, "to torch.bfloat16"),
    ],
    ids=["computed", "float64", "autocast"],
)
@torch.no_grad()
def test_near_misses_are_left_alone(module, dtype, reason):
    outcomes = []

    def backend(graph_module, inputs):
        outcomes.append(PrepackLinear(force="fused")(graph_module.graph))
        return graph_module.forward

    torch._dynamo.reset()
    x = torch.randn(3, 6, dtype=dtype)
    torch.testing.assert_close(torch.compile(module, backend=backend)(x), module(x))
    assert outcomes[0].matches == 0
    assert [reason in miss.reason for miss in outcomes[0].near_misses] == [True]


@pytest.mark.parametrize("choice", ["torch", "packed", "fused"])
@torch.no_grad()
def test_the_measured_choice_decides(choice, monkeypatch):
    asked = []

    def fastest(key, build):
        asked.append((key, build()))
        return choice

    monkeypatch.setattr("mvc.passes.frozen.prepack.fastest", fastest)
    module, x = Layer(F.gelu), torch.randn(2, 3, 6)
    outcomes = []

    def backend(graph_module, inputs):
        outcomes.append(PrepackLinear()(graph_module.graph))
        return graph_module.forward

    torch._dynamo.reset()
    torch.compile(module, backend=backend)(x)
    ((key, runs),) = asked
    assert "input=(2, 3, 6) (18, 6, 1) weight=(8, 6) (6, 1) bias=True activation=gelu" in key
    assert outcomes[0].matches == (choice != "torch")
    results = [run() for run in runs.values()]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_measuring_leaves_the_random_numbers_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("MVC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(measured_choice, "_known", {})
    module = Layer()
    state = torch.get_rng_state()
    run(module, torch.ones(2, 6), PrepackLinear())
    assert torch.equal(torch.get_rng_state(), state)


def test_options_decide_the_cache_key():
    assert PrepackLinear().uuid() == PrepackLinear().uuid() != PrepackLinear(force="torch").uuid()
