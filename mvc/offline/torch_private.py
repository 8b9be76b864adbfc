"""The private API of Inductor and Triton that offline generation uses, in this one place.

`mvc.offline.device` says for which versions; `tests/test_offline_codegen.py` runs all of it.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock


class NotRun(RuntimeError):
    """What generated code raises in the place of running."""


class Step(NamedTuple):
    """One node of Inductor's schedule that runs on the device.

    Attributes:
        kind: "triton" for generated kernels, "scan" for kernels that the model brings, "extern" for library calls.
        origins: nodes of the FX graph that it computes.
        reads, writes: bytes of each buffer, by its name.
        flops: of library calls, as torch counts them.
        sizes: for a scan, of its tensors, by the names of the kernel's arguments.
    """

    kind: str
    origins: list[Any]
    reads: dict[str, int]
    writes: dict[str, int]
    flops: int = 0
    sizes: dict[str, tuple[int, ...]] | None = None


class Code(NamedTuple):
    """One graph's wrapper, the steps that it runs, in order, and the names of what it takes and gives.

    A backward takes what its forward takes and gives under the same names; an output that is none of them is None.
    """

    wrapper: str
    steps: list[Step]
    inputs: list[str]
    outputs: list[str | None]


# Nothing that runs a kernel while compiling: not folding, not padding, which measures; nothing from a cache.
OPTIONS = {
    "joint_graph_constant_folding": False,
    "shape_padding": False,
    "compile_threads": 1,
    "fx_graph_cache": False,
}


def source_of(placeholder: Any) -> str:
    """What an input of Dynamo's graph is, as a parameter's or buffer's name in the model, or an argument's."""
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
        outputs = [getattr(each, "name", None) for each in graph.module.graph.output_node().args[0]]
        codes.append(Code(wrapper.value, list(_steps(graph)), list(graph.graph_input_names), outputs))
        return Module

    patched = mock.patch.object(GraphLowering, "compile_to_module", compile_to_module)
    # The backward is wanted too, though nothing calls it.
    with patched, functorch_config.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True):
        yield codes


def _steps(graph: Any) -> Iterator[Step]:
    from torch._inductor import ir
    from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode

    renames = graph.scheduler.mutation_real_name  # a buffer written in place has a name for each of its contents
    for node in graph.scheduler.nodes:
        if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, ir.MultiOutput):
            continue  # runs nothing: an element of what another step gave
        if isinstance(node.node, ir.UserDefinedTritonKernel):
            yield _scan(node.node)
            continue
        reads, writes = (
            {renames.get(name, name): size for name, size in accesses.items()}
            for accesses in (
                node.get_read_write_buffer_accesses(include_reads=True, include_writes=False),
                node.get_read_write_buffer_accesses(include_reads=False, include_writes=True),
            )
        )
        if isinstance(node, ExternKernelSchedulerNode):
            yield Step("extern", _origins(node.node), reads, writes, int(node.estimate_flops() or 0))
        else:
            origins = [origin for each in node.get_nodes() for origin in each.node.get_origins()]
            yield Step("triton", origins, reads, writes)


def _scan(kernel: Any) -> Step:
    arguments = {name: each for name, each in kernel.kwargs.items() if hasattr(each, "get_size")}
    mutated = {(each.get_name(), tuple(each.get_size())) for each in kernel.mutable_args}
    reads, writes = {}, {}
    for each in arguments.values():
        side = writes if (each.get_name(), tuple(each.get_size())) in mutated else reads
        side[each.get_name()] = side.get(each.get_name(), 0) + _bytes(each)
    # In place it writes, of the whole tensor that it is given, the part that it reads.
    writes = {name: min(size, reads.get(name, size)) for name, size in writes.items()}
    sizes = {name: tuple(map(int, each.get_size())) for name, each in arguments.items()}
    return Step("scan", _origins(kernel), reads, writes, sizes=sizes)


def _origins(node: Any) -> list[Any]:
    """The FX node that became this call, without those that its inputs came from; all where there is no such one."""
    own = [each for each in node.get_origins() if str(each.target) == "triton_kernel_wrapper_mutation"]
    origin = node.get_origin_node()
    return own or ([origin] if origin is not None else list(node.get_origins()))


def _bytes(node: Any) -> int:
    """Of the tensor as it is seen: a view of a larger one counts what it shows."""
    return math.prod(int(size) for size in node.get_size()) * node.get_dtype().itemsize


class Binary(NamedTuple):
    """A kernel compiled with one of its configurations."""

    image: bytes
    warps: int
    stages: int
    shared: int


@contextlib.contextmanager
def no_device() -> Iterator[None]:
    """Load generated kernels without asking a driver what the device is."""
    from torch._inductor.runtime import triton_helpers

    with triton_helpers.skip_gpu_driver_setup():
        yield


def compiled(kernel: Any, capability: int) -> Iterator[Binary]:
    """Compile a kernel of a generated file, Inductor's `CachingAutotuner`, with each of its configurations."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    for config in kernel.configs:
        meta = kernel._create_compile_meta(config)
        options = kernel._create_compile_options(config, meta)
        source = ASTSource(kernel.fn, meta["signature"], meta["constants"], meta["configs"][0])
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        yield Binary(made.asm["cubin"], made.metadata.num_warps, made.metadata.num_stages, made.metadata.shared)
