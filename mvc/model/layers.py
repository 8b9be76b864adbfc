"""The layers of the network: torch's own under the published names, each called by a function of `mvc.model.network`.

Their parameters have the names, shapes and order of the published checkpoints.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mvc.model import network
from mvc.model.config import MambaVisionConfig

STEM_EPS = 1e-4
EPS = 1e-5


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of a map (batch, channels, height, width)."""

    def __init__(self, channels: int, **tensors: Any) -> None:
        super().__init__(channels, eps=EPS, **tensors)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """The stem: two convolutions of stride 2."""

    forward = network.patch_embed

    def __init__(self, config: MambaVisionConfig, **tensors: Any) -> None:
        super().__init__()
        layers = []
        for inputs, outputs in ((config.in_chans, config.stem_dim), (config.stem_dim, config.dim)):
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False, **tensors))
            layers += [nn.BatchNorm2d(outputs, eps=STEM_EPS, **tensors), nn.ReLU()]
        self.conv_down = nn.Sequential(*layers)


class Downsample(nn.Module):
    """Half the height and the width, twice the channels."""

    forward = network.downsample

    def __init__(self, channels: int, **tensors: Any) -> None:
        super().__init__()
        self.reduction = nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, 2, padding=1, bias=False, **tensors))


class Stage(nn.Module):
    """Blocks, and what makes the next stage's input of their result: `downsample`, which the network calls apart.

    Set `grad_checkpointing` to True, and training keeps each block's input alone for the backward.
    """

    def __init__(self, config: MambaVisionConfig, stage: int, blocks: list[nn.Module], **tensors: Any) -> None:
        super().__init__()
        self.compile_regions = config.compile_regions
        self.grad_checkpointing = False
        self.blocks = nn.ModuleList(blocks)
        self.downsample = Downsample(config.channels(stage), **tensors) if stage < 3 else None


class ConvStage(Stage):
    """A stage of convolutions: the first and the second."""

    forward = network.blocks

    def __init__(self, config: MambaVisionConfig, stage: int, **tensors: Any) -> None:
        rates = config.drop_path_rates()[stage]
        blocks = [ConvBlock(config.channels(stage), rate, **tensors) for rate in rates]
        super().__init__(config, stage, blocks, **tensors)


class TokenStage(Stage):
    """A stage of mixers and attention over windows: the third and the fourth."""

    forward = network.token_stage

    def __init__(self, config: MambaVisionConfig, stage: int, **tensors: Any) -> None:
        kinds = zip(config.block_pattern(stage), config.drop_path_rates()[stage], strict=True)
        super().__init__(config, stage, [TokenBlock(config, stage, *kind, **tensors) for kind in kinds], **tensors)
        self.window, self.padded_windows = config.window_sizes[stage - 2], config.padded_windows


class ConvBlock(nn.Module):
    """Two convolutions beside the identity."""

    forward = network.conv_block

    def __init__(self, channels: int, drop_path_rate: float, **tensors: Any) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, **tensors)
        self.norm1 = nn.BatchNorm2d(channels, eps=EPS, **tensors)
        self.act1 = nn.GELU(approximate="tanh")
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, **tensors)
        self.norm2 = nn.BatchNorm2d(channels, eps=EPS, **tensors)


class TokenBlock(nn.Module):
    """A mixer ("M") or attention ("A") and an MLP, each beside the identity."""

    forward = network.token_block

    def __init__(self, config: MambaVisionConfig, stage: int, kind: str, drop_path_rate: float, **tensors: Any) -> None:
        super().__init__()
        channels = config.channels(stage)
        self.drop_path_rate = drop_path_rate
        for gamma in ("gamma_1", "gamma_2"):
            scale = None if config.layer_scale is None else nn.Parameter(torch.empty(channels, **tensors))
            self.register_parameter(gamma, scale)
        self.layer_scale = config.layer_scale
        self.norm1 = nn.LayerNorm(channels, eps=EPS, **tensors)
        mixer = Mixer if kind == "M" else Attention
        self.mixer = mixer(config, stage, **tensors)
        self.norm2 = nn.LayerNorm(channels, eps=EPS, **tensors)
        self.mlp = Mlp(channels, config.mlp_ratio * channels, config.drop_rate, **tensors)


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    forward = network.mlp

    def __init__(self, channels: int, hidden: int, drop_rate: float, **tensors: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, **tensors)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(hidden, channels, **tensors)
        self.drop2 = nn.Dropout(drop_rate)


class Attention(nn.Module):
    """Attention with several heads over the tokens of a window."""

    forward = network.attention

    def __init__(self, config: MambaVisionConfig, stage: int, **tensors: Any) -> None:
        super().__init__()
        channels = config.channels(stage)
        self.num_heads = config.num_heads[stage]
        self.attn_drop_rate = config.attn_drop_rate
        self.qkv = nn.Linear(channels, 3 * channels, **tensors)
        self.proj = nn.Linear(channels, channels, **tensors)
        self.proj_drop = nn.Dropout(config.drop_rate)


class Mixer(nn.Module):
    """The Mamba mixer: a scan, and in two of its forms a branch beside it."""

    forward = network.mixer

    def __init__(self, config: MambaVisionConfig, stage: int, **tensors: Any) -> None:
        super().__init__()
        channels, inner = config.channels(stage), config.inner_channels(stage)
        self.form, self.two_branches = config.mixer, config.two_branches
        self.d_state, self.dt_rank = config.d_state, config.dt_rank(stage)
        wide = {**tensors, "dtype": torch.float32}
        self.A_log = nn.Parameter(torch.empty(inner, config.d_state, **wide))
        self.D = nn.Parameter(torch.empty(inner, **wide))
        self.in_proj = nn.Linear(channels, channels, bias=False, **tensors)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * config.d_state, bias=False, **tensors)
        self.dt_proj = nn.Linear(self.dt_rank, inner, **tensors)
        self.out_proj = nn.Linear(inner if config.mixer == "gated" else channels, channels, bias=False, **tensors)
        padding = config.d_conv - 1 if config.mixer == "causal" else "same"
        for branch in ("x", "z") if config.two_branches else ("x",):
            taps = nn.Conv1d(inner, inner, config.d_conv, padding=padding, groups=inner, bias=False, **tensors)
            self.add_module(f"conv1d_{branch}", taps)


@torch.no_grad()
def initialize(layer: nn.Module) -> None:
    """Fill a layer's own tensors in place as the published training does, from torch's global random generator."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        for tensor in layer.parameters():
            nn.init.uniform_(tensor, -bound, bound)
    elif isinstance(layer, (nn.BatchNorm2d, nn.LayerNorm)):
        layer.reset_parameters()
    elif isinstance(layer, Mixer):
        states = torch.arange(1, layer.d_state + 1, dtype=torch.float64)
        layer.A_log.copy_(states.log().expand_as(layer.A_log))
        nn.init.ones_(layer.D)
    elif isinstance(layer, TokenBlock) and layer.layer_scale is not None:
        nn.init.constant_(layer.gamma_1, layer.layer_scale)
        nn.init.constant_(layer.gamma_2, layer.layer_scale)
