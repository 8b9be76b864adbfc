"""What an evaluation's counts depend on, in a form that a later run compares with its own."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from mvc.images.loading import Images
from mvc.model.config import MambaVisionConfig


def setting(
    model: nn.Module, config: MambaVisionConfig, images: Images, *, batch: int, dtype: str, how: str
) -> dict[str, str]:
    """The weights, the images with their classes, and everything that can change a score in its last bits.

    Args:
        model: with its weights loaded.
        config: its variant, and how images are prepared for it.
        batch: rows of a batch.
        dtype: of the model's parameters.
        how: what computes it, and on which kind of device.
    """
    import PIL

    image = f"{config.image_size} pixels, crop {config.crop}, {config.crop_mode}, mean {config.mean}, std {config.std}"
    classes = hashlib.sha256(repr((images.folder.fingerprint(), images.classes)).encode()).hexdigest()
    return {
        "variant": config.name,
        "weights": fingerprint(model),
        "images": classes,
        "preprocessing": image,
        "dtype": dtype,
        "batch": str(batch),
        "computed by": how,
        "torch": str(torch.__version__),  # a class of its own otherwise, which is no plain data
        "Pillow": PIL.__version__,
    }


def fingerprint(model: nn.Module) -> str:
    """A SHA-256 of a model's tensors with their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
