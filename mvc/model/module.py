"""MambaVision as an `nn.Module`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvc.arguments import require, shown
from mvc.errors import UserError
from mvc.model import network
from mvc.model.config import MambaVisionConfig, get_config
from mvc.model.layers import EPS, ConvStage, PatchEmbed, TokenStage, initialize
from mvc.model.network import Features

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class MambaVision(nn.Module):
    """The network, of torch's own layers under the names of the published checkpoints.

    Each layer is called by the forward, so that hooks on it run and it can be replaced or wrapped: by another head, by
    `SyncBatchNorm`, LoRA, quantized weights. `levels[k]` returns its stage's map before down-sampling.

    Args:
        config: the configuration, as from `mvc.get_config`.
        device, dtype: as for `mvc.create_model`.

    Raises:
        UserError: an argument that cannot be used.
    """

    def __init__(
        self,
        config: MambaVisionConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        require(isinstance(config, MambaVisionConfig), "config", config, "a MambaVisionConfig, as of get_config('T')")
        check_tensor_options(device, dtype)
        super().__init__()
        self.config = config
        tensors = {"device": "meta", "dtype": dtype}  # made once, when their memory format is known
        self.patch_embed = PatchEmbed(config, **tensors)
        stages = (ConvStage, ConvStage, TokenStage, TokenStage)
        self.levels = nn.ModuleList([make(config, stage, **tensors) for stage, make in enumerate(stages)])
        channels, classes = config.channels(3), config.num_classes
        self.norm = nn.BatchNorm2d(channels, eps=EPS, **tensors)
        self.head = nn.Linear(channels, classes, **tensors) if classes else nn.Identity()
        self.to(memory_format=torch.channels_last)
        self.to_empty(device=torch.get_default_device() if device is None else device)
        for layer in self.modules():
            initialize(layer)

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers by name: the `params` of `mvc.functional`."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, num_classes) of images (batch, in_chans, height, width), at least 32 x 32; raises as
        `mvc.functional.forward` does."""
        return network.scores(self, x)

    def forward_features(self, x: Tensor) -> Features:
        """The four stage maps before down-sampling, and the pooled vector."""
        return network.features(self, x)

    def extra_repr(self) -> str:
        return f"{self.config.name}, {sum(p.numel() for p in self.parameters()):,} parameters"


def check_tensor_options(device: object, dtype: object) -> None:
    """Raise UserError for another dtype than a model can have, a value that is not a device, or a device on which no
    tensor can be made here."""
    require(dtype is None or dtype in DTYPES, "dtype", dtype, f"one of {', '.join(map(str, DTYPES))}")
    try:
        torch.empty(0, device=device)
    except Exception as error:  # RuntimeError, TypeError, AssertionError, ImportError: it depends on the device
        reason = str(error).partition("\n")[0]
        raise UserError(f"device is {shown(device)}, which cannot be used here ({reason}); use 'cpu'") from error


def create_model(
    variant: str | MambaVisionConfig,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **changes: object,
) -> MambaVision:
    """A MambaVision with freshly initialised weights, in training mode as torch's own modules are.

    Args:
        variant: a name of `mvc.VARIANTS` in any letter case, or a configuration.
        device: where the tensors are made; "meta" makes none.
        dtype: of the parameters, float16, bfloat16, float32 or float64; A_log and D stay float32.
        changes: fields of `MambaVisionConfig` to change, such as num_classes, in_chans or drop_path_rate.

    Raises:
        UserError: an unknown variant or field, or a value, device or dtype that cannot be used.
    """
    return MambaVision(get_config(variant, **changes), device=device, dtype=dtype)
