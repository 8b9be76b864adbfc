"""MambaVision with the published arithmetic and layouts, to show what a compiler does with it without our passes.

It has the tensors and scores of `mvc.create_model`; windows are cut from (batch, channels, height, width) maps, mixers
work on (batch, channels, length), and the scan is one op (`published_scan`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.published_scan import Scan, find
from mvc import MambaVision
from mvc.model.config import MambaVisionConfig, get_config
from mvc.model.functional import EPS, Params, batch_norm, layer_norm, layer_scale, linear, stem


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
        params, config = self.tensors(), self.config
        x = stem(params, "patch_embed.conv_down", x, self.training)
        for stage, depth in enumerate(config.depths):
            name = f"levels.{stage}"
            if stage < 2:
                for block in range(depth):
                    x = conv_block(params, f"{name}.blocks.{block}", x, self.training)
            else:
                x = token_stage(params, name, x, config, stage, self.scan)
            if stage < 3:
                x = F.conv2d(x, params[f"{name}.downsample.reduction.0.weight"], stride=2, padding=1)
        x = F.adaptive_avg_pool2d(batch_norm(params, "norm", x, EPS, self.training), 1)
        return linear(params, "head", x.flatten(1))


def conv_block(params: Params, name: str, x: Tensor, training: bool) -> Tensor:
    y = F.conv2d(x, params[f"{name}.conv1.weight"], params[f"{name}.conv1.bias"], padding=1)
    y = F.gelu(batch_norm(params, f"{name}.norm1", y, EPS, training), approximate="tanh")
    y = F.conv2d(y, params[f"{name}.conv2.weight"], params[f"{name}.conv2.bias"], padding=1)
    return x + batch_norm(params, f"{name}.norm2", y, EPS, training)


def token_stage(params: Params, name: str, x: Tensor, config: MambaVisionConfig, stage: int, scan: Scan) -> Tensor:
    window, (batch, channels, height, width) = config.window_sizes[stage - 2], x.shape
    rows, columns = -(-height // window), -(-width // window)
    x = F.pad(x, (0, columns * window - width, 0, rows * window - height))
    x = x.view(batch, channels, rows, window, columns, window)
    x = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, window * window, channels)
    for block, kind in enumerate(config.block_pattern(stage)):
        if kind == "M":
            mix = functools.partial(mixer, config=config, scan=scan)
        else:
            mix = functools.partial(attention, heads=config.num_heads[stage])
        x = token_block(params, f"{name}.blocks.{block}", x, mix)
    x = x.reshape(batch, rows, columns, window, window, channels)
    x = x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, rows * window, columns * window)
    return x[:, :, :height, :width].contiguous() if (rows * window, columns * window) != (height, width) else x


def token_block(params: Params, name: str, x: Tensor, mix: Callable[[Params, str, Tensor], Tensor]) -> Tensor:
    y = mix(params, f"{name}.mixer", layer_norm(params, f"{name}.norm1", x))
    x = x + layer_scale(params, f"{name}.gamma_1", y)
    y = F.gelu(linear(params, f"{name}.mlp.fc1", layer_norm(params, f"{name}.norm2", x)))
    return x + layer_scale(params, f"{name}.gamma_2", linear(params, f"{name}.mlp.fc2", y))


def attention(params: Params, name: str, x: Tensor, heads: int) -> Tensor:
    batch, length, channels = x.shape
    qkv = linear(params, f"{name}.qkv", x).reshape(batch, length, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    x = F.scaled_dot_product_attention(*qkv.unbind(0))
    return linear(params, f"{name}.proj", x.transpose(1, 2).reshape(batch, length, channels))


def mixer(params: Params, name: str, x: Tensor, config: MambaVisionConfig, scan: Scan) -> Tensor:
    batch, length, _ = x.shape
    x, z = linear(params, f"{name}.in_proj", x).transpose(1, 2).chunk(2, dim=1)
    A = -torch.exp(params[f"{name}.A_log"].float())
    x, z = (
        F.silu(F.conv1d(branch, params[f"{name}.conv1d_{key}.weight"], padding="same", groups=branch.shape[1]))
        for key, branch in (("x", x), ("z", z))
    )
    tokens = linear(params, f"{name}.x_proj", x.transpose(1, 2).reshape(batch * length, -1))
    rank = params[f"{name}.dt_proj.weight"].shape[1]
    dt, B, C = tokens.split((rank, config.d_state, config.d_state), dim=-1)
    dt, B, C = (
        each.reshape(batch, length, -1).transpose(1, 2) for each in (linear(params, f"{name}.dt_proj", dt), B, C)
    )
    D, bias = params[f"{name}.D"].float(), params[f"{name}.dt_proj.bias"].float()
    y = scan(x, dt, A, B.contiguous(), C.contiguous(), D, bias)
    return linear(params, f"{name}.out_proj", torch.cat((y, z), dim=1).transpose(1, 2))
