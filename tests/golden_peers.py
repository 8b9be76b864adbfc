"""The weights on which the golden figures of Vim and VMamba were computed.

As in `golden.py` a tensor is a function of its own name and shape, and the order of the random draws must stay as it
is; the rules here are those of the names that MambaVision lacks.
"""

from __future__ import annotations

import functools
import math

import golden
import numpy as np
import torch
from torch import Tensor

from mvc.models import create_model
from mvc.models.vim import Vim
from mvc.models.vmamba import VMamba


def weights(name: str, *, small: bool = False) -> dict[str, Tensor]:
    """A published checkpoint's tensors; name: "Vim-T" or "VMamba-T".

    Args:
        small: divide those of norms and of the patch embedding by 32, until the epsilon of a norm shows.
    """
    spec = golden.spec(name)
    arrays = {tensor: _tensor(tensor, shape) for tensor, shape in spec.items()}
    if small:
        arrays |= {tensor: array / np.float32(32) for tensor, array in arrays.items() if _is_small(tensor, spec)}
    return {tensor: torch.from_numpy(array) for tensor, array in arrays.items()}


@functools.lru_cache(maxsize=4)
def model(name: str, *, small: bool = False) -> Vim | VMamba:
    """The variant on its golden weights, in evaluation mode; tests must not change it."""
    module = create_model(name, device="meta").eval().requires_grad_(False)
    module.load_state_dict(weights(name, small=small), strict=True, assign=True)
    return module.to(memory_format=torch.channels_last)


def _tensor(name: str, shape: list[int]) -> np.ndarray:
    draw, leaf = golden.rng(name), name.rsplit(".", 1)[-1]
    if leaf in ("A_b_log", "A_logs"):
        values = np.log(np.arange(1, shape[1] + 1, dtype=np.float64))[None, :] + draw.normal(0.0, 0.2, shape)
    elif leaf in ("D_b", "Ds"):
        values = draw.normal(1.0, 0.2, shape)
    elif name.endswith("dt_proj_b.bias") or leaf == "dt_projs_bias":  # softplus of it is a step between 0.001 and 0.1
        step = np.exp(draw.uniform(math.log(1e-3), math.log(1e-1), shape))
        values = step + np.log(-np.expm1(-step))
    elif leaf in ("dt_projs_weight", "x_proj_weight"):  # (route, outputs, inputs)
        values = draw.normal(0.0, 1.0, shape) / math.sqrt(shape[-1])
    elif leaf in ("cls_token", "pos_embed"):  # as large as the patches, so that a wrong position shows
        values = draw.normal(0.0, 0.5, shape)
    else:
        return golden.tensor(name, shape)
    return values.astype(np.float32)


def _is_small(name: str, spec: dict[str, list[int]]) -> bool:
    stem, _, leaf = name.rpartition(".")
    of_norm = leaf in ("weight", "bias") and len(spec.get(f"{stem}.weight", [])) == 1
    return of_norm or name in ("cls_token", "pos_embed") or name.startswith("patch_embed.")
