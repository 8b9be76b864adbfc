"""Vim, or Vision Mamba (arXiv 2401.09417): a plain stack of mixers that scan a picture's patches in both directions.

Names and shapes of the tensors are those of the published checkpoints (github.com/hustvl/Vim).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvc.arguments import require
from mvc.errors import UserError
from mvc.kernels.scan import selective_scan
from mvc.model.config import MAX_DEPTH
from mvc.model.network import drop_path, wide
from mvc.models import parts

EPS = 1e-5
TRUNCATED = 0.87962566103423978  # standard deviation of a standard normal cut at two of its standard deviations


@dataclasses.dataclass(frozen=True)
class VimConfig:
    """Everything that decides the network's shape and arithmetic.

    Attributes:
        name: the variant's name, as in `mvc.models.VARIANTS`.
        channels: of each token (C); the mixers scan twice as many.
        depth: blocks, at most 1,000.
        stride: pixels from one patch to the next.
        patch_size: side of a patch in pixels.
        image_size: side in pixels of the square images; the network takes no other.
        drop_path_rate: stochastic depth before the last norm.
        d_state: states per channel of the scan (N), at most 256.
        d_conv: taps of the depthwise convolutions.
        num_classes: class scores.
        in_chans: channels of the image.

    Raises:
        UserError: a value that cannot be used; the message names the field.
    """

    name: str
    channels: int
    depth: int = 24
    stride: int = 16
    patch_size: int = 16
    image_size: int = 224
    drop_path_rate: float = 0.0
    d_state: int = 16
    d_conv: int = 4
    num_classes: int = 1000
    in_chans: int = 3

    def __post_init__(self) -> None:
        parts.check_common(self)
        parts.check_whole(self, "depth", most=MAX_DEPTH)
        parts.check_whole(self, "stride", "patch_size", "image_size", "d_conv")
        fits = self.image_size >= self.patch_size
        require(fits, "config field image_size", self.image_size, f"at least patch_size {self.patch_size}")

    @property
    def patches(self) -> int:
        """Patches of an image; there is one token more, that of the class."""
        return ((self.image_size - self.patch_size) // self.stride + 1) ** 2

    @property
    def dt_rank(self) -> int:
        """Rank of the projection that makes the scan's time step."""
        return math.ceil(self.channels / 16)


class Vim(nn.Module):
    """The network, of torch's own layers under the published names.

    Args:
        config: the configuration, as of `mvc.models.VARIANTS["Vim-T"]`.
        device, dtype: of the parameters; A_log, A_b_log, D and D_b stay float32.
    """

    def __init__(
        self, config: VimConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        tensors = {"device": device, "dtype": dtype}
        self.config = config
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.channels, **tensors))
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches + 1, config.channels, **tensors))
        self.patch_embed = PatchEmbed(config, **tensors)
        self.head = nn.Linear(config.channels, config.num_classes, **tensors)
        last = max(config.depth - 1, 1)
        rates = [config.drop_path_rate * max(index - 1, 0) / last for index in range(config.depth)]
        self.layers = nn.ModuleList(Block(config, rate, **tensors) for rate in rates)
        self.norm_f = ResidualNorm(config.channels, **tensors)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, num_classes) of images (batch, in_chans, image_size, image_size).

        Raises:
            UserError: images of another shape, or on another device than the parameters.
            TypeError: images of another dtype than the parameters, outside of autocast.
        """
        return self.head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The class token (batch, channels) after the last norm."""
        hidden, residual = self.embed(x), None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
        hidden = drop_path(hidden, self.config.drop_path_rate, self.training)
        middle = self.config.patches // 2
        return self.norm_f(residual[:, middle] + hidden[:, middle])

    def embed(self, x: Tensor) -> Tensor:
        """The tokens (batch, patches + 1, channels), that of the class in the middle, with their positions."""
        parts.check_images(x, self.patch_embed.proj)
        side = self.config.image_size
        if tuple(x.shape[2:]) != (side, side):
            raise UserError(
                f"x has images of {x.shape[2]} x {x.shape[3]}, and this model has positions for {side} x {side} alone; "
                f"resize them, or create the model with image_size"
            )
        patches = self.patch_embed(x)
        middle = patches.shape[1] // 2
        token = self.cls_token.expand(patches.shape[0], -1, -1).to(patches.dtype)
        return torch.cat((patches[:, :middle], token, patches[:, middle:]), dim=1) + self.pos_embed


class PatchEmbed(nn.Module):
    """Images as tokens in row-major order, (batch, patches, channels)."""

    def __init__(self, config: VimConfig, **tensors: object) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_chans, config.channels, config.patch_size, config.stride, **tensors)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class ResidualNorm(nn.RMSNorm):
    """RMSNorm of the residual stream, which is at least float32, in the dtype of the parameters."""

    def __init__(self, channels: int, **tensors: object) -> None:
        super().__init__(channels, eps=EPS, **tensors)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, wide(self.weight), self.eps).to(self.weight.dtype)


class Block(nn.Module):
    """Add, normalise, mix: the residual stream gets the mixer's result in the next block."""

    def __init__(self, config: VimConfig, drop_path_rate: float, **tensors: object) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.mixer = Mixer(config, **tensors)
        self.norm = ResidualNorm(config.channels, **tensors)

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mixer's result (batch, tokens, channels), and the residual stream, at least float32, without it."""
        if residual is None:
            residual = wide(hidden)
        else:
            residual = residual + drop_path(hidden, self.drop_path_rate, self.training)
        return self.mixer(self.norm(residual)), residual


class Mixer(nn.Module):
    """Mamba's mixer in both directions ("bimamba v2"), whose results are averaged; projections in and out are shared.

    The gate is that of both directions and is therefore applied once.
    """

    def __init__(self, config: VimConfig, **tensors: object) -> None:
        super().__init__()
        channels, inner, rank, states = config.channels, 2 * config.channels, config.dt_rank, config.d_state
        of_scan = {**tensors, "dtype": parts.WIDE}
        for direction in ("", "_b"):
            self.register_parameter(f"A{direction}_log", nn.Parameter(torch.empty(inner, states, **of_scan)))
            self.register_parameter(f"D{direction}", nn.Parameter(torch.empty(inner, **of_scan)))
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False, **tensors)
        for direction in ("", "_b"):
            taps = nn.Conv1d(inner, inner, config.d_conv, padding=config.d_conv - 1, groups=inner, **tensors)
            self.add_module(f"conv1d{direction}", taps)
            self.add_module(f"x_proj{direction}", nn.Linear(inner, rank + 2 * states, bias=False, **tensors))
            self.add_module(f"dt_proj{direction}", nn.Linear(rank, inner, **tensors))
        self.out_proj = nn.Linear(inner, channels, bias=False, **tensors)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, channels) in and out."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        ahead = _scanned(x, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D, reverse=False)
        back = _scanned(x, self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b, reverse=True)
        return self.out_proj((ahead + back) * (F.silu(z) * 0.5))


def _scanned(
    x: Tensor, conv: nn.Conv1d, x_proj: nn.Linear, dt_proj: nn.Linear, A_log: Tensor, D: Tensor, *, reverse: bool
) -> Tensor:
    """Convolution and scan of x (batch, tokens, channels) in one direction.

    In reverse the convolution sees the tokens after each one, with its taps in the other order, and nothing is flipped.
    """
    before = conv.kernel_size[0] - 1
    weight = conv.weight.flip(2) if reverse else conv.weight
    u = F.conv1d(x.transpose(1, 2), weight, conv.bias, padding=before, groups=conv.groups)
    u = F.silu(u[..., before:] if reverse else u[..., : x.shape[1]]).transpose(1, 2)
    states = A_log.shape[1]
    dt, B, C = x_proj(u).split((dt_proj.in_features, states, states), dim=-1)
    return selective_scan(
        u,
        F.linear(dt, dt_proj.weight),
        -torch.exp(wide(A_log)),
        B,
        C,
        D=wide(D),
        delta_bias=wide(dt_proj.bias),
        delta_softplus=True,
        reverse=reverse,
    )


@torch.no_grad()
def _initialize(model: Vim) -> None:
    """As the published training does. What is not named here keeps torch's own initialisation."""
    for tensor in (model.cls_token, model.pos_embed, model.head.weight):
        nn.init.trunc_normal_(tensor, std=0.02)
    nn.init.zeros_(model.head.bias)
    proj = model.patch_embed.proj
    deviation = proj.weight[0].numel() ** -0.5 / TRUNCATED
    nn.init.trunc_normal_(proj.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(proj.bias)
    for layer in model.layers:
        mixer = layer.mixer
        for A_log in (mixer.A_log, mixer.A_b_log):
            parts.initialize_decay(A_log)
        for D in (mixer.D, mixer.D_b):
            nn.init.ones_(D)
        parts.uniform(mixer.dt_proj.weight, mixer.dt_proj.in_features)
        parts.initialize_step_bias(mixer.dt_proj.bias)
        nn.init.zeros_(mixer.dt_proj_b.bias)  # the published one zeroes all biases but that of the forward direction
        mixer.out_proj.weight.div_(len(model.layers) ** 0.5)


VARIANTS: dict[str, VimConfig] = {
    config.name: config
    for config in (
        VimConfig("Vim-T", 192),
        VimConfig("Vim-T+", 192, stride=8),
        VimConfig("Vim-S", 384, drop_path_rate=0.05),
        VimConfig("Vim-S+", 384, stride=8),
        VimConfig("Vim-B", 768),
        # Not published: small enough to compile in a test.
        VimConfig("Vim-trial", 32, depth=2, stride=8, patch_size=8, image_size=32, num_classes=10),
    )
}
