"""Ops called eagerly on plain tensors: what depends on the signature of the arguments alone is worked out once.

On small inputs the detours that transforms, modes and tracing need take longer than an op's work: Python under the
dispatcher, an autograd formula in Python whether there are gradients or not, the checks, a Triton launch bound anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

from mvc.kernels import torch_private

Tensors = Sequence["Tensor | None"]
ALIGNMENT = 16  # bytes; Triton compiles a kernel anew for a pointer that is aligned to so many
MOST = 1024  # signatures that are kept; texts of every length have one each

_prepared: dict[tuple, Any] = {}


def applies(tensors: Tensors) -> bool:
    """Whether these are plain tensors, and nobody watches or transforms what is done with them."""
    if not torch_private.plain_eager():
        return False
    return all(t is None or torch_private.is_plain(t) for t in tensors)


def signature(tensors: Tensors, *options: Hashable) -> tuple:
    """What decides how an op runs: tensors of one signature differ in values and addresses alone."""
    layouts = [t if t is None else (t.shape, t.stride(), t.dtype, t.device, t.data_ptr() % ALIGNMENT) for t in tensors]
    return (*options, *layouts)


def find(key: tuple) -> Any:
    """What was prepared for arguments of that signature; None where nothing was."""
    return _prepared.get(key)


def keep(key: tuple, prepared: Any) -> Any:
    """Keep what was prepared for arguments of that signature, and return it."""
    if len(_prepared) >= MOST:
        _prepared.clear()
    _prepared[key] = prepared
    return prepared
