"""What all tests share: the versions in the header, and GPU code that several of them look at."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock


def pytest_report_header() -> str:
    """The packages that decide what is tested."""
    found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    return ", ".join(f"{name} {found.get(name, 'missing')}" for name in ("torch", "triton", "numpy"))


def pytest_configure() -> None:
    """Without an install, as on a bare GPU machine, torch finds the backend by its name as the entry point has it."""
    if not importlib.metadata.entry_points(group="torch_dynamo_backends", name="mvc"):
        import torch

        from mvc.compile.backend import mvc

        torch._dynamo.register_backend(mvc, name="mvc")


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """What was compiled before does not count, nor afterwards what the test compiles."""
    import torch

    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def failures(request: pytest.FixtureRequest) -> dict[str, str | None]:
    """What went wrong in each case of the test's file, which Triton's interpreter runs in a process of its own."""
    from scan_cases import interpreted

    return interpreted(request.module.__file__)


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of generated GPU code, each made once for all tests and their processes, which must not change it.

    Called as `mvc.offline.generate.generate`, with a target's name and without a folder, which it returns.
    """
    from mvc.offline.generate import generate
    from mvc.offline.targets import find

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all processes of this run

    def folder_of(request, target: str, **options: bool) -> Path:
        key = hashlib.sha256(repr((request, target, sorted(options.items()))).encode()).hexdigest()
        folder = base / f"generated-{key[:16]}"
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                generate(request, find(target), folder, **options)
        return folder

    return folder_of
