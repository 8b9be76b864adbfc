"""The `nn.Module` that holds MambaVision's tensors under their published names; `mvc.functional` computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mvc.arguments import require, shown
from mvc.errors import UserError
from mvc.model import functional
from mvc.model.config import MambaVisionConfig, get_config
from mvc.model.functional import Features
from mvc.model.parameters import TensorSpec, initialize, tensor_specs

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class MambaVision(nn.Module):
    """A shell around `mvc.functional`: parameters and buffers in, class scores out.

    Modules below it hold tensors and compute nothing, so that `state_dict()` has the names of the published
    checkpoints; hooks on them do not run.

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
        require(dtype is None or dtype in DTYPES, "dtype", dtype, f"one of {', '.join(map(str, DTYPES))}")
        _check_device(device)
        super().__init__()
        self.config = config
        for name, spec in tensor_specs(config).items():
            self._register(name, spec, device, dtype)
        initialize(self.tensors(), config)

    def _register(self, name: str, spec: TensorSpec, device, dtype) -> None:
        layout = torch.channels_last if len(spec.shape) == 4 else torch.contiguous_format
        tensor = torch.empty(spec.shape, device=device, dtype=spec.dtype or dtype, memory_format=layout)
        *path, leaf = name.split(".")
        owner = self
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        if spec.is_buffer:
            owner.register_buffer(leaf, tensor)
        else:
            owner.register_parameter(leaf, nn.Parameter(tensor))

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers by name: the `params` of `mvc.functional`."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, num_classes) of images (batch, in_chans, height, width), at least 32 x 32; raises as
        `mvc.functional.forward` does."""
        return functional.forward(self.tensors(), x, self.config, training=self.training)

    def forward_features(self, x: Tensor) -> Features:
        """The four stage maps before down-sampling, and the pooled vector."""
        return functional.forward_features(self.tensors(), x, self.config, training=self.training)

    def extra_repr(self) -> str:
        return f"{self.config.name}, {sum(p.numel() for p in self.parameters()):,} parameters"


def _check_device(device: object) -> None:
    """Raise UserError for a value that is not a device, or for a device on which no tensor can be made here."""
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
