"""The private torch API that `mvc` uses, in this one place, with the versions it was written for.

`tests/test_torch_private.py` calls every function here and fails when torch changes what they rely on.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_origin

import torch
from torch import fx

from mvc.patches import patching, replaced

# Tests run on the first, on 2.14 and on the last; where these differ, the code handles every form.
TESTED_VERSIONS = ("2.11", "2.12", "2.13", "2.14", "2.15")

VECTOR_ISA_CHECKS = "mvc: vector instructions"  # the name of their thread
_select_conv_backend = torch._C._select_conv_backend

Decompositions = Mapping[torch._ops.OpOverload, Callable]
Backend = Callable[[fx.GraphModule, list[Any]], Callable[..., Any]]


def warn_if_untested() -> None:
    """One warning where torch is of another version than this module was tested with."""
    if ".".join(torch.__version__.split(".")[:2]) not in TESTED_VERSIONS:
        warnings.warn(
            f"mvc was tested with torch {TESTED_VERSIONS[0]} to {TESTED_VERSIONS[-1]}; this is {torch.__version__}",
            stacklevel=2,
        )


def graph_breaks() -> Counter[str]:
    """Why torch has broken graphs in this process, or left code to Python, in its words, and how often."""
    found: Counter[str] = Counter()
    for kind in ("graph_break", "unimplemented"):
        for reason, count in torch._dynamo.utils.counters[kind].items():
            said = (line for line in reason.splitlines() if line.strip() and not line.startswith((" ", "***")))
            found["; ".join(said)] += count
    return found


def mode_options(mode: str, dynamic: bool | None = None) -> dict[str, Any]:
    """The options that a mode of `torch.compile` stands for."""
    from torch._inductor import list_mode_options

    return list_mode_options(mode, dynamic)


@functools.cache
def inductor_options() -> frozenset[str]:
    """Names of everything in Inductor's configuration."""
    from torch._inductor import config

    return frozenset(config.get_config_copy())


def inductor_option_fits(name: str, value: object) -> bool:
    """Whether a value is of the type that an option of Inductor's has, as `torch.compile` asks of its own options."""
    from torch._inductor import config

    kind = config.get_type(name)
    plain = isinstance(kind, type) and get_origin(kind) is None  # and not list[str], Any or the like
    return not plain or isinstance(value, kind)


@functools.cache
def begin_vector_isa_checks() -> threading.Thread:
    """Find out in the background which vector instructions C++ code may use.

    When Inductor first writes C++ code, it compiles and loads one file for each set of instructions, which takes
    seconds on a new machine. Whoever lets it write code calls `end_vector_isa_checks` before: two threads that check at
    once add the flags of a set twice, and code under other flags has another key.
    """
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    thread = threading.Thread(target=valid_vec_isa_list, name=VECTOR_ISA_CHECKS, daemon=True)
    thread.start()
    return thread


def end_vector_isa_checks() -> None:
    """Wait for checks that are under way: they write into Inductor's cache."""
    for thread in threading.enumerate():
        if thread.name == VECTOR_ISA_CHECKS:
            thread.join()


def forget_compiled_code() -> None:
    """Empty Inductor's caches in memory, among them those of loaded C++ code, so that it compiles everything again."""
    from torch._inductor.utils import clear_caches

    clear_caches()


def guard_forward_mode() -> None:
    """Have Dynamo compile its current graph anew for calls in another level of forward-mode AD.

    Dynamo itself would reuse code that was compiled outside of forward-mode AD, which silently loses tangents.
    """
    from torch._dynamo.guards import GuardBuilder
    from torch._dynamo.source import GlobalStateSource
    from torch._guards import Guard, TracingContext

    context = TracingContext.try_get()
    if context is not None:
        context.guards_context.dynamo_guards.add(Guard(GlobalStateSource(), GuardBuilder.DUAL_LEVEL))


class _NamedDecompositions(dict[torch._ops.OpOverload, Callable]):
    """Inductor's decompositions and those that `make()` returns. The table is pickled as the name of `make`, since
    Inductor caches no code where it cannot pickle what it compiles with, such as the functions in its own table."""

    def __init__(self, make: Callable[[], Decompositions]) -> None:
        from torch._inductor.decomposition import select_decomp_table

        super().__init__({**select_decomp_table(), **make()})
        self._make = make

    def __reduce__(self) -> tuple[Callable, tuple[Callable]]:
        return type(self), (self._make,)


def inductor(
    graph_module: fx.GraphModule,
    inputs: Sequence[Any],
    options: Mapping[str, Any],
    *,
    decompositions: Callable[[], Decompositions] | None = None,
    cache_tag: str = "",
    finished: Callable[[], None] = lambda: None,
) -> Callable[..., Any]:
    """Compile one of Dynamo's graphs with Inductor.

    Args:
        options: of Inductor's configuration, for this graph alone.
        decompositions: returns decompositions to use besides the usual ones, for ops that Inductor shall see as torch's
            own; a module-level function, whose name becomes part of the key of cached code.
        cache_tag: becomes part of the key of every cache of compiled code.
        finished: called after each compilation, that of a backward too, which may come later.
    """
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    # Read inside: the options decide which of the usual ones apply.
    with torch._inductor.config.patch(dict(options)):
        table = _NamedDecompositions(decompositions) if decompositions else None
    # Of the body of a higher-order operator, Inductor takes inputs for buffers that a backward may write over, by the
    # places that such have among those of the whole graph. So there are none; torch 2.11 has that in no key of its own.
    bodies = any(isinstance(each, fx.GraphModule) for each in graph_module.children())
    tags = (torch.compiler.config.cache_key_tag, cache_tag, "inputs of bodies are kept" if bodies else "")
    tag = "/".join(filter(None, tags))
    tagged = functools.partial(torch.compiler.config.patch, cache_key_tag=tag)  # torch 2.11 enters none twice at a time

    @tagged()  # the inner function as well: a backward is compiled later
    def inner_compile(*arguments: Any, **keywords: Any) -> Any:
        end_vector_isa_checks()
        compiled = compile_fx_inner(*arguments, **keywords)
        finished()
        return compiled

    with tagged(), torch._functorch.config.patch(donated_buffer=False) if bodies else contextlib.nullcontext():
        return compile_fx(
            graph_module,
            inputs,
            inner_compile=inner_compile,
            config_patches=dict(options),
            decompositions=table,
        )


def backend_of(compiled: Any) -> tuple[Any, Mapping[str, Any]] | None:
    """The backend of a callable made by torch.compile, and the keywords passed to that backend; None for others."""
    from torch._dynamo.eval_frame import innermost_backend

    compiled = getattr(compiled, "_compiled_call_impl", None) or compiled  # after module.compile(...)
    compiled = inspect.unwrap(compiled, stop=lambda each: hasattr(each, "get_compiler_config"))
    if not hasattr(compiled, "get_compiler_config"):
        return None
    context = inspect.getclosurevars(compiled.get_compiler_config).nonlocals["self"]
    backend = innermost_backend(context.callback)
    return getattr(backend, "compiler_fn", backend), getattr(backend, "kwargs", {})


@contextlib.contextmanager
def fewer_shape_guards() -> Iterator[None]:
    """Trace dynamic shapes without two guards that would make further graphs for the same code.

    Sizes that are equal in the example (a square image) are not assumed to be equal always. The choice of a
    convolution's backend adds no guard on the batch: its C++ asks whether the batch is 16 or more before it looks at
    the size of the kernel, which decides here. Threads enter the block one at a time, since torch is patched meanwhile.
    """
    from torch.fx.experimental import _config
    from torch.fx.experimental.symbolic_shapes import _suppress_guards

    def select_unguarded(
        input: torch.Tensor, weight: torch.Tensor, **options: Any
    ) -> Any:  # both by name in torch 2.11
        symbol = next((size for size in input.shape if isinstance(size, torch.SymInt)), None)
        guards = contextlib.nullcontext() if symbol is None else _suppress_guards(symbol.node.shape_env)
        with guards:
            return _select_conv_backend(input, weight, **options)

    patched = replaced(torch._C, "_select_conv_backend", select_unguarded)
    with patching, _config.patch(use_duck_shape=False), patched:
        yield


def with_dynamic_batch(x: torch.Tensor) -> torch.Tensor:
    """x, marked so that the graph traced for it serves every batch size above 1."""
    marked = x.detach()
    if x.dim() > 0 and x.shape[0] > 1:  # a batch of 1 always has its own graph
        torch._dynamo.mark_dynamic(marked, 0)
    return marked


def cpp_compiler() -> str | None:
    """The C++ compiler that Inductor would call, or None where there is none that works."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        return None


def compile_failure(error: BaseException) -> str | None:
    """One line on why Inductor could not build its code, or None for any other error."""
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import CppCompileError

    if isinstance(error, BackendCompilerFailed) and not is_out_of_memory(error.inner_exception):
        cause = error.inner_exception
        reason = "the C++ compiler failed" if isinstance(cause, CppCompileError) else type(cause).__name__
        return f"{reason}: {next(iter(str(cause).strip().splitlines()), 'no message')}"
    return None


def raised_in_trace(error: BaseException | None) -> bool:
    """Whether the error is Dynamo's report of one that the traced code itself raises."""
    from torch._dynamo.exc import TorchRuntimeError, Unsupported

    observed = isinstance(error, Unsupported) and error.gb_type == "Observed exception"
    return observed or isinstance(error, TorchRuntimeError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had too little memory, also while compiling."""
    error = getattr(error, "inner_exception", error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def recorded_calls(op: torch._ops.OpOverload) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of every call of an op within the block, in order."""
    from torch.utils._python_dispatch import TorchDispatchMode

    calls: list[tuple[Any, ...]] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is op:
                calls.append(args)
            return func(*args, **(kwargs or {}))

    with Recorder():
        yield calls


def is_view(node: fx.Node) -> bool:
    """Whether Inductor takes a call of ATen for a view."""
    return _op_types().is_view(node)


def is_fusible(node: fx.Node) -> bool:
    """Whether Inductor can compute a call of ATen in the kernel of what it reads, or of what reads it."""
    return _op_types().is_fusible(node)


@functools.cache
def _op_types() -> Any:
    from torch._functorch.partitioners import get_default_op_list

    return get_default_op_list()


def partitions_by_default(options: Mapping[str, Any]) -> bool:
    """Whether nobody has asked for another partition of training graphs into forward and backward.

    Args:
        options: of Inductor's configuration, for one graph.
    """
    from torch._functorch import config

    asked = ("aggressive_recomputation", "activation_memory_budget", *_bans(config))
    # By value: after a patch has ended, `_is_default` says no for what it had changed.
    ours = all(getattr(config, name) == config._config[name].default for name in asked)
    return ours and options.get("custom_partitioner_fn", torch._inductor.config.custom_partitioner_fn) is None


def _bans(config: Any) -> list[str]:
    return [name for name in config.get_config_copy() if name.startswith("ban_recompute")]


def partitioner(mark: Callable[[fx.Graph, Sequence[int]], None]) -> Any:
    """For Inductor's option `custom_partitioner_fn`: torch's partition of a training graph with the least to keep,
    where whatever a kernel can fuse may be computed again, but for what `mark` has marked.

    Args:
        mark: called with the joint graph of forward and backward and the indices of its inputs that are parameters.
            Its file becomes part of the key of cached code.
    """
    from torch._functorch import config
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.custom_graph_pass import CustomPartitionerFn, get_hash_for_files

    class Partitioner(CustomPartitionerFn):
        def __call__(self, module: fx.GraphModule, inputs: Any, **keywords: Any) -> Any:
            mark(module.graph, keywords.get("static_lifetime_input_indices") or ())
            with config.patch(ban_recompute_materialized_backward=False):
                return min_cut_rematerialization_partition(module, inputs, **keywords)

        def uuid(self) -> bytes:
            return get_hash_for_files((inspect.getfile(mark), __file__))

        def __reduce__(self) -> tuple[Callable, tuple[Callable]]:
            return partitioner, (mark,)  # by their names: Inductor caches no code whose options it cannot pickle

    return Partitioner()
