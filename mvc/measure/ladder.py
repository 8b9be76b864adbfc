"""One model in several ways, from the plain recurrence to compiled code, measured side by side."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

from torch import Tensor

from mvc.compile.compiler import compile_model, training_step
from mvc.errors import UserError
from mvc.measure import ceilings, machine, nvml, profiler
from mvc.measure.device_profile import DeviceProfile, profile_device
from mvc.measure.profiler import Measurement, Timing
from mvc.measure.stopwatch import Clock, synchronize
from mvc.model import functional
from mvc.model.module import MambaVision
from mvc.passes.pipeline import PASSES

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


class Ladder(NamedTuple):
    """What `measure` saw.

    Attributes:
        measurement: of everything.
        alone: spread of the scans alone and of each ceiling, by name.
        ceiling: FLOP/s, the best of the ceilings.
        product_rate: FLOP/s, of the matrix product among them.
        rows: figures of each rung by name, as `mvc.compile.report.ROW` has them.
        profile: of the rung "compiled" on CUDA; None elsewhere, or where it was not among the rungs.
    """

    measurement: Measurement
    alone: dict[str, dict[str, float]]
    ceiling: float
    product_rate: float
    rows: dict[str, dict[str, Any]]
    profile: DeviceProfile | None

    def facts(self, inputs: Sequence[Tensor]) -> dict[str, Any]:
        """What stands under "timing" in `mvc.compile.report.FIELDS`; of the rungs "eager" and "compiled"."""
        measurement, rows = self.measurement, self.rows
        speedup = measurement.timings["eager"].ratio_to(measurement.timings["compiled"])
        return {
            **{name: rows[name] for name in ("eager", "compiled")},
            **self.alone,
            "speedup": speedup.median,
            "speedup_low": speedup.low,
            "speedup_high": speedup.high,
            "scan_share": self._scan_share(),
            "scan_share_source": "scans timed apart" if self.profile is None else "device profile",
            "ceiling_flops": self.ceiling,
            "rounds": len(measurement.timings["eager"].seconds),
            "discarded": [list(each) for each in measurement.discarded.items()],
            "clock": measurement.clock,
            "clock_reason": measurement.clock_reason,
            "limited_by_host": list(measurement.limited_by_host),
            "flushed": measurement.flushed,
            "not_warm": list(measurement.not_warm),
            "inputs": len(inputs),
            "input_bytes": sum(x.nbytes for x in inputs),
            "gpu": measurement.gpu,
        }

    def _scan_share(self) -> float:
        """Of the compiled model's time: on CUDA of its kernels', where the scans that are timed apart are launched by
        another program, with other strides."""
        if self.profile is not None:
            return self.profile.by_family().get("scan", 0.0) / self.profile.seconds
        timings = self.measurement.timings
        return timings["scan"].ratio_to(timings["compiled"]).median


RUNGS = {
    "reference": "eager, with the scan as its recurrence says it, step by step",
    "eager": "eager, with the scan's fastest implementation",
    "inductor": "torch.compile as it comes",
    "mvc": "all passes, then Inductor",
    "frozen": "the same with what depends on parameters alone computed once; inference alone",
    "mvc:PASS,PASS": "only these passes",
}


def compile_options(name: str, *, training: bool) -> dict[str, Any] | None:
    """What `compile_model` is given for one of `RUNGS`; None where nothing is compiled.

    Raises:
        UserError: a name that there is not, or "frozen" in training.
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
    """A way of running the model by its name.

    Raises:
        UserError: see `compile_options` and `compile_model`.
    """
    options = compile_options(name, training=model.training)
    if options is None:
        return Rung(name, _with_reference_scan(model) if name == "reference" else model)
    compiled, report = compile_model(model, x, mode=mode, **options)
    return Rung(name, compiled, report.seconds)


def _with_reference_scan(model: MambaVision) -> Model:
    selective_scan = functools.partial(functional.selective_scan, impl="reference")

    def run(x: Tensor) -> Tensor:
        with mock.patch.object(functional, "selective_scan", selective_scan):
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
        rungs: one of them "eager".
        inputs: images, (batch, channels, height, width); each call takes the next.
    """
    x = inputs[0]
    step = training_step if model.training else _forward
    runs = {rung.name: _bound(step, rung.run) for rung in rungs}
    flops = ceilings.count_flops(lambda: runs["eager"](x))
    compute = ceilings.compute(model.config, x.shape, dtype=x.dtype, device=x.device, flops=flops)
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
        rows[name] = spread(timing) | {
            "call_median_seconds": measured.calls and measured.calls[name].median,
            "images_per_second": x.shape[0] / timing.median,
            "over_eager": over_eager.median,
            "over_eager_low": over_eager.low,
            "over_eager_high": over_eager.high,
            "peak_memory_bytes": peak.used,
            "peak_reserved_bytes": peak.reserved,
            "energy_joules_per_image": _energy(once, timing.median, x),
            "share_of_ceiling": ceilings.share(flops, timing.median, ceiling),
            "share_apart_from_scan": ceilings.share(flops, timing.median - scan.median, ceiling),
        }
    spreads = {name: spread(measured.timings[name]) for name in alone}
    profile = None
    if x.device.type == "cuda" and "compiled" in runs:  # after all timing, which a profiler that was used once slows
        profile = profile_device(functools.partial(runs["compiled"], x), device=x.device)
    return Ladder(measured, spreads, ceiling, rates["matrix_product"], rows, profile)


def spread(timing: Timing) -> dict[str, float]:
    return {
        "median_seconds": timing.median,
        "p10_seconds": timing.percentile(0.1),
        "p90_seconds": timing.percentile(0.9),
    }


def _forward(run: Model, x: Tensor) -> Tensor:
    return run(x)


def _bound(step: Callable[[Model, Tensor], Tensor], run: Model) -> Model:
    return lambda x: step(run, x)


def _energy(run: Callable[[], object], seconds: float, x: Tensor) -> float | None:
    """Joules for an image, of runs one after the other; None where the device does not tell."""
    if x.device.type != "cuda":
        return None
    calls = max(3, math.ceil(ENERGY_SECONDS / seconds))
    with nvml.watch(x.device) as watch:
        for _ in range(calls):
            run()
        synchronize(x.device)
    return None if watch.energy is None else watch.energy / calls / x.shape[0]
