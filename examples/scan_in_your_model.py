"""The selective scan as one op in a block of your own, compiled in one graph."""

import torch
from torch import Tensor, nn

from mvc import selective_scan


class MambaBlock(nn.Module):
    """Mamba's inner block without its convolution: (batch, length, dim) in and out."""

    def __init__(self, dim: int, states: int = 16) -> None:
        super().__init__()
        self.states = states
        self.in_proj = nn.Linear(dim, 2 * dim)
        self.x_proj = nn.Linear(dim, dim + 2 * states)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(dim, 1))
        self.D = nn.Parameter(torch.ones(dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        delta, B, C = self.x_proj(u).split((x.shape[-1], self.states, self.states), dim=-1)
        y = selective_scan(u, delta, -self.A_log.exp(), B, C, D=self.D, z=z, delta_softplus=True)
        return self.out_proj(y)


def main() -> None:
    torch.manual_seed(0)
    block, x = MambaBlock(32).eval(), torch.randn(2, 100, 32)
    with torch.no_grad():
        compiled = torch.compile(block, fullgraph=True)
        torch.testing.assert_close(compiled(x), block(x))
    print("compiled in one graph, equal to eager")


if __name__ == "__main__":
    main()
