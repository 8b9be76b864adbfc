"""What a training graph keeps for its backward."""

from __future__ import annotations

import contextlib

import pytest
import torch
from small_models import EACH_KIND_ONCE
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache
from torch.nn import functional as F

from mvc import create_model
from mvc.compile import recomputation, torch_private
from mvc.compile.backend import mvc
from mvc.compile.compiler import check_against_eager

pytestmark = pytest.mark.versions


class Mlp(nn.Module):
    """LayerNorm, a linear layer, GELU and another one."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Convolutions(nn.Module):
    """A convolution, BatchNorm, an activation and another convolution."""

    def __init__(self, activation):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)
        self.activation = activation

    def forward(self, x):
        return self.conv2(self.activation(self.norm(self.conv1(x))))


def kept(model, x, **options):
    """The shapes of what autograd holds after a compiled forward, without parameters."""
    own = {each.data_ptr() for each in (*model.parameters(), *model.buffers())}
    shapes = []

    def note(tensor):
        if tensor.data_ptr() not in own:
            shapes.append(tuple(tensor.shape))
        return tensor

    torch.compiler.reset()
    compiled = torch.compile(model, backend=mvc, options=options, fullgraph=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compiled(x).sum()
    return sorted(shapes)


def test_the_inputs_of_products_are_computed_again():
    model, x = Mlp(), torch.randn(2, 5, 8, requires_grad=True)
    before, after = kept(model, x, recompute=False), kept(model, x, recompute=True)
    wide = [shape for shape in before if shape[-1] == 32 and shape[0] in (2, 10)]
    assert len(wide) == 2  # what GELU reads, and its result
    assert len([shape for shape in after if shape[-1] == 32 and shape[0] in (2, 10)]) == 1
    narrow = [sum(shape[-1] == 8 and shape[0] in (2, 10) for shape in shapes) for shapes in (before, after)]
    assert narrow == [2, 1]  # x, and its normalised form


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "anew"])
def test_every_compilation_of_a_process_computes_again(cached):
    """Those that generate code, and those that find it in torch's caches."""
    model, x = Mlp(), torch.randn(2, 5, 8)
    # The backward is compiled at once: torch keeps the code of both together.
    config = torch._functorch.config.patch(enable_autograd_cache=cached, force_non_lazy_backward_lowering=True)
    with fresh_cache() if cached else contextlib.nullcontext(), config:
        counters.clear()
        seen = [kept(model, x, recompute=recompute) for recompute in (True, False, True)]
        autograd = counters["aot_autograd"]
        assert (autograd["autograd_cache_miss"], autograd["autograd_cache_hit"]) == ((2, 1) if cached else (0, 0))
    assert seen[0] == seen[2] != seen[1]


@pytest.mark.parametrize(("activation", "maps"), [(F.relu, 0), (F.gelu, 1)], ids=["relu", "gelu"])
def test_of_what_a_convolution_reads_only_a_relu_is_computed_again(activation, maps):
    model, x = Convolutions(activation), torch.randn(2, 3, 9, 9)
    of_its_size = [shape for shape in kept(model, x, recompute=True) if shape == (2, 4, 7, 7)]
    assert len(of_its_size) == 1 + maps  # the first convolution's result is kept in any case


@pytest.mark.parametrize("wish", ["activation_memory_budget", "ban_recompute_reductions", "custom_partitioner_fn"])
def test_what_the_user_asked_of_the_partition_stays(wish, monkeypatch):
    def never(graph, parameters):
        raise AssertionError("marked")

    monkeypatch.setattr(recomputation, "mark", never)
    model, x = Mlp(), torch.randn(2, 5, 8)
    if wish == "custom_partitioner_fn":
        calls = []
        theirs = torch_private.partitioner(lambda graph, parameters: calls.append(parameters))
        kept(model, x, recompute=True, custom_partitioner_fn=theirs)
        assert calls
    else:
        value = {"activation_memory_budget": 0.9, "ban_recompute_reductions": False}[wish]
        with torch._functorch.config.patch({wish: value}):
            kept(model, x, recompute=True)


def test_on_a_cpu_nothing_is_computed_again_unless_asked_for():
    model, x = Mlp(), torch.randn(2, 5, 8)
    assert kept(model, x) == kept(model, x, recompute=False)


def test_random_numbers_are_not_drawn_anew():
    model = nn.Sequential(nn.GELU(), nn.Dropout(0.5), nn.Linear(64, 64, bias=False))
    nn.init.eye_(model[2].weight)
    x = torch.randn(4, 64, requires_grad=True)
    torch.compiler.reset()
    y = torch.compile(model, backend=mvc, options={"recompute": True})(x)
    y.sum().backward()
    dropped = y == 0
    assert 0 < dropped.sum() < y.numel()
    assert torch.equal(x.grad == 0, dropped)
    torch.testing.assert_close(model[2].weight.grad, y.sum(0).expand(64, 64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_of_the_model_are_within_their_budgets(dtype):
    torch.manual_seed(0)
    model = create_model("tiny", drop_path_rate=0.0, dtype=dtype, **EACH_KIND_ONCE)
    x = torch.randn(2, 3, 64, 64, dtype=dtype)
    torch.compiler.reset()
    compiled = torch.compile(model, backend=mvc, options={"recompute": True}, fullgraph=True)
    check = check_against_eager(model, compiled, x)
    assert check.passed, check


def test_a_padded_tensor_that_elementwise_code_reads_is_not_kept():
    class Taps(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.weights = nn.Linear(8, 8), nn.Parameter(torch.randn(3, 8))

        def forward(self, x):
            x = F.pad(self.linear(x), (0, 0, 1, 1))
            return F.silu(sum(weight * x[:, tap : tap + 6] for tap, weight in enumerate(self.weights)))

    model, x = Taps(), torch.randn(2, 6, 8)
    assert (2, 8, 8) in kept(model, x, recompute=False)
    assert (2, 8, 8) not in kept(model, x, recompute=True)
