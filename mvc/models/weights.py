"""Published checkpoints of Vim and VMamba into these models, read as `mvc.model.weights` reads MambaVision's."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from mvc.arguments import require, require_flag
from mvc.model.checkpoint import read
from mvc.model.weights import LoadedWeights, checkpoint_tensors, copy_into, stored_tensors
from mvc.models.api import VARIANTS, create_model
from mvc.models.vim import Vim
from mvc.models.vmamba import ROUTES, VMamba

LICENCES = {
    Vim: "contradictory (the hub's metadata says Apache-2.0, the model cards say non-commercial): ask before sharing",
    VMamba: "not stated (the MIT licence of its repository names the code): ask before sharing",
}
# What VMamba's files hold beside the weights: a dict with attributes, of which nothing is read. torch's reader fills no
# other dicts than its own, so one of these stands for it, and yacs need not be installed.
SETTINGS = [(OrderedDict, "yacs.config.CfgNode")]
# Of files that are older than the published names, and of VMamba's model in a single file.
OLDER_NAMES = {
    r"^patch_embed\.proj\.": "patch_embed.0.",
    r"^patch_embed\.norm\.": "patch_embed.2.",
    r"^(norm|head)\.": r"classifier.\1.",
    r"\.ln_1\.": ".norm.",
    r"\.self_attention\.": ".op.",
    r"\.op\.(x_proj|dt_projs)\.weight$": r".op.\1_weight",
}


def load_weights(
    model: Vim | VMamba, source: str | os.PathLike[str] | Mapping[str, Tensor], *, ema: bool = False
) -> LoadedWeights:
    """Copy a checkpoint into the model's own tensors, which keep their dtype, device and memory format.

    Args:
        model: of `create_model`, before it is compiled or wrapped.
        source: as of `mvc.load_weights`: a published file, whose weights are under `model`, or a state dict.
        ema: whether to load the moving average of the weights, which a training state holds under `model_ema`.

    Returns:
        The source, the number of tensors copied, and the licence, which is logged as a warning too.

    Raises:
        UserError: the source cannot be fetched or read, holds pickled objects other than data, or does not fit the
            model. The model is then unchanged.
    """
    require(isinstance(model, (Vim, VMamba)), "model", model, "a model of mvc.models, not compiled or wrapped yet")
    require_flag("ema", ema)
    source, contents = read(source, allowed=SETTINGS)
    loaded = checkpoint_tensors(contents, source, _current_name if isinstance(model, VMamba) else str, ema=ema)
    wanted = stored_tensors(model)
    loaded = {name: _in_shape_of(wanted.get(name), tensor) for name, tensor in loaded.items()}
    return copy_into(wanted, loaded, source, _licence_notes(model, source, published="model" in contents), _misfit)


def _current_name(name: str) -> str:
    for older, current in OLDER_NAMES.items():
        name = re.sub(older, current, name)
    return name


def _in_shape_of(wanted: Tensor | None, tensor: Tensor) -> Tensor:
    """A linear layer's weight that was stored as that of a 1 x 1 convolution, and those of all routes that were stored
    as one matrix."""
    if wanted is not None and tensor.dim() == 4 and tensor.shape[2:] == (1, 1) and wanted.dim() == 2:
        return tensor.flatten(1)
    if wanted is not None and tensor.dim() == 2 and wanted.dim() == 3 and tensor.shape[0] % ROUTES == 0:
        return tensor.unflatten(0, (ROUTES, -1))
    return tensor


def _licence_notes(model: Vim | VMamba, source: str, *, published: bool) -> list[str]:
    if not published:
        return []
    return [
        f"{source} has the form of the published weights; if it holds them, their licence is {LICENCES[type(model)]}"
    ]


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """By VMamba's current names: those of Vim's head were taken for older ones if it is loaded into a VMamba."""
    return {_current_name(name): tensor.shape for name, tensor in tensors.items()}


def _misfit(loaded: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Why a checkpoint does not fit and what to do, in one sentence."""
    shapes = _shapes(loaded)
    for variant in VARIANTS:
        if shapes == _shapes(create_model(variant, device="meta").state_dict()):
            return f'these are {variant} weights; create the model as mvc.models.create_model("{variant}")'
    return "these are not the model's tensors; give a checkpoint of the same variant and number of classes"
