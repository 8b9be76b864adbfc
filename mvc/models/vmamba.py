"""VMamba (arXiv 2401.10166): four stages of blocks that scan a map row by row and column by column, both ways.

Names and shapes of the tensors are those of the published checkpoints (github.com/MzeroMiko/VMamba, forward type
`v05_noz`). Maps in blocks are (batch, height, width, channels), elsewhere (batch, channels, height, width) in
channels_last memory, which is the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvc.arguments import is_whole, require
from mvc.kernels.scan import selective_scan
from mvc.model.config import MAX_DEPTH
from mvc.model.layers import EPS, ChannelNorm
from mvc.model.network import Features, channels_last, drop_path, wide
from mvc.models import parts

ROUTES = 4  # along rows, along columns, and both from the end to the start


@dataclasses.dataclass(frozen=True)
class VMambaConfig:
    """Everything that decides the network's shape and arithmetic.

    Attributes:
        name: the variant's name, as in `mvc.models.VARIANTS`.
        channels: of the first stage; each further one has twice as many.
        depths: blocks in each of the four stages, at most 1,000.
        expand: channels that are scanned for each of the block's.
        drop_path_rate: stochastic depth at the last block, rising linearly from 0 at the first.
        d_state: states per channel of the scan (N), at most 256.
        mlp_ratio: hidden over outer channels of the MLP.
        num_classes: class scores.
        in_chans: channels of the image.

    Raises:
        UserError: a value that cannot be used; the message names the field.
    """

    name: str
    channels: int
    depths: tuple[int, int, int, int]
    expand: int
    drop_path_rate: float = 0.0
    d_state: int = 1
    mlp_ratio: int = 4
    num_classes: int = 1000
    in_chans: int = 3

    def __post_init__(self) -> None:
        parts.check_common(self)
        parts.check_whole(self, "expand", "mlp_ratio")
        require(self.channels % 2 == 0, "config field channels", self.channels, "even: half of them leave the stem")
        fits = isinstance(self.depths, tuple) and len(self.depths) == 4
        fits = fits and all(is_whole(depth, 1, MAX_DEPTH) for depth in self.depths)
        require(fits, "config field depths", self.depths, f"a tuple of 4 whole numbers from 1 to {MAX_DEPTH}")


class VMamba(nn.Module):
    """The network, of torch's own layers under the published names; images may have any size.

    Args:
        config: the configuration, as of `mvc.models.VARIANTS["VMamba-T"]`.
        device, dtype: of the parameters; A_logs and Ds stay float32.
    """

    def __init__(
        self, config: VMambaConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        tensors = {"device": device, "dtype": dtype}
        self.config = config
        self.patch_embed = _patch_embed(config, **tensors)
        self.layers = nn.ModuleList(Stage(config, stage, **tensors) for stage in range(len(config.depths)))
        self.classifier = Classifier(8 * config.channels, config.num_classes, **tensors)
        self.to(memory_format=torch.channels_last)
        for layer in self.modules():
            _initialize(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, num_classes) of images (batch, in_chans, height, width).

        Raises:
            UserError: images of another shape, or on another device than the parameters.
            TypeError: images of another dtype than the parameters, outside of autocast.
        """
        return self.classifier.head(self.forward_features(x).pooled)

    def forward_features(self, x: Tensor) -> Features:
        """The four stage maps before down-sampling, and the pooled vector (batch, 8·channels)."""
        parts.check_images(x, self.patch_embed[0])
        x = self.patch_embed(channels_last(x))
        stages = []
        for layer in self.layers:
            stages.append(x := layer(x))
            x = x if layer.downsample is None else layer.downsample(x)
        return Features(tuple(stages), self.classifier.norm(x).mean((2, 3)))


def _patch_embed(config: VMambaConfig, **tensors: object) -> nn.Sequential:
    """(batch, in_chans, height, width) -> (batch, channels, height/4, width/4), sizes rounded up."""
    half, channels = config.channels // 2, config.channels
    layers = {  # the published numbers count changes of layout as layers
        "0": nn.Conv2d(config.in_chans, half, 3, stride=2, padding=1, **tensors),
        "2": ChannelNorm(half, **tensors),
        "4": nn.GELU(),
        "5": nn.Conv2d(half, channels, 3, stride=2, padding=1, **tensors),
        "7": ChannelNorm(channels, **tensors),
    }
    return nn.Sequential(OrderedDict(layers))


def _downsample(channels: int, **tensors: object) -> nn.Sequential:
    """Half the height and the width, rounded up, and twice the channels."""
    convolution = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, **tensors)
    return nn.Sequential(OrderedDict({"1": convolution, "3": ChannelNorm(2 * channels, **tensors)}))


class Stage(nn.Module):
    """Blocks, and the way to the next stage, which the network calls apart."""

    def __init__(self, config: VMambaConfig, stage: int, **tensors: object) -> None:
        super().__init__()
        channels, last = config.channels * 2**stage, max(sum(config.depths) - 1, 1)
        first = sum(config.depths[:stage])
        rates = [config.drop_path_rate * (first + index) / last for index in range(config.depths[stage])]
        self.blocks = nn.ModuleList(Block(config, channels, rate, **tensors) for rate in rates)
        self.downsample = _downsample(channels, **tensors) if stage + 1 < len(config.depths) else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) in and out, before down-sampling."""
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Scans and an MLP, each beside the identity; (batch, height, width, channels) in and out."""

    def __init__(self, config: VMambaConfig, channels: int, drop_path_rate: float, **tensors: object) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm = nn.LayerNorm(channels, eps=EPS, **tensors)
        self.op = CrossScan(config, channels, **tensors)
        self.norm2 = nn.LayerNorm(channels, eps=EPS, **tensors)
        hidden = config.mlp_ratio * channels
        layers = {"fc1": nn.Linear(channels, hidden, **tensors), "act": nn.GELU()}
        self.mlp = nn.Sequential(OrderedDict(layers | {"fc2": nn.Linear(hidden, channels, **tensors)}))

    def forward(self, x: Tensor) -> Tensor:
        x = x + drop_path(self.op(self.norm(x)), self.drop_path_rate, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)


class CrossScan(nn.Module):
    """The published "SS2D": projection, 3 x 3 depthwise convolution, four scans that are added, norm, projection.

    Routes 0 and 2 run over the map in its memory, from the first position to the last and back; routes 1 and 3 over one
    copy of it whose columns lie one after the other. B, C and the time step of a route are products of its positions
    alone, so that both directions find them in one order.
    """

    def __init__(self, config: VMambaConfig, channels: int, **tensors: object) -> None:
        super().__init__()
        inner, rank = config.expand * channels, math.ceil(channels / 16)
        self.split = (rank, config.d_state, config.d_state)
        of_scan = {**tensors, "dtype": parts.WIDE}
        self.x_proj_weight = nn.Parameter(torch.empty(ROUTES, sum(self.split), inner, **tensors))
        self.A_logs = nn.Parameter(torch.empty(ROUTES * inner, config.d_state, **of_scan))
        self.Ds = nn.Parameter(torch.empty(ROUTES * inner, **of_scan))
        self.dt_projs_weight = nn.Parameter(torch.empty(ROUTES, inner, rank, **tensors))
        self.dt_projs_bias = nn.Parameter(torch.empty(ROUTES, inner, **tensors))
        self.out_norm = nn.LayerNorm(inner, eps=EPS, **tensors)
        self.in_proj = nn.Linear(channels, inner, bias=False, **tensors)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False, **tensors)
        self.out_proj = nn.Linear(inner, channels, bias=False, **tensors)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, channels) in and out."""
        height, width = x.shape[1:3]
        x = F.silu(self.conv2d(self.in_proj(x).permute(0, 3, 1, 2)))
        along_rows = self._both_ways(x.permute(0, 2, 3, 1).flatten(1, 2), route=0)
        along_columns = self._both_ways(x.permute(0, 3, 2, 1).flatten(1, 2), route=1)
        y = along_rows.unflatten(1, (height, width)) + along_columns.unflatten(1, (width, height)).transpose(1, 2)
        norm = self.out_norm
        y = F.layer_norm(y, norm.normalized_shape, wide(norm.weight), wide(norm.bias), norm.eps)
        return self.out_proj(y.to(x.dtype))

    def _both_ways(self, u: Tensor, *, route: int) -> Tensor:
        """The sum of a route's scan and of that from the end; u (batch, positions, inner), the sum at least float32."""
        projected = F.linear(u, self.x_proj_weight[route::2].flatten(0, 1))
        A, D = -torch.exp(wide(self.A_logs)).unflatten(0, (ROUTES, -1)), wide(self.Ds).unflatten(0, (ROUTES, -1))
        ways = []
        for reverse, columns in zip((False, True), projected.chunk(2, dim=-1), strict=True):
            index = route + 2 * reverse
            dt, B, C = columns.split(self.split, dim=-1)
            y = selective_scan(
                u,
                F.linear(dt, self.dt_projs_weight[index]),
                A[index],
                B,
                C,
                D=D[index],
                delta_bias=wide(self.dt_projs_bias[index]),
                delta_softplus=True,
                reverse=reverse,
            )
            ways.append(wide(y))
        return ways[0] + ways[1]


class Classifier(nn.Module):
    """The last norm and the head; the network averages between them."""

    def __init__(self, channels: int, classes: int, **tensors: object) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, **tensors)
        self.head = nn.Linear(channels, classes, **tensors)


@torch.no_grad()
def _initialize(layer: nn.Module) -> None:
    """Fill a layer's own tensors as the published training does; convolutions and norms keep torch's own values."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, CrossScan):
        parts.uniform(layer.x_proj_weight, layer.x_proj_weight.shape[2])
        parts.uniform(layer.dt_projs_weight, layer.dt_projs_weight.shape[2])
        parts.initialize_step_bias(layer.dt_projs_bias)
        parts.initialize_decay(layer.A_logs)
        nn.init.ones_(layer.Ds)


VARIANTS: dict[str, VMambaConfig] = {
    config.name: config
    for config in (
        VMambaConfig("VMamba-T", 96, (2, 2, 8, 2), 1, 0.2),
        VMambaConfig("VMamba-S", 96, (2, 2, 15, 2), 2, 0.3),
        VMambaConfig("VMamba-B", 128, (2, 2, 15, 2), 2, 0.6),
        VMambaConfig("VMamba-T-s2l5", 96, (2, 2, 5, 2), 2, 0.2),  # an earlier T
        # Not published: small enough to compile in a test.
        VMambaConfig("VMamba-trial", 16, (1, 1, 1, 1), 1, 0.0, num_classes=10),
    )
}
