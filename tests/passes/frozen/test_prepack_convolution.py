"""Convolutions on oneDNN with packed weights: numerics, what is fused, what is left alone."""

from __future__ import annotations

import pytest
import torch
from test_prepack_linear import ACTIVATIONS, DTYPES, run
from torch import nn
from torch._inductor.compile_fx import compile_fx
from torch.nn import functional as F

from mvc.passes import torch_private
from mvc.passes.frozen.prepack_convolution import PrepackConvolution

pytestmark = pytest.mark.skipif(not torch_private.has_onednn(torch.float32), reason="this torch is without oneDNN")
FUSED = PrepackConvolution(force="fused")


class Convolution(nn.Module):
    """A convolution and what follows it."""

    def __init__(self, after=lambda y: y, *, groups: int = 1, dtype: torch.dtype = torch.float32, **window):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(4, 8, 3, groups=groups, dtype=dtype, **window)
        self.after = after

    def forward(self, x):
        return self.after(self.convolution(x))


def image(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape).to(dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@torch.no_grad()
def test_one_call_for_bias_and_activation(activation, dtype):
    module, x = Convolution(ACTIVATIONS[activation], dtype=dtype), image(2, 4, 7, 6, dtype=dtype)
    function, outcome, calls = run(module, x, FUSED)
    assert outcome.matches == 1
    assert calls == {"mvc.packed_convolution": 1}
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(function(x), module(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "window",
    [{"stride": 2, "padding": 1}, {"padding": (0, 2), "dilation": (2, 1)}, {"groups": 4}, {"bias": False}],
    ids=["stride", "dilation", "groups", "no-bias"],
)
@torch.no_grad()
def test_inductor_calls_onednn_itself(window):
    from torch._inductor.utils import run_and_get_code

    module, x = Convolution(lambda y: F.relu(y) + 1, **window), image(2, 4, 9, 8)
    function, (code,) = run_and_get_code(lambda: run(module, x, FUSED, compile=compile_fx)[0])
    assert "mkldnn._convolution_pointwise" in code
    assert "mvc.packed_convolution.default(" not in code
    y = function(x)
    torch.testing.assert_close(y, module(x))
    assert y.is_contiguous(memory_format=torch.channels_last)
    module.convolution.weight.mul_(2)
    torch.testing.assert_close(function(x), module(x))


@pytest.mark.parametrize(
    ("module", "x", "reason"),
    [
        (Convolution(), torch.randn(2, 4, 6, 6), "not channels_last"),
        (Convolution(padding="same"), image(2, 4, 6, 6), "'same'"),
        (Convolution(dtype=torch.float64), image(2, 4, 6, 6, dtype=torch.float64), "does not run torch.float64"),
    ],
    ids=["channels-first", "padding-by-name", "float64"],
)
@torch.no_grad()
def test_near_misses_are_left_alone(module, x, reason):
    outcomes = []

    def backend(graph_module, inputs):
        outcomes.append(FUSED(graph_module.graph))
        return graph_module.forward

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(module, backend=backend)(x), module(x))
    assert outcomes[0].matches == 0
    assert [reason in miss.reason for miss in outcomes[0].near_misses] == [True]


@torch.no_grad()
def test_an_unknown_size_is_left_alone():
    x = image(5, 4, 6, 6)
    torch._dynamo.mark_dynamic(x, 0)
    outcomes = []

    def backend(graph_module, inputs):
        outcomes.append(FUSED(graph_module.graph))
        return graph_module.forward

    torch._dynamo.reset()
    torch.compile(Convolution(), backend=backend)(x)
    assert [miss.reason for miss in outcomes[0].near_misses] == ["its input's size is not known"]


def test_measured_forms_agree(monkeypatch):
    seen = []
    monkeypatch.setattr("mvc.passes.frozen.prepack.fastest", lambda key, build: seen.append(build()) or "fused")
    run(Convolution(F.gelu, stride=2), image(2, 4, 7, 7), PrepackConvolution())
    first, *others = (call() for call in seen[0].values())
    assert len(others) == 2
    for other in others:
        torch.testing.assert_close(other, first)
