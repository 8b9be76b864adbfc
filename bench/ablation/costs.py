"""What does not depend on data: parameters, FLOPs, latency on this CPU, launches and bytes on a GPU, of T at full size.

"random" is the placement of seed 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.ablation.designs import PUBLISHED, create_full
from mvc.compile.compiler import check_against_eager, compile_model
from mvc.errors import UserError
from mvc.measure import flops, profiler
from mvc.progress import Progress

BASE, SIDE = "T", 224  # of the full size
LATENCY_BATCH, ROUNDS = 4, 15
GPU, GPU_BATCH = "sm_90", 128
BUILDER = "bench.ablation.designs:create_full"


def counted(name: str) -> dict[str, Any]:
    """Parameters with 1,000 classes, the FLOPs of one image, and the patterns of stages 3 and 4.

    On the meta device attention is made of products; torch's counter has no formula for its kernel on a CPU.
    """
    model = create_full(f"{BASE} {name}", device="meta").eval()
    with torch.no_grad():
        work = flops.count(lambda: model(torch.empty(1, 3, SIDE, SIDE, device="meta")))
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "flops": work,
        "patterns": [model.config.block_pattern(stage) for stage in (2, 3)],
    }


@torch.no_grad()
def latencies(names: Sequence[str], progress: Progress) -> dict[str, dict[str, Any]]:
    """Milliseconds of a batch, float32, by "mvc" with frozen parameters, all designs timed in interleaved rounds; and
    their ratios to those of the published design, if it is among them.

    Raises:
        UserError: a compiled model disagrees with eager mode.
    """
    torch.manual_seed(0)
    x = torch.randn(LATENCY_BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    runs: dict[str, Callable[[], object]] = {}
    for name in names:
        with progress.step(f"compiling {BASE} with {name!r}"):
            model = create_full(f"{BASE} {name}").eval()
            compiled, _ = compile_model(model, x, options={"frozen": True})
            if not (check := check_against_eager(model, compiled, x)).passed:
                raise UserError(f"{name!r} compiled disagrees with eager mode: {check}; report it, nothing was timed")
            runs[name] = lambda compiled=compiled: compiled(x)
    with progress.step(f"timing {len(runs)} models in {ROUNDS} rounds"):
        timings = profiler.measure(runs, rounds=ROUNDS, device=x.device).timings
    published = timings.get(PUBLISHED)
    return {
        name: {
            "milliseconds": 1e3 * timing.median,
            "p10": 1e3 * timing.spread.p10_seconds,
            "p90": 1e3 * timing.spread.p90_seconds,
            "ratio": published and timing.ratio_to(published)._asdict(),
        }
        for name, timing in timings.items()
    }


def on_gpu(name: str) -> dict[str, Any]:
    """Launches and bytes of the code for a GPU, generated without one: frozen, float16.

    Raises:
        UserError: this machine cannot generate it.
    """
    from bench.offline import made  # needs triton
    from mvc.offline.manifest import Request

    request = Request(f"{BASE} {name}", GPU_BATCH, SIDE, SIDE, "float16", frozen=True, builder=BUILDER)
    facts = made(request, GPU, kernels=False)
    moved = sum(facts[f"{kind} bytes"] for kind in ("triton", "own", "extern"))
    return {"launches": facts["launches"], "bytes": moved, "estimated_ms": facts["estimated ms"]}
