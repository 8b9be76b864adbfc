"""python -m mvc.export: write MambaVision as a file that runs elsewhere, and compare the file with eager mode."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mvc import cli, files
from mvc.cli import DTYPES, exit_status, finite, write_json
from mvc.compile.compiler import check_against_eager
from mvc.export import isa
from mvc.export.api import FORMATS, Exported, export_model
from mvc.export.loading import load
from mvc.export.sizes import Range
from mvc.measure.environment import environment
from mvc.model.config import MIN_IMAGE_SIZE, VARIANTS, MambaVisionConfig, get_config
from mvc.model.module import MambaVision, create_model
from mvc.model.weights import load_weights, stored_config
from mvc.offline.targets import TARGETS
from mvc.passes.accuracy import Check
from mvc.progress import Progress
from mvc.table import tabulate

TRACED_BATCH = 8  # for which tiles and library calls are chosen, where the range holds it
SCHEMA = "mvc.export/1"

EXAMPLES = """examples:
  python -m mvc.export --variant T --output t.pt2
  python -m mvc.export --variant S --weights hub:nvidia/MambaVision-S-1K --output s.onnx
  python -m mvc.export --weights run/best.pt --ema --output mine.pt2
  python -m mvc.export --variant T --dtype bfloat16 --batch 1:16 --isa avx2 --output t.pt2
  python -m mvc.export --variant tiny --batch 1:8 --size 64:512 --custom-ops --output tiny.exported

exit status: 0 done, 1 the file and eager disagree, 2 unusable input or machine, 130 interrupted"""


@dataclasses.dataclass(frozen=True)
class Compared:
    """The file beside eager mode for inputs of some sizes."""

    sizes: Mapping[str, int]
    check: Check


@dataclasses.dataclass(frozen=True)
class Tried:
    """The file as it was run here; the seconds are those until its first result."""

    load_seconds: float | None = None
    compared: tuple[Compared, ...] = ()


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parser().parse_args(arguments)
    return exit_status(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__.partition(": ")[2], prog="python -m mvc.export", epilog=EXAMPLES)
    add = parser.add_argument
    add("--output", type=cli.name, metavar="FILE", required=True, help="the file; what is there is replaced")
    variant = f"one of {', '.join(VARIANTS)} (default that of a checkpoint of mvc.train, otherwise S)"
    add("--variant", help=variant)
    add("--weights", type=cli.name, metavar="SRC", help="checkpoint file, or hub:OWNER/NAME (default random weights)")
    add("--ema", action="store_true", help="the moving average of the weights, which a training state holds")
    kinds = "pt2: AOTInductor package; onnx; exported: for torch.export.load (default by the file's suffix)"
    add("--format", choices=FORMATS, help=kinds)
    add(
        "--batch",
        type=_range,
        default=(1, 64),
        metavar="LOW:HIGH",
        help="images in a batch, or one number (default 1:64)",
    )
    add(
        "--size",
        type=_sides,
        metavar="HxW",
        help="image size; each side one number or LOW:HIGH (default the variant's)",
    )
    add("--dtype", choices=DTYPES, default="float32", help="dtype of parameters and input (default float32)")
    devices = "what a .pt2 is for: cpu (default), cuda, or a GPU that this machine need not have"
    add("--device", choices=("cpu", "cuda", *TARGETS), default="cpu", help=devices)
    frozen = "compute now what depends on parameters alone (default), or leave the weights replaceable by name"
    add("--frozen", action=argparse.BooleanOptionalAction, default=True, help=frozen)
    add("--isa", choices=isa.NAMES, help="instruction set of a .pt2 for a CPU (default this processor's)")
    add("--custom-ops", action="store_true", help="exported: keep mvc's ops, which are faster; their users import mvc")
    add("--check", action=argparse.BooleanOptionalAction, default=True, help="compare the file with eager (default)")
    add("--seed", type=cli.seed, default=0, metavar="N", help="seed of random weights and input (default 0)")
    add(
        "--json", type=cli.name, metavar="FILE", help="also write the facts as JSON; - prints JSON instead of the table"
    )
    add("--quiet", action="store_true", help="no progress, only the table")
    return parser


def _range(text: str) -> Range:
    """LOW:HIGH, or one number for both."""
    low, _, high = text.partition(":")
    limits = cli.positive(low), cli.positive(high or low)
    if limits[0] > limits[1]:
        raise argparse.ArgumentTypeError(f"{text!r} begins with the larger number; write {limits[1]}:{limits[0]}")
    return limits


def _sides(text: str) -> tuple[Range, Range]:
    sides = text.lower().split("x")
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a range of pixels nor HxW")
    height, width = _range(sides[0]), _range(sides[-1])
    if min(height[0], width[0]) < MIN_IMAGE_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is below the least size, {MIN_IMAGE_SIZE}x{MIN_IMAGE_SIZE}")
    return height, width


def _run(args: argparse.Namespace) -> int:
    progress = Progress(quiet=args.quiet)
    if args.json and args.json != "-":
        files.require_folder(Path(args.json), "--json")
    with progress.step("building the model"):
        model = _build(args)
    dynamic = _ranges(args, model)
    usual = {"batch": TRACED_BATCH, "height": model.config.image_size, "width": model.config.image_size}
    example = _images(args, model, {name: _nearest(usual[name], limits) for name, limits in dynamic.items()})
    with progress.step(f"exporting to {args.output}"):
        written = export_model(
            model,
            example,
            args.output,
            format=args.format,
            dynamic=dynamic,
            frozen=args.frozen,
            isa=args.isa,
            target=args.device if args.device in TARGETS else None,
            custom_ops=args.custom_ops,
        )
    tried = _try(args, model, dynamic, written, progress) if args.check and args.device not in TARGETS else Tried()
    if args.json:
        write_json(_facts(args, model.config, written, tried), args.json)
    if args.json != "-":
        print("\n".join(_lines(args, written, tried)))
    return 0 if all(each.check.passed for each in tried.compared) else 1


def _home(args: argparse.Namespace) -> str:
    """Where the model lies here."""
    return "cpu" if args.device in TARGETS else args.device


def _build(args: argparse.Namespace) -> MambaVision:
    torch.manual_seed(args.seed)
    stored = stored_config(args.weights, args.variant) if args.weights else None
    config = stored or get_config(args.variant or "S")
    model = create_model(config, device=_home(args), dtype=DTYPES[args.dtype]).eval()
    if args.weights:
        load_weights(model, args.weights, ema=args.ema)
    return model


def _ranges(args: argparse.Namespace, model: MambaVision) -> dict[str, Range]:
    side = model.config.image_size
    height, width = args.size or ((side, side), (side, side))
    return {"batch": args.batch, "height": height, "width": width}


def _nearest(usual: int, limits: Range) -> int:
    """The size for which code is chosen: the usual one, or what of the range is nearest to it."""
    return min(max(usual, limits[0]), limits[1])


def _images(args: argparse.Namespace, model: MambaVision, sizes: Mapping[str, int]) -> Tensor:
    generator = torch.Generator().manual_seed(args.seed)
    shape = (sizes["batch"], model.config.in_chans, sizes["height"], sizes["width"])
    x = torch.randn(shape, generator=generator).to(_home(args), DTYPES[args.dtype])
    return x.clone(memory_format=torch.channels_last)


def _try(
    args: argparse.Namespace, model: MambaVision, dynamic: Mapping[str, Range], written: Exported, progress: Progress
) -> Tried:
    """Load the file, time its first image, and compare it with eager mode at three sizes."""
    points = _points(dynamic)
    first = _images(args, model, points[0])
    start = time.perf_counter()
    with torch.no_grad():
        run = load(written.path)
        run(first)
    seconds, compared = time.perf_counter() - start, []
    for sizes in points:
        with progress.step(f"comparing with eager at {' x '.join(map(str, sizes.values()))}"):
            compared.append(Compared(sizes, check_against_eager(model, run, _images(args, model, sizes))))
    return Tried(seconds, tuple(compared))


def _points(dynamic: Mapping[str, Range]) -> list[dict[str, int]]:
    """The least sizes, some between that are no power of two, and the largest."""
    points = [{name: limits[index] for name, limits in dynamic.items()} for index in (0, 1)]
    points.insert(1, {name: _between(*limits) for name, limits in dynamic.items()})
    return [point for index, point in enumerate(points) if point not in points[:index]]


def _between(low: int, high: int) -> int:
    """A size in the range, no power of two where there is one."""
    return next((size for size in range(max(low, 3), high + 1) if size & (size - 1)), low)


def _facts(args: argparse.Namespace, config: MambaVisionConfig, written: Exported, tried: Tried) -> dict[str, Any]:
    """The facts as plain types that JSON can hold."""
    facts = dataclasses.asdict(written) | {"path": str(written.path), "files": [str(each) for each in written.files]}
    compared = [
        {**each.sizes, "error": finite(each.check.error), "limit": finite(each.check.tolerance)}
        for each in tried.compared
    ]
    return {
        "schema": SCHEMA,
        "variant": config.name,
        "dtype": args.dtype,
        "frozen": args.frozen,
        **facts,
        "bytes": written.bytes,
        "load_seconds": tried.load_seconds,
        "compared": compared,
        "environment": dataclasses.asdict(environment(torch.device(_home(args)))),
    }


def _lines(args: argparse.Namespace, written: Exported, tried: Tried) -> Iterator[str]:
    names = " and ".join(str(each) for each in written.files)
    yield f"{names}: {written.bytes / 1e6:.1f} MB, written in {written.seconds:.0f} s"
    yield f"inputs: {written.sizes}, {args.dtype}"
    rows = [
        [" x ".join(map(str, each.sizes.values())), f"{each.check.error:.1e}", f"{each.check.tolerance:.1e}"]
        for each in tried.compared
    ]
    if rows:
        yield tabulate(rows, headers=["batch x height x width", "error", "limit"])
        yield f"load and first image: {tried.load_seconds:.2f} s"
    device = written.device if written.isa is None else f"{written.device} ({written.isa})"
    yield _WHERE[written.format].format(path=written.path, device=device)


_WHERE = {
    "pt2": "it runs in this version of torch on {device}: mvc.export.load({path}) or "
    "torch._inductor.aoti_load_package in Python, examples/cpp in C++",
    "onnx": "it runs in onnxruntime: mvc.export.load or onnxruntime.InferenceSession",
    "exported": "it runs where torch is: mvc.export.load or torch.export.load",
}


if __name__ == "__main__":
    sys.exit(main())
