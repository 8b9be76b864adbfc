"""A small U-Mamba, written with mamba-ssm's names: convolutions, and Mamba over the flattened image. It trains a step
of segmentation on a CPU, and its block compiles in one graph."""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mvc
import mvc.compat

mvc.compat.install()  # before the imports of mamba_ssm, which need neither a GPU nor mamba-ssm itself

from mamba_ssm import Mamba  # noqa: E402  installed above


class ResidualConv(nn.Module):
    """Two convolutions with instance norms, and the input added, which a convolution of one pixel may bring to size."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1, self.norm2 = (nn.InstanceNorm2d(channels, affine=True) for _ in range(2))
        same = channels_in == channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)))
        return F.leaky_relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class UMambaBlock(nn.Module):
    """U-Mamba's block (arXiv 2401.04722): a convolution sees the neighbours, Mamba all pixels before each one."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = ResidualConv(channels_in, channels, stride)
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(d_model=channels, d_state=16, d_conv=4, expand=2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels in, height, width) -> (batch, channels, height / stride, width / stride)."""
        x = self.conv(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.mamba(self.norm(tokens))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class UMamba(nn.Module):
    """An encoder of three levels with a block each, and a decoder of convolutions; scores of classes by pixel."""

    def __init__(self, channels: int, classes: int = 2) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        self.encoder = nn.ModuleList(
            UMambaBlock(before, width, stride)
            for before, width, stride in zip((3, *widths[:-1]), widths, (1, 2, 2), strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in widths[-2::-1])
        self.decoder = nn.ModuleList(ResidualConv(2 * width, width) for width in widths[-2::-1])
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        for up, convolution, skip in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x = convolution(torch.cat((up(x), skip), dim=1))
        return self.head(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--image", type=int, default=32, help="height and width, a multiple of 4")
    sizes = parser.parse_args()
    torch.manual_seed(0)
    model = UMamba(sizes.channels)
    images = torch.randn(sizes.batch, 3, sizes.image, sizes.image)
    masks = (images.mean(1) > 0).long()

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = F.cross_entropy(model(images), masks)
    before.backward()
    optimizer.step()
    with torch.no_grad():
        after, block = F.cross_entropy(model(images), masks), model.encoder[0]
        compiled = torch.compile(block, backend="mvc", fullgraph=True)
        torch.testing.assert_close(compiled(images), block(images), rtol=1e-4, atol=1e-4)
        (graph,) = mvc.explain(block, images).graphs
    print(f"loss before a step of training, and after it: {before:.4f}, {after:.4f}")
    print("scans in the one graph of a compiled block:", {op: n for op, n in graph.after.items() if "scan" in op})


if __name__ == "__main__":
    main()
