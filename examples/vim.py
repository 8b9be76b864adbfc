"""A small Vision Mamba, written with mamba-ssm's names: it trains a step on a CPU, and compiles in one graph."""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mvc
import mvc.compat

mvc.compat.install()  # before the imports of mamba_ssm, which need neither a GPU nor mamba-ssm itself

from mamba_ssm.modules.mamba_simple import Mamba  # noqa: E402  installed above
from mamba_ssm.ops.triton.layernorm import RMSNorm, rms_norm_fn  # noqa: E402


class Block(nn.Module):
    """Add, normalise, and scan in both directions (`bimamba_type` is that of Vision Mamba's fork of mamba-ssm)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.mixer = Mamba(channels, d_state=8, bimamba_type="v2", if_divide_out=True)

    def forward(self, tokens: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        options = {"residual": residual, "prenorm": True, "residual_in_fp32": True, "eps": self.norm.eps}
        tokens, residual = rms_norm_fn(tokens, self.norm.weight, self.norm.bias, **options)
        return self.mixer(tokens), residual


class Vim(nn.Module):
    """Vision Mamba (arXiv 2401.09417): patches with a class token in their middle, blocks, and a linear classifier."""

    def __init__(self, channels: int, depth: int, patches: int, size: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, channels, size, stride=size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.randn(1, patches + 1, channels) * 0.02)
        self.layers = nn.ModuleList(Block(channels) for _ in range(depth))
        self.norm_f = RMSNorm(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) -> (batch, classes)."""
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2)
        middle = tokens.shape[1] // 2
        token = self.cls_token.expand(len(tokens), -1, -1)
        tokens = torch.cat((tokens[:, :middle], token, tokens[:, middle:]), dim=1) + self.pos_embed
        residual = None
        for layer in self.layers:
            tokens, residual = layer(tokens, residual)
        tokens = rms_norm_fn(tokens, self.norm_f.weight, self.norm_f.bias, residual=residual, eps=self.norm_f.eps)
        return self.head(tokens[:, middle])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--depth", type=int, default=2, help="blocks")
    parser.add_argument("--image", type=int, default=112, help="height and width, a multiple of 16")
    sizes = parser.parse_args()
    torch.manual_seed(0)
    model = Vim(sizes.channels, sizes.depth, patches=(sizes.image // 16) ** 2)
    images, labels = torch.randn(sizes.batch, 3, sizes.image, sizes.image), torch.arange(sizes.batch) % 10

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = F.cross_entropy(model(images), labels)
    before.backward()
    optimizer.step()
    with torch.no_grad():
        expected = model(images)
        compiled = torch.compile(model, backend="mvc", fullgraph=True)
        torch.testing.assert_close(compiled(images), expected, rtol=1e-4, atol=1e-4)
        (graph,) = mvc.explain(model, images).graphs
    print(f"loss before a step of training, and after it: {before:.4f}, {F.cross_entropy(expected, labels):.4f}")
    print("scans in the one graph of compiled code:", {op: n for op, n in graph.after.items() if "scan" in op})


if __name__ == "__main__":
    main()
