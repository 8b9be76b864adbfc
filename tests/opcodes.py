"""What nvdisasm alone tells of a compiled kernel, beside what `mvc.offline.machine_code` reads."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from mvc.offline import machine_code, torch_private

OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


def opcodes(image: bytes) -> Counter[str]:
    """How often each instruction stands in a binary, with its modifiers."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        return Counter(OPCODE.findall(machine_code.tool("nvdisasm", "-c", file.name)))


def count(found: Counter[str], prefix: str) -> int:
    return sum(number for opcode, number in found.items() if opcode.startswith(prefix))


class Launch(NamedTuple):
    kernel: Any
    arguments: dict[str, Any]
    grid: tuple[int, ...]
    num_warps: int
    num_stages: int | None


def recorded_launches(ops: ModuleType, patch: pytest.MonkeyPatch) -> list[Launch]:
    """What the ops of a module launch from now on, which is not run."""
    found: list[Launch] = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel, self.names = kernel, [parameter.name for parameter in kernel.params]

        def __getitem__(self, grid):
            return lambda *given, num_warps, num_stages=None, **named: found.append(
                Launch(self.kernel, dict(zip(self.names, given, strict=False)) | named, grid, num_warps, num_stages)
            )

    patch.setattr(ops, "wrap_triton", Recorder)
    return found


class Binary(NamedTuple):
    code: machine_code.Code
    opcodes: Counter[str]

    def count(self, prefix: str) -> int:
        return count(self.opcodes, prefix)


def compiled(launch: Any, arguments: Mapping[str, Any], architecture: int, stages: int | None = None) -> Binary:
    """The kernel of a launch, a plan's or a recorded one."""
    binary = torch_private.compiled_launch(
        launch.kernel, arguments, architecture, warps=launch.num_warps, stages=stages
    )
    return Binary(machine_code.read_cubin(binary.image, shared=binary.shared), opcodes(binary.image))


def compiled_as_launched(launch: Launch, architecture: int) -> Binary:
    return compiled(launch, launch.arguments, architecture, launch.num_stages)
