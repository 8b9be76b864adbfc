"""MambaVision in functional style, compiled by torch.compile in one graph and compared with eager.

Public names are loaded on first use: importing mvc imports neither torch's compiler nor triton.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvc.compile.backend import refresh as refresh
    from mvc.compile.captured import capture_step as capture_step
    from mvc.compile.compiler import compile_model as compile_model
    from mvc.compile.explanation import explain as explain
    from mvc.export.api import export_model as export_model
    from mvc.kernels.recurrence import linear_recurrence as linear_recurrence
    from mvc.kernels.scan import (
        reset_from_cu_seqlens as reset_from_cu_seqlens,
        selective_scan as selective_scan,
    )
    from mvc.model.config import VARIANTS as VARIANTS, MambaVisionConfig as MambaVisionConfig, get_config as get_config
    from mvc.model.module import MambaVision as MambaVision, create_model as create_model
    from mvc.model.network import Features as Features
    from mvc.model.weights import load_weights as load_weights

if __name__ != "mvc":
    raise ImportError(f"import this package as mvc, not as {__name__}: a second copy would register every op twice")

__version__ = "0.1.0"

_PUBLIC = {
    "create_model": "mvc.model.module",
    "MambaVision": "mvc.model.module",
    "compile_model": "mvc.compile.compiler",
    "explain": "mvc.compile.explanation",
    "export_model": "mvc.export.api",
    "refresh": "mvc.compile.backend",
    "capture_step": "mvc.compile.captured",
    "selective_scan": "mvc.kernels.scan",
    "reset_from_cu_seqlens": "mvc.kernels.scan",
    "linear_recurrence": "mvc.kernels.recurrence",
    "get_config": "mvc.model.config",
    "MambaVisionConfig": "mvc.model.config",
    "VARIANTS": "mvc.model.config",
    "load_weights": "mvc.model.weights",
    "Features": "mvc.model.network",
}

# A wheel holds kernels/ and passes/ in this folder; in a checkout they lie beside it and are found through __path__.
_root = Path(__file__).resolve().parents[1]
_pyproject = _root / "pyproject.toml"
if _pyproject.is_file() and 'name = "mvc-mambavision"' in _pyproject.read_text(encoding="utf-8"):
    __path__.append(str(_root))


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mvc' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _PUBLIC.keys())
