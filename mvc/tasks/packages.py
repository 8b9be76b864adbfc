"""The optional packages of the dense tasks, imported on first use."""

from __future__ import annotations

import importlib
from types import ModuleType

from mvc.errors import UserError


def optional(module: str) -> ModuleType:
    """A module of one of the packages that the extra `tasks` names, such as "torchvision.ops".

    Raises:
        UserError: the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"detection and segmentation need {package} here ({error}): pip install 'mvc-mambavision[tasks]'"
        ) from error
