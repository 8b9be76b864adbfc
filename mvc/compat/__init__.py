"""Stand-ins for other packages' entry points, so that code written for them runs on this project's scan."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

# What code can import after install(), and from where.
MODULES = {
    "mamba_ssm": ("selective_scan_fn", "mamba_inner_fn"),
    "mamba_ssm.ops": (),
    "mamba_ssm.ops.selective_scan_interface": ("selective_scan_fn", "mamba_inner_fn", "selective_scan_ref"),
    "mamba_ssm.ops.triton": (),
    "mamba_ssm.ops.triton.selective_state_update": ("selective_state_update",),
}
# mamba-ssm's last release before Mamba-2: code that asks for 2.0 or later wants kernels that are not here.
VERSION = "1.2.2+mvc"
ORIGIN = str(Path(__file__).with_name("mamba_ssm.py"))


def install() -> None:
    """Make `mamba_ssm` importable where mamba-ssm is absent: its selective scan, on any device.

    Afterwards `from mamba_ssm.ops.selective_scan_interface import selective_scan_fn` imports `mvc.compat.mamba_ssm`'s
    function; `MODULES` lists every name. `mamba_ssm.__version__` is `VERSION`; there is no distribution of that name,
    and `importlib.metadata` knows none. A second call does nothing.

    transformers looks for mamba-ssm when it imports a model's module, so call this before. Its Mamba, FalconMamba,
    Jamba and Zamba then run the scan on a CPU too, eager or compiled: `mamba_inner_fn` to train without a cache (Mamba
    and FalconMamba), `selective_state_update` in a decoding step (in Mamba-2 too), `selective_scan_fn` otherwise. Under
    `torch.export` transformers keeps its own loop over the steps. This is transformers 5.23; releases before its
    function-by-function fallback take one fast path for all functions or none, and that on CUDA devices only.

    Raises:
        ImportError: mamba-ssm itself, or something else of that name, can be imported.

    Warns:
        UserWarning: such a model's module was imported before, and keeps its own scan.
    """
    if _is_ours(sys.modules.get("mamba_ssm")):
        return
    _refuse_another()
    functions = importlib.import_module("mvc.compat.mamba_ssm")
    for name, members in MODULES.items():
        module = _make_module(name)
        for member in members:
            setattr(module, member, getattr(functions, member))
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
        sys.modules[name] = module
    _warn_of_early_models()


def _is_ours(module: ModuleType | None) -> bool:
    return getattr(module, "__file__", None) == ORIGIN


def _refuse_another() -> None:
    if sys.modules.get("mamba_ssm") is not None:
        origin = getattr(sys.modules["mamba_ssm"], "__file__", None) or "without a file"
    elif spec := find_spec("mamba_ssm"):
        origin = spec.origin or ", ".join(spec.submodule_search_locations or ())
    else:
        return
    raise ImportError(
        f"mamba_ssm is there already ({origin}), and mvc.compat.install() replaces nothing: uninstall it, or import "
        "the functions from mvc.compat.mamba_ssm",
        name="mamba_ssm",
    )


def _make_module(name: str) -> ModuleType:
    is_package = any(other.startswith(f"{name}.") for other in MODULES)
    spec = ModuleSpec(name, loader=None, origin=ORIGIN, is_package=is_package)
    spec.has_location = True  # errors then name the file
    module = ModuleType(name, f"Stands for {name}; see mvc.compat.install.")
    module.__spec__, module.__file__, module.__version__ = spec, ORIGIN, VERSION
    module.__package__ = spec.parent
    if is_package:
        module.__path__ = []
    return module


def _warn_of_early_models() -> None:
    early = [name for name, module in sys.modules.items() if _has_own_scan(name, module)]
    if early:
        warnings.warn(
            f"{', '.join(early)} was imported before mvc.compat.install() and keeps its own scan: start again and call "
            "install() first",
            stacklevel=3,
        )


def _has_own_scan(name: str, module: ModuleType | None) -> bool:
    contents = getattr(module, "__dict__", {})  # hasattr would make transformers' lazy packages import
    return name.startswith("transformers.models.") and "mamba_selective_scan" in contents
