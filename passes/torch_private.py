"""The private torch API that passes use, in this one place; `tests/test_torch_private.py` calls all of it."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


@contextlib.contextmanager
def fake_mode(values: Iterable[Any]) -> Iterator[None]:
    """Within the block the fake tensors among the values compute; where there are none, nothing changes.

    Sizes that are symbols stay symbols: outside of torch's Python dispatcher its C++ padding asks for their numbers.
    """
    mode = next((value.fake_mode for value in values if isinstance(value, torch._subclasses.FakeTensor)), None)
    if mode is None:
        yield
        return
    with enable_python_dispatcher(), mode:
        yield


UNKNOWN = 8192  # what Inductor too takes for a size that no example tells


def example_size(value: Any) -> Any:
    """A symbolic size as the number that it had in the example, or might have had where data decide it; anything else
    as it is."""
    if not isinstance(value, torch.SymInt):
        return value
    if value.node.hint is not None:
        return value.node.hint
    expression = value.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, UNKNOWN)))


def is_transformed(tensor: Tensor) -> bool:
    """Whether the tensor is one of those inside a transform of torch.func, whose flags are those of its level."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def untransformed(tensor: Tensor) -> Tensor:
    """The tensor as calls inside the transforms see it, without their wrappers: one example of a batch, in its memory.

    It requires gradients where any of the transforms, or autograd around them, asks for some.
    """
    inner, learned = tensor, tensor.requires_grad
    while is_transformed(inner):
        inner = torch._C._functorch.get_unwrapped(inner)
        learned |= inner.requires_grad
    if inner is tensor:
        return tensor
    with fake_mode([inner]), torch.no_grad():
        plain = inner.detach().as_strided(tensor.shape, tensor.stride(), inner.storage_offset())
    return plain.requires_grad_(learned)


def storage_address(tensor: Tensor) -> int:
    """Where the tensor's storage is: the same for views of one tensor, inside torch.func's transforms as well."""
    while is_transformed(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    try:
        return tensor.untyped_storage()._cdata
    except NotImplementedError:  # sparse tensors have several, opaque ones none that can be asked for
        return id(tensor)


def specialize(size: Any) -> int:
    """A symbolic size as the number that it has in the example, with a guard that makes any other compile anew."""
    return int(size)


def surely_equal(first: Any, second: Any) -> bool:
    """Whether two sizes are equal whatever the symbols in them stand for; makes no guard."""
    return statically_known_true(first == second)


def surely_at_most(first: Any, second: Any) -> bool:
    """Whether a size is not above another whatever the symbols in them stand for; makes no guard."""
    return statically_known_true(first <= second)


@contextlib.contextmanager
def without_autocast(graph: fx.Graph, device: str) -> Iterator[None]:
    """What is inserted into the graph inside this block runs with autocast switched off, as under torch.autocast."""
    args = (device, torch.get_autocast_dtype(device), False, None)
    region = graph.call_function(torch.amp.autocast_mode._enter_autocast, args)
    with torch.autocast(device, enabled=False):
        yield
    graph.call_function(torch.amp.autocast_mode._exit_autocast, (region,))


class EffectRecorder(TorchDispatchMode):
    """Whether calls inside its block write to memory, and whether they draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = self.random = False

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.writes |= op._schema.is_mutable
        self.random |= torch.Tag.nondeterministic_seeded in op.tags
        return op(*args, **(kwargs or {}))


def switch(node: fx.Node) -> str | None:
    """What kind of call the node is, if it switches something on or off for those after it.

    "gradients", "inference" and "autocast", which are left by "leave" of the node that entered them; "other" for calls
    that neither accept nor return anything to compute with.
    """
    if node.op != "call_function":
        return None
    known = _SWITCHES.get(node.target)
    if known is not None or vmap_call(node) is not None:
        return known
    name = str(getattr(node.target, "__name__", node.target))
    if node.meta.get("example_value") is not None or name.startswith(("_check", "_assert", "sym_constrain")):
        return None
    computes = any(isinstance(each.meta.get("example_value"), Tensor) for each in node.all_input_nodes)
    return None if computes else "other"


_SWITCHES = {
    torch._C._set_grad_enabled: "gradients",
    torch.autograd.grad_mode._enter_inference_mode: "inference",
    torch.autograd.grad_mode._exit_inference_mode: "leave",
    torch.amp.autocast_mode._enter_autocast: "autocast",
    torch.amp.autocast_mode._exit_autocast: "leave",
}


def no_modes() -> contextlib.AbstractContextManager:
    """Real tensors inside: no fake mode, no dispatch mode of whoever compiles."""
    return _disable_current_modes()


def transform(node: fx.Node) -> str | None:
    """The transform of torch.func that the node enters: "vmap", "grad" or "jvp"; "leave" for calls that leave one."""
    if not is_of_transform(node):
        return None
    name, _, direction = node.target.__name__.removeprefix("_").partition("_")
    return {"increment_nesting": name, "decrement_nesting": "leave"}.get(direction)


def is_of_transform(node: fx.Node) -> bool:
    """Whether the node is one of the calls by which Dynamo writes transforms of torch.func."""
    if node.op != "call_function":
        return False
    return (getattr(node.target, "__module__", None) or "").startswith(("torch._functorch.", "torch._C._functorch"))


def vmap_call(node: fx.Node) -> str | None:
    """Which of vmap's calls in Dynamo's graphs it is: "load", "enter", "leave", "add" or "remove"; None for others."""
    if getattr(node.target, "__module__", None) != "torch._functorch.predispatch":
        return None
    return _VMAP_CALLS.get(node.target.__name__)


_VMAP_CALLS = {
    "lazy_load_decompositions": "load",
    "_vmap_increment_nesting": "enter",
    "_vmap_decrement_nesting": "leave",
    "_add_batch_dim": "add",
    "_remove_batch_dim": "remove",
}


def pack_linear(weight: Tensor, rows: int) -> Tensor:
    """oneDNN's own layout of a (out, in) weight for inputs of that many rows: an opaque tensor."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def pack_convolution(
    weight: Tensor, padding: list[int], stride: list[int], dilation: list[int], groups: int, input_size: list[int]
) -> Tensor:
    """oneDNN's own layout of a convolution's weight for inputs of that size: an opaque tensor."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, input_size)


def linear_pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, attribute: str, algorithm: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, attribute, [], algorithm)


def convolution_pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    attribute: str,
    algorithm: str,
) -> Tensor:
    options = (padding, stride, dilation, groups, attribute, [], algorithm)
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *options)


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether this torch and processor run oneDNN's products in that dtype."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if dtype == torch.float32:
        return True
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@functools.cache
def opaque_strides(rank: int) -> tuple[int, ...]:
    """The strides that an opaque oneDNN tensor says it has; compiled code compares them with those of the fake."""
    with _disable_current_modes():  # asked for while fakes are computed
        plain = torch.empty((8,) * rank, device="cpu")
        packed = pack_linear(plain, 8) if rank == 2 else pack_convolution(plain, [0], [1], [1], 1, [8] * rank)
        return packed.stride()


@functools.cache
def register_onednn_lowerings() -> None:
    """Let Inductor write calls of oneDNN where a graph has `mvc::packed_linear` or `mvc::packed_convolution`.

    Its own lowerings of the same calls take weights that are attributes of the graph alone. Without these the ops run
    as they are, through Python.
    """
    from torch._inductor import mkldnn_ir
    from torch._inductor.ir import ExternKernel, FixedLayout, TensorBox
    from torch._inductor.lowering import register_lowering

    def packed_linear(x, weight, bias, attribute, algorithm):
        x = ExternKernel.require_contiguous(ExternKernel.realize_input(x))
        weight = ExternKernel.realize_input(weight)
        inputs, constants = [x, weight], [attribute, [-1], algorithm]
        if bias is None:
            constants.insert(0, None)
        else:
            inputs.append(ExternKernel.require_contiguous(ExternKernel.realize_input(bias)))
        size = [*x.get_size()[:-1], weight.get_size()[0]]
        layout = FixedLayout(x.get_device(), x.get_dtype(), size)
        linear = mkldnn_ir.LinearUnary(layout=layout, inputs=inputs, constant_args=constants)
        return TensorBox.create(mkldnn_ir._create_output_node(linear))

    def packed_convolution(x, weight, bias, padding, stride, dilation, groups, attribute, algorithm):
        options = (padding, stride, dilation, groups, attribute, [], algorithm)
        return TensorBox.create(mkldnn_ir.ConvolutionUnary.create(x, weight, bias, *options))

    for lowering in (packed_linear, packed_convolution):
        op = getattr(torch.ops.mvc, lowering.__name__).default
        register_lowering(op, type_promotion_kind=None)(lowering)


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A copy with everything that AOTAutograd looks for: Dynamo notes at an input, outside `meta`, where it is from."""
    copied = copy.deepcopy(graph)
    for old, new in zip(graph.find_nodes(op="placeholder"), copied.find_nodes(op="placeholder"), strict=True):
        if hasattr(old, "_dynamo_source"):
            new._dynamo_source = old._dynamo_source
    return copied


def with_graph(graph_module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """A module of another graph over the same inputs, or some of them, with what Dynamo notes on the module.

    AOTAutograd takes a module without these notes for one that is not Dynamo's, and none of its inputs for static.
    """
    made = fx.GraphModule(graph_module, graph)
    made.meta.update(graph_module.meta)
    if hasattr(graph_module, "_param_name_to_source"):
        made._param_name_to_source = graph_module._param_name_to_source
    return made


def abandon_capture(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], device: torch.device) -> None:
    """Free what a CUDA graph holds after its capture failed; torch 2.11 would go on allocating from its pool."""
    graph.reset()
    with contextlib.suppress(RuntimeError):  # newer torch has done this by now
        index = torch.cuda.current_device() if device.index is None else device.index
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)


def captured(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """What replays the CUDA graph of a warm call.

    Raises:
        Exception: what the call raised while it was captured. CUDA can be used afterwards.
    """
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    try:
        _capture(graph, call, device, pool=pool)
    except Exception:
        abandon_capture(graph, pool, device)
        # Until a capture succeeds, generators of torch 2.11 act as if they were captured and return no numbers.
        _capture(torch.cuda.CUDAGraph(), lambda: torch.zeros(1, device=device), device)
        raise
    return graph.replay


def _capture(graph: torch.cuda.CUDAGraph, call: Callable[[], object], device: torch.device, **options: Any) -> None:
    # Around it a stream of our own choice is made current: where a capture fails, torch leaves the capture's current.
    around = torch.cuda.stream(torch.cuda.current_stream(device))
    with around, torch.cuda.graph(graph, capture_error_mode="thread_local", **options):
        call()
