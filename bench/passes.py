"""Measure what the passes are worth: raising, fusing with frozen weights, and what they cost in compile time.

python bench/passes.py fuse --variants S T B --batches 1 16 --dtypes float32 bfloat16 --repeats 15
python bench/passes.py fuse --variants ConvNeXt-T Swin-T ViT-S MambaOut-T    # timm's
python bench/passes.py each --dtypes float32 bfloat16     # every fusing pass left out in turn
python bench/passes.py raise --stock          # MambaVision-T with the published loop; stock takes many minutes
python bench/passes.py loop                   # a 2,048-step loop of two layers
python bench/passes.py short --steps 2 4 8    # loops of few steps, raised where that pays
python bench/passes.py compile --rounds 3     # cold and warm starts of S
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import short_loops
import torch
from models import PEERS
from other_scans import mamba_ssm_reference
from torch import Tensor, nn
from torch.nn import functional as F

from mvc import cli, create_model, selective_scan
from mvc.cli import DTYPES, positive
from mvc.compile.caches import empty_caches
from mvc.measure import profiler
from mvc.measure.environment import environment
from mvc.model import network
from mvc.passes import pipeline
from mvc.patches import replaced
from mvc.table import tabulate

# What is compared: arguments of torch.compile.
STOCK: dict[str, dict[str, Any]] = {
    "inductor": {"backend": "inductor"},
    "inductor, freezing": {"backend": "inductor", "options": {"freezing": True}},
}
OURS: dict[str, dict[str, Any]] = {
    "mvc": {"backend": "mvc"},
    "mvc, frozen": {"backend": "mvc", "options": {"frozen": True}},
}
FUSING = [name for name in pipeline.PASSES if not name.startswith("raise") and name != "lower_scan"]
STARTS = {
    "inductor": {"backend": "inductor", "regions": False},
    "mvc": {"backend": "mvc", "regions": False},
    "inductor, regions": {"backend": "inductor", "regions": True},
    "mvc, regions": {"backend": "mvc", "regions": True},
}


def main() -> int:
    parser = cli.parser(__doc__)
    studies = parser.add_subparsers(dest="study", required=True)
    fuse = studies.add_parser("fuse", help="compiled inference, stock and ours, interleaved")
    each = studies.add_parser("each", help="compiled inference, frozen: all passes against all but one")
    for study in (fuse, each):
        study.add_argument("--variants", nargs="+", default=["S"], metavar="V", help=f"of ours, or {', '.join(PEERS)}")
        study.add_argument("--batches", nargs="+", type=positive, default=[16])
        study.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
        study.add_argument("--repeats", type=positive, default=15, metavar="N", help="interleaved rounds")
    raising = studies.add_parser("raise", help="MambaVision-T whose mixers run the published loop")
    raising.add_argument("--stock", action="store_true", help="also compile it with stock Inductor")
    raising.add_argument("--repeats", type=positive, default=15, metavar="N", help="interleaved rounds")
    loop = studies.add_parser("loop", help="pass time of a two-layer Mamba's unrolled loop")
    loop.add_argument("--length", type=positive, default=2048)
    short = studies.add_parser("short", help="loops of few steps: mvc over stock, forward and with gradients")
    short.add_argument("--forms", nargs="+", choices=short_loops.FORMS, default=list(short_loops.FORMS), metavar="F")
    short.add_argument("--sizes", nargs="+", choices=short_loops.SIZES, default=list(short_loops.SIZES))
    short.add_argument("--modes", nargs="+", choices=["forward", "gradients"], default=["forward", "gradients"])
    short.add_argument("--steps", nargs="+", type=positive, default=short_loops.STEPS, metavar="N")
    short.add_argument("--rounds", type=positive, default=31, metavar="N", help="interleaved rounds")
    short.add_argument("--every", action="store_true", help="also raise and time loops that are left alone")
    short.add_argument("--json", metavar="FILE")
    compile_ = studies.add_parser("compile", help="cold and warm starts, each in a process of its own")
    compile_.add_argument("--variant", default="S")
    compile_.add_argument("--rounds", type=positive, default=3)
    start = studies.add_parser("start", help="one start, as `compile` runs it")
    start.add_argument("name", choices=STARTS)
    start.add_argument("variant")
    args = parser.parse_args()
    if args.study != "start":
        machine = environment(torch.device("cpu"))
        print(machine, machine.date, "\n", flush=True)
    with torch.no_grad():
        STUDIES[args.study](args)
    return 0


def images(batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 3, 224, 224, dtype=dtype).contiguous(memory_format=torch.channels_last)


def build(variant: str, dtype: torch.dtype) -> nn.Module:
    """A variant of MambaVision or, if timm is installed, one of its models."""
    if variant not in PEERS:
        return create_model(variant, dtype=dtype).eval()
    import timm

    return timm.create_model(PEERS[variant]).eval().to(dtype=dtype, memory_format=torch.channels_last)


def compiled(model: nn.Module, x: Tensor, how: dict[str, Any]) -> Callable[[], Tensor]:
    torch.compiler.reset()
    run = torch.compile(model, fullgraph=True, **how)
    run(x)
    return lambda: run(x)


def fusing(args: argparse.Namespace) -> None:
    compare(args, STOCK | OURS, lambda timings: min((timings[name] for name in STOCK), key=lambda t: t.median))


def each_pass(args: argparse.Namespace) -> None:
    """Every fusing pass left out in turn; a ratio above 1 is what the pass is worth."""
    frozen = {"all": "all"} | {f"without {name}": [p for p in pipeline.PASSES if p != name] for name in FUSING}
    runs = {name: {"backend": "mvc", "options": {"frozen": True, "passes": passes}} for name, passes in frozen.items()}
    compare(args, runs, lambda timings: timings["all"])


def compare(
    args: argparse.Namespace,
    hows: dict[str, dict[str, Any]],
    base: Callable[[dict[str, profiler.Timing]], profiler.Timing],
) -> None:
    """Compile every model in every way, time all interleaved, and print each one's time over the base's."""
    for variant, dtype, batch in itertools.product(args.variants, args.dtypes, args.batches):
        torch.manual_seed(0)
        model, x = build(variant, DTYPES[dtype]), images(batch, DTYPES[dtype])
        runs = {name: compiled(model, x, how) for name, how in hows.items()}
        timings = profiler.measure(runs, rounds=args.repeats, device=x.device).timings
        against = base(timings)
        table = [[name, f"{timing.median * 1e3:.1f}", timing.ratio_to(against)] for name, timing in timings.items()]
        print(f"{variant}, {dtype}, batch {batch}, {args.repeats} interleaved rounds")
        name = next(name for name, timing in timings.items() if timing is against)
        print(tabulate(table, headers=["", "ms", f"time over {name}'s (90 % interval)"]), flush=True)


def published_loop(u, delta, A, B, C, *, D, delta_bias, delta_softplus) -> Tensor:
    """The published reference, as a scan for the model."""
    layout = (t.transpose(1, 2) for t in (u, delta, B, C))
    u, delta, B, C = layout
    return mamba_ssm_reference(u, delta, A, B, C, D, delta_bias).transpose(1, 2)


def elementwise(u, delta, A, B, C, *, D, delta_bias, delta_softplus) -> Tensor:
    """Elementwise arithmetic with as many inputs as the scan and no recurrence."""
    return u * F.softplus(delta + delta_bias) + (B * C).sum(-1, keepdim=True)


@contextmanager
def scan_replaced_by(scan: Callable[..., Tensor]) -> Iterator[nn.Module]:
    """MambaVision-T with another scan."""
    torch.manual_seed(0)
    with replaced(network, "selective_scan", scan):
        yield create_model("T").eval()


def raising_study(args: argparse.Namespace) -> None:
    compile_seconds = {}
    for batch in (1, 16):
        x, runs = images(batch), {}
        for name, scan in (("loop, mvc", published_loop), ("elementwise, inductor", elementwise)):
            with scan_replaced_by(scan) as model, empty_caches():
                start = time.perf_counter()
                runs[name] = compiled(model, x, {"backend": name.partition(", ")[2]})
                compile_seconds.setdefault(name, time.perf_counter() - start)
        timings = profiler.measure(runs, rounds=args.repeats, device=x.device).timings
        loop, plain = (timings[name] for name in runs)
        ratio = loop.ratio_to(plain)
        print(f"batch {batch}: the raised loop's time is {ratio} of the elementwise form's", flush=True)
    if args.stock:
        with scan_replaced_by(published_loop) as model, empty_caches():
            start = time.perf_counter()
            compiled(model, images(1), {"backend": "inductor"})
            compile_seconds["loop, inductor"] = time.perf_counter() - start
    print(
        tabulate([[name, f"{seconds:.1f}"] for name, seconds in compile_seconds.items()], headers=["cold compile", "s"])
    )


def loop_study(args: argparse.Namespace) -> None:
    """Two layers, each a loop over time of the published form; only the passes are run."""

    def two_layers(u, delta, A, B, C, D, bias):
        for _ in range(2):
            u = mamba_ssm_reference(u, delta, A, B, C, D, bias)
        return u

    batch, dim, states = 1, 64, 16
    u, delta = torch.rand(2, batch, dim, args.length)
    B, C = torch.rand(2, batch, states, args.length)
    inputs = (u, delta, -torch.rand(dim, states), B, C, torch.rand(dim), torch.rand(dim))

    def backend(graph_module, example_inputs):
        records = pipeline.run(pipeline.build(list(pipeline.PASSES)), graph_module)
        table = [[r.name, r.matches, r.nodes_before, r.nodes_after, f"{r.seconds:.2f}"] for r in records]
        print(tabulate(table, headers=["pass", "matches", "nodes before", "after", "s"]))
        print(f"all passes: {sum(record.seconds for record in records):.1f} s")
        return graph_module.forward

    start = time.perf_counter()
    torch.compile(two_layers, backend=backend, fullgraph=True)(*inputs)
    print(f"with Dynamo's tracing: {time.perf_counter() - start:.1f} s")


def starts(args: argparse.Namespace) -> None:
    """Measure cold and warm starts of every kind, in an order drawn anew for each round."""
    selective_scan(*torch.ones(2, 1, 8, 4), -torch.ones(4, 1), *torch.ones(2, 1, 8, 1))  # built once for a machine
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    order = list(STARTS)
    for _ in range(args.rounds):
        random.shuffle(order)
        for name in order:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                seconds[name].append(
                    (start_seconds(name, args.variant, folder), start_seconds(name, args.variant, folder))
                )
    table = []
    for name, pairs in seconds.items():
        cold, warm = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = [
            f"{statistics.median(pair[i] / base[i] for pair, base in zip(pairs, seconds[against], strict=True)):.3f}"
            for i, against in ((0, "inductor"), (1, "inductor"), (0, name.partition(",")[0]))
        ]
        table.append([name, f"{cold:.1f}", f"{warm:.1f}", *ratios])
    print(tabulate(table, headers=["", "cold s", "warm s", "cold / inductor", "warm / inductor", "cold / unmarked"]))


def start_seconds(name: str, variant: str, cache: str) -> float:
    command = [sys.executable, __file__, "start", name, variant]
    done = subprocess.run(
        command, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def one_start(args: argparse.Namespace) -> None:
    """Seconds of the first call."""
    how = STARTS[args.name]
    model, x = create_model(args.variant, compile_regions=how["regions"]).eval(), images(1)
    start = time.perf_counter()
    compiled(model, x, {"backend": how["backend"]})
    print(json.dumps(time.perf_counter() - start))


STUDIES = {
    "fuse": fusing,
    "each": each_pass,
    "raise": raising_study,
    "loop": loop_study,
    "short": short_loops.study,
    "compile": starts,
    "start": one_start,
}

if __name__ == "__main__":
    sys.exit(main())
