"""python -m mvc.compile: build MambaVision, compile it, compare it with eager, measure both and report."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from mvc import cli, files
from mvc.cli import DTYPES, exit_status, positive, write_json
from mvc.compile import torch_private
from mvc.compile.backend import MODES
from mvc.compile.caches import empty_caches
from mvc.compile.compiler import BACKENDS, check_against_eager, compile_model, training_step
from mvc.compile.explanation import kernel_bytes
from mvc.compile.limits import machine_limits
from mvc.compile.report import ModelFacts, Results
from mvc.errors import UserError
from mvc.kernels.implementations import TABLE
from mvc.measure import flops, operators, plot
from mvc.measure.environment import environment
from mvc.measure.ladder import RUNGS, Rung, build, compile_options, measure
from mvc.measure.stopwatch import MEANINGS, CacheFlush, stopwatch
from mvc.model.config import MIN_IMAGE_SIZE, VARIANTS
from mvc.model.image import load_image, preprocess, top_classes
from mvc.model.module import MambaVision, create_model
from mvc.model.weights import load_weights
from mvc.model.windows import token_counts
from mvc.offline import command as offline
from mvc.passes.accuracy import worst
from mvc.passes.measured_choice import Kernels
from mvc.progress import Progress

LADDER = ("reference", "inductor", "mvc")

EXAMPLES = """examples:
  python -m mvc.compile --variant S
  python -m mvc.compile --variant T --batch 16 --dtype bfloat16 --json t.json
  python -m mvc.compile --variant S --weights hub:nvidia/MambaVision-S-1K --image cat.jpg
  python -m mvc.compile --variant tiny --train --repeats 5
  python -m mvc.compile --variant T --explain --dump graphs
  python -m mvc.compile --variant T --ladder --plot ladder.svg
  python -m mvc.compile --variant T --no-frozen --ladder inductor mvc:lower_scan frozen
  python -m mvc.compile --variant T --operators --trace trace.json
  python -m mvc.compile --variant T --batch 128 --dtype float16 --target sm_90 --replay

exit status: 0 done, 1 compiled and eager disagree or a budget is not kept, 2 unusable input or machine, 130
interrupted"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    return exit_status(lambda: _run(args, parser.get_default))


def _run(args: argparse.Namespace, default: Callable[[str], Any]) -> int:
    if args.recompute is not None and not args.train:
        raise UserError("--recompute is for training; add --train or leave it out")
    if args.target:
        return 0 if offline.run(args, default, frozen=_frozen(args)) else 1
    offline.refuse_alone(args)
    with machine_limits(), empty_caches():
        results = run(args)
        if args.json != "-":
            print(results)
            if results.explained:
                print(results.compilation.explanation)
            if results.operators:
                print(results.operators)
        if args.json:
            write_json(results.as_dict(), args.json)
        if args.plot:
            _draw(results, Path(args.plot))
    return 0 if results.check.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__.partition(": ")[2], prog="python -m mvc.compile", epilog=EXAMPLES)
    add = parser.add_argument
    add("--variant", default="S", help=f"one of {', '.join(VARIANTS)} (default S)")
    backends = "mvc: the passes, then Inductor (default); inductor: no passes; eager: the captured graph as it is"
    add("--backend", choices=BACKENDS, default="mvc", help=backends)
    add(
        "--passes",
        type=_passes,
        default="all",
        metavar="NAMES",
        help="all (default), none, or names with commas between them",
    )
    add("--impl", choices=[*TABLE], help="what the scans run on (default the fastest on the device)")
    kernels = "on a GPU, what runs products, convolutions and attention (default measured; with --target own)"
    add("--kernels", choices=get_args(Kernels), help=kernels)
    add("--regions", action="store_true", help="compile each kind of block once: compiles faster, runs slower")
    add(
        "--frozen",
        action=argparse.BooleanOptionalAction,
        help="compute once what depends on parameters alone (default for inference with the backend mvc)",
    )
    recompute = "with --train: compute again in the backward what is cheap, instead of keeping it (default on a GPU)"
    add("--recompute", action=argparse.BooleanOptionalAction, help=recompute)
    add("--verify", action="store_true", help="compare the graph before and after each pass on the input")
    add("--explain", action="store_true", help="also print each pass, its matches and near misses, and the final code")
    add("--dump", type=cli.name, metavar="DIR", help="write the readable graph before and after each pass that fired")
    add("--batch", type=positive, default=8, metavar="N", help="images in a batch (default 8)")
    add("--size", type=_size, metavar="HxW", help="image size, one number or HxW (default the variant's)")
    add("--dtype", choices=DTYPES, default="float32", help="dtype of parameters and input (default float32)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto uses a GPU where there is one")
    add("--weights", type=cli.name, metavar="SRC", help="checkpoint file, or hub:OWNER/NAME (default random weights)")
    add("--image", type=cli.name, metavar="PHOTO", help="run on this photograph and print its top five classes")
    add("--mode", choices=MODES, default="default", help="Inductor's mode")
    add("--dynamic", action="store_true", help="one graph for every batch size above 1; batch N + 1 is checked too")
    add("--train", action="store_true", help="forward and backward, without drop path")
    add("--repeats", type=positive, default=10, metavar="N", help="timed rounds (default 10)")
    add("--inputs", type=positive, default=4, metavar="N", help="different inputs, timed in turn (default 4)")
    add("--clock", choices=MEANINGS, help="how a call is timed (default the device's time on CUDA, wall elsewhere)")
    add("--flush-l2", action="store_true", help="overwrite the GPU's L2 cache before each call")
    add("--ladder", nargs="*", metavar="RUNG", help=f"also measure {', '.join(RUNGS)} (default {' '.join(LADDER)})")
    add("--operators", action="store_true", help="also print where the compiled model's time goes")
    add("--trace", type=cli.name, metavar="FILE", help="write a Chrome trace of three calls of the compiled model")
    add("--plot", type=cli.name, metavar="FILE", help="draw what was measured, .png or .svg (needs matplotlib)")
    add("--seed", type=cli.seed, default=0, metavar="N", help="seed of random weights and input (default 0)")
    add(
        "--json", type=cli.name, metavar="FILE", help="also write the facts as JSON; - prints JSON instead of the table"
    )
    add("--quiet", action="store_true", help="no progress, only the table")
    offline.add_arguments(parser)
    return parser


def _passes(text: str) -> str | list[str]:
    return text if text in ("all", "none") else [name.strip() for name in text.split(",")]


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of pixels nor HxW")
    size = int(sides[0]), int(sides[-1])
    if min(size) < MIN_IMAGE_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is below the least size, {MIN_IMAGE_SIZE}x{MIN_IMAGE_SIZE}")
    return size


def run(args: argparse.Namespace) -> Results:
    """Build, compile, check and measure the model as the arguments say."""
    progress = Progress(quiet=args.quiet)
    device = cli.device(args.device)
    if args.image and args.train:
        raise UserError("--image shows classes, which --train does not compute; leave one of them out")
    if args.regions and args.train:
        raise UserError("--regions is for inference; leave it or --train out")
    options = _options(args)
    names = args.ladder if args.ladder else LADDER if args.ladder is not None else ()
    names = [name for name in dict.fromkeys(names) if name != "eager"]  # which is measured in any case
    _refuse_early(args, names, device)
    surroundings = environment(device)
    progress.say(str(surroundings))

    with progress.step("building the model"):
        model = _build(args, device)
        inputs = _inputs(args, model, device)
        x = inputs[0]
    with contextlib.nullcontext() if args.train else torch.no_grad():
        with progress.step(f"compiling with {args.backend}, cold"):
            compiled, compilation = compile_model(
                model, x, backend=args.backend, mode=args.mode, dynamic=args.dynamic or None, options=options
            )
        rungs = [Rung("eager", model), Rung("compiled", compiled, compilation.seconds)]
        for name in names:
            with progress.step(f"building {name}"):
                same = compile_options(name, training=args.train) == _asked(args)
                rungs.append(Rung(name, *rungs[1][1:]) if same else build(name, model, x, mode=args.mode))
        with progress.step("checking against eager"):
            check = worst(check_against_eager(model, rung.run, x) for rung in rungs[1:])
        if args.dynamic:
            with progress.step(f"checking batch {args.batch + 1} against eager"):
                other = check_against_eager(model, compiled, torch.cat((x, x[:1])))
            check = worst((check, other))
        with progress.step(f"measuring {args.repeats} rounds"):
            measured = measure(
                model, rungs, inputs, rounds=args.repeats, clock=args.clock, flush=args.flush_l2, seed=args.seed
            )
        profiled = None
        if args.operators or args.trace:
            with progress.step("profiling operators"):
                profiled = _profile(args, model, x, measured.product_rate)
        classes = top_classes(compiled(x)[0].float()) if args.image else None
    return Results(
        environment=surroundings,
        model=_model_facts(args, model, x),
        dynamic=args.dynamic,
        compilation=compilation,
        check=check,
        measured=measured,
        rungs=rungs,
        ladder=args.ladder is not None,
        operators=profiled if args.operators else None,
        classes=classes,
        explained=args.explain,
    )


def _refuse_early(args: argparse.Namespace, rungs: Sequence[str], device: torch.device) -> None:
    """Refuse options that would otherwise fail only after long work."""
    if args.json and args.json != "-":
        files.require_folder(Path(args.json), "--json")
    if args.trace:
        files.require_folder(Path(args.trace), "--trace")
    if args.plot:
        plot.check(Path(args.plot))
    for name in rungs:
        compile_options(name, training=args.train)
    if args.clock == "graph" and torch_private.mode_options(args.mode).get("triton.cudagraphs"):
        raise UserError(f"--clock graph captures what --mode {args.mode} captures itself; use --clock kernels with it")
    stopwatch(args.clock, device)
    if args.flush_l2:
        CacheFlush(device)


def _frozen(args: argparse.Namespace) -> bool:
    """Whether the model is compiled with frozen weights: as asked for, otherwise where that has a meaning."""
    if args.frozen and args.train:
        raise UserError("--frozen is for inference; leave it or --train out")
    return args.backend == "mvc" and not args.train if args.frozen is None else args.frozen


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the backend "mvc" that were asked for."""
    names = ("passes", "impl", "kernels", "recompute", "verify", "dump")
    asked = {name: getattr(args, name) for name in names} | {"frozen": _frozen(args)}
    usual = {"passes": "all", "verify": False, "frozen": False}
    return {key: value for key, value in asked.items() if value != usual.get(key)}


def _asked(args: argparse.Namespace) -> dict[str, Any] | None:
    """What is compiled, as `compile_options` names it; None where no rung of the ladder is compiled so."""
    options = _options(args)
    return None if args.dynamic else {"backend": args.backend} | ({"options": options} if options else {})


def _build(args: argparse.Namespace, device: torch.device) -> MambaVision:
    torch.manual_seed(args.seed)
    changes = {"drop_path_rate": 0.0} if args.train else {"compile_regions": args.regions}
    model = create_model(args.variant, device=device, dtype=DTYPES[args.dtype], **changes).train(args.train)
    if args.weights:
        load_weights(model, args.weights)  # logs the licence and the like as warnings
    return model


def _inputs(args: argparse.Namespace, model: MambaVision, device: torch.device) -> list[Tensor]:
    """Inputs of shape (batch, channels, height, width), channels_last: the photograph repeated, or noise."""
    size = args.size or (model.config.image_size,) * 2
    if args.image:
        photo = preprocess(load_image(args.image), model.config, size=size).expand(args.batch, -1, -1, -1)
        inputs = [photo] * args.inputs
    else:
        generator = torch.Generator().manual_seed(args.seed)
        shape = (args.batch, model.config.in_chans, *size)
        inputs = [torch.randn(shape, generator=generator) for _ in range(args.inputs)]
    return [x.to(device, DTYPES[args.dtype]).clone(memory_format=torch.channels_last) for x in inputs]


def _model_facts(args: argparse.Namespace, model: MambaVision, x: Tensor) -> ModelFacts:
    height, width = x.shape[2:]
    meta = create_model(model.config, device="meta").eval()
    with torch.no_grad():
        work = flops.count(lambda: meta(x[:1].to("meta", torch.float32)))
    return ModelFacts(
        variant=model.config.name,
        parameters=sum(p.numel() for p in model.parameters()),
        gmacs=work / 2e9,
        batch=x.shape[0],
        height=height,
        width=width,
        dtype=args.dtype,
        training=args.train,
        weights=args.weights,
        padded_tokens=[padded / real for real, padded in token_counts(model.config, height, width)],
    )


def _draw(results: Results, path: Path) -> None:
    model, measured, surroundings = results.model, results.measured, results.environment
    compiled = f"compiled by {results.compilation.how}"
    work = "training step" if model.training else "inference"
    plot.ladder(
        results.rungs,
        results.measured.rows,
        path,
        batch=model.batch,
        label=f"(clock: {measured.measurement.clock}), median and 10 to 90 % of {measured.rounds} rounds",
        title=f"MambaVision-{model.variant}, {work}, batch {model.batch}, "
        f"{model.height} x {model.width}, {model.dtype}\n"
        f"{surroundings.device}, torch {surroundings.torch}, {compiled}",
    )


def _profile(args: argparse.Namespace, model: MambaVision, x: Tensor, flop_rate: float) -> operators.Operators:
    """Profile the model, compiled once more with names for generated CPU kernels, which cost a little time."""
    options = _options(args)
    if args.backend != "eager":
        options["fx_graph_cache"] = False  # cached code does not tell what it moves
        if x.device.type == "cpu":
            options["cpp.enable_kernel_profile"] = True
    step = training_step if args.train else (lambda run, x: run(x))
    with kernel_bytes() as kernels:
        compiled, _ = compile_model(model, x, backend=args.backend, mode=args.mode, options=options)
        step(compiled, x)  # the backward's code is written when it first runs
    return operators.profile(
        lambda: step(compiled, x), device=x.device, flop_rate=flop_rate, kernels=kernels, trace=args.trace
    )


if __name__ == "__main__":
    sys.exit(main())
