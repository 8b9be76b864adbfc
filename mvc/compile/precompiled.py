"""Compiled code for other processes on machines of the same kind, where nothing is compiled again.

Torch's portable caches hold the source of C++ kernels and nothing of mvc's own, and a function written by `aot_compile`
does too. What is missing is carried along: the kernels' libraries, what Inductor built to check the processor's vector
instructions, the C++ scan's library, and the measured choices, without which the passes might make another graph.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import pickle
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import fx

from mvc.compile import torch_private, torch_private_caches
from mvc.kernels import cache
from mvc.passes import measured_choice
from mvc.passes.frozen.freeze import Frozen

KIND = "mvc"  # of what is recorded in torch's portable caches
OPS = ("mvc.kernels.", "mvc.passes.")  # the packages whose modules define ops when they are imported


def register() -> None:
    """Let torch's portable caches hold what mvc carries along; importing `mvc.compile` does it."""
    torch_private_caches.register_artifacts(KIND, keep)


def record() -> None:
    """Hand what compiled graphs of this process need to torch's portable caches."""
    for key, content in carried():
        torch_private_caches.record_artifact(KIND, key, content)


def carried() -> Iterator[tuple[str, bytes]]:
    """What compiled graphs of this process need: the kind of each thing and its name, and its content."""
    for name, choices in measured_choice.known().items():
        yield f"choices/{name}", json.dumps(choices, sort_keys=True).encode()
    if (library := _scan_library()) is not None:
        yield f"library/{library.name}", _content(library)
    for owner, key in torch_private_caches.loaded_kernels():
        if (path := torch_private_caches.kernel_path(key)).is_file():
            yield f"kernel/{_processor()}/{owner}/{key}", _content(path)
    if torch_private.begin_vector_isa_checks.cache_info().currsize:
        folder = torch_private_caches.inductor_folder()
        for path in torch_private_caches.vector_isa_checks(folder):
            yield f"check/{_processor()}/{path.relative_to(folder)}", _content(path)


def keep(key: str, content: bytes) -> None:
    """Put something that was carried along where this process looks for it; what is there already stays."""
    kind, _, name = key.partition("/")
    try:
        if kind == "choices":
            measured_choice.adopt(name, json.loads(content))
        elif kind == "library":
            cache.keep(name, content)
        else:
            _keep_built(kind, *name.split("/", 1), content)
    except OSError as error:
        warnings.warn(f"{key} cannot be kept ({error}) and is made again", stacklevel=2)


def _keep_built(kind: str, processor: str, name: str, content: bytes) -> None:
    """A library that was built for the processor on which it was built, and no other."""
    if processor != _processor():
        _warn_once("the compiled code is from a machine with another processor; its C++ code is compiled again")
    elif kind == "check":
        _write(torch_private_caches.inductor_folder() / name, content)
    else:
        owner, key = name.split("/")
        _write(torch_private_caches.kernel_path(key), content)
        torch_private_caches.know_kernel(owner, key)


def _write(path: Path, content: bytes) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        cache.replace_bytes(path, content)


@functools.cache
def _content(path: Path) -> bytes:
    """Of a file whose name says what it holds."""
    return path.read_bytes()


def _scan_library() -> Path | None:
    """The file of the C++ scan where this process has loaded it."""
    cpu_scan = sys.modules.get("mvc.kernels.cpu_scan")
    if cpu_scan is None or not hasattr(torch.ops.mvc, cpu_scan.OP):
        return None
    try:
        return next(cache.find(f"selective_scan-{cpu_scan._key()}.so"), None)  # `library_path` might build one
    except cpu_scan.BuildError:  # loaded by others, where CXX is no command
        return None


@functools.cache
def _processor() -> str:
    """What tells processors apart for which one compiler may generate different code."""
    described = platform.machine()
    if (facts := Path("/proc/cpuinfo")).is_file():
        named = ("cpu family", "model", "flags", "Features", "CPU part")
        lines = {line for line in facts.read_text(encoding="utf-8").splitlines() if line.startswith(named)}
        described += "\n".join(sorted(lines))
    return hashlib.sha256(described.encode()).hexdigest()[:16]


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)


class Source:
    """A graph as a function that can be pickled: its Python code, which torch.fx generates, with all that it names."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        code = graph_module.graph.python_code("self")
        targets = {str(node.target) for node in graph_module.graph.find_nodes(op="get_attr")}
        names = {target.partition(".")[0] for target in targets}
        self._build(code.src, code.globals, {name: getattr(graph_module, name) for name in names})

    def __call__(self, *inputs: Any) -> Any:
        return self._function(self._owner, *inputs)

    def __getstate__(self) -> tuple[Any, ...]:
        named = {name: value for name, value in self._globals.items() if isinstance(value, ModuleType)}
        values = {name: value for name, value in self._globals.items() if name not in named}
        return self._code, {name: module.__name__ for name, module in named.items()}, values, vars(self._owner)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        code, named, values, attributes = state
        modules = {name: importlib.import_module(module) for name, module in named.items()}
        self._build(code, {**modules, **values}, attributes)

    def _build(self, code: str, named: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        self._code, self._globals = code, dict(named)
        self._owner = SimpleNamespace(**attributes)
        scope = dict(named)
        exec(code, scope)
        self._function = scope["forward"]


class Precompiled:
    """A compiled graph as `torch.compile(...).aot_compile(...)` wants it: one that can be written to a file.

    The file holds no parameters: the loaded function is called with the module, and computes a frozen graph's
    constants at the first call.
    """

    def __init__(self, run: Callable[..., Any], frozen: bool) -> None:
        """`frozen`: the option; a graph that computes nothing from parameters alone is no `Frozen` even so."""
        self.run = run
        self.frozen = frozen

    def __call__(self, *inputs: Any) -> Any:
        return self.run(*inputs)

    @classmethod
    def serialize_compile_artifacts(cls, compiled: Precompiled) -> bytes:
        """The graph's code with all that it needs."""
        run, held = compiled.run, None
        if isinstance(run, Frozen):
            constants = Source(run.constants) if isinstance(run.constants, fx.GraphModule) else run.constants
            held = pickle.dumps((constants, run.parameter_inputs, run.kept_inputs, run.count))
            run = run.main
        modules = [name for name in sys.modules if name.startswith(OPS)]
        return pickle.dumps((modules, dict(carried()), torch_private_caches.serialize_code(run), held, compiled.frozen))

    @classmethod
    def deserialize_compile_artifacts(cls, data: bytes) -> Precompiled:
        """The graph, with its ops defined and its libraries where they are looked for."""
        modules, kept, code, held, frozen = pickle.loads(data)
        for key, content in kept.items():
            keep(key, content)
        for name in modules:
            importlib.import_module(name)
        if cpu_scan := sys.modules.get("mvc.kernels.cpu_scan"):
            cpu_scan.available()
        run = torch_private_caches.deserialize_code(code)
        return cls(run if held is None else Frozen(run, *pickle.loads(held)), frozen)


def loaded_graph(compiled: Callable[..., Any]) -> Precompiled | None:
    """The graph of a function that `aot_compile` made or loaded; None for any other callable."""
    graph = torch_private_caches.compiled_ahead(compiled)
    return graph if isinstance(graph, Precompiled) else None


def prepared(run: Callable[..., Any], *, frozen: bool) -> Callable[..., Any]:
    """A compiled graph as whoever compiles it wants it, recorded for torch's portable caches."""
    record()
    if not torch_private_caches.compiles_ahead():
        return run
    torch_private_caches.accept_as_serializable(Precompiled)
    return Precompiled(run, frozen)
