"""A small VM-UNet, written with mamba-ssm's names: four scans over an image in each block, an encoder and a decoder. It
trains a step of segmentation on a CPU, and its block compiles in one graph."""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mvc
import mvc.compat

mvc.compat.install()  # before the imports of mamba_ssm, which need neither a GPU nor mamba-ssm itself

from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: E402  installed above


class SS2D(nn.Module):
    """VMamba's scan of an image (arXiv 2401.10166): by rows and by columns, each from both ends, summed.

    The four directions are groups of one scan: each has its own time step, A, B, C and D.
    """

    def __init__(self, channels: int, states: int = 8, expand: int = 2, width: int = 3) -> None:
        super().__init__()
        dim, rank = expand * channels, -(-channels // 16)
        self.split = (rank, states, states)
        self.in_proj = nn.Linear(channels, 2 * dim, bias=False)
        self.conv2d = nn.Conv2d(dim, dim, width, padding=width // 2, groups=dim)
        self.x_proj_weight = nn.Parameter(torch.randn(4, sum(self.split), dim) * dim**-0.5)
        self.dt_projs_weight = nn.Parameter(torch.randn(4, dim, rank) * rank**-0.5)
        self.dt_projs_bias = nn.Parameter(torch.full((4 * dim,), -4.0))
        self.A_logs = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(4 * dim, 1))
        self.Ds = nn.Parameter(torch.ones(4 * dim))
        self.out_norm = nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, channels, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, height, width, channels) in and out."""
        x, z = self.in_proj(image).chunk(2, dim=-1)
        y = self.scan(F.silu(self.conv2d(x.permute(0, 3, 1, 2))))
        return self.out_proj(self.out_norm(y.permute(0, 2, 3, 1)) * F.silu(z))

    def scan(self, x: Tensor) -> Tensor:
        """(batch, dim, height, width) in and out."""
        rows, columns = x.flatten(2), x.transpose(2, 3).flatten(2)
        xs = torch.stack((rows, columns, rows.flip(-1), columns.flip(-1)), dim=1)  # (batch, 4, dim, length)
        projected = torch.einsum("bkdl,kcd->bkcl", xs, self.x_proj_weight)
        dts, Bs, Cs = projected.split(self.split, dim=2)
        dts = torch.einsum("bkrl,kdr->bkdl", dts, self.dt_projs_weight)
        options = {"delta_bias": self.dt_projs_bias, "delta_softplus": True}
        A = -self.A_logs.exp()
        ys = selective_scan_fn(xs.flatten(1, 2), dts.flatten(1, 2), A, Bs, Cs, self.Ds, **options)
        along, across = ys.unflatten(1, (2, 2, -1)).unbind(2)  # each (batch, 2, dim, length): from both ends
        along, across = (y[:, 0] + y[:, 1].flip(-1) for y in (along, across))
        height, width = x.shape[2:]
        return along.unflatten(-1, (height, width)) + across.unflatten(-1, (width, height)).transpose(2, 3)


class VSSBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln_1, self.self_attention = nn.LayerNorm(channels), SS2D(channels)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.self_attention(self.ln_1(image))


class VMUNet(nn.Module):
    """VM-UNet (arXiv 2402.02491) of two levels; (batch, 3, height, width) -> (batch, classes, height, width)."""

    def __init__(self, channels: int, classes: int = 2, patch: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, channels, patch, stride=patch)
        self.encoder, self.decoder = VSSBlock(channels), VSSBlock(channels)
        self.merge = nn.Linear(4 * channels, 2 * channels, bias=False)  # of 2 x 2 tokens
        self.bottom = VSSBlock(2 * channels)
        self.expand = nn.Linear(2 * channels, 4 * channels, bias=False)  # to 2 x 2 tokens
        self.final = nn.Linear(channels, classes * patch * patch)
        self.patch = patch

    def forward(self, images: Tensor) -> Tensor:
        skip = self.encoder(self.patch_embed(images).permute(0, 2, 3, 1))
        small = F.pixel_unshuffle(skip.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        large = self.expand(self.bottom(self.merge(small))).permute(0, 3, 1, 2)
        tokens = self.decoder(skip + F.pixel_shuffle(large, 2).permute(0, 2, 3, 1))
        return F.pixel_shuffle(self.final(tokens).permute(0, 3, 1, 2), self.patch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--image", type=int, default=64, help="height and width, a multiple of 8")
    sizes = parser.parse_args()
    torch.manual_seed(0)
    model = VMUNet(sizes.channels)
    images = torch.randn(sizes.batch, 3, sizes.image, sizes.image)
    masks = (images.mean(1) > 0).long()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = F.cross_entropy(model(images), masks)
    before.backward()
    optimizer.step()
    with torch.no_grad():
        after, block = F.cross_entropy(model(images), masks), model.encoder
        tokens = model.patch_embed(images).permute(0, 2, 3, 1)
        compiled = torch.compile(block, backend="mvc", fullgraph=True)
        torch.testing.assert_close(compiled(tokens), block(tokens), rtol=1e-4, atol=1e-4)
        (graph,) = mvc.explain(block, tokens).graphs
    print(f"loss before a step of training, and after it: {before:.4f}, {after:.4f}")
    print("scans in the one graph of a compiled block:", {op: n for op, n in graph.after.items() if "scan" in op})


if __name__ == "__main__":
    main()
