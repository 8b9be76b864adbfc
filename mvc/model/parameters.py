"""Names, shapes and initial values of every tensor of the model, under the names of the published checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvc.model.config import MambaVisionConfig

Initializer = Callable[[Tensor], object]


class TensorSpec(NamedTuple):
    """One tensor of the model."""

    shape: tuple[int, ...]
    init: Initializer
    is_buffer: bool = False
    dtype: torch.dtype | None = None  # None: whatever the model is created in


def tensor_specs(config: MambaVisionConfig) -> dict[str, TensorSpec]:
    """Every parameter and buffer of the model, in the order of the published checkpoints."""
    specs: dict[str, TensorSpec] = {}
    specs.update(_stem("patch_embed.conv_down", config))
    for stage in range(4):
        for block in range(config.depths[stage]):
            name = f"levels.{stage}.blocks.{block}"
            if stage < 2:
                specs.update(_conv_block(name, config.channels(stage)))
            else:
                specs.update(_token_block(name, config, stage, config.block_pattern(stage)[block]))
        if stage < 3:
            channels = config.channels(stage)
            specs.update(_conv(f"levels.{stage}.downsample.reduction.0", 2 * channels, channels, bias=False))
    specs.update(_batch_norm("norm", config.channels(3)))
    if config.num_classes:
        specs.update(_linear("head", config.num_classes, config.channels(3)))
    return specs


def initialize(tensors: dict[str, Tensor], config: MambaVisionConfig) -> None:
    """Fill the tensors in place as the published training does, from torch's global random generator."""
    with torch.no_grad():
        for name, spec in tensor_specs(config).items():
            spec.init(tensors[name])


Specs = Iterator[tuple[str, TensorSpec]]


def _linear(name: str, outputs: int, inputs: int, *, bias: bool = True) -> Specs:
    yield f"{name}.weight", TensorSpec((outputs, inputs), lambda t: nn.init.trunc_normal_(t, std=0.02))
    if bias:
        yield f"{name}.bias", TensorSpec((outputs,), nn.init.zeros_)


def _conv(name: str, outputs: int, inputs: int, *, bias: bool) -> Specs:
    """A 3x3 convolution with torch's own initial values."""
    bound = 1 / math.sqrt(9 * inputs)
    yield f"{name}.weight", TensorSpec((outputs, inputs, 3, 3), _uniform(bound))
    if bias:
        yield f"{name}.bias", TensorSpec((outputs,), _uniform(bound))


def _uniform(bound: float) -> Initializer:
    return lambda t: nn.init.uniform_(t, -bound, bound)


def _layer_norm(name: str, channels: int) -> Specs:
    yield f"{name}.weight", TensorSpec((channels,), nn.init.ones_)
    yield f"{name}.bias", TensorSpec((channels,), nn.init.zeros_)


def _batch_norm(name: str, channels: int) -> Specs:
    yield from _layer_norm(name, channels)
    yield f"{name}.running_mean", TensorSpec((channels,), nn.init.zeros_, is_buffer=True)
    yield f"{name}.running_var", TensorSpec((channels,), nn.init.ones_, is_buffer=True)
    yield f"{name}.num_batches_tracked", TensorSpec((), nn.init.zeros_, is_buffer=True, dtype=torch.int64)


def _stem(name: str, config: MambaVisionConfig) -> Specs:
    yield from _conv(f"{name}.0", config.stem_dim, config.in_chans, bias=False)
    yield from _batch_norm(f"{name}.1", config.stem_dim)
    yield from _conv(f"{name}.3", config.dim, config.stem_dim, bias=False)
    yield from _batch_norm(f"{name}.4", config.dim)


def _conv_block(name: str, channels: int) -> Specs:
    for index in (1, 2):
        yield from _conv(f"{name}.conv{index}", channels, channels, bias=True)
        yield from _batch_norm(f"{name}.norm{index}", channels)


def _token_block(name: str, config: MambaVisionConfig, stage: int, kind: str) -> Specs:
    channels = config.channels(stage)
    if config.layer_scale is not None:
        for gamma in ("gamma_1", "gamma_2"):
            yield f"{name}.{gamma}", TensorSpec((channels,), lambda t: nn.init.constant_(t, config.layer_scale))
    yield from _layer_norm(f"{name}.norm1", channels)
    if kind == "M":
        yield from _mixer(f"{name}.mixer", config, stage)
    else:
        yield from _linear(f"{name}.mixer.qkv", 3 * channels, channels)
        yield from _linear(f"{name}.mixer.proj", channels, channels)
    yield from _layer_norm(f"{name}.norm2", channels)
    yield from _linear(f"{name}.mlp.fc1", config.mlp_ratio * channels, channels)
    yield from _linear(f"{name}.mlp.fc2", channels, config.mlp_ratio * channels)


def _mixer(name: str, config: MambaVisionConfig, stage: int) -> Specs:
    channels, inner, rank = config.channels(stage), config.inner_channels(stage), config.dt_rank(stage)
    states = torch.arange(1, config.d_state + 1, dtype=torch.float64)
    yield (
        f"{name}.A_log",
        TensorSpec((inner, config.d_state), lambda t: t.copy_(states.log().expand_as(t)), dtype=torch.float32),
    )
    yield f"{name}.D", TensorSpec((inner,), nn.init.ones_, dtype=torch.float32)
    yield from _linear(f"{name}.in_proj", channels, channels, bias=False)
    yield from _linear(f"{name}.x_proj", rank + 2 * config.d_state, inner, bias=False)
    yield from _linear(f"{name}.dt_proj", inner, rank)
    yield from _linear(f"{name}.out_proj", channels, channels if config.mixer != "gated" else inner, bias=False)
    for branch in ("x", "z") if config.two_branches else ("x",):
        taps = (inner, 1, config.d_conv)
        yield f"{name}.conv1d_{branch}.weight", TensorSpec(taps, _uniform(1 / math.sqrt(config.d_conv)))
