"""The private API of Inductor and Triton that offline generation uses, in this one place.

`mvc.offline.device` says for which versions; `tests/offline/test_offline_codegen.py` and
`tests/export/test_export_cuda.py` run all of it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mvc.compile.inductor_code import GraphCode, Step, generated_code
from mvc.measure import flops
from mvc.patches import replaced

# Library calls whose FLOPs have to be known.
PRODUCT = re.compile(r"convolution|attention|m[mv]\b|dot\b")
# Lengths among the arguments of own kernels: of the scan's, the smallest is the number of steps of a program.
STEPS = ("length", "chunk", "chunks")


class NotRun(RuntimeError):
    """Raised by generated code instead of running."""


class Work(NamedTuple):
    """The work of one launch on the device.

    Attributes:
        kind: "triton" for generated kernels, "own" for Triton kernels that the graph holds, "extern" for library calls.
        name: the name of what the wrapper launches.
        origins: nodes of the FX graph that it computes.
        reads, writes: bytes of each buffer, by its name; of a view, the bytes that it shows.
        flops: of library calls, as torch counts them.
        groups: of a convolution.
        sizes: for an own kernel, the sizes of its tensors, by the names of the kernel's arguments.
        steps: for an own kernel, the least of its arguments that are lengths; for a scan, how many steps each of its
            programs computes one after another.
    """

    kind: str
    name: str
    origins: list[Any]
    reads: dict[str, int]
    writes: dict[str, int]
    flops: int = 0
    groups: int = 1
    sizes: dict[str, tuple[int, ...]] | None = None
    steps: int = 0


class Code(NamedTuple):
    """One graph's wrapper, the work of its launches in order, and the names of its inputs."""

    wrapper: str
    work: list[Work]
    inputs: list[str]


# Nothing that runs a kernel while compiling, as folding does, and padding, which measures; and nothing from a cache.
OPTIONS = {
    "joint_graph_constant_folding": False,
    "shape_padding": False,
    "compile_threads": 1,
    "fx_graph_cache": False,
}


def source_of(placeholder: Any) -> str:
    """The source of an input of Dynamo's graph: the name of the model's parameter or buffer, or of an argument."""
    keys = re.findall(r"\['(\w+)'\]", placeholder._dynamo_source.name)
    return ".".join(keys[1:] if keys[0] == "self" else keys)


def fake_mode() -> contextlib.AbstractContextManager:
    """Tensors made in the block have no storage."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


@contextlib.contextmanager
def captured_code() -> Iterator[list[Code]]:
    """Collect what Inductor generates in the block; compiled functions raise `NotRun` when they are called."""
    from torch._functorch import config as functorch_config
    from torch._inductor.graph import GraphLowering

    codes: list[Code] = []

    class Module:
        __file__ = "<generated, not run>"
        key = path = None

        @staticmethod
        def call(arguments: Any) -> None:
            raise NotRun

    def compile_to_module(graph: GraphLowering) -> type[Module]:
        wrapper, _ = graph.codegen()
        GraphLowering.save_output_code(wrapper.value)
        return Module

    def collect(code: GraphCode) -> None:
        buffers = _Buffers(code.graph)
        work = [each for step in code.steps for each in _work(step, buffers)]
        codes.append(Code(code.wrapper, work, list(code.graph.graph_input_names)))

    # The backward is wanted too, though nothing calls it.
    wanted = functorch_config.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True)
    with generated_code(collect), replaced(GraphLowering, "compile_to_module", compile_to_module), wanted:
        yield codes


def _work(step: Step, buffers: _Buffers) -> Iterator[Work]:
    """The work of a step of the schedule: one launch and, where a kernel reduces rows and columns at once, the library
    calls that finish its reductions."""
    if step.kind == "given":
        (node,) = step.nodes
        yield _own(node.node, step.name, buffers)
    elif step.kind == "library":
        (node,) = step.nodes
        yield _call(node.node, *buffers.accessed(step.nodes), buffers)
    elif step.kernel.mix_order_reduction:
        yield from _reduced_by_parts(step, buffers)
    else:
        yield Work("triton", step.name, _origins(buffers.computed(step)), *buffers.accessed(step.nodes))


def _reduced_by_parts(step: Step, buffers: _Buffers) -> Iterator[Work]:
    """The work of a kernel that leaves, for each column that it reduces, a part for each of its blocks."""
    kernel = step.kernel
    nodes = buffers.computed(step)
    origins = _origins(nodes)
    reads, writes = buffers.accessed(nodes)
    blocks = -(-int(kernel.numels["x"]) // kernel.rsplit_size)
    size = 4 * blocks * int(kernel.numels["r0_"])  # float32
    finishing: list[Work] = []
    for partial in kernel.saved_partial_accumulate:
        op = {"min": "amin", "max": "amax"}.get(partial.reduction_type, partial.reduction_type)
        writes.pop(partial.buffer_name, None)
        writes[f"parts of {partial.buffer_name}"] = size
        finishing += _finishing(f"Tensor.{op}", partial.buffer_name, size, buffers, origins)
    yield Work("triton", step.name, origins, reads, writes)
    yield from finishing


def _origins(nodes: Iterable[Any]) -> list[Any]:
    return sorted({origin for each in nodes for origin in each.node.get_origins()})


def _finishing(op: str, buffer: str, parts: int, buffers: _Buffers, origins: list[Any]) -> Iterator[Work]:
    """The library calls that reduce a buffer's parts in float32; a cast is a launch of its own."""
    size, whole = buffers.size(buffer), 4 * buffers.elements(buffer)
    if size == whole:
        yield Work("extern", op, origins, {f"parts of {buffer}": parts}, {buffer: size})
        return
    uncast = f"{buffer} in float32"
    yield Work("extern", op, origins, {f"parts of {buffer}": parts}, {uncast: whole})
    yield Work("extern", "Tensor.to", origins, {uncast: whole}, {buffer: size})


class _Buffers:
    """The names and sizes of a graph's buffers.

    A buffer that is written in place has a name for each of its contents, and one that is concatenated in place is a
    part of another: both count under the name of the memory. A call's results count under the names of its elements.
    """

    def __init__(self, graph: Any) -> None:
        from torch._inductor.ir import ConcatKernel, MultiOutput

        self._graph = graph
        self._real = dict(graph.scheduler.mutation_real_name)
        self._elements: dict[str, dict[str, int]] = {}
        for node in (each.node for each in graph.scheduler.nodes):
            if isinstance(node, ConcatKernel):
                self._real.update((part.get_name(), node.get_name()) for part in node.inputs)
            elif isinstance(node, MultiOutput):
                self._elements.setdefault(node.inputs[0].get_name(), {})[node.get_name()] = _bytes(node)

    def accessed(self, nodes: Sequence[Any]) -> tuple[dict[str, int], dict[str, int]]:
        """The bytes that nodes of the schedule running as one read and write, by Inductor's count: a library call's
        inputs in full, and nothing that a kernel reads after writing it itself."""
        reads, writes = {}, {}
        for node in nodes:
            reads.update(node.get_read_write_buffer_accesses(include_reads=True, include_writes=False))
            writes.update(node.get_read_write_buffer_accesses(include_reads=False, include_writes=True))
        own = {name for node in nodes for name in node.get_buffer_names()}
        reads = {name: size for name, size in reads.items() if name not in own}
        if len(nodes) > 1:  # Inductor does so within one node
            writes = {name: size for name, size in writes.items() if name not in self._graph.removed_buffers}
        elements = [self._elements.get(name, {name: size}) for name, size in writes.items()]
        return self._counted(reads.items()), self._counted(each for some in elements for each in some.items())

    def computed(self, step: Step) -> list[Any]:
        """What the nodes of a step compute, one by one."""
        removed = self._graph.scheduler.removed_ops
        nodes = (each for node in step.nodes for each in node.get_nodes())
        return [each for each in nodes if each.get_name() not in removed]

    def size(self, name: str) -> int:
        return _bytes(self._graph.get_buffer(name))

    def elements(self, name: str) -> int:
        return math.prod(map(int, self._graph.get_buffer(name).get_size()))

    def seen(self, tensors: Iterable[Any]) -> dict[str, int]:
        """What the tensors show of their buffers, each view once."""
        views = {
            (each.get_name(), tuple(each.get_size()), tuple(each.get_stride()), each.get_layout().offset): _bytes(each)
            for each in tensors
        }
        return self._counted((name, size) for (name, *_), size in views.items())

    def _counted(self, accesses: Iterable[tuple[str, int]]) -> dict[str, int]:
        totals: dict[str, int] = {}
        for name, size in accesses:
            while name in self._real:
                name = self._real[name]
            if name in totals:  # seen twice, at most the whole of it
                size = min(totals[name] + size, _bytes(self._graph.get_buffer(name)))
            totals[name] = size
        return totals


def _call(kernel: Any, reads: dict[str, int], writes: dict[str, int], buffers: _Buffers) -> Work:
    """The work of a library call. Of an input that is a view of a larger buffer, it reads what the view shows."""
    from torch.utils._pytree import tree_leaves

    tensors = [each for each in tree_leaves([kernel.inputs, kernel.kwargs]) if _is_tensor(each)]
    seen = buffers.seen(tensors)
    reads = {name: min(size, seen.get(name, size)) for name, size in reads.items()}
    origin, name = _origin(kernel), kernel.get_kernel_name()
    origins = sorted(kernel.get_origins()) if origin is None else [origin]
    return Work("extern", name, origins, reads, writes, _flops(origin, name), int(kernel.kwargs.get("groups", 1)))


def _own(kernel: Any, name: str, buffers: _Buffers) -> Work:
    """The work of a Triton kernel in the graph; Inductor has found in its code which tensors it reads and writes."""
    tensors = {argument: each for argument, each in kernel.kwargs.items() if _is_tensor(each)}
    found = kernel.arg_accesses.read_writes
    reads, writes = (
        buffers.seen(tensors[each.name] for each in side if each.name in tensors)
        for side in (found.reads, found.writes)
    )
    # In place, it writes the part of its whole tensor that it reads.
    writes = {buffer: min(size, reads.get(buffer, size)) for buffer, size in writes.items()}
    origins = [each for each in kernel.get_origins() if str(each.target) == "triton_kernel_wrapper_mutation"]
    sizes = {argument: tuple(map(int, each.get_size())) for argument, each in tensors.items()}
    steps = min((int(kernel.kwargs[each]) for each in STEPS if each in kernel.kwargs), default=0)
    return Work("own", name, origins, reads, writes, sizes=sizes, steps=steps)


def _origin(kernel: Any) -> Any:
    """The FX node that became this library call.

    Inductor names no node for calls with several results, nor where it split off a bias. The origin is then the last
    node of the same op among the origins of the call and its inputs.
    """
    if (origin := kernel.get_origin_node()) is not None:
        return origin
    op = getattr(kernel.op_overload, "overloadpacket", None)
    same = [each for each in kernel.get_origins() if op and getattr(each.target, "overloadpacket", None) is op]
    return max(same, default=None)


def _flops(origin: Any, name: str) -> int:
    """The FLOPs of a library call.

    Raises:
        RuntimeError: torch cannot count those of a convolution, a matrix product or attention.
    """
    counted = 0 if origin is None else flops.of_node(origin)
    if not counted and PRODUCT.search(name):
        raise RuntimeError(f"the FLOPs of {name}, which came from {origin}, cannot be counted")
    return counted


def _is_tensor(node: Any) -> bool:
    from torch._inductor.ir import IRNode

    return isinstance(node, IRNode) and node.maybe_get_size() is not None


def _bytes(node: Any) -> int:
    """The bytes of a tensor; for a view of a larger one, of the part that it shows."""
    return math.prod(int(size) for size in node.get_size()) * node.get_dtype().itemsize


@contextlib.contextmanager
def packaging_without_launches(toolkit: Path) -> Iterator[dict[str, Any]]:
    """Within the block AOTInductor compiles each kernel for the device, and runs none.

    Where it would time several configurations of a kernel it takes the first, and where it would make tensors for that
    it makes some without memory.

    Args:
        toolkit: see `mvc.offline.device.toolkit`.

    Yields:
        the options that belong to it.
    """
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner
    from torch._inductor.select_algorithm import AlgorithmSelectorCache
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp
    from torch.utils import cpp_extension

    def saved(kernel: Any, *arguments: Any, stream: int, **options: Any) -> None:
        if not kernel.launchers:
            kernel.precompile()
        if not kernel.cuda_kernel_saved:
            kernel.save_gpu_kernel(stream, kernel.launchers[0])

    def without_memory(size: Any, stride: Any, device: Any, dtype: torch.dtype, *_: Any) -> torch.Tensor:
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")

    def fake_attribute(propagation: Any, target: str) -> Any:  # an operation on real tensors alone would launch
        found = super(FakeTensorProp, propagation).fetch_attr(target)
        return propagation._mode.from_tensor(found, static_shapes=True) if isinstance(found, torch.Tensor) else found

    with (
        replaced(CachingAutotuner, "run", saved),
        replaced(AlgorithmSelectorCache, "generate_example_value", staticmethod(without_memory)),
        replaced(FakeTensorProp, "fetch_attr", fake_attribute),
        replaced(cpp_extension, "CUDA_HOME", str(toolkit)),
    ):
        yield {name: value for name, value in OPTIONS.items() if name != "fx_graph_cache"}


class Binary(NamedTuple):
    """A kernel compiled with one of its configurations."""

    image: bytes
    warps: int
    stages: int
    shared: int


@contextlib.contextmanager
def no_device() -> Iterator[None]:
    """Load generated kernels without asking a driver about the device."""
    from torch._inductor.runtime import triton_helpers

    with triton_helpers.skip_gpu_driver_setup():
        yield


def compiled(kernel: Any, capability: int) -> Iterator[Binary]:
    """Compile a kernel of a generated file, Inductor's `CachingAutotuner`, with each of its configurations."""
    from triton.compiler import ASTSource

    for config in kernel.configs:
        meta = kernel._create_compile_meta(config)
        options = kernel._create_compile_options(config, meta)
        source = ASTSource(kernel.fn, meta["signature"], meta["constants"], meta["configs"][0])
        yield _binary(source, capability, options)


def compiled_launch(
    kernel: Any, arguments: Mapping[str, Any], capability: int, *, warps: int, stages: int | None = None
) -> Binary:
    """Compile a `triton.jit` function as a launch does, which knows which arguments are None, 1 or multiples of 16.

    Args:
        arguments: all of them in their order, `tl.constexpr` ones too; tensors stand for their dtype, and may be on
            the device "meta".
        stages: of software pipelines; None for as many as Triton takes by itself.
    """
    from triton.compiler import ASTSource
    from triton.runtime.jit import mangle_type

    constexpr = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    signature, constants, attributes = {}, {}, {}
    for place, (name, value) in enumerate(arguments.items()):
        is_tensor = isinstance(value, torch.Tensor)
        if name in constexpr or value is None or (not is_tensor and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = mangle_type(value)
        if is_tensor or (isinstance(value, int) and value % 16 == 0):
            attributes[place,] = [["tt.divisibility", 16]]
    options = {"num_warps": warps} | ({} if stages is None else {"num_stages": stages})
    return _binary(ASTSource(kernel, signature, constants, attributes), capability, options)


def _binary(source: Any, capability: int, options: Any) -> Binary:
    import triton
    from triton.backends.compiler import GPUTarget

    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return Binary(made.asm["cubin"], made.metadata.num_warps, made.metadata.num_stages, made.metadata.shared)
