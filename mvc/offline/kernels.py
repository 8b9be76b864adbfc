"""Compiles the kernels of generated code for a card, and reads the resources that they need from the binaries.

`python -m mvc.offline.kernels FOLDER TARGET KERNELS [sass]` writes sources and binaries into the folder, and the
resources to the file KERNELS; `mvc.offline.generate` starts it.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mvc.offline import child, torch_private
from mvc.offline.machine_code import RESOURCES, tool
from mvc.offline.manifest import Kernel
from mvc.offline.targets import WARPS_SM, Target, find

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")


def sources(wrapper: str) -> Iterator[tuple[str, str, str]]:
    """Name, function and source of each kernel in a wrapper, `name = async_compile.triton('function', 'source')`."""
    for node in ast.parse(wrapper).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            call = node.value
            if ast.unparse(call.func) == "async_compile.triton":
                yield node.targets[0].id, call.args[0].value, call.args[1].value


def main(arguments: Sequence[str]) -> None:
    folder, target, sass = Path(arguments[0]), find(arguments[1]), "sass" in arguments[3:]
    for name in ("kernels", "cubins"):
        (folder / name).mkdir()
    kernels = {}
    for phase in ("forward", "backward"):
        wrapper = folder / f"{phase}.py"
        for name, function, source in sources(wrapper.read_text(encoding="utf-8")) if wrapper.is_file() else ():
            path = folder / "kernels" / f"{phase}_{name}.py"
            path.write_text(source, encoding="utf-8")
            for index, binary in enumerate(torch_private.compiled(_loaded(path, function), target.compute_capability)):
                cubin = folder / "cubins" / f"{phase}_{name}-{index}.cubin"
                cubin.write_bytes(binary.image)
                kernels[cubin.stem] = dataclasses.asdict(_kernel(cubin, binary, target, sass=sass))
    Path(arguments[2]).write_text(json.dumps(kernels), encoding="utf-8")


def _loaded(path: Path, function: str) -> Any:
    """The kernel of that name in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with torch_private.no_device():
        spec.loader.exec_module(module)
    return getattr(module, function)


def _kernel(cubin: Path, binary: torch_private.Binary, target: Target, *, sass: bool) -> Kernel:
    found = RESOURCES.search(tool("cuobjdump", "--dump-resource-usage", cubin))
    registers, spills = int(found["registers"]), int(found["local"]) + int(found["stack"])
    instructions = Counter(INSTRUCTION.findall(tool("nvdisasm", "-c", cubin))) if sass else None
    return Kernel(
        name=cubin.stem,
        warps=binary.warps,
        stages=binary.stages,
        registers=registers,
        spills=spills,
        shared=binary.shared,
        occupancy=occupancy(target, warps=binary.warps, registers=registers, shared=binary.shared),
        size=len(binary.image),
        sass=instructions and dict(instructions),
    )


def occupancy(target: Target, *, warps: int, registers: int, shared: int) -> float:
    """The warps of this kernel that a multiprocessor holds at once, over the most warps that it can hold."""
    return target.resident(warps=warps, registers=registers, shared=shared) * warps / WARPS_SM


if __name__ == "__main__":
    child.serve(main)
