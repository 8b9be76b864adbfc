"""Ways of running a model, and the other backbones with which ours are compared."""

from __future__ import annotations

from typing import Any

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
PEERS = {  # timm's names
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ConvNeXt-T": "convnext_tiny",
    "ViT-S": "vit_small_patch16_224",
    "MambaOut-T": "mambaout_tiny",
    "CAFormer-S18": "caformer_s18",
    "ResNet-50": "resnet50",
}
