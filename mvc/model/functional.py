"""MambaVision as pure functions of (params, x, config): `mvc.model.network` with tensors from `params`.

`params` maps the published tensor names to tensors, buffers included: all those of the config, and no others.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from mvc.arguments import require, require_flag
from mvc.errors import UserError
from mvc.model import network
from mvc.model.config import MambaVisionConfig
from mvc.model.module import MambaVision
from mvc.model.network import Features
from mvc.model.windows import numbers

Params = Mapping[str, Tensor]


def forward(params: Params, x: Tensor, config: MambaVisionConfig, *, training: bool = False) -> Tensor:
    """Class scores (batch, num_classes) of images x (batch, in_chans, height, width); without a head, `pooled`.

    In training, BatchNorm statistics in `params` are updated in place.

    Raises:
        ValueError: images below 32 x 32, of another number of channels or dimensions, or on another device than the
            parameters; `params` that are not those of `config`.
        TypeError: images that are no dense tensor, or of another dtype than the parameters, outside autocast.
    """
    return _computed(network.scores, params, x, config, training)


def forward_features(params: Params, x: Tensor, config: MambaVisionConfig, *, training: bool = False) -> Features:
    """The four stage maps and the pooled vector of images x; raises as `forward` does."""
    return _computed(network.features, params, x, config, training)


def _computed(
    compute: Callable[[Any, Tensor], Any], params: Params, x: Tensor, config: MambaVisionConfig, training: bool
) -> Any:
    """`compute` with the tensors of `params`."""
    require(isinstance(params, Mapping), "params", params, "a mapping of names to tensors, as of model.tensors()")
    require(isinstance(config, MambaVisionConfig), "config", config, "a MambaVisionConfig, as of get_config('T')")
    require_flag("training", training)
    _check_params(params, config)
    return compute(Bound(without_values(config), params, "", training), x)


class Bound:
    """A module of the network with tensors of `params` in the place of its own, in training or not.

    It computes what the module's class does, `forward(self, x)`, and shares nothing with other calls.
    """

    def __init__(self, module: nn.Module, params: Params, prefix: str, training: bool) -> None:
        self.module, self.params, self.prefix, self.training = module, params, prefix, training

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # of Python's protocols it has those of its class alone
        place = f"{self.prefix}{name}"
        if place in self.params:
            return self.params[place]
        value = getattr(self.module, name)
        if isinstance(value, Tensor):
            raise KeyError(place)
        return self._bound(name, value) if isinstance(value, nn.Module) else value

    def __call__(self, x: Tensor) -> Tensor:
        return type(self.module).forward(self, x)

    def __iter__(self) -> Iterator[Bound]:
        """The parts of an nn.Sequential or nn.ModuleList."""
        for name, part in self.module.named_children():
            yield self._bound(name, part)

    def _bound(self, name: str, part: nn.Module) -> Bound:
        return Bound(part, self.params, f"{self.prefix}{name}.", self.training)


class _Made:
    """What is made once for each configuration, as attributes, which Dynamo reads as constants."""


_MODELS, _SHAPES = _Made(), _Made()  # models without values; the name and the shape of each of their tensors


def without_values(config: MambaVisionConfig) -> MambaVision:
    """The model of `config` on the meta device, made once."""
    return getattr(_MODELS, _made(config))


_FIELDS = tuple(field.name for field in dataclasses.fields(MambaVisionConfig))


def _made(config: MambaVisionConfig) -> str:
    """The attribute of `_MODELS` and of `_SHAPES` for the configuration."""
    return _attribute(tuple(getattr(config, field) for field in _FIELDS))


@torch.compiler.assume_constant_result
def _attribute(values: tuple[Any, ...]) -> str:
    """The attribute for the configuration with these values of its fields."""
    name = f"model_{hashlib.sha256(repr(values).encode()).hexdigest()}"
    if not hasattr(_SHAPES, name):
        config = MambaVisionConfig(**dict(zip(_FIELDS, values, strict=True)))
        with ThreadPoolExecutor(1) as thread:  # where no transform of torch.func and no mode of the caller is on
            model = thread.submit(MambaVision, config, device="meta").result()
        setattr(_MODELS, name, model)
        setattr(_SHAPES, name, tuple((key, tuple(own.shape)) for key, own in model.tensors().items()))
    return name


def _check_params(params: Params, config: MambaVisionConfig) -> None:
    """Raise UserError where `params` has not all tensors of the model, each of its shape, and no others."""
    shapes = getattr(_SHAPES, _made(config))
    for name, shape in shapes:
        own = params.get(name)
        if not isinstance(own, Tensor) or tuple(numbers(own.shape)) != shape:
            seen = f"is a {type(own).__name__}" if name in params else "is missing"
            seen = f"has shape {tuple(own.shape)}" if isinstance(own, Tensor) else seen
            wanted = f"a tensor of shape {shape} with the config {config.name!r}"
            raise UserError(f"params[{name!r}] {seen}; it must be {wanted}")
    if len(params) > len(shapes):
        known = dict(shapes)
        name = next(name for name in params if name not in known)
        raise UserError(f"params[{name!r}] is no tensor of the config {config.name!r}; leave it out")
