"""Reads the code that Inductor generates: its launches, and the steps of Inductor's schedule that they run.

This module holds the private API of Inductor's code generation; `tests/compile/test_inductor_code.py` exercises it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from mvc.patches import patching, replaced

# A line of Inductor's wrapper that runs a kernel: generated, from a library, or a registered op.
LAUNCH = re.compile(
    r"^\s+(?:[\w, ]+ = )?(\w+(?=\.run\()|cpp_\w+|extern_kernels\.\w+|torch\.ops\.[\w.]+|aten\.[\w.]+)(?:\.run)?\(", re.M
)


class Step(NamedTuple):
    """What one launch of generated code runs, as Inductor's schedule has it.

    Attributes:
        kind: "generated" for kernels that Inductor writes, "given" for Triton kernels that the graph holds.
        name: the name of what is launched, as in the code.
        nodes: the schedule's nodes that it runs. One C++ kernel runs all nodes between two library calls.
        bytes: the bytes that it reads and writes, by Inductor's count.
        kernel: Inductor's object that wrote a generated Triton kernel.
    """

    kind: Literal["generated", "given", "library"]
    name: str
    nodes: tuple[Any, ...]
    bytes: int
    kernel: Any = None


class GraphCode(NamedTuple):
    """The code of one graph.

    Attributes:
        wrapper: its source.
        steps: what it runs, in order; None where it was taken from a cache.
        graph: Inductor's graph; None where the code was taken from a cache.
    """

    wrapper: str
    steps: list[Step] | None
    graph: Any


def launches(wrapper: str) -> list[str]:
    """The names of what a wrapper launches, in order."""
    return LAUNCH.findall(wrapper.partition("def call(")[2])


def is_library(name: str) -> bool:
    """Whether a launch of that name calls a library or a registered op."""
    return "." in name


def paired(names: Sequence[str], steps: Sequence[Any]) -> list[tuple[str, Any]]:
    """Each launch with the step that it runs. The names of both must agree one by one, in order.

    Raises:
        ValueError: they do not; the message says where.
    """
    if len(names) != len(steps):
        raise ValueError(f"{len(names)} launches for {len(steps)} steps of the schedule")
    for name, step in zip(names, steps, strict=True):
        if name != step.name:
            raise ValueError(f"a launch of {name} where the schedule has {step.name}")
    return list(zip(names, steps, strict=True))


@contextlib.contextmanager
def generated_code(observe: Callable[[GraphCode], None]) -> Iterator[None]:
    """Call `observe` with the code of each graph that Inductor compiles in the block or loads from its cache. Threads
    enter the block one at a time, since torch is patched meanwhile."""
    from torch._inductor.codegen.cpp import CppScheduling
    from torch._inductor.codegen.triton import TritonScheduling
    from torch._inductor.graph import GraphLowering
    from torch._inductor.ir import UserDefinedTritonKernel
    from torch._inductor.virtualized import V

    launched: dict[Any, dict[str, _Launch]] = {}  # by graph, and by the names of the schedule's nodes
    save_output_code, codegen_comment = GraphLowering.save_output_code, UserDefinedTritonKernel.codegen_comment

    def noting(define_kernel: Callable[..., str]) -> Callable[..., str]:
        def define(scheduling: Any, source: str, nodes: Sequence[Any], kernel: Any = None) -> str:
            name = define_kernel(scheduling, source, nodes, kernel)
            names = [each.get_name() for each in nodes if hasattr(each, "get_name")]  # not the schedule's markers
            launched.setdefault(V.graph, {}).update(dict.fromkeys(names, _Launch("generated", name, kernel)))
            return name

        return define

    def comment(node: Any, wrapper: Any, kernel_name: str | None = None) -> None:
        launched.setdefault(V.graph, {})[node.get_operation_name()] = _Launch("given", kernel_name or "")
        codegen_comment(node, wrapper, kernel_name)

    def save(wrapper: str) -> None:
        graph = V.graph if isinstance(V.graph, GraphLowering) else None
        steps = None if graph is None else list(_steps(graph, launched.pop(graph, {})))
        observe(GraphCode(wrapper, steps, graph))
        if save_output_code is not None:
            save_output_code(wrapper)

    with (
        patching,
        replaced(GraphLowering, "save_output_code", save),
        replaced(CppScheduling, "define_kernel", noting(CppScheduling.define_kernel)),
        replaced(TritonScheduling, "define_kernel", noting(TritonScheduling.define_kernel)),
        replaced(UserDefinedTritonKernel, "codegen_comment", comment),
    ):
        yield


@dataclasses.dataclass(eq=False)  # two launches of one kernel are two
class _Launch:
    kind: Literal["generated", "given", "library"]
    name: str
    kernel: Any = None


def _steps(graph: Any, launched: dict[str, _Launch]) -> Iterator[Step]:
    for launch, group in itertools.groupby(_scheduled(graph, launched), key=lambda each: each[0]):
        nodes = tuple(node for _, node in group)
        moved = sum(node.get_read_write_buffers_sizes() for node in nodes)
        yield Step(launch.kind, launch.name, nodes, moved, launch.kernel)


def _scheduled(graph: Any, launched: dict[str, _Launch]) -> Iterator[tuple[_Launch, Any]]:
    """The schedule's nodes, each with its launch, except those that run nothing: allocations, concatenations in place,
    and elements of a call's result. A node that several kernels compute is split into its parts."""
    from torch._inductor.ir import MultiOutput, UserDefinedTritonKernel
    from torch._inductor.scheduler import ExternKernelSchedulerNode, NopKernelSchedulerNode

    unknown = _Launch("generated", "")
    for node in graph.scheduler.nodes:
        if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, MultiOutput):
            continue
        if isinstance(node.node, UserDefinedTritonKernel):
            yield launched.get(node.get_name(), unknown), node
        elif isinstance(node, ExternKernelSchedulerNode):
            yield _Launch("library", node.node.get_kernel_name() or ""), node
        else:
            parts: dict[_Launch, list[Any]] = {}
            for each in node.get_nodes():
                if each.get_name() in launched:  # and was not removed meanwhile
                    parts.setdefault(launched[each.get_name()], []).append(each)
            for launch, some in parts.items():
                for each in some if len(parts) > 1 else [node]:
                    yield launch, each
