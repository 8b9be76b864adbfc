"""What nvdisasm alone tells of a compiled kernel, beside what `mvc.offline.machine_code` reads."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

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


class Binary(NamedTuple):
    registers: int
    local: int
    opcodes: Counter[str]

    def count(self, prefix: str) -> int:
        return count(self.opcodes, prefix)


def compiled(launch: Any, arguments: Mapping[str, Any], architecture: int) -> Binary:
    """The kernel of a plan's launch."""
    binary = torch_private.compiled_launch(launch.kernel, arguments, architecture, warps=launch.num_warps)
    code = machine_code.read_cubin(binary.image, shared=binary.shared)
    return Binary(code.registers, code.local, opcodes(binary.image))
