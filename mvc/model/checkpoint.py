"""What a checkpoint holds: a torch file, a safetensors file or a repository of the hub, read as data only."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn

from mvc.arguments import require
from mvc.errors import UserError

HUB_SCHEME = "hub:"
TORCH_SUFFIXES = (".pth", ".pth.tar", ".pt", ".ckpt", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"
HUB_BIN = "pytorch_model.bin"


def read(
    source: str | os.PathLike[str] | Mapping[str, Tensor], *, allowed: Sequence[tuple[object, str]] = ()
) -> tuple[str, object]:
    """The name of a source and what it holds; the sources are those of `load_weights`.

    Args:
        allowed: objects that stand for what a pickle names, and these names, beside what torch takes for plain data.

    Raises:
        UserError: the source cannot be fetched or read, or holds pickled objects other than data.
    """
    if isinstance(source, Mapping):
        return "state dict", source
    kinds = "the path of a checkpoint, hub:OWNER/REPOSITORY, or a state dict"
    require(isinstance(source, (str, os.PathLike)), "source", source, kinds)
    name = str(os.fspath(source))
    path = _download(name.removeprefix(HUB_SCHEME)) if name.startswith(HUB_SCHEME) else Path(source)
    return name, _read(path, allowed)


def _download(repository: str) -> Path:
    """The hub's checkpoint in the local cache.

    Raises:
        UserError: huggingface_hub is not installed, or the file cannot be downloaded.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise UserError(
            f"source {HUB_SCHEME}{repository} needs huggingface_hub: run pip install 'mvc-mambavision[hub]', "
            "or download the file and give its path"
        ) from error
    try:
        return Path(_fetch(huggingface_hub, repository))
    except Exception as error:  # its own errors, OSError, ValueError and whatever its HTTP library raises
        raise UserError(
            f"cannot get source {HUB_SCHEME}{repository} ({_summary(error)}): check the name and the connection, "
            "or download the file elsewhere and give its path"
        ) from error


def _fetch(hub: ModuleType, repository: str) -> str:
    """Path of the repository's safetensors file or, where it has none, of its torch file."""
    try:
        return hub.hf_hub_download(repository, "model.safetensors")
    except hub.errors.LocalEntryNotFoundError:  # an EntryNotFoundError as well, but it means "offline"
        raise
    except hub.errors.EntryNotFoundError:
        # Of .bin files only this one, since a Trainer also leaves its arguments and its optimizer in such.
        names = (name for name in hub.list_repo_files(repository) if not name.endswith(".bin") or name == HUB_BIN)
        torch_files = [name for name in names if name.endswith(TORCH_SUFFIXES)]
        if not torch_files:
            raise
        return hub.hf_hub_download(repository, torch_files[0])


def _read(path: Path, allowed: Sequence[tuple[object, str]]) -> object:
    """What a checkpoint file holds, without running any code that it names.

    Raises:
        UserError: not a checkpoint file, a damaged one, or one with pickled objects other than data.
    """
    kind = _kind(path)
    try:
        if kind == "safetensors":
            import safetensors.torch

            return safetensors.torch.load_file(path)
        # The published files hold a Namespace. Memory mapping leaves a training state's other tensors on the disk.
        with torch.serialization.safe_globals([argparse.Namespace, *allowed]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, error)) from error
    except ModuleNotFoundError as error:
        raise UserError(
            f"reading source {path} needs safetensors; pip install safetensors, or use a .pth file"
        ) from error
    except Exception as error:  # a damaged file can make the readers raise anything
        raise UserError(
            f"source {path} is truncated or damaged ({_summary(error)}); download or copy it again"
        ) from error


def _kind(path: Path) -> Literal["safetensors", "zip", "pickle"]:
    """The kind of file, by its name and its first bytes.

    Raises:
        UserError: the file cannot be opened, is empty, or is not of the kind that its name says.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot open source {str(path)!r}: {reason}; give the path of a checkpoint file") from error
    suffixes = (*TORCH_SUFFIXES, SAFETENSORS_SUFFIX)
    if not path.name.lower().endswith(suffixes):
        raise UserError(
            f"source {path} does not end as a checkpoint's name does: {', '.join(suffixes)}; name it by its kind"
        )
    if not start:
        raise UserError(f"source {path} is empty; download or copy it again")
    if path.name.lower().endswith(SAFETENSORS_SUFFIX):
        if start[8:9] == b"{":  # after the header's length, its JSON
            return "safetensors"
    elif start.startswith(b"PK\x03\x04"):
        return "zip"
    elif start.startswith(b"\x80"):
        return "pickle"
    # For example a Git LFS pointer or a web page, saved under the checkpoint's name.
    raise UserError(
        f"source {path} is not the kind of file that its name says: it starts with {start!r}; download it again"
    )


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    named = re.search(r"GLOBAL (\S+)", str(error))  # how torch names the class or function that it did not allow
    what = named[1] if named else "something that torch does not take for plain data"
    return (
        f"refused to load source {path}: its pickle asks for {what}, and loading that could run code; nothing was "
        "executed. If you trust the file's author, ask for its state_dict() alone, or for a .safetensors file"
    )


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")


def state_dict_in(contents: object, source: str, keys: Sequence[str]) -> Mapping[str, Tensor] | None:
    """The state dict that a checkpoint holds under one of the keys, if it does.

    Raises:
        UserError: the checkpoint is no dict.
    """
    if not isinstance(contents, Mapping):
        raise UserError(f"source {source} holds a {type(contents).__name__}; it must hold a state dict")
    entries = (contents.get(key) for key in keys)
    return next((entry for entry in entries if isinstance(entry, Mapping)), None)


def renamed(state: Mapping[str, Tensor], source: str, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """A state dict under other names.

    Raises:
        UserError: it is empty, holds anything but tensors with values, or two of its names become one.
    """
    if not state:
        raise UserError(f"source {source} holds no tensors")
    for name, value in state.items():
        if not (isinstance(name, str) and _is_dense(value)):
            raise UserError(
                f"source {source}: the entry {name!r} ({type(value).__name__}) is no dense tensor; "
                "a checkpoint is a state dict, or a dict with one under 'state_dict' or 'model'"
            )
    tensors = {rename(name): tensor for name, tensor in state.items()}
    if len(tensors) < len(state):
        raise UserError(
            f"source {source} holds several models: without prefixes, {len(state)} names become {len(tensors)}"
        )
    return tensors


def _is_dense(value: object) -> bool:
    """Whether it is a tensor that `copy_` can read: meta, sparse and nested tensors load from files too."""
    plain = type(value) in (Tensor, nn.Parameter) and not value.is_nested
    return plain and value.layout is torch.strided and not value.is_meta
