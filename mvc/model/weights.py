"""Checkpoints into a model: from a torch file, a safetensors file or the Hugging Face hub.

A file is read as data only, its names are brought to the model's, and all of it is compared with the model before the
first value is copied: a model is loaded in full or left as it was.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvc.arguments import require, require_choice, require_flag
from mvc.errors import UserError
from mvc.model.config import MODEL_TYPE, VARIANTS, MambaVisionConfig, get_config
from mvc.model.functional import without_values

HUB_SCHEME = "hub:"
TORCH_SUFFIXES = (".pth", ".pth.tar", ".pt", ".ckpt", ".bin")
SAFETENSORS_SUFFIX = ".safetensors"
HUB_BIN = "pytorch_model.bin"
EMA_KEYS = ("state_dict_ema", "model_ema")
LICENCE = "CC-BY-NC-SA-4.0 (non-commercial use only)"

# Wrappers put these before the names: data parallelism, the Hugging Face class, detectors and torch.compile.
_PREFIXES = re.compile(r"((module|model|encoder|backbone|_orig_mod)\.)+")
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_LISTED = 10

_log = logging.getLogger(__name__)


class LoadedWeights(NamedTuple):
    """What `load_weights` did."""

    source: str
    tensors: int
    notes: tuple[str, ...]  # the licence of published weights, a skipped head


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Tensor],
    *,
    head: Literal["strict", "reset"] = "strict",
    ema: bool = False,
) -> LoadedWeights:
    """Copy a checkpoint into the model's own tensors, which keep their dtype, device and memory format.

    Args:
        model: a model of this project, also compiled or wrapped for data parallelism.
        source: a `.pth`, `.pth.tar`, `.pt`, `.ckpt` or `.bin` file (a state dict, or a dict that holds one under
            `state_dict` or `model`), a `.safetensors` file, or `hub:OWNER/REPOSITORY`; or what such a file holds.
        head: "strict" loads the head with the rest; "reset" skips the checkpoint's head, whatever its size, and leaves
            the model's own as it is.
        ema: whether to load the moving average of the weights, which a training state holds under `state_dict_ema` or
            `model_ema`, instead of the weights.

    Returns:
        The source, the number of tensors copied, and the notes, which are logged as warnings too.

    Raises:
        UserError: the source cannot be fetched or read, holds pickled objects other than data, or does not fit the
            model. The model is then unchanged.
    """
    require_choice("head", head, ("strict", "reset"))
    require_flag("ema", ema)
    require(isinstance(model, nn.Module), "model", model, "a MambaVision, compiled or wrapped or as it is")
    source, contents = _contents(source)
    loaded, wanted = _checkpoint_tensors(contents, source, ema), _model_tensors(model)
    notes = _licence_notes(source, contents)
    if head == "reset":
        notes.append(
            f"the checkpoint's head (num_classes={_num_classes(loaded)}) was skipped; "
            f"the model's (num_classes={_num_classes(wanted)}) is as it was"
        )
        loaded, wanted = _without_head(loaded), _without_head(wanted)
    _check_fit(loaded, wanted, source)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(loaded[name])
    for note in notes:
        _log.warning("%s", note)
    return LoadedWeights(source, len(wanted), tuple(notes))


def num_classes(source: str | os.PathLike[str] | Mapping[str, Tensor], *, ema: bool = False) -> int:
    """The number of classes that a checkpoint's head scores, as `create_model` takes it; 0 without a head.

    Args:
        source, ema: as for `load_weights`.

    Raises:
        UserError: the source cannot be fetched or read.
    """
    source, contents = _contents(source)
    return _num_classes(_checkpoint_tensors(contents, source, ema))


def stored_config(
    source: str | os.PathLike[str] | Mapping[str, object], variant: str | None = None
) -> MambaVisionConfig | None:
    """The configuration that a checkpoint of `mvc.train` holds, under `config`; None for a checkpoint without one.

    Args:
        source: as for `load_weights`.
        variant: a name that the configuration must have, if it is given.

    Raises:
        UserError: the source cannot be fetched or read, its configuration cannot be used, or it is of another variant.
    """
    source, contents = _contents(source)
    stored = contents.get("config") if isinstance(contents, Mapping) else None
    if not (isinstance(stored, Mapping) and stored.get("model_type") == MODEL_TYPE):
        return None
    try:
        config = MambaVisionConfig(**{name: value for name, value in stored.items() if name != "model_type"})
    except TypeError as error:
        raise UserError(f"source {source} has a configuration of another version of mvc ({error})") from error
    if variant is not None and get_config(variant).name != config.name:
        raise UserError(f"variant is {variant!r} and source {source} is of {config.name}; leave the variant out")
    return config


def _contents(source: str | os.PathLike[str] | Mapping[str, Tensor]) -> tuple[str, object]:
    """What a source is called, and what it holds."""
    if isinstance(source, Mapping):
        return "state dict", source
    kinds = "the path of a checkpoint, hub:OWNER/REPOSITORY, or a state dict"
    require(isinstance(source, (str, os.PathLike)), "source", source, kinds)
    name = str(os.fspath(source))
    return name, _read(_download(name.removeprefix(HUB_SCHEME)) if name.startswith(HUB_SCHEME) else Path(source))


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


def _read(path: Path) -> object:
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
        with torch.serialization.safe_globals([argparse.Namespace]):
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


def _checkpoint_tensors(contents: object, source: str, ema: bool) -> dict[str, Tensor]:
    """The state dict in a checkpoint, of the weights or of their moving average, under the model's names.

    Raises:
        UserError: there is no such state dict, or it holds anything but tensors with values.
    """
    if not isinstance(contents, Mapping):
        raise UserError(f"source {source} holds a {type(contents).__name__}; it must hold a state dict")
    entries = (contents.get(key) for key in (EMA_KEYS if ema else ("state_dict", "model")))
    state = next((entry for entry in entries if isinstance(entry, Mapping)), None if ema else contents)
    if state is None:
        raise UserError(f"source {source} holds no moving average ({' or '.join(EMA_KEYS)}); leave out ema=True")
    if not state:
        raise UserError(f"source {source} holds no tensors")
    for name, value in state.items():
        if not (isinstance(name, str) and _is_dense(value)):
            raise UserError(
                f"source {source}: the entry {name!r} ({type(value).__name__}) is no dense tensor; "
                "a checkpoint is a state dict, or a dict with one under 'state_dict' or 'model'"
            )
    tensors = _without_prefixes(state)
    if len(tensors) < len(state):
        raise UserError(
            f"source {source} holds several models: without prefixes, {len(state)} names become {len(tensors)}"
        )
    return tensors


def _is_dense(value: object) -> bool:
    """Whether it is a tensor that `copy_` can read: meta, sparse and nested tensors load from files too."""
    plain = type(value) in (Tensor, nn.Parameter) and not value.is_nested
    return plain and value.layout is torch.strided and not value.is_meta


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = _without_prefixes(model.state_dict())
    if any(tensor.is_meta for tensor in tensors.values()):
        raise UserError("model is on the meta device and has no storage to load into; create it on a real device")
    return tensors


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[match.end() :] if (match := _PREFIXES.match(name)) else name: t for name, t in tensors.items()}


def _without_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}


def _num_classes(tensors: dict[str, Tensor]) -> int:
    """The rows of the head's last matrix, of whatever layers the head is; 0 without one."""
    matrices = [tensor for name, tensor in tensors.items() if name.startswith("head.") and tensor.dim() == 2]
    return matrices[-1].shape[0] if matrices else 0


def _licence_notes(source: str, contents: Mapping[str, object]) -> list[str]:
    """The licence, when the weights are the published ones or have the form of their files."""
    if source.lower().startswith(f"{HUB_SCHEME}nvidia/"):
        return [f"{source} holds NVIDIA's published weights, whose licence is {LICENCE}"]
    training_state = "state_dict" in contents and any(isinstance(v, argparse.Namespace) for v in contents.values())
    if training_state or all(str(name).startswith("model.") for name in contents):
        return [f"{source} has the form of NVIDIA's published weights; if it holds them, their licence is {LICENCE}"]
    return []


def _check_fit(loaded: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> None:
    """Compare every name, shape and dtype of the checkpoint with the model's.

    Raises:
        UserError: they differ. The message states the reason and the remedy, then lists the differences.
    """
    lines = [
        f"\n  {len(items)} {kind}: {', '.join(items[:_LISTED])}{', ...' if len(items) > _LISTED else ''}"
        for kind, items in _differences(loaded, wanted).items()
    ]
    if lines:
        raise UserError(f"source {source} does not fit: {_misfit(loaded, wanted)}{''.join(lines)}")


def _differences(loaded: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, list[str]]:
    """The tensors that keep a checkpoint from fitting, by kind of difference."""
    pairs = [(name, loaded[name], tensor) for name, tensor in wanted.items() if name in loaded]
    differences = {
        "missing": [name for name in wanted if name not in loaded],
        "extra": [name for name in loaded if name not in wanted],
        "misshapen": [f"{n} {tuple(a.shape)} for {tuple(b.shape)}" for n, a, b in pairs if a.shape != b.shape],
        "of the wrong type": [f"{n} {a.dtype} for {b.dtype}" for n, a, b in pairs if not _converts(a.dtype, b.dtype)],
    }
    return {kind: items for kind, items in differences.items() if items}


def _converts(source: torch.dtype, target: torch.dtype) -> bool:
    return source == target or {source, target} <= _FLOATS


def _misfit(loaded: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Why a checkpoint does not fit and what to do, in one sentence."""
    file_classes, model_classes = _num_classes(loaded), _num_classes(wanted)
    if file_classes != model_classes and not _differences(_without_head(loaded), _without_head(wanted)):
        return (
            f"its head has num_classes={file_classes} and the model's has num_classes={model_classes} (0: no head); "
            f'create the model with num_classes={file_classes}, or pass head="reset" to keep the model\'s own head'
        )
    file_variants, model_variants = _variants_of(loaded), _variants_of(wanted)
    if file_variants and file_variants != model_variants:
        model_is = " or ".join(model_variants) or "a configuration of its own"
        return (
            f"these are {' or '.join(file_variants)} weights, and the model is {model_is}; "
            f'create the model under the name of the weights, as in create_model("{file_variants[0]}")'
        )
    return "these are not the model's tensors; give a MambaVision checkpoint of the same configuration"


def _variants_of(tensors: dict[str, Tensor]) -> tuple[str, ...]:
    """The variants whose tensors these are, apart from the head; several share theirs."""
    shapes = {name: tensor.shape for name, tensor in _without_head(tensors).items()}
    published = {variant: without_values(config).state_dict() for variant, config in VARIANTS.items()}
    return tuple(
        variant
        for variant, own in published.items()
        if shapes == {name: tensor.shape for name, tensor in _without_head(own).items()}
    )
