"""The private torch API that `mvc.kernels` uses, in this one place; a test fails when it changes."""

from __future__ import annotations

import torch


def under_functorch() -> bool:
    """Whether a torch.func transform (vmap, grad, …) is running; torch has no public question for it."""
    return torch._C._are_functorch_transforms_active()
