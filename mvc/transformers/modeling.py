"""The models: `mvc.model.network` as transformers' vision models are called.

Their tensors have the published names: those of `mvc.MambaVision` behind `model.`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.utils import can_return_tuple

from mvc.arguments import require_flag
from mvc.model import layers, network
from mvc.model.module import MambaVision
from mvc.transformers.configuration import MambaVisionConfig


class _Checkpointed(GradientCheckpointingLayer):
    """A block that transformers can have computed again in the backward: `activation_checkpointing_enable`."""

    @property
    def _gradient_checkpointing_func(self) -> Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]:
        return lambda block, x: self._checkpoint(network.counting_once(self, block), x)

    @_gradient_checkpointing_func.setter
    def _gradient_checkpointing_func(self, checkpoint: Callable[..., Tensor]) -> None:
        self._checkpoint = checkpoint  # torch.utils.checkpoint.checkpoint, with what was asked for


class ConvBlock(layers.ConvBlock, _Checkpointed):
    """The block of convolutions, which transformers can checkpoint."""


class TokenBlock(layers.TokenBlock, _Checkpointed):
    """The block of a mixer or attention, which transformers can checkpoint."""


_BLOCKS = {layers.ConvBlock: ConvBlock, layers.TokenBlock: TokenBlock}


class MambaVisionPreTrainedModel(PreTrainedModel):
    """What the models share: how they are loaded, initialised and checkpointed."""

    config_class = MambaVisionConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ("ConvBlock", "TokenBlock")
    _keep_in_fp32_modules_strict = (r"\.A_log$", r"\.D$")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill a layer as `mvc.create_model` does, except for its tensors that were loaded."""
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        loaded = [(tensor, tensor.clone()) for tensor in tensors if getattr(tensor, "_is_hf_initialized", False)]
        layers.initialize(module)
        for tensor, value in loaded:
            tensor.copy_(value)

    def _network(self, *, with_head: bool) -> MambaVision:
        """The network of the configuration, with values that `post_init` fills."""
        config = self.config.to_mvc()
        model = MambaVision(config if with_head else dataclasses.replace(config, num_classes=0), device="meta")
        for stage in model.levels:
            for block in stage.blocks:
                block.__class__ = _BLOCKS[type(block)]
        return model.to_empty(device=torch.get_default_device())

    def _asked(self, output_hidden_states: bool | None) -> bool:
        """Whether the call, or else the configuration, asks for the hidden states."""
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        require_flag("output_hidden_states", asked)
        return asked


class MambaVisionModel(MambaVisionPreTrainedModel):
    """The network without its head.

    A checkpoint's head is left out when it is loaded.
    """

    _keys_to_ignore_on_load_unexpected = (r"^model\.head\.",)

    def __init__(self, config: MambaVisionConfig) -> None:
        super().__init__(config)
        self.model = self._network(with_head=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """The features of images (batch, num_channels, height, width), of at least 32 x 32.

        Returns:
            `last_hidden_state`: the map of stage 4 (batch, 8·dim, height/32, width/32), sizes rounded up;
            `pooler_output`: (batch, 8·dim), that map normalised and averaged; and `hidden_states` where asked for: the
            map of the stem and those of the stages, before down-sampling. A tuple with `return_dict=False`.

        Raises:
            ValueError, TypeError: images that cannot be used, as for `mvc.functional.forward`.
        """
        maps = network.maps(self.model, pixel_values, name="pixel_values")
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=maps[-1],
            pooler_output=network.pooled(self.model, maps[-1]),
            hidden_states=maps if self._asked(output_hidden_states) else None,
        )


@dataclasses.dataclass
class _Problem:
    """What transformers' loss reads of a configuration."""

    num_labels: int
    problem_type: str | None


class MambaVisionForImageClassification(MambaVisionPreTrainedModel):
    """The network with a head for `config.num_labels` classes."""

    accepts_loss_kwargs = False

    def __init__(self, config: MambaVisionConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = self._network(with_head=True)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, output_hidden_states: bool | None = None
    ) -> ImageClassifierOutputWithNoAttention:
        """Class scores of images (batch, num_channels, height, width), of at least 32 x 32.

        Args:
            labels: for the loss: (batch,) class indices; with one class, or as `config.problem_type` says, values for a
                regression or (batch, num_labels) of several classes at once.

        Returns:
            `loss` where there are labels, `logits` (batch, num_labels), and `hidden_states` where asked for, as of
            `MambaVisionModel`. A tuple with `return_dict=False`.

        Raises:
            ValueError, TypeError: images that cannot be used, as for `mvc.functional.forward`.
        """
        network.check_images(self.model, pixel_values, name="pixel_values")
        maps = None
        if self._asked(output_hidden_states):
            maps = network.maps(self.model, pixel_values)
            logits = self.model.head(network.pooled(self.model, maps[-1]))
        else:
            logits = self.model(pixel_values)
        loss = None if labels is None else self._loss(labels, logits)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=maps)

    def _loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """transformers' loss, which writes the kind of problem that it takes labels for to its configuration.

        The usual one is not kept: the next call of compiled code would see another configuration, and compile again.
        """
        config = _Problem(self.num_labels, self.config.problem_type)
        loss = self.loss_function(labels, logits, config)
        if config.problem_type != "single_label_classification":
            self.config.problem_type = config.problem_type
        return loss


class MambaVisionBackbone(BackboneMixin, MambaVisionPreTrainedModel):
    """The maps of the stages that `config.out_features` names, for detectors and segmenters.

    The last normalisation and the head are left out, and so are theirs of a checkpoint.
    """

    has_attentions = False
    _keys_to_ignore_on_load_unexpected = (r"(^|\.)model\.(norm|head)\.",)

    def __init__(self, config: MambaVisionConfig) -> None:
        super().__init__(config)
        self.model = self._network(with_head=False)
        self.model.norm = nn.Identity()
        self.num_features = [config.dim, *(config.dim * 2**stage for stage in range(4))]
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, output_hidden_states: bool | None = None) -> BackboneOutput:
        """The maps of images (batch, num_channels, height, width), of at least 32 x 32.

        Returns:
            `feature_maps`, one for each of `out_features`: (batch, dim, height/4, width/4) for "stem", and (batch,
            dim·2^k, height/2^(k+2), width/2^(k+2)) for stages 1 to 4, k = 0 to 3, before down-sampling, sizes rounded
            up; and `hidden_states` where asked for, which are all five. A tuple with `return_dict=False`.

        Raises:
            ValueError, TypeError: images that cannot be used, as for `mvc.functional.forward`.
        """
        maps = network.maps(self.model, pixel_values, name="pixel_values")
        named = zip(self.stage_names, maps, strict=True)
        return BackboneOutput(
            feature_maps=tuple(each for name, each in named if name in self.out_features),
            hidden_states=maps if self._asked(output_hidden_states) else None,
        )
