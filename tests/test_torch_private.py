"""Each use of private torch API, called once: this fails loudly when torch changes it."""

import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from places import ROOT
from torch._inductor.config import get_config_copy
from torch._inductor.utils import run_and_get_code
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from mvc.compile import torch_private
from mvc.compile.inductor_code import launches
from mvc.kernels import torch_private as kernels_private
from mvc.passes import torch_private as passes_private

pytestmark = pytest.mark.versions


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"])
def test_inductor_knows_the_modes(mode):
    assert torch_private.mode_options(mode).keys() <= torch_private.inductor_options()


def test_inductor_compiles_a_graph_within_its_options_and_decompositions():
    table = {torch.ops.aten.sin.default: torch.cos}

    def backend(graph_module, inputs):
        return torch_private.inductor(
            graph_module, inputs, {"fx_graph_cache": False}, decompositions=lambda: table, cache_tag="test"
        )

    x = torch.linspace(0, 1, 7)
    y, (code,) = run_and_get_code(torch.compile(lambda x: x.sin() + 1, backend=backend), x)
    torch.testing.assert_close(y, x.cos() + 1)
    assert "cos()" in code


def test_cpp_compiler_is_found():
    assert torch_private.cpp_compiler()


def test_options_of_inductor_have_types():
    for name, fits, other in (("max_autotune", True, "yes"), ("cpp.threads", 4, "many"), ("cpp.threads", 4, 1.5)):
        assert torch_private.inductor_option_fits(name, fits)
        assert not torch_private.inductor_option_fits(name, other)
    assert all(torch_private.inductor_option_fits(name, value) for name, value in get_config_copy().items())


def test_what_traced_code_raises_is_told_from_what_cannot_be_traced():
    def caught(function, x):
        with pytest.raises(torch._dynamo.exc.TorchDynamoException) as caught:
            torch.compile(function, backend="eager", fullgraph=True)(x)
        return caught.value

    def raising(x):
        raise ValueError(f"x has {x.dim()} axes")

    def breaking(x):
        torch._dynamo.graph_break()

    assert torch_private.raised_in_trace(caught(raising, torch.ones(2)))
    assert torch_private.raised_in_trace(caught(lambda x: x @ x, torch.ones(2, 3)))
    assert not torch_private.raised_in_trace(caught(breaking, torch.ones(2)))
    assert not torch_private.raised_in_trace(ValueError("x"))
    assert not torch_private.raised_in_trace(None)


def test_compile_failure_names_the_cause():
    def broken(graph_module, inputs):
        raise RuntimeError("no such instruction\nmore")

    with pytest.raises(Exception, match="no such instruction") as caught:
        torch.compile(torch.sin, backend=broken)(torch.ones(2))
    assert torch_private.compile_failure(caught.value) == "RuntimeError: no such instruction"
    assert torch_private.compile_failure(ValueError("other")) is None


def test_fewer_shape_guards_lets_square_and_large_batches_share_a_graph():
    graphs = []
    weight = torch.randn(4, 3, 3, 3)

    def record(graph_module, inputs):
        graphs.append(graph_module)
        return graph_module.forward

    run = torch.compile(lambda x: torch.nn.functional.conv2d(x, weight), backend=record, dynamic=True)
    select = torch._C._select_conv_backend
    with torch_private.fewer_shape_guards():
        for shape in ((2, 3, 8, 8), (20, 3, 8, 9)):
            run(torch.ones(shape))
    assert len(graphs) == 1
    assert torch._C._select_conv_backend is select, "torch is left as it was"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("something else"), False),
    ],
    ids=["host", "cuda", "cpu", "other"],
)
def test_out_of_memory_is_told_apart_also_while_compiling(error, expected):
    assert torch_private.is_out_of_memory(error) is expected

    def broken(graph_module, inputs):
        raise error

    with pytest.raises(Exception) as caught:  # noqa: PT011 - torch wraps some and not others
        torch.compile(lambda x: x + 1, backend=broken)(torch.ones(2))
    assert torch_private.is_out_of_memory(caught.value) is expected
    if expected:
        assert torch_private.compile_failure(caught.value) is None


def test_recorded_calls_sees_the_op():
    with torch_private.recorded_calls(torch.ops.aten.mul.Tensor) as calls:
        torch.ones(2) * torch.ones(2)
        torch.ones(2) + 1
    assert len(calls) == 1


def test_this_torch_is_one_that_the_module_was_tested_with(recwarn):
    torch_private.warn_if_untested()
    assert not recwarn.list


def test_another_torch_is_warned_of(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "9.9.0")
    with pytest.warns(UserWarning, match=r"this is 9\.9\.0"):
        torch_private.warn_if_untested()


def test_below_autograd_gradients_are_not_recorded():
    x = torch.ones(2, requires_grad=True)
    with kernels_private.below_autograd():
        y = torch.ops.aten.mul.Tensor(x, x)
    assert not y.requires_grad
    assert (x * x).requires_grad


def test_memory_is_known_inside_transforms():
    def function(x):
        assert passes_private.is_transformed(x)
        assert passes_private.storage_address(x) == passes_private.storage_address(x[:1])
        assert passes_private.storage_address(x) != passes_private.storage_address(x + 1)
        return x.sum()

    torch.func.grad(lambda x: torch.vmap(function)(x).sum())(torch.ones(2, 3))
    assert not passes_private.is_transformed(torch.ones(2))
    sparse = torch.ones(2).to_sparse()
    assert passes_private.storage_address(sparse) == passes_private.storage_address(sparse)


def test_functorch_is_noticed():
    assert not kernels_private.under_functorch()
    seen = []
    torch.vmap(lambda x: (seen.append(kernels_private.under_functorch()), x)[1])(torch.ones(2))
    assert seen == [True]


def test_forward_mode_is_noticed_and_guarded():
    seen = []

    def backend(graph_module, inputs):
        torch_private.guard_forward_mode()
        seen.append(kernels_private.forward_mode())
        return graph_module.forward

    torch._dynamo.reset()
    compiled = torch.compile(lambda x: x.sin() + 1, backend=backend)
    x = torch.ones(3)
    compiled(x)
    with torch.autograd.forward_ad.dual_level():
        compiled(x)
    compiled(x)
    assert seen == [False, True]


def test_where_values_are_there_is_noticed():
    seen = []

    def look(x):
        seen.append(kernels_private.untraced())
        return x

    look(torch.ones(2))
    torch.vmap(look)(torch.ones(2))
    with FakeTensorMode():
        look(torch.ones(2))
    torch.compile(look, backend="eager")(torch.ones(2))
    make_fx(look)(torch.ones(2))
    torch.jit.trace(look, torch.ones(2), check_trace=False)
    assert seen == [True, False, False, False, False, False]


def test_a_bound_is_known_without_a_guard():
    length = torch.export.Dim("length", min=1, max=48)

    class Bounds(torch.nn.Module):
        def forward(self, x):
            seen.extend(kernels_private.power_of_two_bound(x.shape[0], largest) for largest in (32, 64))
            seen.append(kernels_private.guards_are_checked())
            return x + 1

    seen = []
    program = torch.export.export(Bounds(), (torch.ones(7),), dynamic_shapes=({0: length},))
    assert seen == [None, 64, False]
    assert program.module()(torch.ones(48)).shape == (48,)
    assert not kernels_private.guards_are_checked()


def test_where_guards_are_checked():
    def backend(graph_module, inputs):
        seen.append(kernels_private.guards_are_checked())
        return graph_module

    seen = []
    torch.compile(torch.sin, backend=backend)(torch.ones(2))
    assert seen == [True]


def test_passes_find_the_mode_of_fake_tensors_and_keep_what_dynamo_notes():
    def backend(graph_module, inputs):
        graph = graph_module.graph
        values = [node.meta["example_value"] for node in graph.nodes if "example_value" in node.meta]
        with passes_private.fake_mode([3, *values]):
            assert isinstance(torch.empty(2), type(values[-1]))
            x = next(value for value in values if isinstance(value, torch.Tensor))
            assert isinstance(torch.nn.functional.pad(x, (1, 1)).shape[0], torch.SymInt)
        assert any(passes_private.example_size(size) == 5 for size in values)
        copied = passes_private.copy_graph(graph)
        sources = [[n._dynamo_source for n in g.find_nodes(op="placeholder")] for g in (graph, copied)]
        assert sources[0] == sources[1]
        assert len(sources[0]) == 2, "a size and a tensor"
        return graph_module.forward

    torch.compile(lambda x: x + 1, backend=backend, dynamic=True)(torch.ones(5))
    with passes_private.fake_mode([3]):
        assert type(torch.empty(2)) is torch.Tensor


def test_a_part_of_a_graph_keeps_what_dynamo_notes():
    """Where that is lost, AOTAutograd finds no static inputs, and does not say so."""

    def backend(graph_module, inputs):
        part = passes_private.with_graph(graph_module, passes_private.copy_graph(graph_module.graph))
        assert "dynamo_compile_id" in part.meta
        assert part._param_name_to_source is graph_module._param_name_to_source
        return part.forward

    torch.compile(torch.nn.Linear(2, 2), backend=backend)(torch.ones(2, 2))
    plain = torch.fx.symbolic_trace(torch.nn.Identity())
    assert not hasattr(passes_private.with_graph(plain, plain.graph), "_param_name_to_source")


def test_the_backend_of_a_callable_is_found():
    def backend(graph_module, inputs, **_):
        return graph_module.forward

    keywords = {"options": {"a": 1}}
    module, module_in_place = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    module_in_place.compile(backend=backend, **keywords)
    made = [torch.compile(each, backend=backend, **keywords) for each in (module, torch.sin, module.forward)]
    for compiled in (*made, functools.wraps(made[1])(lambda x: made[1](x)), module_in_place):
        assert torch_private.backend_of(compiled) == (backend, keywords)
    for other in (module, torch.sin, lambda x: x):
        assert torch_private.backend_of(other) is None
    assert torch_private.backend_of(torch.compile(module)) is not None
    assert torch_private.backend_of(torch.compile(module))[0] is not backend


VECTOR_ISA = """
from mvc.compile import torch_private
checks = torch_private.begin_vector_isa_checks()
torch_private.end_vector_isa_checks()
assert not checks.is_alive()
assert torch_private.begin_vector_isa_checks() is checks
"""


def test_vector_isa_checks_end_by_themselves():
    """With torch's own default, under which each is a compilation."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_VEC_ISA_OK"}
    subprocess.run([sys.executable, "-c", VECTOR_ISA], cwd=ROOT, env=environment, timeout=240, check=True)


@pytest.mark.parametrize("symbolic", [False, True], ids=["number", "symbol"])
def test_sizes_are_compared_without_guards_and_specialized_with_one(symbolic):
    seen = []

    def backend(graph_module, inputs):
        size = next(n.meta["example_value"].shape[0] for n in graph_module.graph.nodes if n.name.startswith("add"))
        seen.append([isinstance(size, torch.SymInt), passes_private.surely_equal(size, size + 0)])
        seen.append([passes_private.surely_equal(size, 5), passes_private.surely_at_most(size, 5)])
        seen.append([passes_private.surely_at_most(size, size + 1), passes_private.specialize(size)])
        return graph_module.forward

    torch.compile(lambda x: x + 1, backend=backend, dynamic=symbolic)(torch.ones(5))
    assert seen == [[symbolic, True], [not symbolic, not symbolic], [True, 5]]


def test_effects_of_calls_are_noted():
    with passes_private.EffectRecorder() as recorder:
        torch.ones(2).add_(1)
        torch.rand(2)
        torch.ones(2) + 1
    assert (recorder.writes, recorder.random) == (True, True)


def test_real_tensors_are_computed_beside_a_fake_mode():
    with torch._subclasses.FakeTensorMode(), passes_private.no_modes():
        assert torch.ones(2).sum().item() == 2


def test_calls_of_transforms_are_known_by_name():
    kinds = []

    def backend(graph_module, inputs):
        kinds.extend(kind for node in graph_module.graph.nodes if (kind := passes_private.transform(node)))
        return graph_module.forward

    x = torch.ones(3, 2)
    for function in (
        torch.vmap(torch.sin),
        torch.func.grad(torch.sum),
        lambda x: torch.func.jvp(torch.sin, (x,), (x,)),
    ):
        torch.compiler.reset()
        torch.compile(function, backend=backend, fullgraph=True)(x)
    assert kinds == ["vmap", "leave", "grad", "leave", "jvp", "leave"]


def test_tensors_of_transforms_are_unwrapped():
    seen = []

    def backend(graph_module, inputs):
        (node,) = (node for node in graph_module.graph.nodes if node.name.startswith("sin"))
        wrapped = node.meta["example_value"]
        seen.append((wrapped, passes_private.untransformed(wrapped)))
        return graph_module.forward

    x = torch.ones(4, 3, 2)
    torch.compile(torch.vmap(torch.func.grad(lambda x: x.sin().sum()), in_dims=1), backend=backend, fullgraph=True)(x)
    ((wrapped, plain),) = seen
    assert passes_private.is_transformed(wrapped)
    assert not passes_private.is_transformed(plain)
    assert (plain.shape, plain.requires_grad) == ((4, 2), True)
    assert passes_private.storage_address(plain) == passes_private.storage_address(wrapped)


def test_graph_breaks_are_counted_by_their_reasons():
    def broken(x):
        torch._dynamo.graph_break()
        return x.sin()

    torch.compiler.reset()
    before = torch_private.graph_breaks()
    torch.compile(broken, backend="eager")(torch.ones(3))
    assert list(torch_private.graph_breaks() - before) == ["Call to `torch._dynamo.graph_break()`"]


def test_calls_of_vmap_are_known_by_name():
    kinds = []

    def backend(graph_module, inputs):
        kinds.extend(kind for node in graph_module.graph.nodes if (kind := passes_private.vmap_call(node)))
        return graph_module.forward

    torch.compile(torch.vmap(lambda x: x.sin()), backend=backend, fullgraph=True)(torch.ones(3, 2))
    assert {"enter", "add", "remove", "leave"} <= set(kinds)


def test_a_region_without_autocast_can_be_inserted():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    with passes_private.without_autocast(graph, "cpu"):
        product = graph.call_function(torch.matmul, (x, x))
    graph.output(product)
    run = torch.fx.GraphModule(torch.nn.Module(), graph)
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        assert run(x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


needs_onednn = pytest.mark.skipif(not passes_private.has_onednn(torch.float32), reason="this torch has no oneDNN")


@needs_onednn
def test_onednn_computes_with_its_own_layout_of_weights():
    x, weight, bias = torch.randn(3, 16), torch.randn(8, 16), torch.randn(8)
    packed = passes_private.pack_linear(weight, 3)
    assert packed.stride() == passes_private.opaque_strides(2)
    y = passes_private.linear_pointwise(x, packed, bias, "relu", "")
    torch.testing.assert_close(y, torch.nn.functional.linear(x, weight, bias).relu())

    image, kernel = torch.randn(2, 8, 6, 6), torch.randn(4, 8, 3, 3)
    options = ([1, 1], [2, 2], [1, 1], 1)
    packed = passes_private.pack_convolution(kernel, *options, list(image.shape))
    assert packed.stride() == passes_private.opaque_strides(4)
    y = passes_private.convolution_pointwise(image, packed, None, *options, "none", "")
    torch.testing.assert_close(y, torch.nn.functional.conv2d(image, kernel, None, 2, 1))


@needs_onednn
def test_inductor_writes_the_calls_of_onednn():
    import mvc.passes.frozen.onednn_ops  # noqa: F401

    passes_private.register_onednn_lowerings()
    weight = passes_private.pack_linear(torch.randn(8, 16), 3)

    def run(x, weight):
        return torch.ops.mvc.packed_linear(x, weight, None, "none", "")

    compiled = torch.compile(run, options={"fx_graph_cache": False})
    _, (code,) = run_and_get_code(compiled, torch.randn(3, 16), weight)
    assert launches(code) == ["torch.ops.mkldnn._linear_pointwise.default"]


def test_what_a_failed_capture_holds_is_given_back_once(monkeypatch):
    """Both functions take a device's number and a pool; where `reset` has ended the pool's use, the first raises."""
    told = []
    graph = SimpleNamespace(reset=lambda: told.append("reset"))
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        assert "device: _int, mempool_id: tuple[_int, _int]" in stub_of(name)
        monkeypatch.setattr(torch._C, name, lambda index, pool, name=name: told.append((name, index, pool)))
    passes_private.abandon_capture(graph, (0, 7), torch.device("cuda:1"))
    assert told == ["reset", ("_cuda_endAllocateToPool", 1, (0, 7)), ("_cuda_releasePool", 1, (0, 7))]

    def raises(index, pool):
        raise RuntimeError("not currently recording to mempool_id")

    told.clear()
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", raises)
    passes_private.abandon_capture(graph, (0, 7), torch.device("cuda:1"))
    assert told == ["reset"]


def test_a_capture_that_fails_is_given_up_and_followed_by_one_that_succeeds(monkeypatch):
    told = []

    class capture:
        def __init__(self, graph, pool=None, capture_error_mode="global"):
            assert capture_error_mode == "thread_local"  # other threads may use the device meanwhile

        def __enter__(self):
            told.append("begin")

        def __exit__(self, *error):
            told.append("end")

    for name, value in {
        "CUDAGraph": lambda: SimpleNamespace(replay="replay"),
        "graph_pool_handle": lambda: (0, 7),
        "current_stream": lambda device: None,
        "stream": lambda stream: contextlib.nullcontext(),
        "graph": capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(passes_private, "abandon_capture", lambda graph, pool, device: told.append("abandon"))
    monkeypatch.setattr(torch, "zeros", lambda size, device: told.append("a kernel"))
    assert passes_private.captured(lambda: told.append("run"), torch.device("cuda")) == "replay"
    assert told == ["begin", "run", "end"]
    told.clear()

    def fails():
        raise RuntimeError("not in a capture")

    with pytest.raises(RuntimeError, match="not in a capture"):
        passes_private.captured(fails, torch.device("cuda"))
    assert told == ["begin", "end", "abandon", "begin", "a kernel", "end"]


def stub_of(name):
    """How torch's stubs declare a function of `torch._C`."""
    stubs = (Path(torch.__file__).parent / "_C" / "__init__.pyi").read_text()
    return next(line for line in stubs.splitlines() if line.startswith(f"def {name}("))


def test_a_product_takes_gelu_along():
    bias, x, weight = torch.randn(5), torch.randn(3, 4), torch.randn(4, 5)
    expected = torch.nn.functional.gelu(bias + x @ weight)  # on a CPU in its exact form
    torch.testing.assert_close(kernels_private.addmm_gelu(bias, x, weight), expected)
