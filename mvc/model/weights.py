"""Checkpoints into a model.

The names are brought to the model's, and all of a checkpoint is compared with the model before the first value is
copied: a model is loaded in full or left as it was.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mvc.arguments import require, require_choice, require_flag
from mvc.errors import UserError
from mvc.model.checkpoint import HUB_SCHEME, read, renamed, state_dict_in
from mvc.model.config import MODEL_TYPE, VARIANTS, MambaVisionConfig, get_config
from mvc.model.functional import without_values

STATE_KEYS = ("state_dict", "model")
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
    source, contents = read(source)
    loaded = checkpoint_tensors(contents, source, _without_prefix, ema=ema)
    wanted = {_without_prefix(name): tensor for name, tensor in stored_tensors(model).items()}
    notes = licence_notes(source, published=_has_published_form(contents))
    if head == "reset":
        notes.append(
            f"the checkpoint's head (num_classes={_num_classes(loaded)}) was skipped; "
            f"the model's (num_classes={_num_classes(wanted)}) is as it was"
        )
        loaded, wanted = _without_head(loaded), _without_head(wanted)
    return copy_into(wanted, loaded, source, notes, _misfit)


def copy_into(
    wanted: Mapping[str, Tensor],
    loaded: Mapping[str, Tensor],
    source: str,
    notes: Sequence[str],
    misfit: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], str],
) -> LoadedWeights:
    """Copy the tensors of a checkpoint over a model's once all of them fit, and log the notes.

    Args:
        misfit: why the two differ and what to do, in one sentence.

    Raises:
        UserError: they differ in a name, a shape or a kind of dtype. Nothing was copied.
    """
    _check_fit(loaded, wanted, source, misfit)
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
    source, contents = read(source)
    return _num_classes(checkpoint_tensors(contents, source, _without_prefix, ema=ema))


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
    source, contents = read(source)
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


def checkpoint_tensors(contents: object, source: str, rename: Callable[[str], str], *, ema: bool) -> dict[str, Tensor]:
    """The state dict in a checkpoint, of the weights or of their moving average, under the model's names."""
    state = state_dict_in(contents, source, EMA_KEYS if ema else STATE_KEYS)
    if state is None and ema:
        raise UserError(f"source {source} holds no moving average ({' or '.join(EMA_KEYS)}); leave out ema=True")
    return renamed(contents if state is None else state, source, rename)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors, to copy values into."""
    tensors = model.state_dict()
    if any(tensor.is_meta for tensor in tensors.values()):
        raise UserError("model is on the meta device and has no storage to load into; create it on a real device")
    return tensors


def _without_prefix(name: str) -> str:
    return name[match.end() :] if (match := _PREFIXES.match(name)) else name


def _without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}


def _num_classes(tensors: Mapping[str, Tensor]) -> int:
    """The rows of the head's last matrix, of whatever layers the head is; 0 without one."""
    matrices = [tensor for name, tensor in tensors.items() if name.startswith("head.") and tensor.dim() == 2]
    return matrices[-1].shape[0] if matrices else 0


def licence_notes(source: str, *, published: bool) -> list[str]:
    """The licence of the published weights.

    Args:
        published: whether what the source holds has the form of NVIDIA's published files.
    """
    if source.lower().startswith(f"{HUB_SCHEME}nvidia/"):
        return [f"{source} holds NVIDIA's published weights, whose licence is {LICENCE}"]
    if published:
        return [f"{source} has the form of NVIDIA's published weights; if it holds them, their licence is {LICENCE}"]
    return []


def _has_published_form(contents: Mapping[str, object]) -> bool:
    training_state = "state_dict" in contents and any(isinstance(v, argparse.Namespace) for v in contents.values())
    return training_state or all(str(name).startswith("model.") for name in contents)


def _check_fit(
    loaded: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    source: str,
    misfit: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], str],
) -> None:
    """Compare every name, shape and dtype of the checkpoint with the model's.

    Raises:
        UserError: they differ. The message states the reason and the remedy, then lists the differences.
    """
    lines = [
        f"\n  {len(items)} {kind}: {', '.join(items[:_LISTED])}{', ...' if len(items) > _LISTED else ''}"
        for kind, items in _differences(loaded, wanted).items()
    ]
    if lines:
        raise UserError(f"source {source} does not fit: {misfit(loaded, wanted)}{''.join(lines)}")


def _differences(loaded: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, list[str]]:
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


def _misfit(loaded: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
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


def _variants_of(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The variants whose tensors these are, apart from the head; several share theirs."""
    shapes = {name: tensor.shape for name, tensor in _without_head(tensors).items()}
    published = {variant: without_values(config).state_dict() for variant, config in VARIANTS.items()}
    return tuple(
        variant
        for variant, own in published.items()
        if shapes == {name: tensor.shape for name, tensor in _without_head(own).items()}
    )
