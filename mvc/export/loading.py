"""`mvc.export.load`: a function from an exported file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mvc.errors import UserError
from mvc.export import isa, torch_private


def load(path: str | Path) -> Callable[..., Any]:
    """The function that a file of `mvc.export_model` holds; nothing is compiled.

    Returns:
        a function of the model's inputs, as dense tensors on the device that the file was made for.

    Raises:
        UserError: no such file, a suffix that `mvc.export_model` does not write, a missing package, or code that needs
            another processor.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"path is {str(path)!r}, and there is no such file")
    loader = _LOADERS.get(path.suffix)
    if loader is None:
        raise UserError(f"path is {str(path)!r}; it must end in {', '.join(_LOADERS)}")
    return loader(path)


def _package(path: Path) -> Callable[..., Any]:
    said = torch_private.metadata_of(path)
    isa.check(said.get("mvc.isa"), str(path))
    if said.get("mvc.device", "cpu") != "cpu":
        from mvc.export import cuda

        cuda.check(said["mvc.device"], str(path))
    return torch_private.load(path)


def _exported(path: Path) -> Callable[..., Any]:
    import mvc.kernels.ops  # noqa: F401  of a program that was written with custom_ops=True

    with path.open("rb") as file:
        return torch.export.load(file).module()


def _onnx(path: Path) -> Callable[..., Any]:
    from mvc.export import onnx_file

    return onnx_file.load(path)


_LOADERS = {".pt2": _package, ".exported": _exported, ".onnx": _onnx}
