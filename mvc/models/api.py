"""The models by name."""

from __future__ import annotations

import torch

from mvc.arguments import require
from mvc.model.config import by_name, with_changes
from mvc.model.module import check_tensor_options
from mvc.models import vim, vmamba
from mvc.models.vim import Vim, VimConfig
from mvc.models.vmamba import VMamba, VMambaConfig

VARIANTS: dict[str, VimConfig | VMambaConfig] = {**vim.VARIANTS, **vmamba.VARIANTS}


def create_model(
    variant: str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **changes: object,
) -> Vim | VMamba:
    """A Vim or a VMamba with freshly initialised weights, in training mode as torch's own modules are.

    Args:
        variant: a name of `VARIANTS` in any letter case, such as "Vim-S+" or "VMamba-T".
        device: where the tensors are made; "meta" makes none.
        dtype: of the parameters, float16, bfloat16, float32 or float64; the decays and skips of scans stay float32.
        changes: fields of `VimConfig` or `VMambaConfig` to change, such as num_classes or drop_path_rate.

    Raises:
        UserError: an unknown variant or field, or a value, device or dtype that cannot be used.
    """
    require(isinstance(variant, str), "variant", variant, "the name of a variant, as in mvc.models.VARIANTS")
    config = with_changes(by_name(variant, VARIANTS), changes)
    check_tensor_options(device, dtype)
    return (Vim if isinstance(config, VimConfig) else VMamba)(config, device=device, dtype=dtype)
