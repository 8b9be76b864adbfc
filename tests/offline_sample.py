"""A small manifest made by hand: a product, what generated code does around it, and a scan in place.

And what several tests generate code for.
"""

import dataclasses

from mvc import create_model
from mvc.offline.manifest import Kernel, Launch, Manifest, Request

INFERENCE = Request("tiny", 2, 64, 64, "float16", frozen=True)


def one_of_each(variant, **options):
    """A builder of models with a block in each stage, for what takes Triton's interpreter seconds a kernel."""
    return create_model(variant, depths=(1, 1, 1, 1), **options)


def both_mixers(variant, **options):
    """The same, with a selective scan and an attention in each of the later stages."""
    return create_model(variant, depths=(1, 1, 2, 2), **options)


MB = 10**6


def launch(kind, name, reads, writes, flops=0, source="functional.py:7: y = f(x)"):
    kernels = () if kind == "extern" else (f"forward_{name}-0",)
    return Launch(kind, name, kernels, "forward", (source,), (), reads, writes, flops)


LAUNCHES = (
    launch("triton", "norm_0", {"x": 2 * MB, "weight": 1000}, {"a": 2 * MB}),
    launch("extern", "extern_kernels.mm", {"a": 2 * MB, "w": MB}, {"b": 8 * MB}, flops=4 * 10**9),
    launch("triton", "silu_1", {"b": 8 * MB, "x": 2 * MB}, {"c": 8 * MB}),
    launch("own", "forward_kernel_0", {"c": 4 * MB}, {"c": 4 * MB}, flops=10**6),
)
KERNEL = Kernel("forward_norm_0-0", warps=4, stages=1, registers=32, spills=0, shared=0, occupancy=1.0, size=4096)


def sample(**changes):
    model = Request("T", 128, 224, 224, "float16", frozen=True)
    manifest = Manifest(
        target="sm_90",
        device="stand-in",
        model=model,
        versions={"torch": "2.14.1", "triton": "3.8.0", "mvc": "0.1"},
        launches=LAUNCHES,
        kernels={KERNEL.name: KERNEL},
        interfaces={},
        inputs=[],
    )
    return dataclasses.replace(manifest, **changes)
