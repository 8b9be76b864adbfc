"""MambaVision with the published arithmetic and layouts, to show what a compiler does with it without our passes.

It has the tensors and scores of `mvc.create_model`; windows are cut from (batch, channels, height, width) maps, mixers
work on (batch, channels, length), and the scan is one op (`published_scan`).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.published_scan import Scan, find
from mvc import MambaVision
from mvc.model.config import get_config
from mvc.model.layers import Attention, ConvBlock, Mixer, TokenBlock, TokenStage
from mvc.model.network import layer_scale


def create_model(
    variant: str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    scan: str = "naive",
    **changes: object,
) -> Published:
    """Create the model as `mvc.create_model` does, but with every tensor in `dtype`, as after `model.half()`.

    Args:
        scan: one of `published_scan.SCANS`.
    """
    model = Published(get_config(variant, **changes), device=device, dtype=dtype).to(dtype)
    model.scan = find(scan)
    return model


create_for_training = functools.partial(create_model, scan="mvc")


class Published(MambaVision):
    """The published model, for inference and for training without stochastic depth."""

    scan: Scan

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for level in self.levels:
            if isinstance(level, TokenStage):
                x = token_stage(level, x, self.scan)
            else:
                for block in level.blocks:
                    x = conv_block(block, x)
            if level.downsample is not None:
                x = level.downsample(x)
        return self.head(F.adaptive_avg_pool2d(self.norm(x), 1).flatten(1))


def conv_block(layers: ConvBlock, x: Tensor) -> Tensor:
    y = F.gelu(layers.norm1(layers.conv1(x)), approximate="tanh")
    return x + layers.norm2(layers.conv2(y))


def token_stage(layers: TokenStage, x: Tensor, scan: Scan) -> Tensor:
    window, (batch, channels, height, width) = layers.window, x.shape
    rows, columns = -(-height // window), -(-width // window)
    x = F.pad(x, (0, columns * window - width, 0, rows * window - height))
    x = x.view(batch, channels, rows, window, columns, window)
    x = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, window * window, channels)
    for block in layers.blocks:
        x = token_block(block, x, scan)
    x = x.reshape(batch, rows, columns, window, window, channels)
    x = x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, rows * window, columns * window)
    return x[:, :, :height, :width].contiguous() if (rows * window, columns * window) != (height, width) else x


def token_block(layers: TokenBlock, x: Tensor, scan: Scan) -> Tensor:
    y, inner = layers.norm1(x), layers.mixer
    y = mixer(inner, y, scan) if isinstance(inner, Mixer) else attention(inner, y)
    x = x + layer_scale(y, layers.gamma_1)
    y = layers.mlp.fc2(F.gelu(layers.mlp.fc1(layers.norm2(x))))
    return x + layer_scale(y, layers.gamma_2)


def attention(layers: Attention, x: Tensor) -> Tensor:
    batch, length, channels = x.shape
    heads = layers.num_heads
    qkv = layers.qkv(x).reshape(batch, length, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    x = F.scaled_dot_product_attention(*qkv.unbind(0))
    return layers.proj(x.transpose(1, 2).reshape(batch, length, channels))


def mixer(layers: Mixer, x: Tensor, scan: Scan) -> Tensor:
    batch, length, _ = x.shape
    x, z = layers.in_proj(x).transpose(1, 2).chunk(2, dim=1)
    A = -torch.exp(layers.A_log.float())
    x, z = F.silu(layers.conv1d_x(x)), F.silu(layers.conv1d_z(z))
    tokens = layers.x_proj(x.transpose(1, 2).reshape(batch * length, -1))
    dt, B, C = tokens.split((layers.dt_rank, layers.d_state, layers.d_state), dim=-1)
    dt, B, C = (each.reshape(batch, length, -1).transpose(1, 2) for each in (layers.dt_proj(dt), B, C))
    y = scan(x, dt, A, B.contiguous(), C.contiguous(), layers.D.float(), layers.dt_proj.bias.float())
    return layers.out_proj(torch.cat((y, z), dim=1).transpose(1, 2))
