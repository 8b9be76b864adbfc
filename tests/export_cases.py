"""Small models with a scan, whose export takes a few seconds."""

import torch
from torch import Tensor, nn

import mvc
from mvc.compat.mamba_ssm import selective_scan_fn


class Small(nn.Module):
    """(batch, length, 8) -> (batch, 5): a projection, a scan, a read-out."""

    def __init__(self, *, published: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.project, self.head = nn.Linear(8, 16 + 16 + 4 + 4), nn.Linear(16, 5)
        self.A_log = nn.Parameter(torch.zeros(16, 4))
        self.published = published  # whether the scan is called as mamba-ssm's

    def forward(self, x):
        u, delta, B, C = self.project(x).split((16, 16, 4, 4), dim=-1)
        A = -self.A_log.exp()
        if self.published:
            u, delta, B, C = (t.transpose(1, 2) for t in (u, delta, B, C))
            y = selective_scan_fn(u, delta, A, B, C, delta_softplus=True).transpose(1, 2)
        else:
            y = mvc.selective_scan(u, delta, A, B, C, delta_softplus=True)
        return self.head(y.mean(1))


class WithoutLibraries(nn.Module):
    """(batch, length, 16) -> as much: a normalisation and a scan, so that a GPU runs generated kernels alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(16)
        self.A = nn.Parameter(-torch.rand(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        u = self.norm(x)
        return mvc.selective_scan(u, u, self.A, x[..., :8], x[..., 8:], delta_softplus=True) + x


class Squeezes(nn.Module):
    """Its result has another number of axes for a batch of 1, which is decided without a guard."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).squeeze(0).sum(0)


def example(batch: int = 4, length: int = 24) -> torch.Tensor:
    return torch.randn(batch, length, 8, generator=torch.Generator().manual_seed(batch))
