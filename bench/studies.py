"""The paper's studies of mixers and of where attention goes, at small scale, with what each design costs at full size.

Nine small models are trained on real images, each from several seeds, by default on scikit-learn's 1,797 digits. Images
are enlarged to 112 x 112, so that stage 3 has 7 x 7 tokens. Beside the accuracies stand figures of MambaVision-T with
each design: parameters and FLOPs, latency on this CPU, launches and bytes on a GPU (which it needs not).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.ablation import costs, images, noise, picture, report
from bench.ablation.designs import DESIGNS, SIDE
from bench.ablation.results import Results
from bench.ablation.training import Recipe, train
from bench.checkout import commit
from bench.zoo.page import with_table
from mvc import cli, files
from mvc.cli import exit_status, json_text, positive
from mvc.errors import UserError
from mvc.measure import plot
from mvc.measure.environment import environment
from mvc.offline import device
from mvc.progress import Progress

RECIPE = Recipe(steps=600, batch=32, dim=8)
QUICK = Recipe(steps=2, batch=4, dim=4)
MOST, QUICK_MOST = 10_000, 40  # images
SEEDS, QUICK_SEEDS = 3, 2
MARKS = "<!-- the tables of bench/studies.py -->", "<!-- end of the tables -->"
EXAMPLES = """examples:
  python bench/studies.py --json studies.json --plot studies.png    all of it, half an hour on two cores
  python bench/studies.py --data FOLDER --seeds 5 --json studies.json
  python bench/studies.py --parts trainings --only causal regular --json studies.json
  python bench/studies.py --parts none --json studies.json          only shows what was found
  python bench/studies.py --quick                                   the same code in seconds; its figures mean nothing

Results are written after each training and each figure. A command that finds its results in --json goes on from there.

exit status: 0 done; 2 unusable input or machine; 130 interrupted, with what was found until then in --json"""


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    return exit_status(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    made = cli.parser(__doc__, epilog=EXAMPLES)
    add = made.add_argument
    add("--data", type=Path, metavar="DIR", help="a folder of images for each class (default scikit-learn's digits)")
    add("--images", type=positive, metavar="N", help=f"at most so many images (default {MOST:,})")
    add(
        "--seeds", type=positive, metavar="N", help=f"trainings of a design (default {SEEDS}, of --quick {QUICK_SEEDS})"
    )
    add("--steps", type=positive, metavar="N", help=f"of a training (default {RECIPE.steps}, of --quick {QUICK.steps})")
    add(
        "--only",
        nargs="+",
        choices=DESIGNS,
        default=[*DESIGNS],
        metavar="DESIGN",
        help=f"of {', '.join(map(repr, DESIGNS))}",
    )
    add("--parts", nargs="+", choices=[*PARTS, "none"], metavar="PART", help=f"{', '.join(PARTS)}, or none: see --json")
    add("--quick", action="store_true", help="small models and few steps, and nothing is compiled")
    add("--json", metavar="FILE", help="results, which a later command continues or shows; - for standard output")
    add("--plot", type=Path, metavar="FILE", help="a picture of the accuracies, .png or .svg")
    add("--page", type=Path, metavar="FILE", help="a page of Markdown whose tables are written anew")
    add("--quiet", action="store_true", help="no progress")
    return made


def _run(args: argparse.Namespace) -> int:
    if args.plot:
        plot.check(args.plot)
    if args.page:
        with_tables(args.page, "")
    noise.scipy_stats()
    results = Results(Path(args.json) if args.json not in (None, "-") else None)
    progress = Progress(quiet=args.quiet)
    for part in parts(args, progress):
        PARTS[part](args, results, progress)
    if args.plot:
        picture.draw(results.facts, args.plot)
    if args.page:
        files.replace(args.page, with_tables(args.page, report.page(results.facts)))
    print(json_text(results.facts) if args.json == "-" else report.page(results.facts), end="")
    return 0


def parts(args: argparse.Namespace, progress: Progress) -> list[str]:
    """The parts to run. GPU code that this machine cannot generate is left out, unless it was asked for.

    Raises:
        UserError: it was asked for.
    """
    if args.parts:
        if "gpu" in args.parts:
            device.require()
        return [part for part in args.parts if part != "none"]
    chosen = [*(QUICK_PARTS if args.quick else PARTS)]
    if "gpu" in chosen and (reason := device.why_not()):
        progress.say(f"the part gpu is left out: {reason}")
        chosen.remove("gpu")
    return chosen


def with_tables(path: Path, text: str) -> str:
    """The page with the text in the place of its tables.

    Raises:
        UserError: it cannot be read, or has no place for them.
    """
    files.require_folder(path, "--page")
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read --page {path}: {error.strerror}; name another page") from error
    return with_table(page, text, marks=MARKS)


def _trainings(args: argparse.Namespace, results: Results, progress: Progress) -> None:
    recipe = dataclasses.replace(QUICK if args.quick else RECIPE, **({"steps": args.steps} if args.steps else {}))
    most = args.images or (QUICK_MOST if args.quick else MOST)
    with progress.step("reading images"):
        data = images.read(args.data, side=SIDE, most=most)
    results.require_settings({**dataclasses.asdict(recipe), "side": SIDE, **data.described()})
    seeds = range(args.seeds or (QUICK_SEEDS if args.quick else SEEDS))
    planned = [(name, seed) for seed in seeds for name in args.only]  # a seed is whole before the next begins
    for number, (name, seed) in enumerate(planned, start=1):
        key = report.training_key(name, seed)
        if key in results.part("trainings"):
            continue
        _note(results, "trainings")
        found = train(name, seed, data, recipe, progress.say)
        results.add("trainings", key, {"design": name, "seed": seed, **found})
        progress.say(f"{number} of {len(planned)}: {key}: {found['accuracy']:.2f} % in {found['seconds']:.0f} s")


def _counts(args: argparse.Namespace, results: Results, progress: Progress) -> None:
    for name in args.only:
        results.add("counts", name, costs.counted(name))


def _latency(args: argparse.Namespace, results: Results, progress: Progress) -> None:
    if all(name in results.part("latency") for name in args.only):
        return
    found = costs.latencies(args.only, progress)  # all anew: only what is timed in turns can be compared
    _note(results, "latency")
    for name, facts in found.items():
        results.add("latency", name, facts)


def _gpu(args: argparse.Namespace, results: Results, progress: Progress) -> None:
    for name in args.only:
        if name not in results.part("gpu"):
            _note(results, "gpu")
            with progress.step(f"generating GPU code of {costs.BASE} with {name!r}"):
                results.add("gpu", name, costs.on_gpu(name))


def _note(results: Results, part: str) -> None:
    """With what and on what a part is measured."""
    about = {"commit": commit(), **dataclasses.asdict(environment(torch.device("cpu")))}
    results.add("environment", part, about)


Part = Callable[[argparse.Namespace, Results, Progress], None]
PARTS: Mapping[str, Part] = {"trainings": _trainings, "counts": _counts, "latency": _latency, "gpu": _gpu}
QUICK_PARTS = ("trainings", "counts")


if __name__ == "__main__":
    sys.exit(main())
