"""mamba-ssm's residual block around a mixer: `mamba_ssm.modules.block.Block` of 2.x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mvc.compat.layer_norm import RMSNorm, layer_norm_fn
from mvc.errors import UserError


class Block(nn.Module):
    """Add, normalise, mix, and the same again with an MLP; the last sum is left to the next block.

    A block takes what the one before it returned, its output and the residual, which are added first. The residual of
    the first block is None.

    Args:
        dim: the number of channels.
        mixer_cls, mlp_cls, norm_cls: make a module from `dim`; `nn.Identity` as `mlp_cls` leaves the MLP out.
        fused_add_norm: add and normalise by one call of `layer_norm_fn`, whose sum is not rounded in between.
        residual_in_fp32: keep the residual in float32.

    Raises:
        UserError: `fused_add_norm` with a norm that is neither `nn.LayerNorm` nor `RMSNorm`.
    """

    def __init__(
        self,
        dim: int,
        mixer_cls: Callable[[int], nn.Module],
        mlp_cls: Callable[[int], nn.Module],
        norm_cls: Callable[[int], nn.Module] = nn.LayerNorm,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
    ) -> None:
        super().__init__()
        self.residual_in_fp32, self.fused_add_norm = residual_in_fp32, fused_add_norm
        self.norm = norm_cls(dim)
        self.mixer = mixer_cls(dim)
        self.mlp = None
        if mlp_cls is not nn.Identity:
            self.norm2 = norm_cls(dim)
            self.mlp = mlp_cls(dim)
        if fused_add_norm and not isinstance(self.norm, (nn.LayerNorm, RMSNorm)):
            raise UserError(
                f"norm_cls makes a {type(self.norm).__name__}; fused_add_norm needs nn.LayerNorm or mamba-ssm's RMSNorm"
            )

    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor | None = None,
        inference_params: Any = None,
        **mixer_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """The block's output and the residual, each (batch, length, dim).

        Args:
            hidden_states, residual: (batch, length, dim), what the block before returned.
            inference_params: passed to the mixer, as are further arguments by name.
        """
        hidden_states, residual = self._add_norm(self.norm, hidden_states, residual)
        hidden_states = self.mixer(hidden_states, inference_params=inference_params, **mixer_kwargs)
        if self.mlp is not None:
            hidden_states, residual = self._add_norm(self.norm2, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual

    def _add_norm(self, norm: nn.Module, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.fused_add_norm:
            options = {"residual_in_fp32": self.residual_in_fp32, "is_rms_norm": isinstance(norm, RMSNorm)}
            weights = (norm.weight, norm.bias)
            return layer_norm_fn(hidden_states, *weights, residual=residual, prenorm=True, eps=norm.eps, **options)
        residual = hidden_states if residual is None else hidden_states + residual
        normalised = norm(residual.to(norm.weight.dtype))
        return normalised, residual.to(torch.float32) if self.residual_in_fp32 else residual

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> Any:
        """The mixer's states; see `Mamba.allocate_inference_cache`."""
        return self.mixer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs)
