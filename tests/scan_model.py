"""A model of a normalisation and a scan, which other processes can import."""

import torch
from torch import Tensor, nn

from mvc import selective_scan


class ScanModel(nn.Module):
    """y (batch, length, 16) of x; it calls no library."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.A = nn.Parameter(-torch.rand(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        u = self.norm(x)
        return selective_scan(u, u, self.A, x[..., :8], x[..., 8:], delta_softplus=True) + x
