"""The entry points of VMamba's extension `selective_scan_cuda_core`: `bwd` is that of `selective_scan_cuda_oflex`."""

from __future__ import annotations

from torch import Tensor

from mvc.compat import selective_scan_cuda_oflex


def fwd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    nrows: int,
) -> list[Tensor]:
    """`mvc.compat.selective_scan_cuda_oflex.fwd` with y in u's dtype."""
    return selective_scan_cuda_oflex.fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows, False)
