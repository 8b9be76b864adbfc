"""MambaVision for Hugging Face's transformers: `import mvc.transformers` makes its Auto classes know the models.

`AutoConfig`, `AutoModel`, `AutoModelForImageClassification`, `AutoBackbone` and `AutoImageProcessor` then load the
published repositories and what `save_pretrained` wrote, without code from the hub; `AutoBackbone` loads from the hub
alone, and `MambaVisionBackbone` from folders too. `Trainer` takes "mvc" for its
`torch_compile_backend`.
"""

from importlib.util import find_spec

try:
    from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

    from mvc.transformers.configuration import MambaVisionConfig
    from mvc.transformers.image_processing import MambaVisionImageProcessor
    from mvc.transformers.modeling import (
        MambaVisionBackbone,
        MambaVisionForImageClassification,
        MambaVisionModel,
        MambaVisionPreTrainedModel,
    )
except ImportError as error:
    raise ImportError(
        f"mvc.transformers needs transformers 5.23 or newer ({error}): "
        "pip install --upgrade 'mvc-mambavision[transformers]'"
    ) from error

__all__ = [
    "MambaVisionBackbone",
    "MambaVisionConfig",
    "MambaVisionForImageClassification",
    "MambaVisionImageProcessor",
    "MambaVisionModel",
    "MambaVisionPreTrainedModel",
]

AutoConfig.register(MambaVisionConfig.model_type, MambaVisionConfig)
AutoModel.register(MambaVisionConfig, MambaVisionModel)
AutoModelForImageClassification.register(MambaVisionConfig, MambaVisionForImageClassification)
AutoBackbone.register(MambaVisionConfig, MambaVisionBackbone)
AutoImageProcessor.register(MambaVisionConfig, image_processor_classes={"pil": MambaVisionImageProcessor})

if find_spec("accelerate"):
    from mvc.transformers.accelerate_backend import add_backend

    add_backend("mvc")
