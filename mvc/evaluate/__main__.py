"""python -m mvc.evaluate: score a folder of images, and say how often the model finds their classes."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from mvc import cli, files
from mvc.cli import DTYPES, exit_status, positive, write_json
from mvc.compile.compiler import CompileReport, compile_model
from mvc.compile.limits import machine_limits
from mvc.errors import UserError
from mvc.evaluate import picture, state as states
from mvc.evaluate.evaluation import Score, Work, evaluate
from mvc.evaluate.plan import Plan, plan
from mvc.evaluate.results import Results
from mvc.evaluate.setting import setting
from mvc.evaluate.state import State
from mvc.images.classes import class_order, read_class_names, shown_names
from mvc.images.folder import ImageFolder, list_images
from mvc.images.loading import Images
from mvc.measure import machine, plot
from mvc.measure.environment import environment
from mvc.model.config import VARIANTS, MambaVisionConfig, get_config
from mvc.model.image import import_pillow, preprocess
from mvc.model.module import MambaVision, create_model
from mvc.model.weights import load_weights, num_classes, stored_config
from mvc.processes import Processes, joined
from mvc.progress import Progress

MOST_WORKERS = 8  # processes that read, unless asked for more

EXAMPLES = """examples:
  python -m mvc.evaluate --variant T --weights hub:nvidia/MambaVision-T-1K --data imagenet/val --dry-run
  python -m mvc.evaluate --variant T --weights t.pth.tar --data imagenet/val --dtype float16 --state t.state
  python -m mvc.evaluate --variant S --weights mine.pth --ema --data flowers/val --json s.json --plot confusion.png
  torchrun --nproc-per-node 8 -m mvc.evaluate --variant B --weights b.pth --data imagenet/val --dtype bfloat16

exit status: 0 done, 1 done but some images could not be read, 2 unusable input or machine, 130 interrupted"""


class Data(NamedTuple):
    """Images, and the model's configuration for their classes.

    Attributes:
        classes: the class index of each class folder.
        names: of all classes of the model, for people.
    """

    folder: ImageFolder
    config: MambaVisionConfig
    classes: tuple[int, ...]
    names: tuple[str, ...]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = _parser().parse_args(arguments)
    return exit_status(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__.partition(": ")[2], prog="python -m mvc.evaluate", epilog=EXAMPLES)
    add = parser.add_argument
    add("--variant", help=f"one of {', '.join(VARIANTS)} (default that of a checkpoint of mvc.train)")
    add("--weights", type=cli.name, required=True, metavar="SRC", help="checkpoint file, or hub:OWNER/NAME")
    add("--ema", action="store_true", help="the moving average of the weights, which a training state holds")
    add("--data", type=cli.name, required=True, metavar="FOLDER", help="has a folder of images for each class")
    names = "text file with the class folders' names, one to a line, in the order of the model's scores (default for "
    names += "1,000 classes ImageNet's WordNet ids, otherwise the folders in sorted order)"
    add("--classes", type=cli.name, metavar="FILE", help=names)
    add("--size", type=cli.side, metavar="N", help="side of the square images in pixels (default the variant's)")
    add("--batch", type=positive, default=64, metavar="N", help="images in a batch (default 64)")
    add("--workers", type=cli.count, metavar="N", help="processes that read images, for each process that scores")
    add("--dtype", choices=DTYPES, default="float32", help="dtype of parameters and input (default float32)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto uses a GPU where there is one")
    add("--no-compile", dest="compile", action="store_false", help="score in eager mode")
    state = "keep the counts here after each ten seconds; where the file is one of the same evaluation, go on from it"
    add("--state", type=cli.name, metavar="FILE", help=state)
    add("--dry-run", action="store_true", help="measure what a full run takes, without --state and --plot")
    add("--plot", type=cli.name, metavar="FILE", help="draw the confusion, .png or .svg (needs matplotlib)")
    json = "also write the figures as JSON, with all classes; - prints JSON instead of the table"
    add("--json", type=cli.name, metavar="FILE", help=json)
    add("--quiet", action="store_true", help="no progress, only the table")
    return parser


def _run(args: argparse.Namespace) -> int:
    with joined(cli.device(args.device)) as processes, machine_limits(), torch.no_grad():
        return run(args, processes)


def run(args: argparse.Namespace, processes: Processes) -> int:
    """Build, compile and score as the arguments say, write what was found, and return the exit status."""
    _refuse_early(args)
    progress = Progress(quiet=args.quiet or not processes.first)
    surroundings = environment(processes.device)
    progress.say(str(surroundings))
    data = _data(args)
    work = _work(args, data, processes)
    with progress.step("building the model"):
        model = create_model(data.config, device=processes.device, dtype=work.dtype).eval()
        load_weights(model, args.weights, ema=args.ema)  # logs the licence and the like as warnings
    here = _setting(args, model, data, work)
    state = _state(args, here, data, processes)
    if args.dry_run:
        found = _plan(args, model, work, progress)
        processes.from_first(lambda: _print(found, args.json))
        return 0
    compilation = _evaluate(args, model, work, state, here, progress)
    if not state.counts.images:
        raise UserError(f"none of the {len(data.folder):,} images can be read: {state.unreadable[0].reason}")
    found = Results(
        environment=surroundings,
        config=data.config,
        weights=args.weights,
        ema=args.ema,
        how=here["computed by"],
        compilation=compilation,
        work=work,
        names=data.names,
        state=state,
    )
    processes.from_first(lambda: _write(args, found))
    return 1 if state.unreadable and processes.first else 0  # torchrun ends the others where one returns more than 0


def _refuse_early(args: argparse.Namespace) -> None:
    """Refuse options that would otherwise fail only after long work."""
    import_pillow()
    if args.state and args.json and Path(args.state).resolve() == Path(args.json).resolve():
        raise UserError(f"--state and --json are both {args.json}; name two files")
    if args.json and args.json != "-":
        files.require_folder(Path(args.json), "--json")
    if args.state:
        files.require_folder(Path(args.state), "--state")
    if args.plot:
        plot.check(Path(args.plot))


def _data(args: argparse.Namespace) -> Data:
    """The images with their classes, compared with those of the weights."""
    folder = list_images(args.data)
    count = num_classes(args.weights, ema=args.ema)
    if not count:
        raise UserError(f"--weights {args.weights} has no head, so that it scores no classes; give weights with one")
    names = read_class_names(Path(args.classes)) if args.classes else None
    classes = class_order(folder.names, count, names)
    config = stored_config(args.weights, args.variant)
    if config is None and args.variant is None:
        raise UserError(f"--weights {args.weights} does not say of which variant it is; name it by --variant")
    config = config or get_config(args.variant, num_classes=count)
    if args.size:
        config = get_config(config, image_size=args.size)
    return Data(folder, config, classes, shown_names(folder.names, classes, count))


def _work(args: argparse.Namespace, data: Data, processes: Processes) -> Work:
    config, rows = data.config, min(args.batch, len(data.folder))
    work = Work(
        Images(data.folder, data.classes, functools.partial(preprocess, config=config)),
        (rows, config.in_chans, config.image_size, config.image_size),
        workers=_workers() if args.workers is None else args.workers,
        dtype=DTYPES[args.dtype],
        processes=processes,
    )
    if (batches := len(work.batches())) < processes.count:
        shared = f"the {len(data.folder):,} images make {batches:,} batches of {rows} for {processes.count} processes"
        raise UserError(f"{shared}; use a smaller --batch, or fewer processes")
    return work


def _workers() -> int:
    """As many as this process has processors for."""
    ours = machine.processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(MOST_WORKERS, max(ours, 1))


def _setting(args: argparse.Namespace, model: MambaVision, data: Data, work: Work) -> dict[str, str]:
    """What the counts depend on, which must be the same in all processes."""
    way = "mvc, frozen" if args.compile else "eager mode"
    here = setting(
        model,
        data.config,
        work.images,
        batch=work.shape[0],
        dtype=args.dtype,
        how=f"{way}, {work.processes.device.type}",
    )
    for rank, there in enumerate(work.processes.gather(here)):
        if differing := [name for name in here if here[name] != there[name]]:
            raise UserError(f"process {rank} has other {', '.join(differing)}; give all processes the same files")
    return here


def _state(args: argparse.Namespace, here: dict[str, str], data: Data, processes: Processes) -> State:
    """What the run goes on from, which the first process reads for all."""

    def find() -> State:
        if args.state and Path(args.state).exists():
            return states.load(here, Path(args.state))
        return State.start(data.config.num_classes)

    return processes.from_first(find)


def _plan(args: argparse.Namespace, model: MambaVision, work: Work, progress: Progress) -> Plan:
    score, compilation = _compiled(args, model, work, progress)
    seconds = compilation.seconds if compilation else 0.0
    with progress.step("measuring"):
        return plan(score, model, work, classes=model.config.num_classes, compile_seconds=seconds)


def _evaluate(
    args: argparse.Namespace,
    model: MambaVision,
    work: Work,
    state: State,
    here: dict[str, str],
    progress: Progress,
) -> CompileReport | None:
    """Score what the state does not cover; what was compiled for it."""
    images = len(work.images)
    if state.done:
        progress.say(f"going on after {state.done:,} of {images:,} images, from {args.state}")
    if state.done == images:
        return None
    score, compilation = _compiled(args, model, work, progress)
    keep = (lambda state: states.save(state, here, Path(args.state))) if args.state else (lambda state: None)
    evaluate(score, work, state, progress=progress, keep=keep)
    return compilation


def _compiled(
    args: argparse.Namespace, model: MambaVision, work: Work, progress: Progress
) -> tuple[Score, CompileReport | None]:
    """What scores a batch, and how it was compiled."""
    if not args.compile:
        return model, None
    with progress.step("compiling"):
        return compile_model(model, work.inputs(torch.zeros(work.shape)), options={"frozen": True})


def _write(args: argparse.Namespace, found: Results) -> None:
    """All that the run puts out."""
    _print(found, args.json)
    if args.plot:
        picture.confusion(found.state.counts, found.names, Path(args.plot), title=found.title)


def _print(found: Plan | Results, json: str | None) -> None:
    if json != "-":
        print(found)
    if json:
        write_json(found.as_dict(), json)


if __name__ == "__main__":
    sys.exit(main())
