"""python -m mvc.segment: the class of every pixel of photographs, with UPerNet on MambaVision."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mvc import cli
from mvc.cli import exit_status, write_json
from mvc.compile.limits import machine_limits
from mvc.progress import Progress
from mvc.table import tabulate
from mvc.tasks import ade20k, coco, command
from mvc.tasks.photographs import SEGMENTATION_BOUNDS, padded, prepare
from mvc.tasks.pictures import draw_segments, label_picture
from mvc.tasks.segmentation import Segmenter, create_segmenter
from mvc.tasks.sizes import SEGMENTATION_BUCKETS

if TYPE_CHECKING:
    from PIL import Image

LABELS = "labels"  # the folder of label maps within --output
EXAMPLES = f"""examples:
  python -m mvc.segment photo.jpg --weights hub:nvidia/mamba_vision_160k_ade20k-512x512_tiny --output found
  python -m mvc.segment photos --variant S --weights s.pth --device cuda --dtype bfloat16 --output found
  python -m mvc.segment photos --weights t.pth --buckets --json results.json
  python -m mvc.segment photo.jpg --variant tiny --no-compile

DIR/NAME.png shows the classes found over the photograph, with their names. DIR/labels/NAME.png holds the classes
themselves, as ADE20K's annotations do: 1 to 150.

{command.STATUSES}"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parser().parse_args(arguments)
    return exit_status(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__.partition(": ")[2], prog="python -m mvc.segment", epilog=EXAMPLES)
    command.add_arguments(parser, json="the pixels of each class in COCO's format of results of stuff")
    return parser


def _run(args: argparse.Namespace) -> int:
    progress = Progress(quiet=args.quiet)
    command.refuse_early(args)
    paths, unread = command.photographs(args.photographs), []
    targets = command.pictures(args.output, paths) if args.output else {}
    maps = command.pictures(str(Path(args.output) / LABELS), paths) if args.output else {}
    names = ade20k.class_names()
    images = coco.image_ids(paths)
    rows: list[tuple[Any, ...]] = []
    results: list[dict[str, Any]] = []
    if args.output:
        command.make_folder(Path(args.output) / LABELS)
    with machine_limits(remedy=command.LESS_MEMORY):
        model = command.build(args, create_segmenter, progress)
        for path, image in command.each_photograph(paths, unread, progress):
            labels = segment(model, image, buckets=args.buckets)
            found = segments(labels)
            shares = [(path.name, names[label], pixels, f"{pixels / labels.numel():.1%}") for label, pixels in found]
            rows += shares
            if args.json:
                results += coco_results(images[path], labels, found)
            if args.output:
                command.save(draw_segments(image, labels, names), targets[path])
                command.save(label_picture(labels + 1), maps[path])
    if args.json != "-":
        print(tabulate(rows, ["photograph", "class", "pixels", "share"]))
    if args.json:
        write_json(results, args.json)
    return command.UNREAD if unread else 0


def segment(model: Segmenter, image: Image.Image, *, buckets: bool = False) -> Tensor:
    """The class of every pixel of one photograph: int64 (height, width), from 0, on the CPU.

    Args:
        buckets: whether the photograph is padded to one of `SEGMENTATION_BUCKETS`; as published it is not padded, but
            for a side below the 32 pixels that the model needs.
    """
    weight = next(model.backbone.parameters())
    sizes = {"buckets": SEGMENTATION_BUCKETS} if buckets else {"multiple": 1}
    batch, inside = padded([prepare(image, SEGMENTATION_BOUNDS)], **sizes)
    (labels,) = model.predict(batch.to(weight), inside, [(image.height, image.width)])
    return labels.cpu()


def segments(labels: Tensor) -> list[tuple[int, int]]:
    """The classes that are there and how many pixels each has, the largest first."""
    present, pixels = labels.unique(return_counts=True)
    return sorted(zip(present.tolist(), pixels.tolist(), strict=True), key=lambda each: -each[1])


def coco_results(image: int | str, labels: Tensor, found: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """One entry for each class of a photograph in COCO's format of results of stuff, with its number of pixels.

    Args:
        image: the identifier of the photograph.
        labels: (height, width) from 0; a category's identifier is the label and 1, as in ADE20K.
        found: of `segments`.
    """
    return [
        {
            "image_id": image,
            "category_id": label + 1,
            "category": ade20k.class_names()[label],
            "area": pixels,
            "segmentation": coco.run_lengths(labels == label),
        }
        for label, pixels in found
    ]


if __name__ == "__main__":
    sys.exit(main())
