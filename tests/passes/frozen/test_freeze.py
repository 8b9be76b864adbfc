"""Values of parameters alone, computed once: what moves, what must not, and that changed weights take effect."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from places import ROOT
from torch import nn
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor import compile_fx
from torch.nn import functional as F

import mvc
from mvc.compile.compiler import check_against_eager
from mvc.measure.device_profile import trace
from mvc.passes.frozen.constants import constants
from mvc.passes.frozen.freeze import Frozen, freeze, renew, split_constants, wait_for

pytestmark = pytest.mark.versions


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
    assert names(split.constants) == ["float", "exp", "neg", "renew"]
    assert names(split.main) == ["view", "flatten", "mul", "t", "linear", "add"], "views stay with their users"
    assert len(split.parameters) == len(split.fakes) == 1
    assert len(split.kept) == 3, "x, weight and shift; log is not an input of the main graph any more"


def with_frozen(module) -> tuple[Callable, list[Frozen]]:
    """The module compiled, and its frozen graphs, of which there is one after each compilation."""
    made = []

    def backend(graph_module, inputs):
        made.append(freeze(graph_module, inputs, lambda main, _: main.forward))
        assert isinstance(made[-1], Frozen)
        return made[-1]

    torch._dynamo.reset()
    return torch.compile(module, backend=backend), made


def addresses(frozen: Frozen) -> list[int]:
    return [value.data_ptr() for held in frozen._held.values() for value in held.values]


@torch.no_grad()
def test_constants_are_computed_once():
    run, made = with_frozen(Decay())
    run(torch.randn(2, 4))
    (frozen,) = made
    (before,) = frozen._held.values()
    run(torch.randn(2, 4))
    assert [*frozen._held.values()] == [before]


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


SAME_PARAMETER = [in_place, through_load_state_dict, other_memory, through_data_then_told, optimizer_step]


@pytest.mark.parametrize("change", SAME_PARAMETER, ids=lambda change: change.__name__)
@torch.no_grad()
def test_constants_computed_again_keep_their_memory(change):
    """So that CUDA graphs, which read them there, stay valid."""
    module, x = Decay(), torch.randn(2, 4)
    run, made = with_frozen(module)
    before = run(x)
    (frozen,) = made
    kept = addresses(frozen)
    assert kept
    change(module)
    after = run(x)
    torch.testing.assert_close(after, module(x))
    assert not torch.equal(after, before)
    assert addresses(frozen) == kept
    assert made == [frozen], "compiled once"


def test_a_constant_gets_new_memory_only_where_the_old_does_not_fit():
    old, new = torch.zeros(2, 3), torch.ones(2, 3)
    assert renew(new, old) is old
    torch.testing.assert_close(old, new)
    others = [None, torch.zeros(3, 2), torch.zeros(3, 2).t(), new.double(), torch.zeros(1, 3).expand(2, 3)]
    if torch.backends.mkldnn.is_available():
        others.append(torch.zeros(2, 3).to_mkldnn())
    for other in others:
        assert renew(new, other) is new, other


class TwoConstants(Decay):
    def forward(self, x):
        return super().forward(x) * self.shift.exp().sum()


@torch.no_grad()
def test_one_constant_at_a_time_exists_twice_while_they_are_computed_again():
    splits = []
    compiled(TwoConstants(), splits)(torch.randn(2, 4))
    assert names(splits[0].constants) == ["float", "exp", "neg", "renew", "exp", "sum", "renew"]


@torch.no_grad()
def test_modules_of_one_graph_have_constants_of_their_own():
    first, x = Decay(), torch.randn(2, 4)
    second = copy.deepcopy(first)
    second.log.add_(1)
    run, made = with_frozen(lambda module, x: module(x))
    for module in (first, second, first):
        torch.testing.assert_close(run(module, x), module(x))
    (frozen,) = made
    held = list(frozen._held.values())
    assert len(held) == 2
    for module in (first, second, first):
        run(module, x)
    assert [*frozen._held.values()] == held, "nothing is computed again"


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
    assert frozen._held
    del inputs
    gc.collect()
    assert not frozen._held


def test_inference_tensors_are_computed_with_each_time():
    frozen, inputs = frozen_decay()
    with torch.inference_mode():
        inputs = [tensor.clone() for tensor in inputs]
        before = frozen(*inputs)[0]
        kept = addresses(frozen)
        for tensor in inputs:
            tensor.mul_(2)
        assert not torch.equal(frozen(*inputs)[0], before)
        assert addresses(frozen) == kept


def test_constants_of_inference_mode_can_be_computed_again_outside_of_it():
    frozen, inputs = frozen_decay()
    for mode in (True, False, True):
        with torch.no_grad(), torch.inference_mode(mode):
            for tensor in inputs:
                tensor.mul_(2)
            fresh, _ = frozen_decay()
            torch.testing.assert_close(frozen(*inputs)[0], fresh(*inputs)[0])


@torch.no_grad()
def test_constants_are_not_current_after_a_failure(monkeypatch):
    frozen, inputs = frozen_decay()
    before = frozen(*inputs)[0]
    for tensor in inputs:
        tensor.mul_(2)

    def fail(*_):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(frozen, "constants", fail)
        with pytest.raises(torch.OutOfMemoryError):
            frozen(*inputs)
    assert not torch.equal(frozen(*inputs)[0], before)


def test_of_several_threads_one_computes_the_constants(monkeypatch):
    frozen, inputs = frozen_decay()
    start, calls, compute = threading.Barrier(4), [], frozen.constants

    def slow(*arguments):
        calls.append(arguments)
        time.sleep(0.05)  # the others reach the lock meanwhile
        return compute(*arguments)

    def call(_):
        start.wait(timeout=10)
        with torch.no_grad():
            return frozen(*inputs)[0]

    monkeypatch.setattr(frozen, "constants", slow)
    with ThreadPoolExecutor(4) as pool:
        for change in range(1, 3):
            results = list(pool.map(call, range(4)))
            assert len(calls) == change
            assert all(torch.equal(result, results[0]) for result in results)
            with torch.no_grad():
                for tensor in inputs:
                    tensor.mul_(2)


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


def test_other_cuda_streams_find_constants_that_are_ready(monkeypatch):
    waited = []

    class Stream:
        def __init__(self, device):
            self.device = device

        def synchronize(self):
            waited.append(self.device)

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    devices = [torch.device("cuda", 0), torch.device("cuda", 0), torch.device("cpu"), torch.device("cuda", 1)]
    wait_for(SimpleNamespace(device=device, is_cuda=device.type == "cuda") for device in devices)
    assert sorted(device.index for device in waited) == [0, 1]


@pytest.fixture
def static_inputs(monkeypatch) -> list[tuple[int, int]]:
    """Of each graph that reaches Inductor, how many inputs it has, and how many CUDA graphs will not copy."""
    counts = []

    def count(graph_module, inputs, *, static_input_idxs, **_):
        counts.append((len(inputs), len(set(static_input_idxs))))
        return make_boxed_func(graph_module.forward)

    monkeypatch.setattr(compile_fx, "compile_fx_inner", count)
    return counts


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@torch.no_grad()
def test_all_inputs_but_the_callers_are_static(static_inputs, dynamic):
    module, x = Decay(), torch.randn(5, 4)
    torch._dynamo.reset()
    run = torch.compile(module, backend="mvc", options={"frozen": True}, dynamic=dynamic)
    torch.testing.assert_close(run(x), module(x))
    theirs = 1 + dynamic  # x, and its size where that is an input
    assert static_inputs == [(3 + theirs, 3)]


@torch.no_grad()
def test_all_inputs_of_a_model_but_the_image_are_static(static_inputs):
    model, image = mvc.create_model("tiny").eval(), torch.randn(2, 3, 64, 64)
    torch._dynamo.reset()
    torch.compile(model, backend="mvc", options={"frozen": True, "impl": "chunked"})(image)
    ((inputs, static),) = static_inputs
    assert 0 < static == inputs - 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_cuda_graphs_copy_no_weights_and_are_not_recorded_anew():
    model = mvc.create_model("tiny").eval().cuda().half()
    image = torch.randn(2, 3, 64, 64, device="cuda", dtype=torch.float16)
    torch._dynamo.reset()
    run = torch.compile(model, backend="mvc", options={"frozen": True, "mode": "reduce-overhead"})
    recorded = counters["inductor"]["cudagraph_recorded_non_static_inputs"]
    for _ in range(3):  # warm, record, replay
        before = run(image).clone()
    for parameter in model.parameters():
        parameter.mul_(1.01)
    assert not torch.equal(run(image), before)
    assert check_against_eager(model, run, image).passed
    assert counters["inductor"]["cudagraph_recorded_non_static_inputs"] == recorded + 1, "one graph, in it the image"
    copies = [event.name for event in trace(lambda: run(image), device=image.device) if "DtoD" in event.name]
    assert len(copies) <= 1, "the image"


CACHED = """
import torch
from mvc.passes.frozen.freeze import freeze
from torch._dynamo.utils import counters
from torch._inductor.compile_fx import compile_fx
from test_freeze import Decay

module, x = Decay(), torch.randn(2, 4)
with torch.no_grad():
    run = torch.compile(module, backend=lambda g, inputs: freeze(g, inputs, compile_fx))
    torch.testing.assert_close(run(x), module(x))
    module.log.add_(1)
    torch.testing.assert_close(run(x), module(x))
print(counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"])
"""


def test_a_second_process_finds_the_compiled_graph(tmp_path):
    here = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_AUTOGRAD_CACHE": "0"}
    environment["PYTHONPATH"] = here
    counts = []
    for _ in range(2):
        command = [sys.executable, "-c", CACHED]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        counts.append(done.stdout.split()[-2:])
    assert counts == [["1", "0"], ["0", "1"]]
