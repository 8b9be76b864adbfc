"""Names that users, and the gates of older revisions, import."""

from __future__ import annotations

import importlib
import importlib.metadata
from pkgutil import resolve_name

import pytest

import mvc

NAMES = (
    *(f"mvc:{name}" for name in mvc._PUBLIC),
    *("mvc.functional:forward", "mvc.functional:forward_features", "mvc.functional:Features"),
    *("mvc.models:create_model", "mvc.models:load_weights", "mvc.models:VARIANTS"),
    *("mvc.kernels.ops", "mvc.kernels.cpu_scan:library_path"),
    *("mvc.kernels.scan:selective_scan", "mvc.kernels.scan:reset_from_cu_seqlens"),
    *("mvc.kernels.recurrence:linear_recurrence", "mvc.kernels.state_update:selective_state_update"),
    *("mvc.passes.lowering.lower_scan:decompositions", "mvc.passes.base:Pass"),
    *("mvc.compile.__main__:main", "mvc.regress.__main__:main", "mvc.compat:install"),
)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_importable(name):
    resolve_name(name)


def test_the_entry_point_is_the_backend():
    found = importlib.metadata.entry_points(group="torch_dynamo_backends", name="mvc")
    if not found:
        pytest.skip("mvc is not installed; torch finds its backend through an entry point")
    (entry,) = found
    assert entry.load() is importlib.import_module("mvc.compile.backend").mvc
