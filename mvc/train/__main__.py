"""python -m mvc.train: train a MambaVision on a folder of images by the paper's recipe, or fine-tune one."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvc import cli, files
from mvc.cli import DTYPES, exit_status, positive, write_json
from mvc.compile.limits import machine_limits
from mvc.errors import UserError
from mvc.images.folder import ImageFolder, list_images
from mvc.measure import plot
from mvc.model.config import VARIANTS, MambaVisionConfig, get_config
from mvc.model.module import MambaVision, create_model
from mvc.model.weights import load_weights, num_classes
from mvc.processes import Processes, joined
from mvc.progress import Progress
from mvc.table import tabulate
from mvc.train import checkpoint, curves, data
from mvc.train.checkpoint import Position
from mvc.train.forecast import forecast
from mvc.train.loop import Sources, Training
from mvc.train.recipe import Recipe, option, recipe_of
from mvc.train.step import Execution, Step

PARTS = ("train", "val")  # of a data set
MEMORY = "give --accumulate or --recompute, or a smaller --batch or --size"  # where there is too little
EXAMPLES = """examples:
  torchrun --nproc-per-node 8 -m mvc.train --variant T --data imagenet --output t --workers 12
  python -m mvc.train --variant T --data imagenet --output t --dry-run
  python -m mvc.train --variant T --data imagenet --output t --resume
  python -m mvc.train --variant T --weights hub:nvidia/MambaVision-T-1K --data flowers --output flowers \\
      --batch 64 --lr 5e-4 --epochs 30 --warmup-epochs 3 --cooldown-epochs 0 --ema-decay 0.99
  python -m mvc.train --variant tiny --data digits --output digits --batch 64 --epochs 5 --warmup-epochs 1 \\
      --cooldown-epochs 0 --dtype float32 --plot digits.png

exit status: 0 done, 2 unusable input or machine, or a loss that is not finite, 130 interrupted, 143 terminated; after
each of the last three, --resume goes on from the last checkpoint"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parser().parse_args(arguments)
    return exit_status(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__.partition(": ")[2], prog="python -m mvc.train", epilog=EXAMPLES)
    add = parser.add_argument
    add("--data", type=cli.name, required=True, metavar="DIR", help="folder with train/CLASS/... and val/CLASS/...")
    add("--output", type=cli.name, required=True, metavar="DIR", help="folder of checkpoints and log; made if missing")
    add("--variant", default="T", help=f"one of {', '.join(VARIANTS)} (default T)")
    add("--size", type=cli.side, metavar="N", help="side of the images; windows grow with it (default the variant's)")
    add(
        "--weights", type=cli.name, metavar="SRC", help="begin with this checkpoint, or hub:OWNER/NAME (default random)"
    )
    add("--resume", action="store_true", help="go on from the output's last checkpoint")
    add("--save-every", type=positive, metavar="N", help="also save after every N updates (default after epochs alone)")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="bfloat16 (default): mixed precision")
    add("--accumulate", type=positive, default=1, metavar="N", help="compute an update in N parts (default 1)")
    add("--recompute", action="store_true", help="compute blocks again in the backward: less memory, more time")
    fsdp = "spread weights and optimiser over the processes (default for L3 on several; FSDP2)"
    add("--fsdp", action=argparse.BooleanOptionalAction, help=fsdp)
    add("--backend", choices=("mvc", "inductor", "eager"), default="mvc", help="what compiles (default mvc)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto uses a GPU where there is one")
    add("--workers", type=cli.count, default=4, metavar="N", help="processes that read images, for each (default 4)")
    add("--rows", type=positive, metavar="N", help="images that a process validates at once (default as it trains)")
    add("--dry-run", action="store_true", help="run a few updates, say what all of it takes, and write nothing")
    add("--plot", type=cli.name, metavar="FILE", help="draw the curves after each epoch, .png or .svg")
    add("--json", type=cli.name, metavar="FILE", help="also write the result as JSON; - prints JSON alone")
    add("--quiet", action="store_true", help="no progress, only the result")
    recipe = parser.add_argument_group("the recipe, whose defaults are the published ones (docs/train.md)")
    for field in dataclasses.fields(Recipe):
        kind = {"int": cli.count, "float": _number, "str": str}[field.type]
        shown = field.default if isinstance(field.default, str) else f"{field.default:.4g}"
        meaning = f"{field.metadata['meaning']} (default {shown})".replace("%", "%%")
        recipe.add_argument(option(field.name), type=kind, metavar="X", help=meaning)
    return parser


def _run(args: argparse.Namespace) -> int:
    _require_packages()
    if args.plot:
        plot.check(Path(args.plot))
    if args.json and args.json != "-":
        files.require_folder(Path(args.json), "--json")
    with joined(cli.device(args.device)) as processes, machine_limits(remedy=MEMORY):
        progress = Progress(quiet=args.quiet or not processes.first)
        sources, config = _sources(args)
        recipe = recipe_of(config, _given(args))
        config = dataclasses.replace(config, drop_path_rate=recipe.drop_path, crop=recipe.crop)
        execution = _execution(args, config, processes)
        rows = _rows(recipe, execution, processes, images=len(sources.train))
        data.transform(recipe, config)  # a policy that timm does not know is an error before anything is written
        sources = dataclasses.replace(sources, rows=args.rows or rows)
        torch.manual_seed(recipe.seed)
        model = _model(args, config, processes)
        updates = sources.order(recipe).updates
        step = Step(model, recipe, execution, processes, updates=updates)
        _seed(recipe, processes)
        if args.dry_run:
            found = forecast(step, sources)
            _tell(args, processes, found.rows(), dataclasses.asdict(found))
            return 0
        return _train(args, step, sources, progress)


def _train(args: argparse.Namespace, step: Step, sources: Sources, progress: Progress) -> int:
    folder, processes = Path(args.output), step.processes
    images = processes.from_first(sources.train.fingerprint)
    given = checkpoint.setting(step, names=sources.train.names, images=images)
    position = processes.from_first(lambda: _prepared(folder, resume=args.resume))
    if _resumes(args, processes):
        position, notes = checkpoint.load(folder, step, given)
        for note in notes:
            progress.say(note)
        progress.say(f"going on after update {position.updates}")
    training = Training(step, sources, folder, position, given, progress, save_every=args.save_every)
    last: dict[str, Any] = {}
    for last in training.epochs():  # noqa: B007 - the facts after the last epoch are the result
        if args.plot and processes.first:
            curves.draw(folder, Path(args.plot), title=_title(step))
    result = {**last, "best_top_1": training.position.best, "output": str(folder)}
    _tell(args, processes, [("best top-1", f"{training.position.best:.2%}"), ("checkpoints", str(folder))], result)
    return 0


def _resumes(args: argparse.Namespace, processes: Processes) -> bool:
    """Whether the training has begun before and goes on."""
    return args.resume and processes.from_first(lambda: checkpoint.exists(Path(args.output)))


def _prepared(folder: Path, *, resume: bool) -> Position:
    """The beginning of a training in a folder that is made, or was."""
    if checkpoint.exists(folder) and not resume:
        raise UserError(f"--output {folder} holds a training; go on with it by --resume, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make --output {folder}: {error.strerror}; name another folder") from error
    files.require_folder(folder / checkpoint.LAST, "--output")
    return Position()


def _sources(args: argparse.Namespace) -> tuple[Sources, MambaVisionConfig]:
    """The folders, and the variant for their number of classes and the size of the images."""
    root = Path(args.data)
    train, validation = (_folder(root, part) for part in PARTS)
    if len(train.names) == 1:
        raise UserError(f"--data {root} has one class, {train.names[0]}; there is something to learn from two on")
    if train.names != validation.names:
        apart = sorted({*train.names} ^ {*validation.names})
        raise UserError(f"--data {root}: {apart[0]} is a class of one of {' and '.join(PARTS)} alone; both need it")
    config = get_config(args.variant, num_classes=len(train.names))
    size = args.size or config.image_size
    # Windows as large a part of the map as at the variant's own size, as published for 256 and 512 pixels.
    windows = tuple(max(1, round(window * size / config.image_size)) for window in config.window_sizes)
    config = dataclasses.replace(config, image_size=size, window_sizes=windows)
    return Sources(train, validation, rows=1, workers=args.workers), config


def _folder(root: Path, part: str) -> ImageFolder:
    if not (root / part).is_dir():
        raise UserError(
            f"--data {root} has no folder {part}; it must hold {' and '.join(PARTS)}, with one folder of "
            "images for each class in each"
        )
    return list_images(root / part)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of the recipe that the user set."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)}
    return {name: value for name, value in values.items() if value is not None}


def _execution(args: argparse.Namespace, config: MambaVisionConfig, processes: Processes) -> Execution:
    fsdp = args.fsdp
    if fsdp is None:
        fsdp = config.name.startswith("L3") and processes.count > 1
    if fsdp and processes.count == 1:
        raise UserError("--fsdp spreads weights over processes, and there is one; start several with torchrun")
    return Execution(args.backend, DTYPES[args.dtype], args.accumulate, args.recompute, fsdp)


def _rows(recipe: Recipe, execution: Execution, processes: Processes, *, images: int) -> int:
    """Images of a part of an update in each process.

    Args:
        images: for training.
    """
    if recipe.batch > images:
        raise UserError(
            f"--batch is {recipe.batch} and there are {images} images for training, each of which an epoch takes once; "
            f"give a --batch of at most {images}"
        )
    parts = processes.count * execution.parts
    if recipe.batch % parts:
        raise UserError(
            f"--batch is {recipe.batch}, which {processes.count} processes with --accumulate {execution.parts} cannot "
            f"share; give a multiple of {parts}"
        )
    rows = recipe.batch // parts
    if recipe.mixes and rows % 2:
        raise UserError(
            f"mixup and cutmix pair the images of a process, of which there are {rows} (--batch {recipe.batch} over "
            f"{parts}); give a --batch that is a multiple of {2 * parts}, or --mixup 0 --cutmix 0"
        )
    return rows


def _model(args: argparse.Namespace, config: MambaVisionConfig, processes: Processes) -> MambaVision:
    """With random weights, or with those of a checkpoint, whose head is left out where it is for other classes."""
    model = create_model(config, device=processes.device)
    if args.weights and not _resumes(args, processes):
        head = "strict" if num_classes(args.weights) == config.num_classes else "reset"
        load_weights(model, args.weights, head=head)  # logs the licence and a head left out as warnings
    return model


def _seed(recipe: Recipe, processes: Processes) -> None:
    """Start the generators of this process, each process from numbers of its own."""
    of_python, of_numpy, of_torch = data.seeds(recipe.seed, processes.rank)
    random.seed(of_python)
    np.random.seed(of_numpy)
    torch.manual_seed(of_torch)


def _tell(args: argparse.Namespace, processes: Processes, rows: list[tuple[str, str]], facts: dict[str, Any]) -> None:
    if not processes.first:
        return
    if args.json != "-":
        print(tabulate(rows))
    if args.json:
        write_json(facts, args.json)


def _title(step: Step) -> str:
    recipe, config = step.recipe, step.model.config
    return f"MambaVision-{config.name}, {config.image_size} pixels, {config.num_classes} classes, batch {recipe.batch}"


def _require_packages() -> None:
    missing = [name for name in ("timm", "torchvision", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"training needs {', '.join(missing)}: pip install 'mvc-mambavision[train]'")


def _number(text: str) -> float:
    with contextlib.suppress(ValueError):
        return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number")


if __name__ == "__main__":
    sys.exit(main())
