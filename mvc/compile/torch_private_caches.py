"""The private torch API of compiled code that other processes load: portable caches and `aot_compile`.

`tests/compile/test_precompiled.py` calls every function here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

# Inductor's classes that load C++ libraries, each with what this process has loaded, by key.
OWNERS = ("CppCodeCache", "CppPythonBindingsCodeCache", "CppWrapperCodeCache")


@functools.cache
def register_artifacts(kind: str, populate: Callable[[str, bytes], None]) -> None:
    """Let `torch.compiler.load_cache_artifacts` call `populate(key, content)` for what was recorded as of that kind."""
    from torch.compiler._cache import CacheArtifact, CacheArtifactFactory

    class Artifact(CacheArtifact):
        def populate_cache(self) -> None:
            populate(self.key, self.content)

        @staticmethod
        def type() -> str:
            return kind

    CacheArtifactFactory.register(Artifact)


def record_artifact(kind: str, key: str, content: bytes) -> None:
    """Have `torch.compiler.save_cache_artifacts` return this too; once, however often it is recorded."""
    from torch.compiler._cache import CacheArtifactManager

    CacheArtifactManager.record_artifact(kind, key, content)


def inductor_folder() -> Path:
    """The folder of Inductor's cache."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())


def kernel_path(key: str) -> Path:
    """Where Inductor looks for the library of the C++ kernel with that key."""
    from torch._inductor.codecache import get_path

    return Path(get_path(key, "main.so")[2])


def loaded_kernels() -> Iterator[tuple[str, str]]:
    """The C++ kernels of this process: the class that loaded each and its key."""
    from torch._inductor import codecache

    for owner in OWNERS:
        yield from ((owner, key) for key in [*getattr(codecache, owner).cache])


def know_kernel(owner: str, key: str) -> None:
    """Let a class load a kernel from its library, which is there; torch would precompile headers for it first."""
    from torch._inductor import codecache

    loader = getattr(codecache, owner)
    loader.cache.setdefault(key, functools.cache(lambda: loader._load_library(str(kernel_path(key)), key)))


@functools.cache
def vector_isa_checks(folder: Path) -> list[Path]:
    """What Inductor built in its folder to find out which vector instructions C++ code may use, and its marks that it
    could be loaded: the libraries whose names are their keys alone."""
    libraries = [source.with_suffix(".so") for source in folder.glob("??/*.cpp") if "." not in source.stem]
    files = [each for library in libraries for each in (library, Path(f"{library}.load_ok"))]
    return [each for each in files if each.is_file()]


def compiles_ahead() -> bool:
    """Whether what compiles now is `aot_compile`, which wants functions that can be written to a file."""
    return torch._functorch.config.bundled_autograd_cache


def accept_as_serializable(cls: type) -> None:
    """Let `aot_compile` accept objects of a class with `serialize_compile_artifacts` and its reverse."""
    from torch._dynamo.aot_compile_types import SerializableCallable

    SerializableCallable.register(cls)


def serialize_code(function: Callable[..., Any]) -> bytes:
    """A function that Inductor made, where `compiles_ahead()`, without its C++ libraries."""
    from torch._dynamo.aot_compile_types import BundledAOTAutogradSerializableCallable as Bundled

    return Bundled.serialize_compile_artifacts(Bundled(function))


def deserialize_code(data: bytes) -> Callable[..., Any]:
    """The function that `serialize_code` was given."""
    from torch._dynamo.aot_compile_types import BundledAOTAutogradSerializableCallable as Bundled

    return Bundled.deserialize_compile_artifacts(data)


def compiled_ahead(loaded: Any) -> Any:
    """What the backend returned for a function that `aot_compile` made or loaded; None for any other."""
    return getattr(getattr(loaded, "_artifacts", None), "compiled_fn", None)
