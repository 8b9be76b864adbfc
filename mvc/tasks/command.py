"""What `python -m mvc.detect` and `python -m mvc.segment` share: photographs in, pictures and JSON out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mvc import cli, files
from mvc.cli import DTYPES
from mvc.errors import UserError
from mvc.model.config import VARIANTS
from mvc.model.image import load_image
from mvc.progress import Progress
from mvc.tasks.checkpoints import load_task_weights
from mvc.tasks.packages import optional

if TYPE_CHECKING:
    from PIL import Image

PHOTOGRAPHS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # of those in a folder
LESS_MEMORY = "use --dtype bfloat16 or a smaller --variant"
UNREAD = 1  # exit status where some photographs cannot be read
STATUSES = (
    "exit status: 0 done, 1 some photographs could not be read, 2 unusable input or machine, 130 interrupted\n"
    "Published weights are under a licence of their own, for non-commercial use; it is printed when they are loaded."
)


def add_arguments(parser: argparse.ArgumentParser, *, json: str) -> None:
    """The arguments of both commands.

    Args:
        json: what `--json` writes.
    """
    add = parser.add_argument
    add("photographs", nargs="+", metavar="PHOTO", type=cli.name, help="image files, or folders of them")
    add("--variant", default="T", help=f"one of {', '.join(VARIANTS)} (default T)")
    weights = "checkpoint file, or hub:OWNER/NAME (default random weights, whose results mean nothing)"
    add("--weights", type=cli.name, metavar="SRC", help=weights)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto uses a GPU where there is one")
    add("--dtype", choices=DTYPES, default="float32", help="dtype of parameters and maps (default float32)")
    add("--output", type=cli.name, metavar="DIR", help="draw what is found into this folder, as NAME.png")
    add("--json", type=cli.name, metavar="FILE", help=f"write {json}; - prints JSON instead of the table")
    add("--no-compile", dest="compile", action="store_false", help="run the backbone eagerly")
    buckets = "pad photographs to one of three sizes: at most three graphs are compiled, each for its size"
    add("--buckets", action="store_true", help=f"{buckets} (default as published)")
    add("--seed", type=cli.seed, default=0, metavar="N", help="seed of random weights (default 0)")
    add("--quiet", action="store_true", help="no progress, only the table")


def refuse_early(args: argparse.Namespace) -> None:
    """Refuse at once what could not be read or written after long work, and make the folder of pictures."""
    optional("PIL.Image")
    if args.json:
        optional("pycocotools.mask")
    if args.json and args.json != "-":
        files.require_folder(Path(args.json), "--json")
    if args.output:
        make_folder(Path(args.output))


def make_folder(folder: Path) -> None:
    """Make a folder of pictures, within --output.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --output {folder}: {error.strerror}; name another folder") from error
    files.require_folder(folder / "NAME.png", "--output")


def build(args: argparse.Namespace, create: Callable[..., nn.Module], progress: Progress) -> nn.Module:
    """The model for inference, on its device, with its weights, and its backbone compiled when it is first called."""
    torch.manual_seed(args.seed)
    with progress.step(f"building the model of {args.variant}"):
        model = create(args.variant, device=cli.device(args.device), dtype=DTYPES[args.dtype]).eval()
        model.requires_grad_(False)
        if args.weights:
            load_task_weights(model, args.weights)  # logs the licence as a warning
        else:
            progress.say("the weights are random: what is found means nothing; give --weights")
    if args.compile:
        # Without buckets the first size gets a graph of its own, and all others one together.
        dynamic = False if args.buckets else None
        model.backbone.compile(backend="mvc", options={"frozen": True}, fullgraph=True, dynamic=dynamic)
    return model


def each_photograph(
    paths: Sequence[Path], unread: list[Path], progress: Progress
) -> Iterator[tuple[Path, Image.Image]]:
    """Every photograph; those that cannot be read are named on standard error and collected in `unread`."""
    for number, path in enumerate(paths, 1):
        try:
            image = load_image(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            unread.append(path)
            continue
        with progress.step(f"{path.name} ({number} of {len(paths)})"):
            yield path, image


def photographs(names: Sequence[str]) -> list[Path]:
    """The image files that are named, and those in the folders that are named, each once.

    Raises:
        UserError: a file is missing, or a folder holds no photograph.
    """
    found: dict[Path, None] = {}
    for path in map(Path, names):
        if path.is_dir():
            within = sorted(each for each in path.iterdir() if each.suffix.lower() in PHOTOGRAPHS)
            if not within:
                raise UserError(f"PHOTO {path} is a folder without a photograph ({', '.join(PHOTOGRAPHS)})")
            found |= dict.fromkeys(within)
        elif path.exists():
            found[path] = None
        else:
            raise UserError(f"PHOTO {path} does not exist; give an image file or a folder of them")
    return list(found)


def pictures(folder: str, paths: Sequence[Path]) -> dict[Path, Path]:
    """Where the picture of each photograph is drawn; photographs of one name in several folders are numbered.

    Raises:
        UserError: a picture would be written over a photograph.
    """
    taken: set[str] = set()
    sources = {path.resolve() for path in paths}
    targets = {}
    for path in paths:
        name, serial = path.stem, 1
        while name in taken:
            serial += 1
            name = f"{path.stem}-{serial}"
        taken.add(name)
        targets[path] = target = Path(folder) / f"{name}.png"
        if target.resolve() in sources:
            raise UserError(f"--output {folder} would replace the photograph {target}; name another folder")
    return targets


def save(picture: Image.Image, target: Path) -> None:
    """Write a picture, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with files.replacing(target) as partial:
            picture.save(partial, format="PNG")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; name another folder by --output") from error
