"""One model in several ways, from the plain recurrence to compiled code, measured side by side."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from mvc.compile.compiler import compile_model, training_step
from mvc.errors import UserError
from mvc.measure import ceilings, flops, machine, nvml, profiler
from mvc.measure.device_profile import DeviceProfile, profile_device
from mvc.measure.paired import Ratio
from mvc.measure.profiler import Measurement, Spread
from mvc.measure.stopwatch import Clock, synchronize
from mvc.model import network
from mvc.model.module import MambaVision
from mvc.passes.pipeline import PASSES
from mvc.patches import replaced

Model = Callable[[Tensor], Tensor]
ENERGY_SECONDS = 2.0  # a GPU's energy counter moves some ten times a second


class Rung(NamedTuple):
    """One way of running the model.

    Attributes:
        compile_seconds: of the first call, None where nothing is compiled.
    """

    name: str
    run: Model
    compile_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """The figures of one rung, as `mvc.compile.report.ROW` documents them."""

    median_seconds: float
    p10_seconds: float
    p90_seconds: float
    call_median_seconds: float | None
    images_per_second: float
    over_eager: float
    over_eager_low: float
    over_eager_high: float
    peak_memory_bytes: int
    peak_reserved_bytes: int | None
    energy_joules_per_image: float | None
    share_of_ceiling: float
    share_apart_from_scan: float | None


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The results of `measure`.

    Attributes:
        measurement: of everything that was timed.
        alone: spread of the scans alone and of each ceiling, by name.
        ceiling: FLOP/s, the best of the ceilings.
        product_rate: FLOP/s of the matrix product among the ceilings.
        rows: the figures of each rung by name.
        profile: of the rung "compiled" on CUDA; None elsewhere, or where that rung was not measured.
        inputs: how many there were, taken in turn.
        input_bytes: of all inputs together.
    """

    measurement: Measurement
    alone: dict[str, Spread]
    ceiling: float
    product_rate: float
    rows: dict[str, Row]
    profile: DeviceProfile | None
    inputs: int
    input_bytes: int

    @property
    def rounds(self) -> int:
        return len(self.measurement.timings["eager"].seconds)

    @property
    def speedup(self) -> Ratio:
        """The eager model's time over the compiled model's."""
        timings = self.measurement.timings
        return timings["eager"].ratio_to(timings["compiled"])

    @property
    def scan_share(self) -> float:
        """The scans' share of the compiled model's time. On CUDA it is taken from the profile of the kernels, since the
        scans that are timed alone are launched there by another program, with other strides."""
        if self.profile is not None:
            return self.profile.by_family().get("scan", 0.0) / self.profile.seconds
        timings = self.measurement.timings
        return timings["scan"].ratio_to(timings["compiled"]).median

    @property
    def scan_share_source(self) -> str:
        return "scans timed apart" if self.profile is None else "device profile"


RUNGS = {
    "reference": "eager, with the scan as its recurrence says it, step by step",
    "eager": "eager, with the scan's fastest implementation",
    "inductor": "torch.compile as it comes",
    "mvc": "all passes, then Inductor",
    "frozen": "the same with what depends on parameters alone computed once; inference alone",
    "mvc:PASS,PASS": "only these passes",
}


def compile_options(name: str, *, training: bool) -> dict[str, Any] | None:
    """The arguments of `compile_model` for one of `RUNGS`; None where nothing is compiled.

    Raises:
        UserError: an unknown name, or "frozen" in training.
    """
    backend, _, passes = name.partition(":")
    if name in ("reference", "eager"):
        return None
    if name == "frozen" and training:
        raise UserError("the rung 'frozen' is for inference; leave it or --train out")
    if name in ("inductor", "mvc"):
        return {"backend": name}
    if name == "frozen":
        return {"backend": "mvc", "options": {"frozen": True}}
    chosen = [each.strip() for each in passes.split(",")]
    if backend == "mvc" and set(chosen) <= PASSES.keys():
        return {"backend": "mvc", "options": {"passes": chosen}}
    raise UserError(f"{name!r} is no rung of the ladder; there are {', '.join(RUNGS)}, with passes {', '.join(PASSES)}")


def build(name: str, model: MambaVision, x: Tensor, *, mode: str = "default") -> Rung:
    """Build the way of running the model that has this name.

    Raises:
        UserError: see `compile_options` and `compile_model`.
    """
    options = compile_options(name, training=model.training)
    if options is None:
        return Rung(name, _with_reference_scan(model) if name == "reference" else model)
    compiled, report = compile_model(model, x, mode=mode, **options)
    return Rung(name, compiled, report.seconds)


def _with_reference_scan(model: MambaVision) -> Model:
    reference = functools.partial(network.selective_scan, impl="reference")

    def run(x: Tensor) -> Tensor:
        with replaced(network, "selective_scan", reference):
            return model(x)

    return run


def measure(
    model: MambaVision,
    rungs: Sequence[Rung],
    inputs: Sequence[Tensor],
    *,
    rounds: int,
    clock: Clock | None = None,
    flush: bool = False,
    seed: int = 0,
) -> Ladder:
    """Time every rung, the scans alone and the machine's ceilings, side by side.

    Args:
        rungs: the ways to compare, "eager" among them.
        inputs: images, (batch, channels, height, width); each call gets the next.
    """
    x = inputs[0]
    step = training_step if model.training else _forward
    runs = {rung.name: _bound(step, rung.run) for rung in rungs}
    work = flops.count(lambda: runs["eager"](x))
    compute = ceilings.compute(model.config, x.shape, dtype=x.dtype, device=x.device, flops=work)
    alone = {"scan": profiler.scan_replay(model, x), **{name: run for name, (run, _) in compute.items()}}
    measured = profiler.measure(
        {**runs, **alone},
        rounds=rounds,
        device=x.device,
        inputs=[(each,) for each in inputs],
        clock=clock,
        flush=flush,
        seed=seed,
    )
    rates = ceilings.rates(compute, measured.timings)
    ceiling = max(rates.values())
    rows = {}
    for name, run in runs.items():
        timing, scan = measured.timings[name], measured.timings["scan"]
        once = functools.partial(run, x)
        over_eager, peak = timing.ratio_to(measured.timings["eager"]), machine.peak_memory(once, x.device)
        rows[name] = Row(
            *timing.spread,
            call_median_seconds=measured.calls and measured.calls[name].median,
            images_per_second=x.shape[0] / timing.median,
            over_eager=over_eager.median,
            over_eager_low=over_eager.low,
            over_eager_high=over_eager.high,
            peak_memory_bytes=peak.used,
            peak_reserved_bytes=peak.reserved,
            energy_joules_per_image=_energy(once, timing.median, x),
            share_of_ceiling=ceilings.share(work, timing.median, ceiling),
            share_apart_from_scan=ceilings.share(work, timing.median - scan.median, ceiling),
        )
    spreads = {name: measured.timings[name].spread for name in alone}
    profile = None
    if x.device.type == "cuda" and "compiled" in runs:  # after all timing, which a profiler that was used once slows
        profile = profile_device(functools.partial(runs["compiled"], x), device=x.device)
    size = sum(each.nbytes for each in inputs)
    return Ladder(measured, spreads, ceiling, rates["matrix_product"], rows, profile, len(inputs), size)


def _forward(run: Model, x: Tensor) -> Tensor:
    return run(x)


def _bound(step: Callable[[Model, Tensor], Tensor], run: Model) -> Model:
    return lambda x: step(run, x)


def _energy(run: Callable[[], object], seconds: float, x: Tensor) -> float | None:
    """Joules for an image, over runs one after the other; None where the device does not report energy."""
    if x.device.type != "cuda":
        return None
    calls = max(3, math.ceil(ENERGY_SECONDS / seconds))
    with nvml.Watch(x.device) as watch:
        for _ in range(calls):
            run()
        synchronize(x.device)
    return None if watch.energy is None else watch.energy / calls / x.shape[0]
