"""`mvc.export_model`: from a model to a file that runs elsewhere."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mvc import __version__, files
from mvc.arguments import require, require_choice, require_flag, require_tensor
from mvc.compile.backend import Options
from mvc.errors import UserError
from mvc.export import guards, isa as instruction_sets, program, torch_private
from mvc.export.sizes import OutOfRange, Sizes, outside
from mvc.model.image import class_names
from mvc.model.module import MambaVision
from mvc.passes import pipeline

FORMATS = {"pt2": ".pt2", "onnx": ".onnx", "exported": ".exported"}
Format = Literal["pt2", "onnx", "exported"]
# What other runtimes see: scans as one op each. Everything else is theirs to fuse.
RAISING = ("raise_loop", "raise_higher_order", "raise_tree", "raise_pscan", "raise_log_scan", "raise_scan")
WINDOWS = (
    "; height and width may be free with the formats 'onnx' and 'exported', from 33 pixels and where the batch is free "
    "too; with a fixed batch of 1 each stage must have one window along an axis for all sizes, or several for all"
)


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export_model` wrote.

    Attributes:
        path: the file. format: how it is run.
        files: all files of it, `path` first.
        sizes: of the inputs, such as "1:64 3 224 224", with "; " between inputs.
        device: "cpu", or the GPU's architecture, such as "sm_90"; None where the file runs on any.
        isa: the processor's instruction set that its code needs; None where it holds no code of a processor.
        seconds: what the export took.
    """

    path: Path
    format: Format
    files: tuple[Path, ...]
    sizes: str
    device: str | None
    isa: str | None
    seconds: float

    @property
    def bytes(self) -> int:
        return sum(each.stat().st_size for each in self.files)


def export_model(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    path: str | Path,
    *,
    format: Format | None = None,
    dynamic: Literal["batch"] | Mapping[str, tuple[int, int]] | None = "batch",
    frozen: bool = True,
    isa: str | None = None,
    target: str | None = None,
    custom_ops: bool = False,
) -> Exported:
    """Write a model, for inference, as a file that runs elsewhere; an existing file is replaced once it is whole.

    The backend's passes run first: scans of any spelling are raised, and a package for a processor or a GPU holds what
    `torch.compile(model, backend="mvc")` runs there.

    Args:
        model: a MambaVision, or any module of tensors, in evaluation mode.
        example: an input of the wanted shape, dtype and device, or a tuple of all inputs.
        path: the file, in a folder that exists.
        format: "pt2", an AOTInductor package for the example's device; "onnx"; or "exported", a program for
            `torch.export.load`. None takes it from the path's suffix: .pt2, .onnx or .exported.
        dynamic: the sizes that are free, each with its least and its largest value, such as `{"batch": (1, 64),
            "height": (64, 512), "width": (64, 512)}`; also "length", the second of three axes. "batch" is
            `{"batch": (1, 64)}`; None frees none. The file serves every size within them.
        frozen: compute what depends on parameters alone now. Otherwise, in ONNX files, and in programs of images of any
            size, the file's tensors are the model's by their names; those of a package can then be replaced
            (`load_constants`).
        isa: for "pt2" on a CPU, the instruction set that its code needs, a name of `mvc.export.isa`; None takes this
            processor's.
        target: for "pt2", the GPU that it is for, a name of `mvc.offline.targets` such as "sm_90", where this machine
            has none; model and example are then on the CPU. With None it is the GPU that holds the example.
        custom_ops: for "exported", leave mvc's ops in the program, which are faster than torch's operations in their
            place; whoever loads it then imports `mvc.kernels.ops` first.

    Returns:
        what was written.

    Raises:
        UserError: an argument that cannot be used, a package that is missing, a path that cannot be written, or a model
            that cannot be captured in one graph or does not serve the sizes.
    """
    start = time.perf_counter()
    path = Path(path)
    chosen = _format(format, path)
    inputs = (example,) if isinstance(example, Tensor) else example
    _check(model, inputs, frozen=frozen, custom_ops=custom_ops, format=chosen)
    device = inputs[0].device
    if isa is not None and (chosen != "pt2" or device.type != "cpu" or target is not None):
        raise UserError(f"isa is {isa!r}, which is for format 'pt2' on a CPU; leave it out")
    if target is not None and chosen != "pt2":
        raise UserError(f"target is {target!r}, which is for format 'pt2' on a GPU; leave it out")
    files.require_folder(path, "path")
    sizes = Sizes.parse(dynamic)
    sizes.check(inputs)
    try:
        written, isa = _WRITERS[chosen](
            model, inputs, path, sizes, frozen=frozen, isa=isa, target=target, custom_ops=custom_ops
        )
    except (guards.Unserved, OutOfRange) as error:
        said = error if isinstance(error, OutOfRange) else outside(str(error), sizes)
        raise UserError(f"{said}{WINDOWS if _has_free_windows(model, inputs, sizes) else ''}") from error
    except OSError as error:
        raise UserError(f"path is {str(path)!r}, which cannot be written: {error.strerror or error}") from error
    seconds = time.perf_counter() - start
    where = torch_private.metadata_of(path)["mvc.device"] if chosen == "pt2" else None
    return Exported(path, chosen, tuple(written), sizes.described(inputs), where, isa, seconds)


def _format(format: str | None, path: Path) -> Format:
    found = next((name for name, suffix in FORMATS.items() if path.suffix == suffix), None)
    if format is None:
        wanted = f"a file that ends in {', '.join(FORMATS.values())}, or format must name one of {', '.join(FORMATS)}"
        require(found is not None, "path", str(path), wanted)
        return found
    require_choice("format", format, FORMATS)
    fits = f"a file that ends in {FORMATS[format]}, by which mvc.export.load knows the format {format!r}"
    require(found in (None, format), "path", str(path), fits)
    return format


def _check(model: object, inputs: object, *, format: Format, **flags: bool) -> None:
    require(isinstance(model, nn.Module), "model", model, "a torch.nn.Module")
    require(not model.training, "model", "in training mode", "in evaluation mode: call model.eval()")
    require(isinstance(inputs, tuple) and len(inputs) > 0, "example", inputs, "a tensor, or a tuple of tensors")
    for index, x in enumerate(inputs):
        require_tensor(f"example[{index}]", x)
    for name, value in flags.items():
        require_flag(name, value)
    if flags["custom_ops"] and format != "exported":
        raise UserError(f"custom_ops is True, which is for format 'exported'; leave it out with {format!r}")


def _package(model, inputs, path, sizes, *, frozen: bool, isa: str | None, target: str | None, custom_ops: bool):
    """An AOTInductor package; returns the files and the instruction set."""
    device = inputs[0].device
    if device.type == "cuda" or target is not None:
        from mvc.export import cuda

        metadata = _metadata(model, inputs, sizes)
        cuda.write(model, inputs, path, sizes, frozen=frozen, metadata=metadata, target=target)
        return [path], None
    if device.type != "cpu":
        raise UserError(f"example is on {device}; a package is for 'cpu' or 'cuda'")
    from mvc.export import aot_inductor
    from mvc.kernels.cpu_scan import BuildError

    isa = instruction_sets.here() if isa is None else isa
    instruction_sets.require_name(isa)
    passes = Options.parse({"frozen": frozen}).build_passes(inference=True)
    made = program.export(model, inputs, sizes, passes=passes, frozen=frozen)
    metadata = {**_metadata(model, inputs, sizes), "mvc.device": "cpu", "mvc.isa": isa}
    try:
        aot_inductor.write(
            made,
            path,
            isa=isa,
            metadata=metadata,
            accept=lambda run: program.check_at_one(run, model, sizes.traceable(inputs), sizes),
        )
    except BuildError as error:
        raise UserError(f"the package's C++ ops cannot be built: {error}") from error
    return [path], isa


def _portable(model: nn.Module, inputs: tuple[Tensor, ...], sizes: Sizes, *, frozen: bool):
    """The program for other runtimes, with mvc's ops."""
    if _has_free_windows(model, inputs, sizes):
        # It has no scan to be raised, and a form for any number of windows where torch.export itself traces it.
        return program.as_it_is(model, inputs, sizes)
    return program.export(model, inputs, sizes, passes=pipeline.build(RAISING, inference=True), frozen=frozen)


def _has_free_windows(model: nn.Module, inputs: tuple[Tensor, ...], sizes: Sizes) -> bool:
    free = {name for x in inputs for name, _, _ in sizes.free(x)}
    return isinstance(model, MambaVision) and bool(free & {"height", "width"})


def _onnx(model, inputs, path, sizes, *, frozen: bool, isa: None, target: None, custom_ops: bool):
    from mvc.export import onnx_file

    onnx_file.require()
    made, example = _portable(model, inputs, sizes, frozen=False), sizes.traceable(inputs)

    def accept(run: Callable[..., Any]) -> None:
        program.check_for(run, model, example, sizes)  # torch's exporter has been seen to write other sizes
        program.check_at_one(run, model, example, sizes)

    return onnx_file.write(made, path, _metadata(model, inputs, sizes), accept=accept), None


def _exported(model, inputs, path, sizes, *, frozen: bool, isa: None, target: None, custom_ops: bool):
    made = _portable(model, inputs, sizes, frozen=frozen)
    if not custom_ops:
        made = program.without_custom_ops(made)
    program.check_at_one(made.module(), model, sizes.traceable(inputs), sizes)
    with files.replacing(path, suffix=".pt2") as partial:
        torch_private.save(made, partial)
    return [path], None


_WRITERS: dict[Format, Callable[..., tuple[list[Path], str | None]]] = {
    "pt2": _package,
    "onnx": _onnx,
    "exported": _exported,
}


def _metadata(model: nn.Module, inputs: tuple[Tensor, ...], sizes: Sizes) -> dict[str, str]:
    """What a package says of itself: values with blanks between, which C++ reads without a parser."""
    facts = {
        "mvc.version": __version__,
        "mvc.torch": torch.__version__,
        "mvc.dtype": str(inputs[0].dtype).removeprefix("torch."),
        "mvc.sizes": sizes.described(inputs),
    }
    if isinstance(model, MambaVision):
        config = model.config
        facts |= {
            "mvc.crop": str(config.crop),
            "mvc.crop_mode": config.crop_mode,
            "mvc.mean": " ".join(map(str, config.mean)),
            "mvc.std": " ".join(map(str, config.std)),
            "mvc.interpolation": "bicubic",
        }
        if config.num_classes == 1000:
            facts["mvc.classes"] = "\n".join(class_names())
    return facts
