"""Empty caches of compiled code, so that compile times are cold."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from mvc.compile import torch_private

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR")


@contextlib.contextmanager
def empty_caches() -> Iterator[None]:
    """Give Inductor, Triton and their compilers an empty folder, removed after everything that writes into it.

    What Inductor has compiled before is forgotten in memory, too.
    """
    torch_private.forget_compiled_code()
    before = {name: os.environ.get(name) for name in CACHES}
    with tempfile.TemporaryDirectory(prefix="mvc-compile-", ignore_cleanup_errors=True) as folder:
        os.environ.update(dict.fromkeys(CACHES, folder))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            torch_private.end_vector_isa_checks()
