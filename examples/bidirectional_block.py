"""A bidirectional vision Mamba block, compiled in one graph: one scan forward, one from the last patch to the first."""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvc import selective_scan


def recurrence(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    """The scan as its formula says it, in plain torch: a flip, a loop over the patches, and a flip back."""
    if reverse:
        u, delta, B, C, z = (t.flip(1) for t in (u, delta, B, C, z))
    delta = F.softplus(delta + delta_bias) if delta_softplus else delta + delta_bias
    state, outputs = torch.zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[1]):
        step = delta[:, t, :, None]
        state = torch.exp(step * A) * state + step * B[:, t, None] * u[:, t, :, None]
        outputs.append((state * C[:, t, None]).sum(-1) + D * u[:, t])
    y = torch.stack(outputs, dim=1) * F.silu(z)
    return y.flip(1) if reverse else y


class Direction(nn.Module):
    """Convolution and scan along one direction; (batch, length, dim) in and out."""

    def __init__(self, dim: int, states: int, rank: int, width: int, reverse: bool) -> None:
        super().__init__()
        self.split, self.reverse = (rank, states, states), reverse
        self.conv = nn.Conv1d(dim, dim, width, groups=dim)
        self.x_proj = nn.Linear(dim, sum(self.split), bias=False)
        self.dt_proj = nn.Linear(rank, dim)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(dim, 1))
        self.D = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, z: Tensor, scan: Callable[..., Tensor]) -> Tensor:
        seen = self.conv.kernel_size[0] - 1  # patches before each one, or after it
        padding = (0, seen) if self.reverse else (seen, 0)
        u = F.silu(self.conv(F.pad(x.transpose(1, 2), padding))).transpose(1, 2)
        delta, B, C = self.x_proj(u).split(self.split, dim=-1)
        delta = F.linear(delta, self.dt_proj.weight)
        options = {"D": self.D, "z": z, "delta_bias": self.dt_proj.bias, "delta_softplus": True}
        return scan(u, delta, -self.A_log.exp(), B, C, **options, reverse=self.reverse)


class BidirectionalBlock(nn.Module):
    """The block of Vision Mamba (arXiv 2401.09417); (batch, length, channels) in and out, length counts patches."""

    def __init__(self, channels: int, expand: int = 2, states: int = 16, width: int = 4) -> None:
        super().__init__()
        dim, rank = expand * channels, -(-channels // 16)
        self.norm = nn.LayerNorm(channels)
        self.in_proj = nn.Linear(channels, 2 * dim, bias=False)
        self.directions = nn.ModuleList(Direction(dim, states, rank, width, reverse) for reverse in (False, True))
        self.out_proj = nn.Linear(dim, channels, bias=False)

    def forward(self, patches: Tensor, scan: Callable[..., Tensor] = selective_scan) -> Tensor:
        x, z = self.in_proj(self.norm(patches)).chunk(2, dim=-1)
        return patches + self.out_proj(sum(direction(x, z, scan) for direction in self.directions))


def timed(function: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result, and the seconds of the best of three calls after the first."""
    result, seconds = function(), []
    for _ in range(3):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=192)
    parser.add_argument("--length", type=int, default=196, help="patches")
    sizes = parser.parse_args()
    torch.manual_seed(0)
    block = BidirectionalBlock(sizes.channels).eval()
    patches = torch.randn(sizes.batch, sizes.length, sizes.channels)
    compiled = torch.compile(block, fullgraph=True)
    with torch.no_grad():
        expected, slow = timed(lambda: block(patches, scan=recurrence))
        actual, fast = timed(lambda: compiled(patches))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    print(f"recurrence in plain torch     : {slow * 1e3:8.1f} ms")
    print(f"mvc::selective_scan, compiled : {fast * 1e3:8.1f} ms")
    print(f"largest difference            : {(actual - expected).abs().max():.1e}")


if __name__ == "__main__":
    main()
