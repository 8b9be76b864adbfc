"""Ways of running a model, and the other backbones with which ours are compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mvc import models

# Arguments of mvc.compile_model.
HOWS: dict[str, dict[str, Any]] = {
    "inductor": {"backend": "inductor"},
    "mvc": {"backend": "mvc"},
    "mvc, frozen": {"backend": "mvc", "options": {"frozen": True}},
}
# On a GPU: one kind of kernel wherever both could run, to see what each is worth beside the measured choice.
FORCED: dict[str, dict[str, Any]] = {
    f"mvc, frozen, kernels {kernels}": {"backend": "mvc", "options": {"frozen": True, "kernels": kernels}}
    for kernels in ("own", "library")
}
# On a GPU, in training: without recomputation, and with independent kernels joined by Inductor.
TRAINED: dict[str, dict[str, Any]] = {
    "mvc, all kept": {"backend": "mvc", "options": {"recompute": False}},
    "mvc, joined": {"backend": "mvc", "options": {"combo_kernels": True}},
}
PEERS = {  # timm's names; further ones are those of mvc.models
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ConvNeXt-T": "convnext_tiny",
    "ViT-S": "vit_small_patch16_224",
    "MambaOut-T": "mambaout_tiny",
    "CAFormer-S18": "caformer_s18",
    "ResNet-50": "resnet50",
}
# Those of the paper's own comparison, and its images/s on an A100 (arXiv 2407.08083), to quote beside what is measured.
COMPARED = ("Vim-T", "Vim-S", "VMamba-T", "Swin-T", "ConvNeXt-T")
PAPER_RATES = {"MambaVision-T": 6298, "VMamba-T": 1282, "Vim-S": 1974, "Swin-T": 2758, "ConvNeXt-T": 3196}


def from_timm(name: str) -> bool:
    """Whether a backbone beside ours is timm's."""
    return name not in models.VARIANTS


def create_peer(name: str, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A backbone beside ours with random weights, in channels_last memory: of `PEERS`, of mvc.models, or of timm's."""
    if from_timm(name):
        import timm

        model = timm.create_model(PEERS.get(name, name)).to(device, dtype)
    else:
        model = models.create_model(name, device=device, dtype=dtype)
    return model.to(memory_format=torch.channels_last)
