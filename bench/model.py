"""Measure MambaVision eager, with Inductor and with the backend mvc, beside the machine's ceiling and other backbones.

Everything of one dtype is interleaved in one run, so that a drift of a shared machine changes all times alike. The
paper's throughputs on an A100 are quoted beside the models that it has.

  python bench/model.py
  python bench/model.py --variants T S --batch 16 --dtypes float32 bfloat16 --repeats 15 --json model.json
  python bench/model.py --variants T --peers Vim-T Vim-S VMamba-T Swin-T ConvNeXt-T --hows inductor "mvc, frozen" \\
    --dtypes float32 --batch 8                    the paper's comparison
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch
from models import COMPARED, HOWS, PAPER_RATES, PEERS, create_peer, from_timm
from torch import Tensor, nn

from mvc import cli, create_model, models
from mvc.cli import DTYPES, exit_status, positive, write_json
from mvc.compile.compiler import check_against_eager, compile_model
from mvc.measure import ceilings, flops, profiler
from mvc.measure.environment import environment
from mvc.table import tabulate

DEFAULT_PEERS = ("Swin-T", "ConvNeXt-T")
KNOWN_PEERS = tuple(dict.fromkeys((*COMPARED, *models.VARIANTS, *PEERS)))


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--variants", nargs="+", default=["T", "S"], metavar="V")
    help = f"backbones beside them, of {', '.join(KNOWN_PEERS)} (default {' '.join(DEFAULT_PEERS)})"
    parser.add_argument("--peers", nargs="*", choices=KNOWN_PEERS, default=list(DEFAULT_PEERS), metavar="P", help=help)
    help = f"ways of compiling, of {', '.join(map(repr, HOWS))} (default all), beside eager mode"
    parser.add_argument("--hows", nargs="+", choices=tuple(HOWS), default=list(HOWS), metavar="HOW", help=help)
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=positive, default=15, metavar="N", help="interleaved rounds")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    args = parser.parse_args()
    return exit_status(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = environment(device)
    facts = {"environment": dataclasses.asdict(machine), "batch": args.batch}
    print(machine, machine.date, f"batch {args.batch}", "\n")
    with torch.no_grad():
        for dtype in args.dtypes:
            facts[dtype] = measure(args, DTYPES[dtype], device)
            print(table(dtype, facts[dtype]), "\n")
    if args.json:
        write_json(facts, args.json)
    return 0


def measure(args: argparse.Namespace, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Rates and ratios of every model, and the ceiling, in one interleaved run."""
    torch.manual_seed(0)
    batch, rounds = args.batch, args.repeats
    x = torch.randn(batch, 3, 224, 224).to(device, dtype).contiguous(memory_format=torch.channels_last)
    ours = {f"MambaVision-{v}": create_model(v, dtype=dtype, device=device).eval() for v in args.variants}
    measured = {**ours, **peers(args.peers, dtype, device)}
    runs: dict[str, Callable[[], object]] = {}
    work = {}
    for name, model in measured.items():
        runs[f"{name} eager"] = bind(model, x)
        for how in args.hows:
            print(f"compiling {name} in {dtype} with {how} ...", file=sys.stderr)
            compiled, _ = compile_model(model, x, **HOWS[how])
            if not (check := check_against_eager(model, compiled, x)).passed:
                raise SystemExit(f"{name}: {how} disagrees with eager, nothing is measured: {check}")
            runs[f"{name} {how}"] = bind(compiled, x)
        work[name] = flops.count(bind(model, x))
    with_scans = {name: model for name, model in measured.items() if name in ours or not from_timm(name)}
    for name, model in with_scans.items():
        runs[f"{name} scans"] = profiler.scan_replay(model, x)
    first = next(iter(ours))
    compute = ceilings.compute(ours[first].config, x.shape, dtype=dtype, device=device, flops=work[first])
    runs |= {name: run for name, (run, _) in compute.items()}

    print(f"measuring {rounds} rounds ...", file=sys.stderr)
    timings = profiler.measure(runs, rounds=rounds, device=device).timings
    ceiling = max(ceilings.rates(compute, timings).values())
    rows, best = {}, {}
    for name in measured:
        ways = {how: timings[f"{name} {how}"] for how in ("eager", *args.hows)}
        best[name] = min(ways.values(), key=lambda timing: timing.median)
        scans = timings[f"{name} scans"].median if name in with_scans else 0.0
        rows[name] = {
            "images_per_second": {how: batch / timing.median for how, timing in ways.items()},
            "speedup": ways["eager"].ratio_to(best[name]).median,
            "over_inductor": list(ways["inductor"].ratio_to(best[name])) if "inductor" in ways else None,
            "paper_a100_images_per_second": PAPER_RATES.get(name),
            "share_apart_from_scan": ceilings.share(work[name], best[name].median - scans, ceiling),
            "scan_share": scans / best[name].median,
        }
    against = {
        f"{our} over {peer}": best[peer].ratio_to(best[our]).median
        for our in ours
        for peer in measured
        if peer not in ours
    }
    return {"models": rows, "ceiling_flops": ceiling, "rounds": rounds, "ratios": against}


def peers(names: list[str], dtype: torch.dtype, device: torch.device) -> dict[str, nn.Module]:
    """The other backbones of those names; timm's only if it is installed."""
    absent = importlib.util.find_spec("timm") is None
    if missing := [name for name in names if absent and from_timm(name)]:
        print(f"timm is not installed: measuring without {' and '.join(missing)}", file=sys.stderr)
    return {name: create_peer(name, device=device, dtype=dtype).eval() for name in names if name not in missing}


def bind(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    return lambda: model(x)


def table(dtype: str, facts: dict[str, Any]) -> str:
    """Markdown, so that a README can quote it."""
    rows = [
        [
            name,
            *(f"{rate:.1f}" for rate in row["images_per_second"].values()),
            f"{row['speedup']:.2f}",
            f"{row['over_inductor'][0]:.2f}" if row["over_inductor"] else "",
            f"{row['share_apart_from_scan']:.2f}",
            f"{row['scan_share']:.0%}" if row["scan_share"] else "",
            row["paper_a100_images_per_second"] or "",
        ]
        for name, row in facts["models"].items()
    ]
    ways = next(iter(facts["models"].values()))["images_per_second"]
    ratios = ("best over eager", "best over Inductor", "of ceiling, apart from scans", "scans")
    headers = [f"{dtype}, images/s", *ways, *ratios, "the paper's, on an A100"]
    lines = [tabulate(rows, headers=headers, markdown=True)]
    lines += [f"{pair}: {ratio:.2f} (the best of each)" for pair, ratio in facts["ratios"].items()]
    lines.append(f"ceiling {facts['ceiling_flops'] / 1e9:.0f} GFLOP/s; {facts['rounds']} interleaved rounds")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
