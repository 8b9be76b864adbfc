"""Published detectors and segmenters into the modules here, which have the published names but for a short table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mvc.arguments import require
from mvc.model.checkpoint import read, renamed, state_dict_in
from mvc.model.module import MambaVision
from mvc.model.weights import STATE_KEYS, LoadedWeights, copy_into, licence_notes, load_weights, stored_tensors

# Published names, and what the same tensors are called here.
NAMES = (
    (r"^neck\.lateral_convs\.(\d+)\.conv\.", r"neck.inner_blocks.\1.0."),  # torchvision's names of the pyramid
    (r"^neck\.fpn_convs\.(\d+)\.conv\.", r"neck.layer_blocks.\1.0."),
    (r"^roi_head\.(bbox|mask)_head\.(?!\d)", r"roi_head.\1_head.0."),  # of a detector with one stage
)
# What wrappers add: data parallelism, and torch.compile also within a name.
_WRAPPERS = re.compile(r"\b(module|_orig_mod)\.")


class Unread:
    """Stands for what a training state of mmengine pickles beside its tensors: the log of the losses, as an object with
    arrays. torch.load would refuse the whole file; this takes any arguments and keeps none of them."""

    def __new__(cls, *arguments: object) -> Unread:
        return super().__new__(cls)

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# The log's class; the arrays, as each numpy pickles them; and getattr, by which its methods are pickled. Since Unread
# takes the place of all of them, nothing of theirs is run.
_LOG = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *("numpy.ndarray", "numpy.dtype", "builtins.getattr", "__builtin__.getattr"),
)


def load_task_weights(model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor]) -> LoadedWeights:
    """Copy a checkpoint of a detector or a segmenter into the model's own tensors, strictly: every tensor of both sides
    is there, of the same shape, or nothing is copied.

    Args:
        model: as of `create_detector` or `create_segmenter`, its backbone compiled or not.
        source: as for `mvc.load_weights`, under the published names or those of `model.state_dict()`. Of a training
            state, what it holds under `state_dict` or `model` is loaded.

    Returns:
        The source, the number of tensors copied, and the licence of published weights, which is logged as a warning
        too.

    Raises:
        UserError: the source cannot be fetched or read, holds pickled objects other than data and the log of mmengine,
            or does not fit; missing, extra and misshapen tensors are listed. The model is then unchanged.
    """
    require(isinstance(model, nn.Module), "model", model, "a detector or a segmenter")
    name, contents = read(source, allowed=[(Unread, each) for each in _LOG])
    state = state_dict_in(contents, name, STATE_KEYS)
    loaded = renamed(contents if state is None else state, name, own_name)
    wanted = {own_name(each): tensor for each, tensor in stored_tensors(model).items()}
    # Training states of mmengine; mvc's own checkpoints say nothing of where their weights are from.
    notes = licence_notes(name, published=state is not None and "message_hub" in contents)
    return copy_into(wanted, loaded, name, notes, lambda loaded, _: _misfit(model, loaded))


def load_backbone_weights(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor], *, ema: bool = False
) -> LoadedWeights:
    """Copy a classifier's checkpoint into the backbone of a detector or a segmenter, where its training starts (in the
    paper from weights of ImageNet-1K). The norms of the maps, which no classifier has, are left as they are.

    Args:
        model: as for `load_task_weights`.
        source, ema: as for `mvc.load_weights`. The checkpoint's head and last norm are skipped.

    Returns:
        As `mvc.load_weights`.

    Raises:
        UserError: as of `mvc.load_weights`, or the model has no MambaVision as its backbone. It is then unchanged.
    """
    backbone = getattr(model, "backbone", None)
    require(hasattr(backbone, "outnorm0"), "model", model, "a detector or a segmenter")
    wanted = {own_name(name): tensor for name, tensor in stored_tensors(backbone).items()}
    classifier = MambaVision(backbone.config, device="meta").to_empty(device="cpu")  # without drawing values
    loaded = load_weights(classifier, source, head="reset", ema=ema)
    with torch.no_grad():
        for name, tensor in classifier.state_dict().items():
            if name in wanted:  # all but the last norm
                wanted[name].copy_(tensor)
    return loaded


def own_name(name: str) -> str:
    """What a tensor of a published checkpoint is called here; names of here stay as they are."""
    name = _WRAPPERS.sub("", name)
    for published, own in NAMES:
        name = re.sub(published, own, name)
    return name


def _misfit(model: nn.Module, loaded: Mapping[str, Tensor]) -> str:
    if not any(name.startswith("backbone.") for name in loaded):
        return (
            f"these are not the tensors of a {type(model).__name__}, which has a backbone and heads; give its own "
            "checkpoint, or start its training from a classifier's by load_backbone_weights"
        )
    return (
        f"these are not the tensors of this {type(model).__name__}; create it with the checkpoint's variant, kind and "
        "number of classes"
    )
