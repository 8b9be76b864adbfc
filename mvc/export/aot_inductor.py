"""From an exported program to an AOTInductor package for a CPU.

Beside Inductor's library the package holds that of mvc's C++ ops, which the former links and finds in its own folder,
so that whoever loads the package needs torch alone. The weights lie in it as they are. What depends on them alone,
oneDNN's packed weights among it, is computed when the package is loaded, on the processor that runs it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from mvc import files
from mvc.compile.torch_private import fewer_shape_guards
from mvc.export import guards, torch_private
from mvc.export.isa import X86, obstacle

# Declared as AOTInductor calls them; `kernels/csrc/packing.h` defines them.
C_SHIMS = {
    "pack_linear": "AOTITorchError aoti_torch_cpu_pack_linear(AtenTensorHandle, int64_t, AtenTensorHandle*)",
    "pack_convolution": "AOTITorchError aoti_torch_cpu_pack_convolution(AtenTensorHandle, const int64_t*, int64_t, "
    "const int64_t*, int64_t, const int64_t*, int64_t, int64_t, const int64_t*, int64_t, AtenTensorHandle*)",
}


def write(
    program: torch.export.ExportedProgram,
    path: Path,
    *,
    isa: str,
    metadata: Mapping[str, str],
    accept: Callable[[Callable[..., Any]], None],
) -> None:
    """Write the package, whole or not at all.

    Args:
        isa: the instruction set of its code, a name of `mvc.export.isa`.
        metadata: what the package says of itself.
        accept: called with the package as a function before it takes its place, where this processor can run it.

    Raises:
        guards.Unserved: the code holds for a part of the program's range alone.
        mvc.kernels.cpu_scan.BuildError: the C++ ops cannot be built.
    """
    from mvc.kernels import cpu_scan

    options = {
        "aot_inductor.package": True,
        "aot_inductor.use_runtime_constant_folding": True,
        "aot_inductor.metadata": dict(metadata),
        **torch_private.unchecked_lower_bounds(),
    }
    known = X86.get(isa)
    capability = known.capability if known else None
    with tempfile.TemporaryDirectory(prefix="mvc-export-") as folder, files.replacing(path, suffix=".pt2") as partial:
        beside: list[Path] = []
        if _holds_own_ops(program):
            # By another suffix than the model's library: torch's loader runs the one that ends in .so.
            beside.append(Path(folder) / cpu_scan.soname(capability))
            shutil.copy(cpu_scan.library_path(capability), beside[0])
            options |= _shims()
        # With its level, so that the system refuses the library too, whoever loads it.
        options |= torch_private.linked(cpu_scan.NEEDED_LEVELS.get(capability, []), *beside or [None])
        compile(program, partial, options, isa=isa, beside=beside)
        if obstacle(isa) is None:
            accept(torch_private.load(partial))


def compile(
    program: torch.export.ExportedProgram,
    path: Path,
    options: Mapping[str, Any],
    *,
    isa: str,
    beside: Sequence[Path] = (),
) -> None:
    """Compile a program into a package, its C++ for an instruction set; raises Unserved as `write` does."""
    known = X86.get(isa)
    generating = torch_private.code_for(known.vectors, known.architecture) if known else nullcontext({})
    with guards.kept(program.graph), fewer_shape_guards(), generating as for_processor:
        torch_private.package(program, path, {**options, **for_processor}, beside)


def _shims() -> dict[str, Any]:
    return {
        "aot_inductor.custom_ops_to_c_shims": {
            getattr(torch.ops.mvc, name).default: [shim] for name, shim in C_SHIMS.items()
        }
    }


def _holds_own_ops(program: torch.export.ExportedProgram) -> bool:
    return any(getattr(node.target, "namespace", None) == "mvc" for node in program.graph.nodes)
