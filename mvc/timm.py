"""The variants under timm's functions: after `import mvc.timm`, `timm.create_model("mvc_mambavision_t")` makes one.

Written from timm's documented interface of a model. A state dict has the names of the published checkpoints and of
`mvc.MambaVision`, so that checkpoints go both ways.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

try:
    from timm.layers import SelectAdaptivePool2d
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except ModuleNotFoundError as error:
    raise ImportError("mvc.timm needs timm: pip install 'mvc-mambavision[timm]'") from error

from mvc.arguments import is_number, is_whole, require, require_choice
from mvc.model import network
from mvc.model.config import MIN_IMAGE_SIZE, VARIANTS, MambaVisionConfig, get_config
from mvc.model.layers import Mixer, initialize
from mvc.model.module import MambaVision
from mvc.model.weights import LICENCE

STRIDES = (4, 8, 16, 32)  # of the four stages' maps
POOLS = ("avg", "max", "avgmax", "catavgmax")
PREPROCESSING = {"mean": "mean", "std": "std", "crop": "crop_pct", "crop_mode": "crop_mode"}  # fields by timm's names
HUB_PREFIX = "model."  # of the names in the hub's files


class TimmMambaVision(MambaVision):
    """MambaVision with the attributes and methods of a timm model.

    Args:
        variant: as for `mvc.get_config`.
        global_pool: "avg" (the published one), "max", "avgmax", "catavgmax", or "" for none, which goes without a head.
        drop_rate: dropout before the head.
        proj_drop_rate: `MambaVisionConfig.drop_rate`, dropout after the projections of attention and MLP.
        img_size: `MambaVisionConfig.image_size`, as a number or as a pair of one number; images of other sizes are
            computed too. Windows stay as they are: pass `window_sizes` to change them.
        output_stride: 32, which cannot be changed.
        device, dtype: as for `mvc.create_model`.
        changes: other fields of `MambaVisionConfig`: num_classes (0 leaves out the head, and the result is the pooled
            features), in_chans, drop_path_rate, attn_drop_rate, window_sizes and so on.

    Raises:
        UserError: an argument that cannot be used, or an unknown one.
    """

    output_fmt = "NCHW"

    def __init__(
        self,
        variant: str | MambaVisionConfig,
        *,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        img_size: int | tuple[int, int] | None = None,
        output_stride: int = STRIDES[-1],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **changes: Any,
    ) -> None:
        one_stride = f"{STRIDES[-1]}, because every stage halves the map; leave it out"
        require(output_stride == STRIDES[-1], "output_stride", output_stride, one_stride)
        if img_size is not None:
            changes = {"image_size": _side(img_size), **changes}
        config = get_config(variant, drop_rate=proj_drop_rate, **changes)
        pool = _pool(global_pool)
        require(is_number(drop_rate) and 0 <= drop_rate < 1, "drop_rate", drop_rate, "a number from 0 to below 1")
        super().__init__(config, device=device, dtype=dtype)
        self.num_classes, self.in_chans = config.num_classes, config.in_chans
        self.num_features = config.channels(3)
        self.feature_info = [
            {"num_chs": config.channels(stage), "reduction": stride, "module": f"levels.{stage}"}
            for stage, stride in enumerate(STRIDES)
        ]
        self.global_pool, self.head_drop = pool, nn.Dropout(drop_rate)
        if pool.pool_type != "fastavg":  # for which the head is made already
            self.reset_classifier(config.num_classes)

    @property
    def head_hidden_size(self) -> int:
        """Channels of `forward_head(x, pre_logits=True)`."""
        return self.num_features * self.global_pool.feat_mult()

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (batch, num_classes) of images (batch, in_chans, height, width); without a head, what it would
        get."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map of images, normalised: (batch, num_features, height/32, width/32), sizes rounded up.

        `mvc.MambaVision.forward_features` gives all four maps; here they are `forward_intermediates(x)`.
        """
        return self.norm(network.stage_maps(self, x, count=len(self.levels))[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Class scores of what `forward_features` gives; with `pre_logits`, what the head would get."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Stage maps of images, before down-sampling.

        Args:
            x: (batch, in_chans, height, width).
            indices: which stages, from 0 to 3 or negative; a number takes the last so many, None takes all. The maps
                come in the order of the stages.
            norm: whether the map of the last stage is normalised; no other stage has a norm.
            stop_early: whether to compute no stage after the last one that is wanted.
            output_fmt: "NCHW", or "NHWC" for channels last.
            intermediates_only: whether to leave out the first result.

        Returns:
            What `forward_features` gives or, if it stopped early, the last map computed; and the list of maps.

        Raises:
            UserError: stages that the model does not have, or another format.
        """
        require_choice("output_fmt", output_fmt, ("NCHW", "NHWC"))
        take = _stages(indices, len(self.levels))
        maps = network.stage_maps(self, x, count=take[-1] + 1 if stop_early else len(self.levels))
        end = maps[-1]
        if len(maps) == len(self.levels) and (norm or not intermediates_only):
            end = self.norm(end)
        if norm:
            maps = (*maps[:-1], end)
        intermediates = [maps[stage] for stage in take]
        if output_fmt == "NHWC":
            intermediates = [x.permute(0, 2, 3, 1) for x in intermediates]
        return intermediates if intermediates_only else (end, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of these stages (see `forward_intermediates`) do not need, and return their indices.

        The last norm goes with the last stage or with `prune_norm`, the head with the last stage or with `prune_head`.
        """
        take = _stages(indices, len(self.levels))
        last = take[-1]
        shortened = last < len(self.levels) - 1
        self.levels = self.levels[: last + 1]
        self.levels[-1].downsample = None
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if shortened:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head in the place of the old one, and another pooling too if it is given.

        Raises:
            UserError: see the class.
        """
        config = dataclasses.replace(self.config, num_classes=num_classes)
        pool = self.global_pool if global_pool is None else _pool(global_pool)
        if num_classes:
            require(not pool.is_identity(), "global_pool", pool.pool_type, f"one of {', '.join(POOLS)} before a head")
        self.config, self.num_classes, self.global_pool = config, num_classes, pool
        self.head = nn.Identity()
        if num_classes:
            like = next(self.parameters())
            self.head = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            initialize(self.head)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names, by which timm decays learning rates: the stem, each block (with `coarse`, each
        stage), and the head. Down-sampling belongs to the block before it, the last norm to the last one."""
        with_the_group_before = (99999,)  # as timm's models say it
        stages = [(r"^levels\.(\d+)", None)]
        blocks = [
            (r"^levels\.(\d+)\.blocks\.(\d+)", None),
            (r"^levels\.(\d+)\.downsample", with_the_group_before),
        ]
        norm = (r"^norm", with_the_group_before)
        return {"stem": r"^patch_embed", "blocks": [*(stages if coarse else blocks), norm]}

    def no_weight_decay(self) -> set[str]:
        """Names of the scans' A_log and D and of all parameters of norms."""
        kinds = (Mixer, nn.BatchNorm2d, nn.SyncBatchNorm, nn.LayerNorm)
        layers = [(place, layer) for place, layer in self.named_modules() if isinstance(layer, kinds)]
        return {name for place, layer in layers for name, _ in layer.named_parameters(prefix=place, recurse=False)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training keeps each block's input alone for the backward, which computes the block again."""
        for level in self.levels:
            level.grad_checkpointing = enable

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of torch's modules, for the names of the hub's files too: `checkpoint_path` of `timm.create_model` has no
        other filter."""
        return super().load_state_dict(without_hub_prefix(state_dict), strict, assign)


def without_hub_prefix(state_dict: Mapping[str, Any], model: nn.Module | None = None) -> Mapping[str, Any]:
    """The state dict under the model's names; `model` is what timm hands to a checkpoint filter."""
    if not any(name.startswith(HUB_PREFIX) for name in state_dict):
        return state_dict
    return {name.removeprefix(HUB_PREFIX): value for name, value in state_dict.items()}


def _stages(indices: int | list[int] | tuple[int, ...] | None, count: int) -> list[int]:
    """The stages that `indices` mean, of a model of `count` stages, in ascending order."""
    if indices is None:
        return list(range(count))
    chosen = range(-indices, 0) if is_whole(indices, 1, count) else indices
    wanted = f"None, a number from 1 to {count}, or a list of stages from {-count} to {count - 1}"
    several = isinstance(chosen, (list, tuple, range)) and len(chosen) > 0
    require(several and all(is_whole(stage, -count, count - 1) for stage in chosen), "indices", indices, wanted)
    return sorted({stage % count for stage in chosen})


def _pool(name: str) -> SelectAdaptivePool2d:
    """timm's pooling over the whole map, as sums and maxima over two axes; "" changes nothing."""
    kind = name.removeprefix("fast") if isinstance(name, str) else name
    wanted = f"one of {', '.join(POOLS)}, or '' for no pooling"
    require(isinstance(kind, str) and kind in ("", *POOLS), "global_pool", name, wanted)
    return SelectAdaptivePool2d(pool_type=f"fast{kind}" if kind else "", flatten=bool(kind))


def _side(img_size: object) -> int:
    """The side of square images, given as a number or as a pair."""
    pair = tuple(img_size) if isinstance(img_size, (tuple, list)) else (img_size, img_size)
    square = len(pair) == 2 and pair[0] == pair[1] and is_whole(pair[0], MIN_IMAGE_SIZE)
    wanted = f"a whole number of at least {MIN_IMAGE_SIZE}, or a pair of one; leave it out for images of other shapes"
    require(square, "img_size", img_size, wanted)
    return pair[0]


def _timm_name(config: MambaVisionConfig) -> str:
    return f"mvc_mambavision_{config.name.lower().replace('-', '_')}"


def _default_cfg(config: MambaVisionConfig) -> dict[str, Any]:
    """What timm knows of a variant: the input and its preprocessing, and where the published weights are."""
    side = config.image_size
    cfg = {
        "num_classes": config.num_classes,
        "input_size": (config.in_chans, side, side),
        "min_input_size": (config.in_chans, MIN_IMAGE_SIZE, MIN_IMAGE_SIZE),
        "pool_size": (math.ceil(side / STRIDES[-1]),) * 2,
        "interpolation": "bicubic",
        **{entry: getattr(config, field) for field, entry in PREPROCESSING.items()},
        "first_conv": "patch_embed.conv_down.0",
        "classifier": "head",
        "paper_ids": "arXiv:2407.08083",
    }
    if config.name == "tiny":  # not published
        return cfg
    repository = f"MambaVision-{config.name}" if config.name.endswith("-21K") else f"MambaVision-{config.name}-1K"
    origin = f"https://huggingface.co/nvidia/{repository}"
    licence = LICENCE.partition(" ")[0].lower()  # as timm spells licences
    return {**cfg, "hf_hub_id": f"nvidia/{repository}", "origin_url": origin, "license": licence}


default_cfgs = generate_default_cfgs({_timm_name(config): _default_cfg(config) for config in VARIANTS.values()})


def _entry_point(config: MambaVisionConfig) -> Callable[..., nn.Module]:
    """The function under which timm registers the variant; timm reads its name and its module."""
    name = _timm_name(config)

    def create(pretrained: bool = False, **arguments: Any) -> nn.Module:
        if arguments.get("features_only"):
            # timm's other ways run the modules in their order, or take a stage's map after its down-sampling.
            require_choice("feature_cls", arguments.setdefault("feature_cls", "getter"), ("getter", "hook"))
        changed = {entry: arguments[field] for field, entry in PREPROCESSING.items() if field in arguments}
        overlay = {**changed, **(arguments.pop("pretrained_cfg_overlay", None) or {})}
        return build_model_with_cfg(
            partial(TimmMambaVision, config),
            name,
            pretrained,
            pretrained_cfg_overlay=overlay,
            pretrained_filter_fn=without_hub_prefix,
            feature_cfg={"out_indices": tuple(range(len(STRIDES)))},
            **arguments,
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"MambaVision {config.name}; the arguments are those of `TimmMambaVision` and of timm."
    return register_model(create)


globals().update({_timm_name(config): _entry_point(config) for config in VARIANTS.values()})
