"""BatchNorm folded into convolutions: numerics, counts, what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_weights

from mvc.passes.base import Outcome
from mvc.passes.fusing.fuse_batch_norm import FuseBatchNorm


def run(module: nn.Module, *inputs: torch.Tensor, frozen: bool = False) -> tuple[torch.Tensor, Outcome, set[str]]:
    """The rewritten module's result, what the pass did, and the names of what the graph then calls."""
    outcomes, names = [], set()

    def backend(graph_module, _):
        outcomes.append(FuseBatchNorm(frozen=frozen)(graph_module.graph))
        graph_module.graph.eliminate_dead_code()
        graph_module.graph.lint()
        graph_module.recompile()
        names.update(str(getattr(node.target, "__name__", node.target)) for node in graph_module.graph.nodes)
        return graph_module.forward

    torch._dynamo.reset()
    y = torch.compile(module, backend=backend, fullgraph=True)(*inputs)
    return y, outcomes[0], names


def normed(convolution: nn.Module, norm: nn.Module) -> nn.Sequential:
    """In eval mode, with statistics that are not the initial ones."""
    torch.manual_seed(0)
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        if tensor is not None:
            nn.init.uniform_(tensor, 0.5, 1.5)
    return nn.Sequential(convolution, norm).eval()


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (normed(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)), (2, 3, 7, 5)),
        (normed(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-2)), (2, 3, 7, 5)),
        (normed(nn.Conv2d(4, 4, 3, groups=4, padding="same"), nn.BatchNorm2d(4, affine=False)), (2, 4, 7, 5)),
        (normed(nn.Conv1d(3, 4, 3, dilation=2), nn.BatchNorm1d(4)), (2, 3, 9)),
        (normed(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4)), (1, 2, 4, 5, 3)),
    ],
    ids=["bias", "no-bias", "depthwise-no-affine", "conv1d", "conv3d"],
)
def test_result_and_gradients_stay(module, shape):
    x = torch.randn(shape, requires_grad=True)
    y, outcome, names = run(module, x)
    assert outcome.matches == 1
    assert "batch_norm" not in names
    expected = module(x)
    torch.testing.assert_close(y, expected)
    leaves = [x, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(y.square().sum(), leaves), torch.autograd.grad(expected.square().sum(), leaves),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_batch_may_be_symbolic():
    module = normed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    x = torch.randn(5, 3, 6, 6)
    torch._dynamo.mark_dynamic(x, 0)
    y, outcome, _ = run(module, x)
    assert outcome.matches == 1
    torch.testing.assert_close(y, module(x))


def test_changed_weights_take_effect():
    module = normed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def backend(graph_module, _):
        assert FuseBatchNorm()(graph_module.graph).matches == 1
        graph_module.recompile()
        return graph_module.forward

    torch._dynamo.reset()
    compiled, x = torch.compile(module, backend=backend), torch.randn(2, 3, 5, 5)
    compiled(x)
    with torch.no_grad():
        module[0].weight.mul_(2)
        module[1].running_mean.add_(1)
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("frozen", [False, True])
def test_off_the_cpu_only_frozen_weights_are_folded(frozen):
    module = normed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to("meta")
    _, outcome, _ = run(module, torch.empty(2, 3, 5, 5, device="meta"), frozen=frozen)
    assert outcome.matches == frozen
    assert ["weights are not frozen" in miss.reason for miss in outcome.near_misses] == [True] * (not frozen)


class Shared(nn.Module):
    """The convolution's output is used twice."""

    def __init__(self):
        super().__init__()
        self.layers = normed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x):
        y = self.layers[0](x)
        return self.layers[1](y) + y


def unbatched():
    class Unbatched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = normed(nn.Conv1d(3, 5, 2), nn.BatchNorm1d(5))

        def forward(self, x):
            return self.layers[1](self.layers[0](x))

    return Unbatched()


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (normed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(), (2, 3, 6, 6), "training mode"),
        (Shared(), (2, 3, 6, 6), "2 users"),
        (unbatched(), (3, 6), "no batch axis"),
    ],
    ids=["training", "output-used-twice", "no-batch"],
)
def test_near_misses_are_left_alone(module, shape, reason):
    x = torch.randn(shape)
    _, outcome, names = run(module, x)
    assert outcome.matches == 0
    assert [reason in miss.reason for miss in outcome.near_misses] == [True]
    assert "batch_norm" in names


def test_other_batch_norms_are_no_near_misses():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(x.relu())

    _, outcome, _ = run(Alone().eval(), torch.randn(2, 3, 4, 4))
    assert outcome == Outcome()


def folded(weight, bias, *norm):
    """Weight and bias of the convolution that the pass leaves."""
    found = []

    def function(x, weight, bias, mean, variance, gamma, beta):
        return F.batch_norm(F.conv2d(x, weight, bias), mean, variance, gamma, beta, eps=1e-5)

    def backend(module, _):
        FuseBatchNorm()(module.graph)
        module.graph.eliminate_dead_code()
        (convolution,) = module.graph.find_nodes(op="call_function", target=F.conv2d)
        module.graph.output_node().args = ((convolution.kwargs["weight"], convolution.kwargs["bias"]),)
        module.recompile()
        return lambda *inputs: found.extend(module(*inputs)) or found

    torch._dynamo.reset()
    x = torch.randn(2, weight.shape[1], 5, 5, dtype=weight.dtype)
    torch.compile(function, backend=backend, fullgraph=True)(x, weight, bias, *norm)
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_fold_rounds_once(dtype):
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 3, 3, 3), torch.randn(4)
    mean, gamma, beta = torch.randn(3, 4).unbind()
    variance = torch.rand(4) + 0.5
    low = [t.to(dtype) for t in (weight, bias, mean, variance, gamma, beta)]
    weight, bias, mean, variance, gamma, beta = (t.double() for t in low)
    exact = fuse_conv_bn_weights(weight, bias, mean, variance, 1e-5, gamma, beta)
    for got, wanted in zip(folded(*low), exact, strict=True):
        assert got.dtype == dtype
        rounding = torch.finfo(dtype).eps * (0.5 if dtype.itemsize == 2 else 4)
        assert ((got.double() - wanted).abs() <= rounding * (wanted.abs() + 1e-3 * (dtype.itemsize > 2))).all()


def test_fold_keeps_channels_last():
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    found, _ = folded(weight, None, torch.zeros(4), torch.ones(4), torch.ones(4), torch.zeros(4))
    assert found.stride() == weight.stride()


def test_options_and_source_decide_the_cache_key():
    assert FuseBatchNorm().uuid() == FuseBatchNorm().uuid()
