"""How much memory the tensors of generated code take at most: its wrappers are run on tensors without storage.

`python -m mvc.offline.memory RESULT FOLDER` is the process in which they run; `peak` starts it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mvc.errors import UserError
from mvc.offline import child, interpreter
from mvc.offline.manifest import Manifest

TIMEOUT = 300.0  # seconds


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of tensors. What a library takes for itself, and what the allocator rounds up, is not counted.

    Attributes:
        inputs: the model's parameters and buffers, and its argument.
        saved: what the forward keeps for the backward, besides the inputs.
        peak: the most that is alive at once, inputs and gradients included.
    """

    inputs: int
    saved: int
    peak: int


def peak(folder: Path) -> Memory:
    """The memory of the code in a folder that `mvc.offline.generate` has filled.

    The wrapper of the forward runs and, in training, that of the backward, each line as it stands, on tensors of the
    device "meta"; kernels do nothing. A tensor lives until the wrapper deletes it.

    Raises:
        UserError: the folder has no manifest, or the code raises or runs longer than `TIMEOUT`.
    """
    Manifest.read(folder)
    with tempfile.TemporaryDirectory(prefix="mvc-memory-", ignore_cleanup_errors=True) as scratch:
        result = Path(scratch) / "result.json"
        command = [sys.executable, "-m", "mvc.offline.memory", str(result), str(folder)]
        try:
            done = child.run(command, env=child.environment(Path(scratch)), timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"counting memory took longer than {TIMEOUT:.0f} s and was stopped") from error
        if done.returncode:
            raise UserError(f"the memory of the generated code cannot be counted: {child.reason(done)}")
        return Memory(**json.loads(result.read_text()))


def main(arguments: Sequence[str]) -> None:
    result, folder = map(Path, arguments)
    result.write_text(json.dumps(dataclasses.asdict(_counted(folder))), encoding="utf-8")


def _counted(folder: Path) -> Memory:
    manifest = Manifest.read(folder)
    with interpreter.without_storage(), _Alive() as alive:
        forward = interpreter.module(folder / "forward.py")
        arguments = forward.get_args()
        inputs = alive.bytes
        outputs = forward.call(list(arguments))
        if not manifest.model.training:
            return Memory(inputs, 0, alive.most)
        # What the forward saves is returned last and passed to the backward first; cotangents follow.
        count = len(manifest.interfaces["backward"]["inputs"]) - 1
        results, kept = outputs[: len(outputs) - count], outputs[len(outputs) - count :]
        del outputs
        saved = alive.of([*arguments, *kept]) - inputs
        kept += map(torch.empty_like, results)
        interpreter.module(folder / "backward.py").call(kept)  # empties the list, so that it frees what it has used
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

    def of(self, tensors: Sequence[Any]) -> int:
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


if __name__ == "__main__":
    child.serve(main)
