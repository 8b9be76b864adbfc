"""The configuration of the models, with the fields of the published config.json."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from mvc.arguments import is_whole, require
from mvc.errors import UserError
from mvc.model import config as model_config
from mvc.model.config import VARIANTS, get_config
from mvc.model.image import class_names

# The fields of mvc.MambaVisionConfig by their names here, which are the published ones where there are some;
# window_sizes and num_classes are told in other forms.
_FIELDS = {
    "variant": "name",
    "depths": "depths",
    "num_heads": "num_heads",
    "dim": "dim",
    "in_dim": "stem_dim",
    "mlp_ratio": "mlp_ratio",
    "drop_path_rate": "drop_path_rate",
    "layer_scale": "layer_scale",
    "num_channels": "in_chans",
    "image_size": "image_size",
    "crop_pct": "crop",
    "crop_mode": "crop_mode",
    "mean": "mean",
    "std": "std",
    "attention": "attention",
    "mixer": "mixer",
    "d_state": "d_state",
    "d_conv": "d_conv",
    "drop_rate": "drop_rate",
    "attn_drop_rate": "attn_drop_rate",
    "padded_windows": "padded_windows",
    "compile_regions": "compile_regions",
}
_SHAPE = ("depths", "num_heads", "dim", "in_dim")  # with the windows, what tells a published variant


class MambaVisionConfig(BackboneConfigMixin, PreTrainedConfig):
    """The configuration of MambaVision's models; the defaults are those of the variant T.

    The published config.json is read as it is. What it leaves out is that of the published variant of this shape:
    `variant`, `image_size`, `crop_pct`, `crop_mode`. Without `num_labels` and `id2label` there are ImageNet's 1,000
    classes, and 1,000 classes without names have ImageNet's; `num_labels=0` leaves out the head.

    Args:
        window_size: four sides of windows, as published: the first two, of convolution stages, are not used.
        in_dim: channels between the two convolutions of the stem.
        layer_scale_conv: None, as in all published variants.
        num_channels: channels of the images.
        out_features, out_indices: for the backbone, the maps that it returns: of "stem", "stage1", "stage2", "stage3",
            "stage4".

    The other fields are those of `mvc.MambaVisionConfig`, which says what they mean. A value that cannot be used is
    refused when a model is made, or by `to_mvc`.
    """

    model_type = "mambavision"

    variant: str | None = None
    depths: list[int] | tuple[int, ...] = (1, 3, 8, 4)
    num_heads: list[int] | tuple[int, ...] = (2, 4, 8, 16)
    window_size: list[int] | tuple[int, ...] = (8, 8, 14, 7)
    dim: int = 80
    in_dim: int = 32
    mlp_ratio: int = 4
    drop_path_rate: float | int = 0.2
    layer_scale: float | int | None = None
    layer_scale_conv: float | int | None = None
    num_channels: int = 3
    image_size: int | None = None
    crop_pct: float | int | None = None
    crop_mode: str | None = None
    mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    attention: str | list[str] | tuple[str, ...] = "last_half"
    mixer: str = "concat"
    d_state: int = 8
    d_conv: int = 3
    drop_rate: float | int = 0.0
    attn_drop_rate: float | int = 0.0
    padded_windows: bool = True
    compile_regions: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)  # names files of code that are not those of these models
        four = isinstance(self.window_size, (list, tuple)) and len(self.window_size) == 4
        require(four, "config field window_size", self.window_size, "four sides of windows")
        labels = kwargs.get("num_labels")
        require(labels is None or is_whole(labels, 0), "num_labels", labels, "a whole number of at least 0")
        require(self.layer_scale_conv is None, "config field layer_scale_conv", self.layer_scale_conv, "None")
        self._complete()
        if self.id2label is None and kwargs.get("num_labels", 1000) == 1000:
            self.id2label = dict(enumerate(class_names()))
            self.label2id = {label: index for index, label in self.id2label.items()}
        self.stage_names = ["stem", "stage1", "stage2", "stage3", "stage4"]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)

    def _complete(self) -> None:
        """Give the fields without a value that of the published variant of this shape, or a usual one."""
        windows = tuple(self.window_size[2:])
        shape = [_hashable(getattr(self, field)) for field in _SHAPE]
        usual = {"variant": "custom", "image_size": 32 * windows[1], "crop_pct": 1.0, "crop_mode": "center"}
        for config in VARIANTS.values():
            if config.window_sizes == windows and [getattr(config, _FIELDS[field]) for field in _SHAPE] == shape:
                usual = {field: getattr(config, _FIELDS[field]) for field in usual}
                break
        for field, value in usual.items():
            if getattr(self, field) is None:
                setattr(self, field, value)

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json holds; of two classes too, which transformers leaves out as its own default."""
        return {**super().to_diff_dict(), "id2label": self.id2label, "label2id": self.label2id}

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage."""
        return 8 * self.dim

    @classmethod
    def from_mvc(cls, variant: str | model_config.MambaVisionConfig, /, **fields: Any) -> MambaVisionConfig:
        """The configuration of a variant of `mvc.VARIANTS` or of a `mvc.MambaVisionConfig`, with fields changed.

        Raises:
            UserError: an unknown variant, or a field of `mvc.MambaVisionConfig` that has another name here.
        """
        config = get_config(variant)
        names = {name: field for field, name in _FIELDS.items()}
        names |= {"window_sizes": "window_size", "num_classes": "num_labels"}
        for name in fields:
            if names.get(name, name) != name:
                raise UserError(f"the config field {name} is called {names[name]} here; pass {names[name]}")
        given = {field: getattr(config, name) for field, name in _FIELDS.items()}
        given["window_size"] = (8, 8, *config.window_sizes)
        if not {"num_labels", "id2label"} & fields.keys():
            given["num_labels"] = config.num_classes
        return cls(**{**given, **fields})

    def to_mvc(self) -> model_config.MambaVisionConfig:
        """The same as a `mvc.MambaVisionConfig`, with `num_labels` as its `num_classes`.

        Raises:
            UserError: a value that cannot be used.
        """
        given = {name: _hashable(getattr(self, field)) for field, name in _FIELDS.items()}
        windows = tuple(self.window_size[2:])
        return model_config.MambaVisionConfig(**given, window_sizes=windows, num_classes=self.num_labels)


def _hashable(value: Any) -> Any:
    """A list, as JSON has it, as a tuple."""
    return tuple(value) if isinstance(value, list) else value
