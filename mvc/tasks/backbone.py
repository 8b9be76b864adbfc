"""MambaVision as the backbone of dense tasks: four stage maps, each normalised over its channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvc.model import network
from mvc.model.config import MambaVisionConfig, get_config
from mvc.model.layers import ChannelNorm
from mvc.model.module import MambaVision

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """The stages of a MambaVision under their published names, with a norm for each map that leaves them.

    Args:
        config: the configuration; its `num_classes` is not used, since there is no head.
        device, dtype: as for `mvc.create_model`.
    """

    def __init__(
        self,
        config: MambaVisionConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        whole = MambaVision(get_config(config, num_classes=0), device=device, dtype=dtype)
        self.config = whole.config
        self.patch_embed, self.levels = whole.patch_embed, whole.levels
        for stage in range(len(STRIDES)):
            self.add_module(f"outnorm{stage}", ChannelNorm(config.channels(stage), device=device, dtype=dtype))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps (batch, dim·2^k, height/2^(k+2), width/2^(k+2)) for k = 0 to 3, sizes rounded up, of images
        (batch, in_chans, height, width); a map is normalised after the next stage has read it."""
        norms = (self.get_submodule(f"outnorm{stage}") for stage in range(len(STRIDES)))
        return tuple(norm(found) for norm, found in zip(norms, network.stage_maps(self, x), strict=True))
