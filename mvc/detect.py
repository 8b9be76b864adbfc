"""python -m mvc.detect: find objects in photographs with Cascade Mask R-CNN or Mask R-CNN on MambaVision."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvc import cli
from mvc.cli import exit_status, write_json
from mvc.compile.limits import machine_limits
from mvc.progress import Progress
from mvc.table import tabulate
from mvc.tasks import coco, command
from mvc.tasks.detection import KINDS, Detections, Detector, Selection, create_detector
from mvc.tasks.photographs import DETECTION_BOUNDS, padded, prepare
from mvc.tasks.pictures import draw_detections
from mvc.tasks.sizes import DETECTION_BUCKETS

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = f"""examples:
  python -m mvc.detect photo.jpg --weights hub:nvidia/cascade_mask_rcnn_mamba_vision_tiny_3x_coco --output found
  python -m mvc.detect photos --variant S --weights s.pth --device cuda --dtype bfloat16 --output found
  python -m mvc.detect val2017 --weights t.pth --threshold 0.05 --json results.json
  python -m mvc.detect photo.jpg --variant tiny --no-compile

{command.STATUSES}"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parser().parse_args(arguments)
    return exit_status(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__.partition(": ")[2], prog="python -m mvc.detect", epilog=EXAMPLES)
    command.add_arguments(parser, json="boxes and masks in COCO's format of results")
    kinds = "cascade: Cascade Mask R-CNN, as published (default); mask_rcnn: the stock Mask R-CNN"
    parser.add_argument("--kind", choices=KINDS, default="cascade", help=kinds)
    threshold = "what a score must exceed (default 0.3; COCO's average precision is taken at 0.05)"
    parser.add_argument("--threshold", type=_share, default=0.3, metavar="SCORE", help=threshold)
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _run(args: argparse.Namespace) -> int:
    progress = Progress(quiet=args.quiet)
    command.refuse_early(args)
    paths, unread = command.photographs(args.photographs), []
    targets = command.pictures(args.output, paths) if args.output else {}
    images = coco.image_ids(paths)
    names, ids = zip(*((each.name, each.id) for each in coco.categories()), strict=True)
    rows: list[tuple[Any, ...]] = []
    results: list[dict[str, Any]] = []
    with machine_limits(remedy=command.LESS_MEMORY):
        model = command.build(args, functools.partial(create_detector, kind=args.kind), progress)
        for path, image in command.each_photograph(paths, unread, progress):
            found = detect(model, image, Selection(score=args.threshold), buckets=args.buckets)
            rows += _rows(path, found, names)
            if args.json:
                results += coco.results(images[path], found, ids)
            if args.output:
                command.save(draw_detections(image, found, names), targets[path])
    if args.json != "-":
        print(tabulate(rows, ["photograph", "object", "score", "x1", "y1", "x2", "y2", "mask pixels"]))
    if args.json:
        write_json(results, args.json)
    return command.UNREAD if unread else 0


def detect(model: Detector, image: Image.Image, select: Selection, *, buckets: bool = False) -> Detections:
    """The objects in one photograph, in its own pixels.

    Args:
        buckets: whether it is padded to one of `DETECTION_BUCKETS`, and not to a multiple of 32, as published.
    """
    weight = next(model.backbone.parameters())
    batch, sizes = padded([prepare(image, DETECTION_BOUNDS)], buckets=DETECTION_BUCKETS if buckets else None)
    (found,) = model.predict(batch.to(weight), sizes, [(image.height, image.width)], select=select)
    return found


def _rows(path: Path, found: Detections, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """The rows of the table, the best first."""
    if not len(found.boxes):
        return [(path.name, "nothing", *[""] * 6)]
    pixels = found.masks.sum((1, 2)).tolist()
    columns = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), pixels, strict=True)
    return [
        (path.name, names[label], f"{score:.3f}", *(f"{side:.0f}" for side in box), area)
        for label, score, box, area in columns
    ]


if __name__ == "__main__":
    sys.exit(main())
