"""From an exported program to an ONNX file, and from the file to a function that onnxruntime runs."""

from __future__ import annotations

import glob
import hashlib
import importlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mvc import files
from mvc.errors import UserError
from mvc.export import guards
from mvc.export.sizes import AXES

OPSET = 20  # the first with GELU, which onnxruntime runs faster than what spells it
MOST_IN_ONE_FILE = 2**31 - 2**28  # protobuf ends at 2 GiB; a quarter of one is for everything but the weights


def require() -> None:
    """Raise UserError unless the packages are installed that write ONNX and run it."""
    for name in ("onnx", "onnx_ir", "onnxscript", "onnxruntime"):
        _import(name)


def write(
    program: torch.export.ExportedProgram,
    path: Path,
    metadata: Mapping[str, str],
    *,
    accept: Callable[[Callable[..., Any]], None],
) -> list[Path]:
    """Write the program in opset 20, its scans as ONNX's Scan.

    The weights lie in the file, or beside it in one named after it and their content where they exceed protobuf's 2 GB.
    The model's file takes its place last, so that it and its weights are there whole or not at all; weights of the
    model that it replaces are then removed. Inputs have the program's names, and outputs are called `output`, or
    `output_0` and so on.

    Args:
        program: with mvc's portable ops.
        metadata: what the model says of itself.
        accept: called with the file as a function before it takes its place.

    Returns:
        the files, that of the model first.

    Raises:
        UserError: a missing package, or an operation or a dtype that ONNX does not have.
        guards.Unserved: what is written holds for a part of the program's range alone.
    """
    require()
    tensors = (node.meta.get("val") for node in program.graph.nodes)
    if any(isinstance(each, Tensor) and each.dtype == torch.bfloat16 for each in tensors):
        raise UserError("the model computes in bfloat16, which ONNX has no convolution for; convert it to float16")
    model = _translated(program)
    model.metadata_props.update(metadata)
    stale = _weights_of(path)
    weights = [tensor.const_value for tensor in model.graph.initializers.values()]
    if sum(tensor.nbytes for tensor in weights) <= MOST_IN_ONE_FILE:
        with files.replacing(path) as partial:
            _import("onnx_ir").save(model, partial)
            accept(load(partial))
        written = [path]
    else:
        written = _write_apart(model, path, f"{path.name}.{_digest(weights)}.data", accept)
    for each in stale - set(written):
        each.unlink(missing_ok=True)
    return written


def _translated(program: torch.export.ExportedProgram) -> Any:
    """The `onnx_ir.Model`, without what the exporter notes of sources."""
    from mvc.export import onnx_ops

    outputs = len(program.graph_signature.user_outputs)
    try:
        with guards.kept(program.graph):
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                optimize=True,
                verbose=False,
                custom_translation_table=onnx_ops.translations(),
                output_names=["output"] if outputs == 1 else [f"output_{index}" for index in range(outputs)],
                dynamic_shapes=_names_of_sizes(program),
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"the model cannot be written as ONNX: {_reason(error)}") from error
    clear = importlib.import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()
    return clear(made.model).model


def _names_of_sizes(program: torch.export.ExportedProgram) -> tuple[dict[int, str], ...]:
    """For each input its free axes with their names; a size that several axes share is named where it is first."""
    found: dict[str, dict[int, str]] = {name: {} for name in program.graph_signature.user_inputs}
    named = set()
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in found:
            shape = node.meta["val"].shape
            for axis, size in enumerate(shape):
                if isinstance(size, torch.SymInt) and str(size) not in named:
                    named.add(str(size))
                    found[node.name][axis] = _axis(axis, len(shape))
    return tuple(found.values())


def _axis(place: int, rank: int) -> str:
    return next((name for name, (axis, of) in AXES.items() if axis == place and of in (None, rank)), f"size_{place}")


def _reason(error: BaseException) -> str:
    """The first line of what the first error said."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0]


def _write_apart(model: Any, path: Path, name: str, accept: Callable[[Callable[..., Any]], None]) -> list[Path]:
    """The model's file, and beside it its weights in a file of this name."""
    weights = path.with_name(name)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        _import("onnx_ir").save(model, Path(folder, path.name), external_data=name)
        accept(load(Path(folder, path.name)))
        os.replace(Path(folder, name), weights)
        os.replace(Path(folder, path.name), path)
    return [path, weights]


def _digest(weights: list[Any]) -> str:
    digest = hashlib.sha256()
    for tensor in weights:
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()[:16]


def _weights_of(path: Path) -> set[Path]:
    """The files that the model at `path` keeps its weights in, if `write` made them."""
    beside = set(map(Path, glob.glob(f"{glob.escape(str(path))}.*.data")))
    if not beside or not path.is_file():
        return set()
    old = _import("onnx_ir").load(path)
    tensors = (tensor.const_value for tensor in old.graph.initializers.values())
    return beside & {path.with_name(tensor.location) for tensor in tensors if hasattr(tensor, "location")}


def load(path: Path) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """The model as a function of dense CPU tensors; it returns a tensor, or a tuple where the model returns several.

    It runs in onnxruntime on a CPU, on as many threads as torch uses now.

    Raises:
        UserError: onnxruntime is not installed, or cannot run the file.
    """
    onnxruntime = _import("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes have no base of their own
        raise UserError(f"path is {str(path)!r}, which onnxruntime cannot run: {_reason(error)}") from error
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        given = {name: x.detach().numpy() for name, x in zip(names, inputs, strict=True)}
        outputs = tuple(map(torch.from_numpy, session.run(None, given)))
        return outputs[0] if len(outputs) == 1 else outputs

    return run


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"ONNX needs a package that is missing ({error}): pip install 'mvc-mambavision[onnx]'"
        ) from error
