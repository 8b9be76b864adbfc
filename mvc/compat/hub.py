"""mamba-ssm's readers of published models: configuration and weights, from a folder or the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvc.errors import UserError

CONFIG, WEIGHTS = "config.json", "pytorch_model.bin"


def load_config_hf(model_name: str) -> dict[str, Any]:
    """What the `config.json` of a model holds.

    Args:
        model_name: a folder, or OWNER/REPOSITORY on the hub, which the extra `hub` fetches.

    Raises:
        UserError: no such folder, file or repository, or no JSON object in it.
    """
    path = _find(model_name, CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds a {type(config).__name__}; a configuration is a JSON object")
    return config


def load_state_dict_hf(
    model_name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The tensors of a model's `pytorch_model.bin`, which is read as data only.

    Args:
        model_name: as for `load_config_hf`.
        device: where they go; None leaves each on the device it was saved from, or with a dtype on the CPU.
        dtype: of those of floating point; None leaves each as it was saved.

    Raises:
        UserError: no such folder, file or repository, or a file that holds anything but tensors.
    """
    path = _find(model_name, WEIGHTS)
    try:
        # Converted before they are moved, since the wider copy may not fit on the device.
        found = torch.load(path, map_location=device if dtype is None else "cpu", weights_only=True)
    except Exception as error:
        remedy = "fetch it again, or pass a device that this machine has"
        raise UserError(f"{path} cannot be read as tensors ({error}); {remedy}") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise UserError(f"{path} holds more than tensors by name; save a model's state_dict()")
    if dtype is None:
        return found
    return {name: t.to(device=device, dtype=dtype if t.is_floating_point() else None) for name, t in found.items()}


def _find(model_name: str, file: str) -> Path:
    if Path(model_name).is_dir():
        path = Path(model_name, file)
        if not path.is_file():
            raise UserError(f"{model_name} has no {file}; save it there, or pass OWNER/REPOSITORY of the hub")
        return path
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"{model_name!r} is no folder here, and to fetch it from the hub needs huggingface_hub: "
            'pip install "mvc-mambavision[hub]"'
        ) from error
    try:
        return Path(huggingface_hub.hf_hub_download(model_name, file))
    except Exception as error:
        raise UserError(f"{file} of {model_name!r} cannot be fetched from the hub: {error}") from error
