"""The model's configuration and the table of published variants.

Source: MambaVision (arXiv 2407.08083), tables 1 and 5, and the published checkpoints' tensor shapes.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import random
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from mvc.arguments import is_number, is_whole, require, require_choice, require_flag, shown
from mvc.errors import UserError
from mvc.kernels.scan.checks import MAX_STATES

MIN_IMAGE_SIZE = 32
MAX_SIZE = 2**31 - 1  # of anything that is counted: more is a slip
MODEL_TYPE = "mambavision"  # by which packages such as peft know the kind of a model
MAX_DEPTH = 1000  # blocks in a stage, likewise

Config = TypeVar("Config", bound=Any)  # a dataclass with a `name`
MixerForm = Literal["concat", "gated", "regular", "causal"]
MIXER_FORMS: tuple[str, ...] = ("concat", "gated", "regular", "causal")
CROP_MODES: tuple[str, ...] = ("center", "squash")


@dataclasses.dataclass(frozen=True)
class MambaVisionConfig:
    """Everything that decides the network's shape and arithmetic.

    Stages 1 and 2 are convolution stages; stages 3 and 4 hold windowed blocks ("M" a Mamba mixer, "A" attention).

    Attributes:
        name: the variant's name, as in `VARIANTS`.
        depths: blocks in each of the four stages, at most 1,000.
        num_heads: attention heads in each stage; only those of stages 3 and 4 are used.
        window_sizes: side of the square windows of stages 3 and 4, in tokens.
        padded_windows: whether a window that leaves the map is filled with zeros, which are computed on, as in the
            published models; where it is False, such a window holds the tokens of the map alone, and is smaller.
        dim: channels of stage 1; each further stage doubles them.
        stem_dim: channels between the two convolutions of the stem.
        drop_path_rate: stochastic depth at the last block, rising linearly from 0 at the first.
        layer_scale: initial value of `gamma_1` and `gamma_2` in stages 3 and 4; None for no layer scale.
        image_size: side in pixels of the square images that the variant was trained on.
        crop: share of the resized image that evaluation keeps.
        crop_mode: "center" resizes the shorter side and crops; "squash" resizes both sides.
        attention: where stages 3 and 4 attend: a preset (`last_half`, `first_half`, `last_quarter`, `alternate_ma`,
            `alternate_am`, `random:SEED`) or a pattern string such as "MMMMAAAA"; a pair has one for each stage.
        mixer: form of the Mamba mixer, as studied in the paper: "concat" (the published one: a scan branch and a
            convolution branch, concatenated), "gated" (their product), "regular" (a scan branch of full width alone),
            "causal" (the same with a causal convolution).
        d_state: states per channel of the scan (N), at most 256.
        d_conv: taps of the depthwise convolutions.
        mlp_ratio: hidden over outer channels of the MLP.
        num_classes: class scores; 0 leaves out the head, and the scores are the pooled features.
        in_chans: channels of the input image.
        drop_rate: dropout after the projections of attention and MLP.
        attn_drop_rate: dropout on the attention probabilities.
        compile_regions: in inference, have torch.compile compile each kind of block once
            (`torch.compiler.nested_compile_region`) instead of every block: it compiles faster, and fuses nothing
            across blocks.
        mean, std: normalisation of the input image, for values in [0, 1], one value for each channel.

    Raises:
        UserError: a value that cannot be used; the message names the field.
    """

    name: str
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    window_sizes: tuple[int, int]
    dim: int
    stem_dim: int
    drop_path_rate: float
    layer_scale: float | None = None
    padded_windows: bool = True
    image_size: int = 224
    crop: float = 1.0
    crop_mode: Literal["center", "squash"] = "center"
    attention: str | tuple[str, str] = "last_half"
    mixer: MixerForm = "concat"
    d_state: int = 8
    d_conv: int = 3
    mlp_ratio: int = 4
    num_classes: int = 1000
    in_chans: int = 3
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    compile_regions: bool = False
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        self._require(isinstance(self.name, str) and self.name != "", "name", "a name")
        for field in ("dim", "stem_dim", "d_conv", "mlp_ratio", "in_chans"):
            self._require_whole(field, 1)
        self._require_whole("d_state", 1, MAX_STATES)
        self._require_whole("image_size", MIN_IMAGE_SIZE)
        self._require_whole("num_classes", 0)
        for field, length, most in (
            ("depths", 4, MAX_DEPTH),
            ("num_heads", 4, MAX_SIZE),
            ("window_sizes", 2, MAX_SIZE),
        ):
            fits = self._is_tuple(field, length) and all(is_whole(entry, 1, most) for entry in getattr(self, field))
            self._require(fits, field, f"a tuple of {length} whole numbers from 1 to {most}")
        for field in ("drop_path_rate", "drop_rate", "attn_drop_rate"):
            value = getattr(self, field)
            self._require(is_number(value) and 0 <= value < 1, field, "a number from 0 to below 1")
        self._require(is_number(self.crop) and 0 < self.crop <= 1, "crop", "a number above 0 and at most 1")
        self._require(self.layer_scale is None or is_number(self.layer_scale), "layer_scale", "a number or None")
        require_choice("config field crop_mode", self.crop_mode, CROP_MODES)
        require_choice("config field mixer", self.mixer, MIXER_FORMS)
        for field in ("padded_windows", "compile_regions"):
            require_flag(f"config field {field}", getattr(self, field))
        self._check_normalisation()
        self._check_attention()

    def _check_normalisation(self) -> None:
        """Check `mean` and `std`. Three values pass for other channel counts too: no photograph is normalised then."""
        for field, kind in {"mean": "finite numbers", "std": "finite numbers above 0"}.items():
            value = getattr(self, field)
            fits = (self._is_tuple(field, self.in_chans) or self._is_tuple(field, 3)) and all(map(is_number, value))
            fits = fits and (len(value) == self.in_chans or self.in_chans != 3)
            fits = fits and (field == "mean" or min(value) > 0)
            self._require(fits, field, f"a tuple of {self.in_chans} {kind}, one for each of in_chans")

    def _check_attention(self) -> None:
        pair = (self.attention, self.attention) if isinstance(self.attention, str) else self.attention
        fits = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(choice, str) for choice in pair)
        self._require(fits, "attention", "a string, or a tuple of two for stages 3 and 4")
        for stage in (2, 3):
            self.block_pattern(stage)
            channels, heads = self.channels(stage), self.num_heads[stage]
            self._require(channels % heads == 0, "num_heads", f"a divisor of stage {stage + 1}'s {channels} channels")

    def _is_tuple(self, field: str, length: int) -> bool:
        value = getattr(self, field)
        return isinstance(value, tuple) and len(value) == length

    def _require(self, holds: bool, field: str, wanted: str) -> None:
        require(holds, f"config field {field}", getattr(self, field), wanted)

    def _require_whole(self, field: str, least: int, most: int = MAX_SIZE) -> None:
        self._require(is_whole(getattr(self, field), least, most), field, f"a whole number from {least} to {most}")

    def to_dict(self) -> dict[str, object]:
        """The fields by name, and `model_type`."""
        return {"model_type": MODEL_TYPE, **dataclasses.asdict(self)}

    def channels(self, stage: int) -> int:
        """Channels of stage 0 to 3."""
        return self.dim * 2**stage

    def inner_channels(self, stage: int) -> int:
        """Channels that the scan of a mixer in this stage runs over."""
        return self.channels(stage) // (2 if self.two_branches else 1)

    def dt_rank(self, stage: int) -> int:
        """Rank of the projection that makes the scan's time step."""
        return math.ceil(self.channels(stage) / 16)

    @property
    def two_branches(self) -> bool:
        """Whether the mixer has a convolution branch beside its scan branch."""
        return self.mixer in ("concat", "gated")

    def block_pattern(self, stage: int) -> str:
        """One letter for each block of stage 2 or 3: "M" for a mixer, "A" for attention."""
        choice = self.attention if isinstance(self.attention, str) else self.attention[stage - 2]
        return attention_pattern(choice, depth=self.depths[stage], stage=stage)

    def drop_path_rates(self) -> list[list[float]]:
        """Stochastic depth of every block, by stage: linear from 0 to `drop_path_rate` over all blocks."""
        last = max(sum(self.depths) - 1, 1)
        first = [sum(self.depths[:stage]) for stage in range(4)]
        return [
            [self.drop_path_rate * (first[stage] + block) / last for block in range(self.depths[stage])]
            for stage in range(4)
        ]


PATTERN_PRESETS = ("last_half", "first_half", "last_quarter", "alternate_ma", "alternate_am", "random:SEED")


def attention_pattern(choice: str, *, depth: int, stage: int = 0) -> str:
    """Spell out a preset, or check a pattern string, for a stage of `depth` blocks.

    Half of an odd depth is rounded down, as in the published models; a quarter is at least one block. `random:SEED`
    places attention in half of the blocks, drawn for each `stage` from the seed.

    Raises:
        UserError: an unknown preset, or a pattern of another length or with other letters than M and A.
    """
    half, quarter = depth // 2, max(1, depth // 4)
    presets = {
        "last_half": "M" * (depth - half) + "A" * half,
        "first_half": "A" * half + "M" * (depth - half),
        "last_quarter": "M" * (depth - quarter) + "A" * quarter,
        "alternate_ma": ("MA" * depth)[:depth],
        "alternate_am": ("AM" * depth)[:depth],
    }
    if choice in presets:
        return presets[choice]
    if choice.startswith("random:"):
        seed = choice.removeprefix("random:")
        require(seed.isdecimal(), "config field attention", choice, "random:SEED with a whole number for SEED")
        chosen = random.Random(f"{seed}/{stage}").sample(range(depth), half)
        return "".join("A" if block in chosen else "M" for block in range(depth))
    wanted = f"a preset ({', '.join(PATTERN_PRESETS)}) or {depth} letters M and A for a stage of {depth} blocks"
    require(set(choice) <= {"M", "A"} and len(choice) == depth, "config field attention", choice, wanted)
    return choice


def _large(name: str, depths: tuple[int, int, int, int], dim: int, **changes: object) -> MambaVisionConfig:
    """The L family's common settings."""
    settings = {"drop_path_rate": 0.3, "layer_scale": 1e-5, "window_sizes": (14, 7), **changes}
    return MambaVisionConfig(name, depths, (4, 8, 16, 32), dim=dim, stem_dim=64, **settings)


_HEADS = (2, 4, 8, 16)
_L, _L2, _L3 = (3, 3, 10, 5), (3, 3, 12, 5), (3, 3, 20, 10)
_AT_256 = {"window_sizes": (16, 8), "image_size": 256}
_AT_512 = {"window_sizes": (32, 16), "image_size": 512, "crop": 0.93, "crop_mode": "squash"}
_B = MambaVisionConfig("B", (3, 3, 10, 5), _HEADS, (14, 7), 128, 64, 0.3, layer_scale=1e-5)

VARIANTS: dict[str, MambaVisionConfig] = {
    config.name: config
    for config in (
        MambaVisionConfig("T", (1, 3, 8, 4), _HEADS, (14, 7), 80, 32, 0.2),
        MambaVisionConfig("T2", (1, 3, 11, 4), _HEADS, (14, 7), 80, 32, 0.2, crop=0.98),
        MambaVisionConfig("S", (3, 3, 7, 5), _HEADS, (14, 7), 96, 64, 0.2, crop=0.93),
        _B,
        _large("L", _L, 196),
        _large("L2", _L2, 196),
        dataclasses.replace(_B, name="B-21K"),
        _large("L-21K", _L, 196),
        _large("L2-512-21K", _L2, 196, **_AT_512),
        _large("L3-256-21K", _L3, 256, drop_path_rate=0.5, **_AT_256),
        _large("L3-512-21K", _L3, 256, drop_path_rate=0.5, **_AT_512),
        # Not published: small enough to compile in a test, with several windows at its own size.
        MambaVisionConfig("tiny", (1, 1, 2, 2), (1, 1, 2, 4), (2, 2), 16, 8, 0.1, image_size=64, num_classes=10),
    )
}


def get_config(variant: str | MambaVisionConfig, **changes: object) -> MambaVisionConfig:
    """The configuration of a variant, by its name in any letter case, with fields changed.

    Raises:
        UserError: an unknown variant (the message names the near ones), an unknown field, or an unusable value.
    """
    if not isinstance(variant, MambaVisionConfig):
        require(isinstance(variant, str), "variant", variant, "the name of a variant, or a MambaVisionConfig")
        variant = by_name(variant, VARIANTS)
    return with_changes(variant, changes)


def by_name(variant: str, variants: Mapping[str, Config]) -> Config:
    """The configuration of that name, in any letter case; a UserError names the near ones of an unknown name."""
    by_folded_name = {name.casefold(): config for name, config in variants.items()}
    config = by_folded_name.get(variant.casefold())
    if config is None:
        near = difflib.get_close_matches(variant.casefold(), by_folded_name, n=3, cutoff=0.3)
        hint = f"did you mean {' or '.join(by_folded_name[n].name for n in near)}? " if near else ""
        raise UserError(f"unknown variant {shown(variant)}: {hint}The variants are {', '.join(variants)}")
    return config


def with_changes(config: Config, changes: Mapping[str, object]) -> Config:
    """The configuration with fields changed; a UserError names the fields where one is unknown."""
    fields = {field.name for field in dataclasses.fields(config)}
    if unknown := set(changes) - fields:
        raise UserError(f"unknown config field {sorted(unknown)[0]!r}; the fields are {', '.join(sorted(fields))}")
    return dataclasses.replace(config, **changes)
