"""Stand-ins for other packages' entry points, so that code written for them runs on this project's scan."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_NORMS = ("layer_norm.RMSNorm", "layer_norm.layer_norm_fn", "layer_norm.rms_norm_fn")
# What code can import after install(): each module's members, by their qualified names in mvc.compat.
MODULES = {
    "mamba_ssm": ("mamba_ssm.selective_scan_fn", "mamba_ssm.mamba_inner_fn", "mamba_simple.Mamba", "mamba2.Mamba2"),
    "mamba_ssm.modules": (),
    "mamba_ssm.modules.block": ("block.Block",),
    "mamba_ssm.modules.mamba2": ("mamba2.Mamba2",),
    "mamba_ssm.modules.mamba_simple": ("mamba_simple.Mamba", "mamba_simple.Block"),
    "mamba_ssm.ops": (),
    "mamba_ssm.ops.selective_scan_interface": (
        "mamba_ssm.selective_scan_fn",
        "mamba_ssm.selective_scan_ref",
        "mamba_ssm.mamba_inner_fn",
        "bimamba.mamba_inner_ref",
        "bimamba.mamba_inner_fn_no_out_proj",
        "bimamba.bimamba_inner_fn",
        "bimamba.bimamba_inner_ref",
    ),
    "mamba_ssm.ops.triton": (),
    "mamba_ssm.ops.triton.layer_norm": _NORMS,
    "mamba_ssm.ops.triton.layernorm": _NORMS,  # mamba-ssm 1.x's name, and Vim's
    "mamba_ssm.ops.triton.layernorm_gated": ("layer_norm_gated.RMSNorm", "layer_norm_gated.rmsnorm_fn"),
    "mamba_ssm.ops.triton.selective_state_update": ("mamba_ssm.selective_state_update",),
    "mamba_ssm.ops.triton.ssd_combined": ("ssd.mamba_chunk_scan_combined", "ssd.mamba_split_conv1d_scan_combined"),
    "mamba_ssm.utils": (),
    "mamba_ssm.utils.generation": ("generation.InferenceParams", "generation.GenerationMixin"),
    "mamba_ssm.utils.hf": ("hub.load_config_hf", "hub.load_state_dict_hf"),
    "causal_conv1d": ("causal_conv1d.causal_conv1d_fn", "causal_conv1d.causal_conv1d_update"),
    "selective_scan_cuda": ("selective_scan_cuda.fwd", "selective_scan_cuda.bwd"),
    "selective_scan_cuda_core": ("selective_scan_cuda_core.fwd", "selective_scan_cuda_oflex.bwd"),
    "selective_scan_cuda_oflex": ("selective_scan_cuda_oflex.fwd", "selective_scan_cuda_oflex.bwd"),
}
VERSIONS = {
    # What transformers, and models on its hub, ask for before they import the functions of Mamba-2.
    "mamba_ssm": "2.0.4+mvc",
    "causal_conv1d": "1.5.0+mvc",  # the first with conv_state_indices
}
_SCANS = ("mamba_selective_scan", "mamba2_chunk_scan")  # what transformers' models call their own


def install() -> None:
    """Make `mamba_ssm`, and what vision code imports beside it, importable where mamba-ssm is absent, on any device.

    Afterwards `from mamba_ssm import Mamba` imports `mvc.compat.mamba_simple.Mamba`; `MODULES` lists every name. The
    `__version__` of a module is that of `VERSIONS`; there are no distributions of these names, and `importlib.metadata`
    knows none. `causal_conv1d` and VMamba's extensions are left as they are where they can be imported. A second call
    does nothing.

    transformers looks for mamba-ssm when it imports a model's module, so call this before. Its Mamba, FalconMamba,
    Jamba and Zamba then run the scan on a CPU too, eager or compiled: `mamba_inner_fn` to train without a cache (Mamba
    and FalconMamba), `selective_state_update` in a decoding step, `selective_scan_fn` otherwise. So do Mamba-2, Bamba,
    FalconH1, GraniteMoeHybrid, NemotronH and Zamba2: `mamba_split_conv1d_scan_combined` to train without a cache,
    `mamba_chunk_scan_combined` otherwise, and the same decoding step. Under `torch.export` transformers keeps its own
    computation. This is transformers 5.23; releases before its function-by-function fallback take one fast path for
    all functions or none, and that on CUDA devices only.

    Raises:
        ImportError: mamba-ssm itself, or something else of that name, can be imported.

    Warns:
        UserWarning: such a model's module was imported before, and keeps its own scan.
    """
    if _is_ours(sys.modules.get("mamba_ssm")):
        return
    _refuse_another()
    present = {name for name in MODULES if "." not in name and name != "mamba_ssm" and _is_there(name)}
    for name, members in MODULES.items():
        if name in present:
            continue
        module = _make_module(name)
        for member in members:
            source, _, attribute = member.rpartition(".")
            setattr(module, attribute, getattr(importlib.import_module(f"mvc.compat.{source}"), attribute))
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
        sys.modules[name] = module
    _warn_of_early_models()


def _is_ours(module: ModuleType | None) -> bool:
    return getattr(module, "__file__", None) == __file__


def _is_there(name: str) -> bool:
    return sys.modules.get(name) is not None or find_spec(name) is not None


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
    spec = ModuleSpec(name, loader=None, origin=__file__, is_package=is_package)
    spec.has_location = True  # errors then name the file
    module = ModuleType(name, f"Stands for {name}; see mvc.compat.install.")
    module.__spec__, module.__file__, module.__package__ = spec, __file__, spec.parent
    if version := VERSIONS.get(name.partition(".")[0]):
        module.__version__ = version
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
    return name.startswith("transformers.models.") and not contents.keys().isdisjoint(_SCANS)
