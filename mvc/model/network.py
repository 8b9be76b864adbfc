"""MambaVision (arXiv 2407.08083) as functions of (layers, x).

`layers` has the layers of the part that a function computes as callables under their published names: the module of
`mvc.model.layers` whose `forward` the function is, or the same module with tensors from elsewhere in the place of its
own (`mvc.functional`). Convolution stages are (batch, channels, height, width) in channels_last memory; from stage 3 on
everything is (batch, length, channels), which is the same memory seen as tokens, so that no stage boundary moves data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mvc.errors import UserError
from mvc.kernels.checks import check_tensors
from mvc.kernels.scan import selective_scan
from mvc.model.config import MIN_IMAGE_SIZE
from mvc.model.windows import numbers, spans, window_partition, window_reverse

AUTOCAST_DTYPES = (torch.float16, torch.bfloat16, torch.float32)  # what autocast converts


class Features(NamedTuple):
    """What the backbone gives to a detector or a classifier."""

    stages: tuple[Tensor, Tensor, Tensor, Tensor]
    """Maps (batch, dim·2^k, height/2^(k+2), width/2^(k+2)) for k = 0 to 3, sizes rounded up, before down-sampling."""
    pooled: Tensor
    """(batch, 8·dim): the last map, normalised and averaged."""


def scores(layers: Any, x: Tensor) -> Tensor:
    """Class scores (batch, num_classes) of images (batch, in_chans, height, width); with no head, `pooled`."""
    return layers.head(features(layers, x).pooled)


def features(layers: Any, x: Tensor) -> Features:
    """The four stage maps and the pooled vector of images (batch, in_chans, height, width)."""
    stages = stage_maps(layers, x)
    return Features(stages, pooled(layers, stages[-1]))


def stage_maps(layers: Any, x: Tensor, *, count: int = 4) -> tuple[Tensor, ...]:
    """The maps of the first `count` stages of images (batch, in_chans, height, width), each before down-sampling."""
    return maps(layers, x, count=count)[1:]


def maps(layers: Any, x: Tensor, *, count: int = 4, name: str = "x") -> tuple[Tensor, ...]:
    """The map of the stem, and those of `stage_maps`; errors call the images `name`."""
    check_images(layers, x, name=name)
    if torch.jit.is_tracing():
        x = x.expand(-1, -1, *numbers(x.shape[2:]))  # its programs hold for one size, and so refuse another
    found = [x := layers.patch_embed(channels_last(x))]
    for level in layers.levels:
        found.append(x := level(x))
        if len(found) > count:
            break
        x = level.downsample(x)
    return tuple(found)


def channels_last(x: Tensor) -> Tensor:
    """Images in channels_last memory, in a form that vmap takes too."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def pooled(layers: Any, x: Tensor) -> Tensor:
    """The last map (batch, 8·dim, height, width), normalised and averaged."""
    return layers.norm(x).mean((2, 3))


def check_images(layers: Any, x: Tensor, *, name: str = "x") -> None:
    """Raise what `mvc.functional.forward` documents of images, calling them `name`.

    What a layer that a user put in the place of the first convolution takes, is asked where it has that attribute.
    """
    if isinstance(x, fx.Proxy):
        return  # torch.fx.symbolic_trace: there are no sizes yet
    check_tensors({name: x}, {})
    first = next(iter(layers.patch_embed.conv_down), None) if hasattr(layers.patch_embed, "conv_down") else None
    channels, weight = getattr(first, "in_channels", None), getattr(first, "weight", None)
    if x.dim() != 4 or (channels is not None and x.shape[1] != channels):
        raise UserError(f"{name} must be images (batch, {channels}, height, width), got shape {tuple(x.shape)}")
    if x.shape[2] < MIN_IMAGE_SIZE or x.shape[3] < MIN_IMAGE_SIZE:
        raise UserError(
            f"{name} must be images of at least {MIN_IMAGE_SIZE} x {MIN_IMAGE_SIZE}, got {x.shape[2]} x {x.shape[3]}"
        )
    if isinstance(weight, Tensor):
        check_like(x, weight, name=name)


def check_like(x: Tensor, weight: Tensor, *, name: str = "x") -> None:
    """Raise UserError for images on another device than a parameter, and TypeError for those of another dtype, unless
    autocast converts both."""
    if x.device != weight.device:
        raise UserError(f"{name} must be on the parameters' device {weight.device}, got {x.device}; move one of them")
    both = x.dtype in AUTOCAST_DTYPES and weight.dtype in AUTOCAST_DTYPES
    if x.dtype != weight.dtype and not (both and torch.is_autocast_enabled(x.device.type)):
        raise TypeError(f"{name} must have the parameters' dtype {weight.dtype}, got {x.dtype}; convert one of them")


def patch_embed(layers: Any, x: Tensor) -> Tensor:
    """(batch, in_chans, height, width) -> (batch, dim, height/4, width/4)."""
    return layers.conv_down(x)


def downsample(layers: Any, x: Tensor) -> Tensor:
    """(batch, channels, height, width) -> (batch, 2·channels, height/2, width/2)."""
    return layers.reduction(x)


def token_stage(layers: Any, x: Tensor) -> Tensor:
    """Blocks over the tokens of each window; (batch, channels, height, width) in and out, before down-sampling."""
    windows = padded_windows if layers.padded_windows else valid_windows
    return windows(layers, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def padded_windows(layers: Any, x: Tensor) -> Tensor:
    """The blocks over windows of one size; (batch, height, width, channels) in and out."""
    return equal_windows(layers, x, (layers.window, layers.window))


def valid_windows(layers: Any, x: Tensor) -> Tensor:
    """The blocks over windows that hold tokens of the map alone; (batch, height, width, channels) in and out.

    A map that is no multiple of the window is cut into at most four rectangles: the whole windows, those that the right
    edge cuts, those that the bottom edge cuts, and the corner. The windows of one rectangle are of one size and need no
    padding. Every layer of a block computes within one token or within one window, so that each window becomes what it
    becomes alone, as it does in a packed sequence whose scan and attention stop at the ends of windows.
    """
    height, width = numbers(x.shape[1:3])
    if isinstance(height, fx.Proxy):
        raise UserError("padded_windows is False, which torch.fx.symbolic_trace cannot record; use torch.export")
    if height <= layers.window and width <= layers.window:  # the map is one window
        return blocks(layers, x.flatten(1, 2)).unflatten(1, (height, width))
    rows, columns = spans(height, layers.window), spans(width, layers.window)
    bands = []
    for row in rows:
        band = x[:, row.start : row.end]
        parts = [
            equal_windows(layers, band[:, :, column.start : column.end], (row.window, column.window))
            for column in columns
        ]
        bands.append(torch.cat(parts, dim=2))
    return torch.cat(bands, dim=1)


def equal_windows(layers: Any, x: Tensor, window: tuple[int, int]) -> Tensor:
    """The blocks over windows of (height, width) tokens; (batch, height, width, channels) in and out."""
    height, width = numbers(x.shape[1:3])
    tokens, grid = window_partition(x, window)
    tokens = blocks(layers, tokens)
    return window_reverse(tokens, window, grid, height, width)


def blocks(layers: Any, x: Tensor) -> Tensor:
    """One block after the other.

    With `grad_checkpointing`, each keeps its input alone for the backward, which computes the block again. With
    `compile_regions` in inference, each is a region that torch.compile compiles once for all blocks that differ in
    their tensors alone.
    """
    for block in layers.blocks:
        if layers.grad_checkpointing and torch.is_grad_enabled():
            x = checkpoint(counting_once(block, block), x, use_reentrant=False)
        else:
            x = region(block, x) if layers.compile_regions and not block.training else block(x)
    return x


def counting_once(module: nn.Module, compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`compute`, after whose first call the module's buffers keep their values: the statistics of BatchNorm count a
    batch once, however often a checkpoint computes it again."""
    if torch.compiler.is_compiling():
        return compute  # compiled code writes buffers in the forward alone
    again = False

    def run(x: Tensor) -> Tensor:
        nonlocal again
        with kept_buffers(module) if again else nullcontext():
            again = True
            return compute(x)

    return run


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Within it the module's buffers may change; after it they have the values from before it."""
    values = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in values:
            buffer.data.copy_(value)  # unseen by autograd, which may hold them for the backward of the recomputation


@torch.compiler.nested_compile_region
def region(block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return block(x)


def conv_block(layers: Any, x: Tensor) -> Tensor:
    """ẑ = GELU(BN(Conv3x3(z))), z = BN(Conv3x3(ẑ)) + z, with GELU's tanh form (paper, eq. 3)."""
    y = layers.act1(layers.norm1(layers.conv1(x)))
    y = layers.norm2(layers.conv2(y))
    return x + drop_path(y, layers.drop_path_rate, layers.training)


def token_block(layers: Any, x: Tensor) -> Tensor:
    """x + γ₁·mixer(norm₁(x)), then x + γ₂·MLP(norm₂(x)) (paper, eq. 4); the mixer is a scan or attention."""
    y = layer_scale(layers.mixer(layers.norm1(x)), layers.gamma_1)
    x = x + drop_path(y, layers.drop_path_rate, layers.training)
    y = layer_scale(layers.mlp(layers.norm2(x)), layers.gamma_2)
    return x + drop_path(y, layers.drop_path_rate, layers.training)


def layer_scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: drop whole samples of a residual branch, and scale the others so that the mean stays."""
    if not training or rate == 0.0:
        return x
    kept = torch.rand((x.shape[0],) + (1,) * (x.dim() - 1), device=x.device) >= rate
    return x * kept.to(x.dtype) / (1 - rate)


def mlp(layers: Any, x: Tensor) -> Tensor:
    x = layers.drop1(layers.act(layers.fc1(x)))
    return layers.drop2(layers.fc2(x))


def attention(layers: Any, x: Tensor) -> Tensor:
    """softmax(QKᵀ/√d)V over the tokens of a window, d the channels of a head (paper, eq. 7)."""
    qkv = layers.qkv(x).unflatten(-1, (3, layers.num_heads, -1))  # (batch, length, 3, heads, d)
    q, k, v = qkv.transpose(1, 3).unbind(2)
    x = F.scaled_dot_product_attention(q, k, v, dropout_p=layers.attn_drop_rate if layers.training else 0.0)
    return layers.proj_drop(layers.proj(x.transpose(1, 2).flatten(2)))


def mixer(layers: Any, x: Tensor) -> Tensor:
    """The Mamba mixer (paper, eq. 6) in the form that the configuration's `mixer` names.

    The published time step gets dt_proj's bias twice, in the projection and in the scan; so it does here.
    """
    length, x = x.shape[1], layers.in_proj(x).transpose(1, 2)
    if layers.two_branches:
        x, z = x.chunk(2, dim=1)
        z = F.silu(layers.conv1d_z(z)).transpose(1, 2)
    x = layers.conv1d_x(x)
    if layers.form == "causal":
        x = x[..., :length]
    x = F.silu(x).transpose(1, 2)

    dt, B, C = layers.x_proj(x).split((layers.dt_rank, layers.d_state, layers.d_state), dim=-1)
    bias = bias_of(layers.dt_proj)
    y = selective_scan(
        x,
        layers.dt_proj(dt),
        -torch.exp(wide(layers.A_log)),
        B,
        C,
        D=wide(layers.D),
        delta_bias=None if bias is None else wide(bias),
        delta_softplus=True,
    )
    if layers.form == "concat":
        y = torch.cat((y, z), dim=-1)
    elif layers.form == "gated":
        y = y * z
    return layers.out_proj(y)


def bias_of(layer: Any) -> Tensor | None:
    """The bias of a linear layer, which those of torch.ao.nn.quantized return from a method."""
    return layer.bias() if isinstance(layer.bias, MethodType) else layer.bias


def wide(x: Tensor) -> Tensor:
    """x in the dtype of the scan's sums: at least float32."""
    return x if x.dtype == torch.float64 else x.float()


# torch.fx.symbolic_trace, and with it feature extraction, records these as calls: what they do depends on dtypes and
# sizes, which its values do not have.
for _leaf in (selective_scan, window_partition, window_reverse, drop_path, wide):
    fx.wrap(_leaf.__name__)
