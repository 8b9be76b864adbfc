"""The heads of the published detectors, under the names of their checkpoints: features in, logits and deltas out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTH = 256  # channels of the pyramid and of the convolutions of the heads, as published
BOX_SIZE, MASK_SIZE = 7, 14  # sides of the features of a region
HIDDEN = 4  # channels of a box head's linear layers, for one of its convolutions
ANCHORS = 3  # at each position of a level


class ConvUnit(nn.Module):
    """A convolution that keeps the size, with a bias or with BatchNorm after it, and ReLU.

    In training on several devices the published BatchNorm is synchronised: `SyncBatchNorm.convert_sync_batchnorm`.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, norm: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        kaiming_normal(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class RPNHead(nn.Module):
    """Whether there is an object at each anchor, and where its box is; one head for all levels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2d(width, width, 3, padding=1)
        self.rpn_cls = nn.Conv2d(width, ANCHORS, 1)
        self.rpn_reg = nn.Conv2d(width, 4 * ANCHORS, 1)
        for layer in self.children():
            normal(layer, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each level the logits (batch, 3, height, width) and the deltas (batch, 12, height, width), of which those
        of anchor a are 4a to 4a + 3."""
        hidden = [self.rpn_conv(level).relu() for level in maps]
        return [(self.rpn_cls(level), self.rpn_reg(level)) for level in hidden]


class BoxHead(nn.Module):
    """The class and the box of each region.

    Args:
        num_classes: of objects; the background comes last.
        convolutions: before the linear layers, each with BatchNorm.
        linears: hidden layers.
        width: channels of the features.
    """

    def __init__(self, num_classes: int, *, convolutions: int, linears: int, width: int) -> None:
        super().__init__()
        self.shared_convs = nn.Sequential(*[ConvUnit(width, width, norm=True) for _ in range(convolutions)])
        widths = [width * BOX_SIZE**2] + [HIDDEN * width] * linears
        self.shared_fcs = nn.ModuleList([nn.Linear(*pair) for pair in itertools.pairwise(widths)])
        self.fc_cls = nn.Linear(HIDDEN * width, num_classes + 1)
        self.fc_reg = nn.Linear(HIDDEN * width, 4 * num_classes)
        for layer in self.shared_fcs:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        normal(self.fc_cls, std=0.01)
        normal(self.fc_reg, std=0.001)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Of regions (n, 256, 7, 7) the logits (n, classes + 1), and the deltas (n, classes, 4) of each class's box."""
        x = self.shared_convs(regions).flatten(1)
        for layer in self.shared_fcs:
            x = layer(x).relu()
        return self.fc_cls(x), self.fc_reg(x).unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """A mask of each class in each region."""

    def __init__(self, num_classes: int, *, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*[ConvUnit(width, width) for _ in range(4)])
        self.upsample = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.conv_logits = nn.Conv2d(width, num_classes, 1)
        kaiming_normal(self.upsample)
        kaiming_normal(self.conv_logits)

    def forward(self, regions: Tensor) -> Tensor:
        """Logits (n, classes, 28, 28) of regions (n, 256, 14, 14)."""
        return self.conv_logits(self.upsample(self.convs(regions)).relu())


class RegionHeads(nn.Module):
    """The box head and the mask head of each stage."""

    def __init__(self, num_classes: int, stages: int, *, convolutions: int, linears: int, width: int) -> None:
        super().__init__()
        shape = {"convolutions": convolutions, "linears": linears, "width": width}
        self.bbox_head = nn.ModuleList([BoxHead(num_classes, **shape) for _ in range(stages)])
        self.mask_head = nn.ModuleList([MaskHead(num_classes, width=width) for _ in range(stages)])


def of_class(values: Tensor, labels: Tensor) -> Tensor:
    """The values (n, ...) of one class for each row of (n, classes, ...)."""
    return values[torch.arange(len(values), device=values.device), labels]


@torch.no_grad()
def normal(layer: nn.Conv2d | nn.Linear, *, std: float) -> None:
    """Fill a layer's weight from a normal distribution, and its bias with zeros."""
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)


@torch.no_grad()
def kaiming_normal(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Fill a layer by Kaiming's rule for ReLU with its outputs, and its bias, if there is one, with zeros."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
