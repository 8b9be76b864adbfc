"""mamba-ssm's normalisations with the sum before them: `RMSNorm`, `layer_norm_fn` and `rms_norm_fn`.

A block adds its residual and normalises the sum; Inductor makes one kernel of both. Sums and statistics are float32, or
float64 where an input is, whatever the inputs' dtype, also under autocast, as in mamba-ssm.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvc.arguments import is_number, require
from mvc.kernels.checks import check_flags, check_layouts, check_tensors


class RMSNorm(nn.Module):
    """Division by the root mean square of the last axis (arXiv 1910.07467), times a weight; `bias` is None.

    Args:
        hidden_size: the size of the last axis.
        eps: added to the mean square.
        device, dtype: of the weight, which starts as ones.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`rms_norm_fn` with this module's weight."""
        return rms_norm_fn(x, self.weight, self.bias, residual, prenorm, residual_in_fp32, self.eps)


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    eps: float = 1e-6,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    *,
    x1: Tensor | None = None,
    weight1: Tensor | None = None,
    bias1: Tensor | None = None,
    dropout_p: float = 0.0,
    rowscale: Tensor | None = None,
    return_dropout_mask: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Layer normalisation of dropout(x rowscale) + dropout(x1) + residual.

    Positional arguments are mamba-ssm 1.x's; 2.x, which has another order from `eps` on, has those by name.

    Args:
        x, residual, x1: (..., features), of one shape of at least two axes. rowscale: (...), a factor of each row.
        weight, bias, weight1, bias1: (features,). With weight1 the sum is normalised a second time, with that.
        prenorm: also return the sum.
        residual_in_fp32: return it in float32 where no residual says its dtype.
        is_rms_norm: divide by the root mean square and subtract no mean.
        dropout_p: the probability of a zero, also outside of training: pass 0 there.
        return_dropout_mask: not supported.

    Returns:
        y in x's dtype, a second one with weight1, and with prenorm the sum, in the residual's dtype.

    Raises:
        NotImplementedError: `return_dropout_mask`.
        TypeError: an argument that is no dense tensor of real floating point, or a flag that is no bool.
        ValueError: a shape or device that does not fit, an eps that is no number from 0, or a dropout_p outside of 0
            to 1.
    """
    if return_dropout_mask:
        raise NotImplementedError("return_dropout_mask is not supported; call torch.nn.functional.dropout before")
    inputs = {"weight": weight, "bias": bias, "residual": residual, "rowscale": rowscale}
    _check(x, inputs | {"x1": x1, "weight1": weight1, "bias1": bias1})
    check_flags(prenorm=prenorm, residual_in_fp32=residual_in_fp32, is_rms_norm=is_rms_norm)
    require(is_number(eps) and eps >= 0, "eps", eps, "a number from 0")
    require(is_number(dropout_p) and 0 <= dropout_p < 1, "dropout_p", dropout_p, "a probability from 0 and below 1")
    if weight1 is None and bias1 is not None:
        raise ValueError("bias1 is used with weight1 only; pass both or neither")
    terms = [x if rowscale is None else x * rowscale.unsqueeze(-1), *([] if x1 is None else [x1])]
    terms = [F.dropout(term, dropout_p) for term in terms] if dropout_p else terms
    terms += [] if residual is None else [residual]
    dtype = torch.float64 if torch.float64 in {term.dtype for term in terms} else torch.float32
    total = reduce(torch.add, (term.to(dtype) for term in terms))
    normalise = _rms_norm if is_rms_norm else _layer_norm
    results = [normalise(total, weight, bias, eps).to(x.dtype)]
    if weight1 is not None:
        results.append(normalise(total, weight1, bias1, eps).to(x.dtype))
    if prenorm:
        own = torch.float32 if residual_in_fp32 else x.dtype
        results.append(total.to(own if residual is None else residual.dtype))
    return results[0] if len(results) == 1 else tuple(results)


def rms_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
    **options: Tensor | float | bool | None,
) -> Tensor | tuple[Tensor, ...]:
    """`layer_norm_fn` by the root mean square; its options go there."""
    return layer_norm_fn(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm=True, **options)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), None if bias is None else bias.to(x.dtype), eps)


def _rms_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    y = F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)
    return y if bias is None else y + bias.to(x.dtype)


def _check(x: Tensor, optional: dict[str, Tensor | None]) -> None:
    check_tensors({"x": x}, {})
    if x.dim() < 2:
        raise ValueError(f"x must be (..., features) of at least two axes, got shape {tuple(x.shape)}")
    rows = ", ".join(f"axis {index}" for index in range(x.dim() - 1))
    layouts = dict.fromkeys(("weight", "bias", "weight1", "bias1"), ("features",)) | {"rowscale": (rows,)}
    layouts |= dict.fromkeys(("x", "residual", "x1"), (f"{rows}, features",))
    check_layouts(layouts, {"x": x, "weight": optional.pop("weight")}, optional)
