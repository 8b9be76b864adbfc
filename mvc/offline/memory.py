"""How much memory the tensors of a generated training step take: its wrappers are run on tensors without storage."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mvc.offline import interpreter
from mvc.offline.manifest import Memory


def measured(folder: Path, kept: int) -> Memory:
    """The memory of the training step whose wrappers, `forward.py` and `backward.py`, lie in a folder.

    They run as they stand, on tensors of the device "meta"; kernels do nothing. A tensor lives until the wrapper
    deletes it.

    Args:
        kept: how many values the forward passes to the backward, tensors or not.
    """
    with interpreter.without_storage(), _Alive() as alive:
        forward = interpreter.module(folder / "forward.py")
        arguments = forward.get_args()
        inputs = alive.bytes
        outputs = list(forward.call(list(arguments)))
        # What the forward saves is returned last and passed to the backward first; cotangents of its results follow.
        saved = alive.of([*arguments, *outputs[-kept:]]) - inputs
        handed = [*outputs[-kept:], torch.empty_like(outputs[0])]
        outputs.clear()
        interpreter.module(folder / "backward.py").call(handed)  # empties the list, so that it frees what it has used
    return Memory(inputs, saved, alive.most)


class _Alive(TorchDispatchMode):
    """Follows the memory of the tensors that are made in the block.

    Attributes:
        bytes: of the tensors that are alive.
        most: the most that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._seen: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def of(self, tensors: Iterable[Any]) -> int:
        """The bytes of the memory of these tensors, which some may share."""
        storages = {id(each.untyped_storage()): each.untyped_storage() for each in tensors if isinstance(each, Tensor)}
        return sum(each.nbytes() for each in storages.values())

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = size = storage.nbytes()
        self.bytes += size
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.bytes -= size
