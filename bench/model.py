"""Measure MambaVision eager, with Inductor and with the backend mvc, beside the machine's ceiling and timm's peers.

Everything of one dtype is interleaved in one run, so that a drift of a shared machine changes all times alike.

  python bench/model.py
  python bench/model.py --variants T S --batch 16 --dtypes float32 bfloat16 --repeats 15 --json model.json
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
from models import HOWS, PEERS
from torch import Tensor, nn

from mvc import cli, create_model
from mvc.cli import DTYPES, exit_status, positive, write_json
from mvc.compile.compiler import check_against_eager, compile_model
from mvc.measure import ceilings, flops, profiler
from mvc.measure.environment import environment
from mvc.table import tabulate

MEASURED_PEERS = ("Swin-T", "ConvNeXt-T")


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--variants", nargs="+", default=["T", "S"], metavar="V")
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
            facts[dtype] = measure(args.variants, DTYPES[dtype], args.batch, args.repeats, device)
            print(table(dtype, facts[dtype]), "\n")
    if args.json:
        write_json(facts, args.json)
    return 0


def measure(variants: list[str], dtype: torch.dtype, batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Rates and ratios of every model, and the ceiling, in one interleaved run."""
    torch.manual_seed(0)
    x = torch.randn(batch, 3, 224, 224).to(device, dtype).contiguous(memory_format=torch.channels_last)
    ours = {f"MambaVision-{v}": create_model(v, dtype=dtype, device=device).eval() for v in variants}
    models = {**ours, **peers(dtype, device)}
    runs: dict[str, Callable[[], object]] = {}
    work = {}
    for name, model in models.items():
        runs[f"{name} eager"] = bind(model, x)
        for how, arguments in HOWS.items():
            print(f"compiling {name} in {dtype} with {how} ...", file=sys.stderr)
            compiled, _ = compile_model(model, x, **arguments)
            if not (check := check_against_eager(model, compiled, x)).passed:
                raise SystemExit(f"{name}: {how} disagrees with eager, nothing is measured: {check}")
            runs[f"{name} {how}"] = bind(compiled, x)
        work[name] = flops.count(bind(model, x))
    for name, model in ours.items():
        runs[f"{name} scans"] = profiler.scan_replay(model, x)
    first = next(iter(ours))
    compute = ceilings.compute(ours[first].config, x.shape, dtype=dtype, device=device, flops=work[first])
    runs |= {name: run for name, (run, _) in compute.items()}

    print(f"measuring {rounds} rounds ...", file=sys.stderr)
    timings = profiler.measure(runs, rounds=rounds, device=device).timings
    ceiling = max(ceilings.rates(compute, timings).values())
    rows, best = {}, {}
    for name in models:
        ways = {how: timings[f"{name} {how}"] for how in ("eager", *HOWS)}
        best[name] = min(ways.values(), key=lambda timing: timing.median)
        scans = timings[f"{name} scans"].median if name in ours else 0.0
        rows[name] = {
            "images_per_second": {how: batch / timing.median for how, timing in ways.items()},
            "speedup": ways["eager"].ratio_to(best[name]).median,
            "share_apart_from_scan": ceilings.share(work[name], best[name].median - scans, ceiling),
            "scan_share": scans / best[name].median,
        }
    against = {
        f"{our} over {peer}": best[peer].ratio_to(best[our]).median
        for our in ours
        for peer in models
        if peer not in ours
    }
    return {"models": rows, "ceiling_flops": ceiling, "rounds": rounds, "ratios": against}


def peers(dtype: torch.dtype, device: torch.device) -> dict[str, nn.Module]:
    """The other backbones of about T's size, if timm is installed."""
    try:
        import timm
    except ImportError:
        print("timm is not installed: measuring without Swin-T and ConvNeXt-T", file=sys.stderr)
        return {}
    create = {name: timm.create_model(PEERS[name]).eval() for name in MEASURED_PEERS}
    return {name: m.to(device, dtype).to(memory_format=torch.channels_last) for name, m in create.items()}


def bind(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    return lambda: model(x)


def table(dtype: str, facts: dict[str, Any]) -> str:
    """Markdown, so that a README can quote it."""
    rows = [
        [
            name,
            *(f"{rate:.1f}" for rate in row["images_per_second"].values()),
            f"{row['speedup']:.2f}",
            f"{row['share_apart_from_scan']:.2f}",
            f"{row['scan_share']:.0%}" if row["scan_share"] else "",
        ]
        for name, row in facts["models"].items()
    ]
    headers = [f"{dtype}, images/s", "eager", *HOWS, "best over eager", "of ceiling, apart from scans", "scans"]
    lines = [tabulate(rows, headers=headers, markdown=True)]
    lines += [f"{pair}: {ratio:.2f} (the best of each)" for pair, ratio in facts["ratios"].items()]
    lines.append(f"ceiling {facts['ceiling_flops'] / 1e9:.0f} GFLOP/s; {facts['rounds']} interleaved rounds")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
