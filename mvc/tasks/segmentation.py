"""UPerNet (arXiv 1807.10221) with MambaVision as the backbone, as the published configurations build and train it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvc.arguments import is_whole, require, require_tensor, require_whole
from mvc.errors import UserError
from mvc.model.config import MambaVisionConfig, get_config
from mvc.model.network import wide
from mvc.tasks.backbone import STRIDES, Backbone
from mvc.tasks.heads import ConvUnit, normal
from mvc.tasks.sizes import Size, check_images, check_sizes

# As published for segmentation. Their class drops paths by 0.2 at most, whatever the configuration says.
BACKBONE = {"drop_path_rate": 0.2}
WINDOWS, S_WINDOWS = (64, 32), (160, 56)
CHANNELS = 512  # of the decoding head
POOLS = (1, 2, 3, 6)  # sides of the maps that the last stage is averaged to
DROPOUT = 0.1  # of whole channels
AUXILIARY_STAGE, AUXILIARY_WEIGHT = 2, 0.4
IGNORED = 255  # the label of pixels that no class is known for
AT_ONCE = 16  # classes whose logits are enlarged together; all 150 would take 7 GB for 12 megapixels


class PyramidHead(nn.Module):
    """UPerNet's head: averages of the last map over regions of several sizes, and a feature pyramid of all maps.

    Args:
        channels: of the four maps.
        num_classes: of the logits.
        width: channels of the head.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, width: int) -> None:
        super().__init__()
        *finer, last = channels
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvUnit(last, width, 1, norm=True)) for side in POOLS
        )
        self.bottleneck = ConvUnit(last + len(POOLS) * width, width, norm=True)
        self.lateral_convs = nn.ModuleList(ConvUnit(each, width, 1, norm=True) for each in finer)
        self.fpn_convs = nn.ModuleList(ConvUnit(width, width, norm=True) for _ in finer)
        self.fpn_bottleneck = ConvUnit(len(channels) * width, width, norm=True)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.conv_seg = classifier(width, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (batch, num_classes, height/4, width/4) of the four maps."""
        levels = [lateral(level) for lateral, level in zip(self.lateral_convs, maps[:-1], strict=True)]
        levels.append(self.pooled(maps[-1]))
        for finer in reversed(range(len(levels) - 1)):
            levels[finer] = levels[finer] + resized(levels[finer + 1], levels[finer].shape[2:])
        levels[:-1] = [conv(level) for conv, level in zip(self.fpn_convs, levels[:-1], strict=True)]
        levels = [resized(level, levels[0].shape[2:]) for level in levels]
        return self.conv_seg(self.dropout(self.fpn_bottleneck(torch.cat(levels, 1))))

    def pooled(self, x: Tensor) -> Tensor:
        """The last map beside its averages.

        Raises:
            UserError: training with one image, whose average over the whole map is one value for each channel.
        """
        if self.training and len(x) == 1 and type(self.psp_modules[0][1].bn) is nn.BatchNorm2d:
            raise UserError(
                "images are a batch of 1, of whose averages BatchNorm has no statistics in training; give at least 2 "
                "images, or synchronise the norms of several devices by torch.nn.SyncBatchNorm"
            )
        averages = [resized(module(x), x.shape[2:]) for module in self.psp_modules]
        return self.bottleneck(torch.cat((x, *averages), 1))


class AuxiliaryHead(nn.Module):
    """A fully convolutional head of one map, which is for training alone."""

    def __init__(self, channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvUnit(channels, width, norm=True))
        self.dropout = nn.Dropout2d(DROPOUT)
        self.conv_seg = classifier(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes, height, width) of a map."""
        return self.conv_seg(self.dropout(self.convs(x)))


class Segmenter(nn.Module):
    """UPerNet under the names of the published checkpoints: `backbone`, `decode_head` and `auxiliary_head`.

    `model.compile(backend="mvc", fullgraph=True)` compiles the backbone and the head in one graph; so it does with
    `model.backbone` alone, as for training.

    Args:
        config: the configuration of the backbone.
        num_classes: of the logits, at most 255, since the label 255 is ignored.
        width: channels of the decoding head; the auxiliary head has half as many.
        device, dtype: as for `mvc.create_model`.

    Raises:
        UserError: an argument that cannot be used.
    """

    def __init__(
        self,
        config: MambaVisionConfig,
        *,
        num_classes: int = 150,
        width: int = CHANNELS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        counted = is_whole(num_classes, 1, IGNORED)
        require(counted, "num_classes", num_classes, f"a whole number from 1 to {IGNORED}")
        require_whole("width", width, 2)
        super().__init__()
        self.num_classes = num_classes
        self.backbone = Backbone(config, device=device, dtype=dtype)
        channels = [config.channels(stage) for stage in range(len(STRIDES))]
        with torch.device(torch.get_default_device() if device is None else device):
            self.decode_head = PyramidHead(channels, num_classes, width)
            self.auxiliary_head = AuxiliaryHead(channels[AUXILIARY_STAGE], num_classes, width // 2)
        for head in (self.decode_head, self.auxiliary_head):
            head.to(dtype=dtype, memory_format=torch.channels_last)  # that of the backbone's maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, num_classes, height/4, width/4), sizes rounded up, of normalised images (batch, 3, height,
        width)."""
        return self.decode_head(self.backbone(images))

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        image_sizes: Sequence[Size] | None = None,
        original_sizes: Sequence[Size] | None = None,
    ) -> list[Tensor]:
        """The class of every pixel; the model should be in evaluation mode.

        The logits are resized to the image, and once more to the photograph, as published; that is not the same as one
        resize.

        Args:
            images: (batch, 3, height, width), normalised and padded, as of `mvc.tasks.photographs.padded`.
            image_sizes: (height, width) of each image without its padding; without any if None.
            original_sizes: (height, width) of each photograph before it was resized, to which the labels are brought;
                those of the images if None.

        Returns:
            for each image the labels (height, width) of its photograph, int64.

        Raises:
            UserError: images or sizes that do not fit together.
        """
        check_images(images)
        image_sizes = [tuple(images.shape[2:])] * len(images) if image_sizes is None else image_sizes
        original_sizes = image_sizes if original_sizes is None else original_sizes
        check_sizes(images, image_sizes, original_sizes)
        logits = resized(self(images), images.shape[2:])
        return [
            classes_at(each[:, :height, :width], original)
            for each, (height, width), original in zip(logits, image_sizes, original_sizes, strict=True)
        ]

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The weighted losses of training, to be summed.

        Args:
            images: (batch, 3, height, width), normalised.
            labels: (batch, height, width) int64 from 0; 255 where no class is known.

        Raises:
            UserError: no images, labels that do not fit them or the classes, or a batch of one image in training.
        """
        check_images(images)
        check_labels(labels, images, self.num_classes)
        maps = self.backbone(images)
        return {
            "decode": pixel_loss(self.decode_head(maps), labels),
            "auxiliary": AUXILIARY_WEIGHT * pixel_loss(self.auxiliary_head(maps[AUXILIARY_STAGE]), labels),
        }


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (batch, classes, height/4, width/4), resized to the labels (batch, height, width), as a
    mean over all pixels: ignored ones add nothing to the sum, and count, as published. In float32 at least."""
    logits = resized(wide(logits), labels.shape[1:])
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").mean()


def check_labels(labels: Tensor, images: Tensor, num_classes: int) -> None:
    """Raise UserError for labels that are not int64 of the images' size and batch, or none of the classes."""
    require(len(images) > 0, "images", images, "a batch of at least one image")
    require_tensor("labels", labels)
    wanted = (len(images), *images.shape[2:])
    if labels.shape != wanted or labels.dtype != torch.int64:
        raise UserError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; images of shape {tuple(images.shape)} need "
            f"torch.int64 of shape {wanted}"
        )
    if not labels.is_cpu or torch.compiler.is_compiling():
        return  # a GPU finds them itself, and to ask it here would be to wait for it
    unknown = labels[(labels != IGNORED) & ((labels < 0) | (labels >= num_classes))]
    if len(unknown):
        raise UserError(
            f"labels hold the class {unknown[0].item()}; they must be from 0 to {num_classes - 1}, or {IGNORED} where "
            "no class is known"
        )


def classes_at(logits: Tensor, size: Size) -> Tensor:
    """The class (height, width) with the largest of the logits (classes, height, width), resized to another size.

    Where two classes are one rounding apart the other one may win, since torch rounds by the number of maps.
    """
    best, classes = resized(logits[None, :AT_ONCE], size)[0].max(0)
    for start in range(AT_ONCE, len(logits), AT_ONCE):
        largest, index = resized(logits[None, start : start + AT_ONCE], size)[0].max(0)
        better = largest > best
        best, classes = torch.where(better, largest, best), torch.where(better, index + start, classes)
    return classes


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """(batch, channels, height, width) at another (height, width), bilinear."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def classifier(channels: int, num_classes: int) -> nn.Conv2d:
    """The logits of each position, initialised as published."""
    layer = nn.Conv2d(channels, num_classes, 1)
    normal(layer, std=0.01)
    return layer


def window_sizes(variant: str) -> tuple[int, int]:
    """The published windows of a segmenter's backbone, by the name of its configuration: S has its own."""
    return S_WINDOWS if variant == "S" else WINDOWS


def create_segmenter(
    variant: str | MambaVisionConfig,
    *,
    num_classes: int = 150,
    width: int = CHANNELS,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **changes: object,
) -> Segmenter:
    """A segmenter with freshly initialised weights, in training mode as torch's own modules are.

    Args:
        variant: a name of `mvc.VARIANTS` in any letter case, or a configuration.
        num_classes: ADE20K's 150; at most 255.
        width: channels of the decoding head, as published 512; the auxiliary head has half as many.
        device, dtype: as for `mvc.create_model`.
        changes: fields of `MambaVisionConfig` to change. As published for segmentation, `window_sizes` is (64, 32), of
            S (160, 56), and `drop_path_rate` 0.2 where they are not given, whatever the variant has.

    Raises:
        UserError: an argument that cannot be used.
    """
    config = get_config(variant)
    config = get_config(config, **{**BACKBONE, "window_sizes": window_sizes(config.name), **changes})
    return Segmenter(config, num_classes=num_classes, width=width, device=device, dtype=dtype)
