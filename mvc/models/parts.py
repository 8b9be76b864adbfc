"""What Vim and VMamba share: how their configurations and images are checked, and how time steps are initialised."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mvc.arguments import is_number, is_whole, require
from mvc.errors import UserError
from mvc.kernels.checks import check_tensors
from mvc.kernels.scan.checks import MAX_STATES
from mvc.model.config import MAX_SIZE
from mvc.model.network import check_like

DT_RANGE = (1e-3, 1e-1)
DT_FLOOR = 1e-4
WIDE = torch.float32  # of A and D, whatever the other parameters are


def check_whole(config: Any, *fields: str, most: int = MAX_SIZE) -> None:
    """Raise UserError unless each field of a configuration is a whole number from 1 to `most`."""
    for field in fields:
        value = getattr(config, field)
        require(is_whole(value, 1, most), f"config field {field}", value, f"a whole number from 1 to {most}")


def check_common(config: Any) -> None:
    """Raise UserError unless the fields that both configurations have can be used."""
    require(isinstance(config.name, str) and config.name != "", "config field name", config.name, "a name")
    check_whole(config, "channels", "num_classes", "in_chans")
    check_whole(config, "d_state", most=MAX_STATES)
    rate = config.drop_path_rate
    require(is_number(rate) and 0 <= rate < 1, "config field drop_path_rate", rate, "a number from 0 to below 1")


def check_images(x: Tensor, first: nn.Conv2d) -> None:
    """Raise what a model raises for images that its first convolution does not take.

    Raises:
        UserError: x is not (batch, channels, height, width), or on another device.
        TypeError: x is no dense tensor, or has another dtype than the parameters and autocast is off.
    """
    check_tensors({"x": x}, {})
    if x.dim() != 4 or x.shape[1] != first.in_channels or 0 in x.shape[2:]:
        raise UserError(f"x must be images (batch, {first.in_channels}, height, width), got shape {tuple(x.shape)}")
    check_like(x, first.weight)


def initialize_step_bias(bias: Tensor) -> None:
    """Fill it so that softplus of it, the time step, is log-uniform in `DT_RANGE` and at least `DT_FLOOR`."""
    low, high = map(math.log, DT_RANGE)
    dt = torch.empty_like(bias, dtype=torch.float64).uniform_(low, high).exp().clamp(min=DT_FLOOR)
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))


def initialize_decay(A_log: Tensor) -> None:
    """A = -1, -2, ..., -N in every row (channels, N)."""
    states = torch.arange(1, A_log.shape[1] + 1, dtype=torch.float64, device=A_log.device)
    A_log.copy_(states.log().expand_as(A_log))


def uniform(tensor: Tensor, fan_in: int) -> None:
    """torch's own initialisation of linear layers and convolutions."""
    nn.init.uniform_(tensor, -(fan_in**-0.5), fan_in**-0.5)
