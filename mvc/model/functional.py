"""MambaVision (arXiv 2407.08083) as pure functions of (params, x, config).

`params` maps the published tensor names to tensors, buffers included; `name` is the prefix of the part that a function
computes. Convolution stages are (batch, channels, height, width) in channels_last memory; from stage 3 on everything is
(batch, length, channels), which is the same memory seen as tokens, so that no stage boundary moves data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import has_static_value, statically_known_true
from torch.nn import functional as F

from mvc.arguments import require, require_flag, require_whole
from mvc.errors import UserError
from mvc.kernels.checks import check_tensors
from mvc.kernels.scan import selective_scan
from mvc.model.config import MIN_IMAGE_SIZE, MambaVisionConfig
from mvc.model.parameters import tensor_specs

Params = Mapping[str, Tensor]
AUTOCAST_DTYPES = (torch.float16, torch.bfloat16, torch.float32)  # what autocast converts

STEM_EPS = 1e-4
EPS = 1e-5


class Features(NamedTuple):
    """What the backbone gives to a detector or a classifier."""

    stages: tuple[Tensor, Tensor, Tensor, Tensor]
    """Maps (batch, dim·2^k, height/2^(k+2), width/2^(k+2)) for k = 0 to 3, sizes rounded up, before down-sampling."""
    pooled: Tensor
    """(batch, 8·dim): the last map, normalised and averaged."""


def _checked(compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute`, its arguments checked before it runs and, where it fails, `params` compared with `config`."""

    @functools.wraps(compute)
    def run(params: Params, x: Tensor, config: MambaVisionConfig, *, training: bool = False) -> Any:
        require(isinstance(params, Mapping), "params", params, "a mapping of names to tensors, as of model.tensors()")
        require(isinstance(config, MambaVisionConfig), "config", config, "a MambaVisionConfig, as of get_config('T')")
        require_flag("training", training)
        check_images(params, x, config)
        if torch.jit.is_tracing():
            x = x.expand(-1, -1, *numbers(x.shape[2:]))  # its programs hold for one size, and so refuse another
        try:
            return compute(params, x, config, training=training)
        except (KeyError, RuntimeError, TypeError):
            _check_params(params, config)
            raise

    return run


@_checked
def forward(params: Params, x: Tensor, config: MambaVisionConfig, *, training: bool = False) -> Tensor:
    """Class scores (batch, num_classes) of images x (batch, in_chans, height, width); without a head, `pooled`.

    In training, BatchNorm statistics in `params` are updated in place.

    Raises:
        ValueError: images below 32 x 32, of another number of channels or dimensions, or on another device than the
            parameters; `params` that are not those of `config`.
        TypeError: images that are no dense tensor, or of another dtype than the parameters, outside autocast.
    """
    pooled = _features(params, x, config, training).pooled
    return linear(params, "head", pooled) if config.num_classes else pooled


@_checked
def forward_features(params: Params, x: Tensor, config: MambaVisionConfig, *, training: bool = False) -> Features:
    """The four stage maps and the pooled vector of images x; raises as `forward` does."""
    return _features(params, x, config, training)


def _features(params: Params, x: Tensor, config: MambaVisionConfig, training: bool) -> Features:
    rates = config.drop_path_rates()
    x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels_last, in a form that vmap takes too
    x = stem(params, "patch_embed.conv_down", x, training)
    maps = []
    for stage in range(4):
        name = f"levels.{stage}"
        if stage < 2:
            x = conv_stage(params, name, x, config, rates[stage], training)
        else:
            x = token_stage(params, name, x, config, stage, rates[stage], training)
        maps.append(x)
        if stage < 3:
            x = F.conv2d(x, params[f"{name}.downsample.reduction.0.weight"], stride=2, padding=1)
    pooled = batch_norm(params, "norm", x, EPS, training).mean((2, 3))
    return Features(tuple(maps), pooled)


def check_images(params: Params, x: Tensor, config: MambaVisionConfig, *, name: str = "x") -> None:
    """Raise what `forward` documents of images, calling them `name`."""
    check_tensors({name: x}, {})
    if x.dim() != 4 or x.shape[1] != config.in_chans:
        raise UserError(f"{name} must be images (batch, {config.in_chans}, height, width), got shape {tuple(x.shape)}")
    if x.shape[2] < MIN_IMAGE_SIZE or x.shape[3] < MIN_IMAGE_SIZE:
        raise UserError(
            f"{name} must be images of at least {MIN_IMAGE_SIZE} x {MIN_IMAGE_SIZE}, got {x.shape[2]} x {x.shape[3]}"
        )
    weight = params.get("patch_embed.conv_down.0.weight")
    if not isinstance(weight, Tensor):
        return  # `forward` fails, and says why
    if x.device != weight.device:
        raise UserError(f"{name} must be on the parameters' device {weight.device}, got {x.device}; move one of them")
    if x.dtype != weight.dtype and not (x.dtype in AUTOCAST_DTYPES and torch.is_autocast_enabled(x.device.type)):
        raise TypeError(f"{name} must have the parameters' dtype {weight.dtype}, got {x.dtype}; convert one of them")


def _check_params(params: Params, config: MambaVisionConfig) -> None:
    """Raise UserError where `params` has not all tensors of `config`, each of its shape."""
    for name, spec in tensor_specs(config).items():
        wanted = f"a tensor of shape {spec.shape} with the config {config.name!r}"
        if not isinstance(params.get(name), Tensor):
            seen = f"is a {type(params[name]).__name__}" if name in params else "is missing"
            raise UserError(f"params[{name!r}] {seen}; it must be {wanted}")
        if params[name].shape != spec.shape:
            seen = f"has shape {tuple(params[name].shape)}"
            raise UserError(f"params[{name!r}] {seen}; it must be {wanted}")


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    return F.linear(x, params[f"{name}.weight"], params.get(f"{name}.bias"))


def layer_norm(params: Params, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], params[f"{name}.weight"], params[f"{name}.bias"], EPS)


def batch_norm(params: Params, name: str, x: Tensor, eps: float, training: bool) -> Tensor:
    """BatchNorm over (batch, channels, height, width), with the momentum of nn.BatchNorm2d."""
    mean, variance = params[f"{name}.running_mean"], params[f"{name}.running_var"]
    if training:
        params[f"{name}.num_batches_tracked"].add_(1)
    return F.batch_norm(
        x, mean, variance, params[f"{name}.weight"], params[f"{name}.bias"], training=training, momentum=0.1, eps=eps
    )


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: drop whole samples of a residual branch, and scale the others so that the mean stays."""
    if not training or rate == 0.0:
        return x
    kept = torch.rand((x.shape[0],) + (1,) * (x.dim() - 1), device=x.device) >= rate
    return x * kept.to(x.dtype) / (1 - rate)


def stem(params: Params, name: str, x: Tensor, training: bool) -> Tensor:
    """(batch, in_chans, H, W) -> (batch, dim, H/4, W/4)."""
    for conv, norm in ((0, 1), (3, 4)):
        x = F.conv2d(x, params[f"{name}.{conv}.weight"], stride=2, padding=1)
        x = F.relu(batch_norm(params, f"{name}.{norm}", x, STEM_EPS, training))
    return x


def conv_stage(
    params: Params, name: str, x: Tensor, config: MambaVisionConfig, rates: list[float], training: bool
) -> Tensor:
    for block, rate in enumerate(rates):
        x = run_block(conv_block, params, f"{name}.blocks.{block}", x, config, rate=rate, training=training)
    return x


def run_block(
    block: Callable[..., Tensor], params: Params, name: str, x: Tensor, config: MambaVisionConfig, *kind, rate, training
) -> Tensor:
    """Call `block`, with `config.compile_regions` in inference as a region that torch.compile compiles once for all
    blocks that differ in their tensors alone: these get names of their own, and the unused drop path is the same."""
    if training or not config.compile_regions:
        return block(params, name, x, config, *kind, rate, training)
    own = {f"block{key[len(name) :]}": tensor for key, tensor in params.items() if key.startswith(f"{name}.")}
    return REGIONS[block](own, "block", x, config, *kind, 0.0, training)


def conv_block(
    params: Params, name: str, x: Tensor, config: MambaVisionConfig, drop_path_rate: float, training: bool
) -> Tensor:
    """ẑ = GELU(BN(Conv3x3(z))), z = BN(Conv3x3(ẑ)) + z, with GELU's tanh form (paper, eq. 3)."""
    y = F.conv2d(x, params[f"{name}.conv1.weight"], params[f"{name}.conv1.bias"], padding=1)
    y = F.gelu(batch_norm(params, f"{name}.norm1", y, EPS, training), approximate="tanh")
    y = F.conv2d(y, params[f"{name}.conv2.weight"], params[f"{name}.conv2.bias"], padding=1)
    y = batch_norm(params, f"{name}.norm2", y, EPS, training)
    return x + drop_path(y, drop_path_rate, training)


def token_stage(
    params: Params, name: str, x: Tensor, config: MambaVisionConfig, stage: int, rates: list[float], training: bool
) -> Tensor:
    """Blocks over the tokens of each window; (batch, channels, height, width) in and out."""
    height, width = numbers(x.shape[2:])
    window = config.window_sizes[stage - 2]
    tokens, grid = window_partition(x.permute(0, 2, 3, 1), window)
    for block, (kind, rate) in enumerate(zip(config.block_pattern(stage), rates, strict=True)):
        place = f"{name}.blocks.{block}"
        tokens = run_block(token_block, params, place, tokens, config, stage, kind, rate=rate, training=training)
    return window_reverse(tokens, window, grid, height, width).permute(0, 3, 1, 2)


def numbers(sizes: torch.Size) -> tuple[int, ...]:
    """The sizes, which are tensors under torch.jit.trace, as numbers that its program then holds for."""
    return tuple(map(int, sizes)) if torch.jit.is_tracing() else sizes


def window_partition(x: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """(batch, height, width, channels) -> (batch·rows·columns, window², channels) and the grid (rows, columns).

    What the window does not divide is filled with zeros at the bottom and the right.
    """
    (batch, *_, channels), (height, width) = x.shape, numbers(x.shape[1:3])
    rows, columns = -(-height // window), -(-width // window)
    x = pad(x, rows * window - height, columns * window - width)
    strips, windows = batch * rows, batch * rows * columns
    if not of_any_count(rows, columns):
        x = x.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
        return x.reshape(windows, window * window, channels), (rows, columns)
    x = swapped(x, (strips, window, columns * window * channels))
    x = swapped(x, (windows, window * channels, window))
    return regrouped(x, (windows, window * window, channels)), (rows, columns)


def of_any_count(rows: int, columns: int) -> bool:
    """Whether a program is exported for images of one window and of several; Inductor's arithmetic of sizes takes
    minutes for the form that asks for neither."""
    exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()  # torch 2.11 says both
    return exporting and not (has_static_value(rows) and has_static_value(columns))


def swapped(x: Tensor, sizes: tuple[int, int, int]) -> Tensor:
    """The memory of x as a tensor of these sizes, its last two axes exchanged, by a copy."""
    return regrouped(x, sizes).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def regrouped(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Contiguous x with other sizes, by steps for which torch need not know whether a count of windows is 1.

    Where it is asked for all at once, or where such a count is an axis of its own, the answer for the example becomes
    a guard, and no program serves images of one window and of several.
    """
    return x.reshape(-1).reshape(sizes[0], math.prod(sizes[1:])).reshape(sizes)


def pad(x: Tensor, bottom: int, right: int) -> Tensor:
    """Zeros below and to the right of x (batch, height, width, channels); negative numbers cut off.

    A size that is unknown while tracing is always padded, if by nothing, so that one graph serves every size; and
    always by a copy, since whether a cut leaves memory contiguous would again depend on the size.
    """
    if statically_known_true(bottom == 0) and statically_known_true(right == 0):
        return x
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def token_counts(config: MambaVisionConfig, height: int, width: int) -> list[tuple[int, int]]:
    """For stages 3 and 4, the tokens of a map and the tokens with the padding of its windows, which are computed on."""
    require_whole("height", height, 1)
    require_whole("width", width, 1)
    counts = []
    for stage, window in enumerate(config.window_sizes, start=2):
        rows, columns = (math.ceil(size / 2 ** (stage + 2)) for size in (height, width))
        counts.append((rows * columns, math.ceil(rows / window) * math.ceil(columns / window) * window**2))
    return counts


def window_reverse(tokens: Tensor, window: int, grid: tuple[int, int], height: int, width: int) -> Tensor:
    """The inverse of `window_partition`: (batch, height, width, channels), the filled part cut off."""
    rows, columns = grid
    windows, channels = tokens.shape[0], tokens.shape[-1]
    batch = windows // (rows * columns)
    if not of_any_count(rows, columns):
        x = tokens.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
    else:
        line = columns * window * channels
        x = swapped(tokens, (windows, window, window * channels))
        x = swapped(x, (batch * rows, line, window))
        x = regrouped(x, (batch, rows * window, line))
    x = x.reshape(batch, rows * window, columns * window, channels)
    return pad(x, height - rows * window, width - columns * window)


def token_block(
    params: Params,
    name: str,
    x: Tensor,
    config: MambaVisionConfig,
    stage: int,
    kind: str,
    drop_path_rate: float,
    training: bool,
) -> Tensor:
    """x + γ₁·mixer(norm₁(x)), then x + γ₂·MLP(norm₂(x)) (paper, eq. 4); `kind` is "M" or "A"."""
    y = layer_norm(params, f"{name}.norm1", x)
    if kind == "M":
        y = mixer(params, f"{name}.mixer", y, config)
    else:
        y = attention(params, f"{name}.mixer", y, config, config.num_heads[stage], training)
    x = x + drop_path(layer_scale(params, f"{name}.gamma_1", y), drop_path_rate, training)
    y = mlp(params, f"{name}.mlp", layer_norm(params, f"{name}.norm2", x), config, training)
    return x + drop_path(layer_scale(params, f"{name}.gamma_2", y), drop_path_rate, training)


def layer_scale(params: Params, name: str, x: Tensor) -> Tensor:
    return x * params[name] if name in params else x


def mlp(params: Params, name: str, x: Tensor, config: MambaVisionConfig, training: bool) -> Tensor:
    x = F.gelu(linear(params, f"{name}.fc1", x))
    x = linear(params, f"{name}.fc2", F.dropout(x, config.drop_rate, training))
    return F.dropout(x, config.drop_rate, training)


def attention(
    params: Params, name: str, x: Tensor, config: MambaVisionConfig, num_heads: int, training: bool
) -> Tensor:
    """softmax(QKᵀ/√d)V over the tokens of a window, d the channels of a head (paper, eq. 7)."""
    qkv = linear(params, f"{name}.qkv", x).unflatten(-1, (3, num_heads, -1))  # (batch, length, 3, heads, d)
    q, k, v = qkv.transpose(1, 3).unbind(2)
    x = F.scaled_dot_product_attention(q, k, v, dropout_p=config.attn_drop_rate if training else 0.0)
    x = linear(params, f"{name}.proj", x.transpose(1, 2).flatten(2))
    return F.dropout(x, config.drop_rate, training)


def mixer(params: Params, name: str, x: Tensor, config: MambaVisionConfig) -> Tensor:
    """The Mamba mixer (paper, eq. 6) in the form that `config.mixer` names.

    One projection feeds both branches; their depthwise convolutions run as one over all its channels. The published
    time step gets dt_proj's bias twice, in the projection and in the scan; here the scan adds both.
    """
    weights = [params[f"{name}.conv1d_{branch}.weight"] for branch in ("x", "z")[: 1 + config.two_branches]]
    x = depthwise_conv(linear(params, f"{name}.in_proj", x), torch.cat(weights), causal=config.mixer == "causal")
    x, *branch = F.silu(x).chunk(len(weights), dim=-1)

    rank = params[f"{name}.dt_proj.weight"].shape[1]
    dt, B, C = linear(params, f"{name}.x_proj", x).split((rank, config.d_state, config.d_state), dim=-1)
    y = selective_scan(
        x,
        F.linear(dt, params[f"{name}.dt_proj.weight"]),
        -torch.exp(wide(params[f"{name}.A_log"])),
        B,
        C,
        D=wide(params[f"{name}.D"]),
        delta_bias=2 * wide(params[f"{name}.dt_proj.bias"]),
        delta_softplus=True,
    )
    if config.mixer == "concat":
        y = torch.cat((y, *branch), dim=-1)
    elif config.mixer == "gated":
        y = y * branch[0]
    return linear(params, f"{name}.out_proj", y)


def wide(x: Tensor) -> Tensor:
    """x in the dtype of the scan's sums: at least float32."""
    return x if x.dtype == torch.float64 else x.float()


def depthwise_conv(x: Tensor, weight: Tensor, *, causal: bool) -> Tensor:
    """Each channel of x (batch, length, channels) convolved by weight (channels, 1, taps), zeros beyond both ends."""
    length, taps = x.shape[1], weight.shape[-1]
    y = F.conv1d(x.transpose(1, 2), weight, padding=taps - 1 if causal else "same", groups=x.shape[2])
    return y[..., :length].transpose(1, 2)


REGIONS = {block: torch.compiler.nested_compile_region(block) for block in (conv_block, token_block)}
