"""MambaVision with the published arithmetic and layouts, for what a compiler without our passes makes of it.

Same tensors and scores as `mvc.create_model`; windows are cut from (batch, channels, height, width) maps, mixers work
on (batch, channels, length), and the scan is one naive Triton kernel behind an op (`mvc_bench::naive_scan`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton
from torch.nn import functional as F

from mvc import MambaVision
from mvc.config import MambaVisionConfig, get_config
from mvc.functional import EPS, Params, batch_norm, layer_norm, layer_scale, linear, stem

CHANNELS = 32  # of a block of the scan


def create_model(
    variant: str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None, **changes: object
) -> Published:
    """As `mvc.create_model`, with every tensor in `dtype`, as `model.half()` leaves them."""
    return Published(get_config(variant, **changes), device=device, dtype=dtype).to(dtype)


class Published(MambaVision):
    """For inference, and for training without stochastic depth."""

    def forward(self, x: Tensor) -> Tensor:
        params, config = self.tensors(), self.config
        x = stem(params, "patch_embed.conv_down", x, self.training)
        for stage, depth in enumerate(config.depths):
            name = f"levels.{stage}"
            if stage < 2:
                for block in range(depth):
                    x = conv_block(params, f"{name}.blocks.{block}", x, self.training)
            else:
                x = token_stage(params, name, x, config, stage)
            if stage < 3:
                x = F.conv2d(x, params[f"{name}.downsample.reduction.0.weight"], stride=2, padding=1)
        x = F.adaptive_avg_pool2d(batch_norm(params, "norm", x, EPS, self.training), 1)
        return linear(params, "head", x.flatten(1))


def conv_block(params: Params, name: str, x: Tensor, training: bool) -> Tensor:
    y = F.conv2d(x, params[f"{name}.conv1.weight"], params[f"{name}.conv1.bias"], padding=1)
    y = F.gelu(batch_norm(params, f"{name}.norm1", y, EPS, training), approximate="tanh")
    y = F.conv2d(y, params[f"{name}.conv2.weight"], params[f"{name}.conv2.bias"], padding=1)
    return x + batch_norm(params, f"{name}.norm2", y, EPS, training)


def token_stage(params: Params, name: str, x: Tensor, config: MambaVisionConfig, stage: int) -> Tensor:
    window, (batch, channels, height, width) = config.window_sizes[stage - 2], x.shape
    rows, columns = -(-height // window), -(-width // window)
    x = F.pad(x, (0, columns * window - width, 0, rows * window - height))
    x = x.view(batch, channels, rows, window, columns, window)
    x = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, window * window, channels)
    for block, kind in enumerate(config.block_pattern(stage)):
        x = token_block(params, f"{name}.blocks.{block}", x, config.num_heads[stage], config, kind)
    x = x.reshape(batch, rows, columns, window, window, channels)
    x = x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, rows * window, columns * window)
    return x[:, :, :height, :width].contiguous() if (rows * window, columns * window) != (height, width) else x


def token_block(params: Params, name: str, x: Tensor, heads: int, config: MambaVisionConfig, kind: str) -> Tensor:
    y = layer_norm(params, f"{name}.norm1", x)
    y = mixer(params, f"{name}.mixer", y, config) if kind == "M" else attention(params, f"{name}.mixer", y, heads)
    x = x + layer_scale(params, f"{name}.gamma_1", y)
    y = F.gelu(linear(params, f"{name}.mlp.fc1", layer_norm(params, f"{name}.norm2", x)))
    return x + layer_scale(params, f"{name}.gamma_2", linear(params, f"{name}.mlp.fc2", y))


def attention(params: Params, name: str, x: Tensor, heads: int) -> Tensor:
    batch, length, channels = x.shape
    qkv = linear(params, f"{name}.qkv", x).reshape(batch, length, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    x = F.scaled_dot_product_attention(*qkv.unbind(0))
    return linear(params, f"{name}.proj", x.transpose(1, 2).reshape(batch, length, channels))


def mixer(params: Params, name: str, x: Tensor, config: MambaVisionConfig) -> Tensor:
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
    y = torch.ops.mvc_bench.naive_scan(x, dt, A, B.contiguous(), C.contiguous(), D, bias)
    return linear(params, f"{name}.out_proj", torch.cat((y, z), dim=1).transpose(1, 2))


@triton.jit
def naive_kernel(
    u, delta, A, B, C, D, bias, y, length, dim,
    u_b, u_d, u_l, delta_b, delta_d, delta_l, B_b, B_n, B_l, C_b, C_n, C_l, y_b, y_d, y_l,
    STATE: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """One program computes CHANNELS channels of one sequence, a step at a time."""
    batch, d = tl.program_id(0).to(tl.int64), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n, mask = tl.arange(0, STATE), d < dim
    a = tl.load(A + d[:, None] * STATE + n[None, :], mask[:, None], 0.0)
    skip, shift = tl.load(D + d, mask, 0.0), tl.load(bias + d, mask, 0.0)
    state = tl.zeros((CHANNELS, STATE), tl.float32)
    for t in range(length):
        x = tl.load(u + batch * u_b + d * u_d + t * u_l, mask, 0.0).to(tl.float32)
        step = tl.load(delta + batch * delta_b + d * delta_d + t * delta_l, mask, 0.0).to(tl.float32) + shift
        step = tl.where(step > 20.0, step, tl.log(1.0 + tl.exp(step)))
        b = tl.load(B + batch * B_b + n * B_n + t * B_l).to(tl.float32)
        c = tl.load(C + batch * C_b + n * C_n + t * C_l).to(tl.float32)
        state = tl.exp(step[:, None] * a) * state + (step * x)[:, None] * b[None, :]
        out = tl.sum(state * c[None, :], 1) + x * skip
        tl.store(y + batch * y_b + d * y_d + t * y_l, out.to(y.dtype.element_ty), mask)


@triton_op("mvc_bench::naive_scan", mutates_args={})
def naive_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """The published scan, softplus(delta + bias) included; u, delta (batch, dim, length), B, C (batch, N, length)."""
    y = torch.empty_like(u)
    batch, dim, length = u.shape
    strides = (stride for each in (u, delta, B, C, y) for stride in each.stride())
    grid = (batch, triton.cdiv(dim, CHANNELS))
    wrap_triton(naive_kernel)[grid](
        u, delta, A, B, C, D, delta_bias, y, length, dim, *strides, STATE=A.shape[1], CHANNELS=CHANNELS, num_warps=1
    )
    return y
