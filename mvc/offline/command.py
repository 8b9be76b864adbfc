"""`python -m mvc.compile --target`: generate and compile GPU code without a GPU, and say what it launches and moves."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from tabulate import tabulate

from mvc.config import get_config
from mvc.errors import UserError
from mvc.offline.codegen import Request
from mvc.offline.generate import generate
from mvc.offline.manifest import Launch, Manifest
from mvc.offline.targets import TARGETS, find
from mvc.progress import Progress
from mvc.report import write_json

SHOWN = 10
WHAT_IT_SHOWS = (
    "generated and compiled for this card, and not run: nothing here is a time, and neither races nor the rounding of "
    "tensor cores nor what autotuning would choose can be seen"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("GPU code without a GPU")
    group.add_argument("--target", choices=TARGETS, help="generate the code for this card, and compile its kernels")
    group.add_argument("--output", metavar="DIR", type=Path, help="folder for the code, needed with --target")
    group.add_argument("--sass", action="store_true", help="with --target: count each binary's instructions")


def run(args: argparse.Namespace) -> None:
    """What `--target` asks for.

    Raises:
        UserError: this machine cannot generate code, or an option that has no meaning here.
    """
    if args.output is None:
        raise UserError("--target writes files; name a folder with --output")
    if args.backend == "eager":
        raise UserError("--backend eager generates no code; use mvc or inductor with --target")
    side = get_config(args.variant).image_size
    height, width = args.size or (side, side)
    request = Request(
        args.variant,
        args.batch,
        height,
        width,
        args.dtype,
        training=args.train,
        backend=args.backend,
        frozen=args.frozen,
    )
    with Progress(quiet=args.quiet).step(f"generating code for {args.target}"):
        manifest = generate(request, find(args.target), args.output, sass=args.sass)
    if args.json:
        write_json(manifest.as_dict(), args.json)
    if args.json != "-":
        print(table(manifest))


def table(manifest: Manifest) -> str:
    """For people."""
    model, kernels = manifest.model, manifest.kernels.values()
    kinds: dict[str, list[Launch]] = defaultdict(list)
    for launch in manifest.launches:
        kinds[launch.kind].append(launch)
    totals = [
        [
            kind,
            len(launches),
            f"{sum(each.bytes_read for each in launches) / 1e6:,.1f}",
            f"{sum(each.bytes_written for each in launches) / 1e6:,.1f}",
            f"{sum(each.flops for each in launches) / 1e9:,.1f}",
        ]
        for kind, launches in [*kinds.items(), ("all", list(manifest.launches))]
    ]
    heaviest = sorted(manifest.launches, key=lambda each: -_bytes(each))[:SHOWN]
    movers = [[each.name, f"{_bytes(each) / 1e6:,.1f}", next(iter(each.source), "")] for each in heaviest]
    work = "training step" if model["training"] else "inference"
    backend = f"backend {model['backend']}{', frozen' if model['frozen'] else ''}"
    return "\n".join(
        [
            f"MambaVision-{model['variant']}, {work}, batch {model['batch']}, {model['height']} x {model['width']}, "
            f"{model['dtype']}, {backend}, for {manifest.target} ({find(manifest.target).card}), torch "
            f"{manifest.versions['torch']}, triton {manifest.versions['triton']}",
            tabulate(totals, headers=["launches of", "", "MB read", "MB written", "GFLOP"], disable_numparse=True),
            f"{len(manifest.kernels)} binaries: at most {max(each.registers for each in kernels)} registers, "
            f"{sum(each.spills > 0 for each in kernels)} with spills, at least "
            f"{min(each.occupancy for each in kernels):.0%} of the warps that a multiprocessor can hold",
            tabulate(movers, headers=["moves most", "MB", "from"], disable_numparse=True),
            WHAT_IT_SHOWS,
        ]
    )


def _bytes(launch: Launch) -> int:
    return launch.bytes_read + launch.bytes_written
