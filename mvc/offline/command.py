"""`python -m mvc.compile --target`: generate and compile GPU code without a GPU, check it, and say what it costs."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mvc import files
from mvc.cli import finite, write_json
from mvc.compile.backend import Options
from mvc.errors import UserError
from mvc.model.config import get_config
from mvc.offline import budget, report
from mvc.offline.generate import generate
from mvc.offline.manifest import Manifest, Request
from mvc.offline.replay import replay
from mvc.offline.targets import TARGETS, find
from mvc.passes.accuracy import Check
from mvc.progress import Progress

BUDGETS = Path("bench/budgets")
OWN = ("target", "output", "autocast", "sass", "replay", "check_budget", "update_budget")
SHARED = (
    *("variant", "batch", "size", "dtype", "train", "backend", "passes", "kernels", "frozen", "recompute"),
    *("json", "quiet"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("GPU code without a GPU")
    add = group.add_argument
    cards = ", ".join(f"{target.name} ({target.card})" for target in TARGETS.values())
    add("--target", metavar="CARD", help=f"generate the code for this card, and compile its kernels: {cards}")
    output = "folder for the code and nothing else, replaced as a whole (default VARIANT-TARGET)"
    add("--output", metavar="DIR", type=Path, help=output)
    autocast = "with --target and --train: parameters and images in float32, under autocast to --dtype"
    add("--autocast", action="store_true", help=autocast)
    add("--sass", action="store_true", help="with --target: count each binary's instructions")
    add("--replay", action="store_true", help="with --target: compare the code with eager at batch 1 on the CPU")
    folder = {"metavar": "DIR", "type": Path, "nargs": "?", "const": BUDGETS}
    add("--check-budget", help=f"with --target: compare with DIR/ARCHITECTURE.json (default {BUDGETS})", **folder)
    add("--update-budget", help="with --target: write what was generated as the budget", **folder)


def run(args: argparse.Namespace, default: Callable[[str], Any], *, frozen: bool) -> bool:
    """Do what `--target` asks for; return whether budget and replay, where they are asked for, are within their limits.

    Args:
        default: from an argument's name to its default.
        frozen: whether the code is for frozen weights.

    Raises:
        UserError: this machine cannot generate code, or an option that has no meaning here.
    """
    for name, given in vars(args).items():
        if name not in (*OWN, *SHARED) and given != default(name):
            raise UserError(f"--{name.replace('_', '-')} has no meaning with --target; leave it out")
    if args.check_budget and args.update_budget:
        raise UserError("--update-budget overwrites what --check-budget compares with; leave one of them out")
    target, request = find(args.target), _request(args, frozen)
    allowed = budget.find(args.check_budget, target.name, request) if args.check_budget else None
    if args.json and args.json != "-":
        files.require_folder(Path(args.json), "--json")
    folder = args.output or Path(f"{args.variant}-{args.target}")
    progress = Progress(quiet=args.quiet)
    with progress.step(f"generating code for {args.target}"):
        manifest = generate(request, target, folder, sass=args.sass)
    page = report.write_page(manifest, folder)  # remains if the replay fails
    replayed = None
    if args.replay:
        code = folder
        if request.batch > 1:
            code = folder / "batch-1"
            with progress.step("generating code at batch 1"):
                generate(dataclasses.replace(request, batch=1), target, code, kernels=False)
        with progress.step("replaying it on the CPU"):
            (replayed,) = replay(code)
        report.write_page(manifest, folder, replayed)
    within, lines = _budget(manifest, allowed, args.update_budget)
    if args.json:
        write_json({**manifest.as_dict(), "replay": replayed and _facts(replayed), "budget": lines}, args.json)
    if args.json != "-":
        print("\n".join([report.text(manifest, replayed), *lines, f"code, binaries and report: {page.parent}"]))
    return within and (replayed is None or replayed.passed)


def _facts(replayed: Check) -> dict[str, Any]:
    """The facts as plain types that JSON can hold."""
    return {
        "error": finite(replayed.error),
        "worst": replayed.tensor,
        "eager": finite(replayed.eager_error),
        "limit": finite(replayed.tolerance),
    }


def refuse_alone(args: argparse.Namespace) -> None:
    """Refuse this module's options where `--target` is missing.

    Raises:
        UserError: such an option was passed.
    """
    for name in OWN:
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} is for generated GPU code; name a card with --target")


def _request(args: argparse.Namespace, frozen: bool) -> Request:
    if args.backend == "eager":
        raise UserError("--backend eager generates no code; use mvc or inductor with --target")
    asked = {"passes": args.passes, "frozen": frozen, "recompute": args.recompute}
    if args.backend == "inductor":
        if asked != {"passes": "all", "frozen": False, "recompute": None} or args.kernels:
            raise UserError("--passes, --frozen, --recompute and --kernels are of the backend mvc; leave them out")
        asked["passes"] = "none"
    asked["kernels"] = args.kernels or "own"
    Options.parse(asked)  # refuses unknown passes
    side = get_config(args.variant).image_size
    height, width = args.size or (side, side)
    asked |= {"training": args.train, "autocast": args.autocast}
    return Request(args.variant, args.batch, height, width, args.dtype, **asked)


def _budget(manifest: Manifest, allowed: budget.Entry | None, update: Path | None) -> tuple[bool, list[str]]:
    """Whether the budget is kept, and what to print about it."""
    if update:
        return True, [f"budget written: {budget.update(manifest, update)}"]
    if allowed is None:
        return True, []
    if (reason := budget.other_versions(manifest, allowed)) is not None:
        return True, [f"budget not enforced: {reason}"]
    lines = budget.compare(manifest, allowed)
    return not lines, [f"budget: {line}" for line in lines] or ["budget kept"]
