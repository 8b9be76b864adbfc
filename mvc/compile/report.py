"""The facts of one `python -m mvc.compile` run, as a table for people and as JSON for programs.

`FIELDS` documents every key of the JSON; `SCHEMA` changes when a key changes its meaning or goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from mvc.cli import finite
from mvc.compile.compiler import CompileReport
from mvc.measure.device_profile import DeviceProfile
from mvc.measure.environment import Environment
from mvc.measure.ladder import Ladder, Row, Rung
from mvc.measure.operators import Operators
from mvc.measure.profiler import HOST_LIMIT
from mvc.measure.stopwatch import MEANINGS
from mvc.passes.accuracy import Check
from mvc.table import tabulate

SCHEMA = "mvc.compile/2"

ROW = {
    "median_seconds": "one batch, timed as timing.clock says; of a ceiling, about a fifth of the model's operations",
    "p10_seconds": "10 % of the rounds were faster",
    "p90_seconds": "90 % of the rounds were faster",
    "call_median_seconds": "where timing.clock leaves the host out: a call between device events, launches included; "
    "otherwise null",
    "images_per_second": "batch over median",
    "over_eager": "median over the rounds of this time over eager's",
    "over_eager_low": "lower end of its 90 % bootstrap interval",
    "over_eager_high": "upper end of its 90 % bootstrap interval",
    "peak_memory_bytes": "CUDA: the most memory of tensors; CPU: the most resident memory of the process",
    "peak_reserved_bytes": "CUDA: the most memory that the allocator had obtained from the device; otherwise null",
    "energy_joules_per_image": "CUDA: in consecutive runs, null where the GPU does not report it; otherwise null",
    "share_of_ceiling": "the model's FLOP/s over the ceiling",
    "share_apart_from_scan": "the same with the scan's own time subtracted, or null where that is not shorter",
}

FIELDS = {
    "schema": f'name and version of this format: "{SCHEMA}"',
    "model.variant": "name of the variant",
    "model.parameters": "number of parameters",
    "model.gmacs": "10⁹ multiply-adds of one image's forward pass: convolutions, matrix products, attention",
    "model.batch": "images in a batch",
    "model.height": "pixels",
    "model.width": "pixels",
    "model.dtype": "dtype of parameters and input",
    "model.training": "true: forward and backward; false: forward alone",
    "model.weights": "checkpoint, or null for random weights",
    "model.padded_tokens": "for stages 3 and 4, tokens with window padding over tokens of the map",
    "environment.date": "UTC, ISO 8601",
    "environment.mvc": "version of this package",
    "environment.torch": "version",
    "environment.triton": "version, or null where it is not installed",
    "environment.python": "version",
    "environment.compiler": "the C++ compiler Inductor uses, or null",
    "environment.platform": "operating system and processor architecture",
    "environment.device": "kind and name of the device",
    "environment.gpu_bus_id": "where on the bus the GPU is that was measured, or null",
    "environment.cuda_devices": "with CUDA: how many GPUs torch sees, of which one was measured; otherwise null",
    "environment.driver": "version of the NVIDIA driver, or null",
    "environment.sm_clock_mhz": "highest clock of the GPU's multiprocessors, or null",
    "environment.memory_clock_mhz": "highest clock of the GPU's memory, or null",
    "environment.gpu_memory_bytes": "of the GPU, or of its MIG slice, as sold; otherwise null",
    "environment.power_limit_watts": "the most power that the GPU is allowed, or null",
    "environment.clocks_locked": "true where application clocks are set on the GPU; null where that is not known",
    "environment.ecc": "whether the GPU's memory corrects errors, or null",
    "environment.mig": "whether the GPU is divided into slices, or null",
    "environment.cpu": "name of the processor",
    "environment.threads": "CPU threads torch uses",
    "environment.affinity": "processors that the process may run on, or null",
    "environment.nominal_mhz": "of the processor, as sold or as its governor allows, or null where it cannot be read",
    "environment.frequency_mhz": "of the first processor at the start, or null where it cannot be read",
    "environment.cache_bytes": "of the processor's last level, or null where it cannot be read",
    "environment.memory_bytes": "of the machine, as sold, or null where it cannot be read",
    "environment.load": "load average over the last minute, or null",
    "compile.backend": "mvc, inductor or eager",
    "compile.mode": "Inductor's mode",
    "compile.dynamic": "whether one graph was asked to serve every batch size",
    "compile.frozen": "whether what depends on parameters alone is computed once, for inference",
    "compile.seconds": "first call with empty caches: capture, compilation and one run",
    "compile.graphs": "graphs captured in the whole run",
    "compile.recompiles": "graphs beyond the first",
    "compile.scans": "selective scans in the first graph, after the passes",
    "check.tensor": "scores; in training the parameter whose gradient is nearest to its tolerance or furthest beyond",
    "check.error": "of compiled against the oracle there, relative L2; null if not finite",
    "check.eager_error": "of eager against the oracle there; null if not finite",
    "check.tolerance": "four times eager's error there (or in the median tensor) plus one rounding; null if not finite",
    "check.passed": "whether error is within tolerance",
    **{f"timing.{run}.{key}": text for run in ("eager", "compiled") for key, text in ROW.items()},
    **{
        f"timing.{run}.{key}": ROW[key]
        for run in ("scan", "matrix_product", "convolution_stage_1", "convolution_stage_2")
        for key in ("median_seconds", "p10_seconds", "p90_seconds")
    },
    "timing.speedup": "median over the rounds of eager's time over compiled's",
    "timing.speedup_low": "lower end of its 90 % bootstrap interval",
    "timing.speedup_high": "upper end of its 90 % bootstrap interval",
    "timing.scan_share": "the scans' time over compiled's",
    "timing.scan_share_source": "device profile: from the kernels of a compiled call; or scans timed apart",
    "timing.ceiling_flops": "FLOP/s: the best of a large matrix product and the two 3x3 convolutions, same run",
    "timing.rounds": "timed rounds, each running everything once in a random order",
    "timing.discarded": "rounds left out of the figures, as [reason, rounds]",
    "timing.clock": "; ".join(f"{name}: {meaning}" for name, meaning in MEANINGS.items()),
    "timing.clock_reason": "on CUDA, why the default clock was not graph; otherwise null",
    "timing.limited_by_host": f"names of those whose call takes more than {HOST_LIMIT} times its time on the device",
    "timing.flushed": "whether the GPU's L2 cache was overwritten before each call",
    "timing.not_warm": "names of those whose time had not settled when the rounds began",
    "timing.inputs": "how many inputs were used in turn",
    "timing.input_bytes": "size of all inputs together",
    "timing.gpu": "with CUDA: clocks, temperature, power, energy and reasons of throttling meanwhile; otherwise null",
    "ladder": "with --ladder: name, compile_seconds and the figures of timing.eager for each rung; otherwise null",
    "families": "on CUDA, one call of compiled by torch.profiler: seconds of its kernels and of the gaps between them, "
    "and rows of family, kernels and seconds; otherwise null",
    "operators": "with --operators: where the compiled model's time goes, see mvc.operators; otherwise null",
    "explanation": "with --explain: each pass, its matches and near misses, and the code's launches; otherwise null",
    "classes": "with --image: the five most probable classes as [name, probability]; otherwise null",
}


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What was compiled and for which input, as `FIELDS` documents it under "model"."""

    variant: str
    parameters: int
    gmacs: float
    batch: int
    height: int
    width: int
    dtype: str
    training: bool
    weights: str | None
    padded_tokens: list[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """What one run of the command found. Its parts are documented in `FIELDS` under the names that they have there.

    Attributes:
        dynamic: whether one graph was asked to serve every batch size.
        rungs: what was measured.
        ladder: whether --ladder was asked for.
        operators, classes: None where they were not asked for.
        explained: whether the explanation was asked for.
    """

    environment: Environment
    model: ModelFacts
    dynamic: bool
    compilation: CompileReport
    check: Check
    measured: Ladder
    rungs: list[Rung]
    ladder: bool
    operators: Operators | None
    classes: list[tuple[str, float]] | None
    explained: bool

    def rows(self) -> dict[str, Row]:
        """The figures of every rung: of eager and compiled, and with --ladder of others."""
        return {rung.name: self.measured.rows[rung.name] for rung in self.rungs}

    def as_dict(self) -> dict[str, Any]:
        """The JSON, as `FIELDS` documents it."""
        measured, compilation, check = self.measured, self.compilation, self.check
        return {
            "schema": SCHEMA,
            "environment": dataclasses.asdict(self.environment),
            "model": dataclasses.asdict(self.model),
            "timing": _timing(measured),
            "families": measured.profile and measured.profile.as_dict(),
            "ladder": [
                {"name": rung.name, "compile_seconds": rung.compile_seconds}
                | dataclasses.asdict(measured.rows[rung.name])
                for rung in self.rungs
            ]
            if self.ladder
            else None,
            "operators": self.operators and self.operators.as_dict(),
            "classes": self.classes,
            "compile": {
                "backend": compilation.backend,
                "mode": compilation.mode,
                "dynamic": self.dynamic,
                "frozen": compilation.frozen,
                "seconds": compilation.seconds,
                "graphs": len(compilation.graphs),
                "recompiles": compilation.recompiles,
                "scans": compilation.scans,
            },
            "explanation": compilation.explanation.as_dict() if self.explained else None,
            "check": {
                "tensor": check.tensor,
                **{name: finite(getattr(check, name)) for name in ("error", "eager_error", "tolerance")},
                "passed": check.passed,
            },
        }

    def __str__(self) -> str:
        """The report for people."""
        model, compilation, check, measured = self.model, self.compilation, self.check, self.measured
        work = "forward and backward" if model.training else "inference"
        padding = " and ".join(f"{ratio:.2f}" for ratio in model.padded_tokens)
        speedup = measured.speedup
        lines = [
            f"MambaVision-{model.variant}, {work}, batch {model.batch}, {model.height} x {model.width}, {model.dtype}: "
            f"{model.parameters:,} parameters, {model.gmacs:.3f} GMACs an image",
            str(self.environment),
            f"compiled with {compilation.how} in {compilation.seconds:.1f} s: "
            f"{len(compilation.graphs)} graph(s), {compilation.recompiles} recompile(s), {compilation.scans} scans",
            f"check {'passed' if check.passed else 'FAILED'}: {check} (relative, to a more precise oracle)",
            rungs_table(self.rows()),
            f"speed-up {speedup}; the scans take {measured.scan_share:.1%} of the compiled time "
            f"({measured.scan_share_source})",
            *([families_table(measured.profile)] if measured.profile else []),
            *_conditions(measured),
            f"window padding: {padding} times the tokens in stages 3 and 4",
            f"¹ {measured.ceiling / 1e9:,.0f} GFLOP/s, the best of a large matrix product and the 3x3 convolutions of "
            "stages 1 and 2 in this run",
        ]
        if self.classes is not None:
            source = "of the photo" if model.weights else "of the photo, meaningless: the weights are random"
            lines.append(f"classes {source}:")
            lines.append(tabulate([[f"{p:.1%}", name] for name, p in self.classes]))
        return "\n".join(lines)


def _timing(measured: Ladder) -> dict[str, Any]:
    """The JSON under "timing"."""
    measurement, speedup = measured.measurement, measured.speedup
    return {
        **{name: dataclasses.asdict(measured.rows[name]) for name in ("eager", "compiled")},
        **{name: spread._asdict() for name, spread in measured.alone.items()},
        "speedup": speedup.median,
        "speedup_low": speedup.low,
        "speedup_high": speedup.high,
        "scan_share": measured.scan_share,
        "scan_share_source": measured.scan_share_source,
        "ceiling_flops": measured.ceiling,
        "rounds": measured.rounds,
        "discarded": list(measurement.discarded.items()),
        "clock": measurement.clock,
        "clock_reason": measurement.clock_reason,
        "limited_by_host": measurement.limited_by_host,
        "flushed": measurement.flushed,
        "not_warm": measurement.not_warm,
        "inputs": measured.inputs,
        "input_bytes": measured.input_bytes,
        "gpu": measurement.gpu and dataclasses.asdict(measurement.gpu),
    }


def rungs_table(rows: Mapping[str, Row]) -> str:
    """One line for each way of running the model; figures that only a GPU has get a column where there are any."""
    call, reserved, energy = (
        any(getattr(row, name) is not None for row in rows.values())
        for name in ("call_median_seconds", "peak_reserved_bytes", "energy_joules_per_image")
    )
    cells = [
        [
            name,
            _milliseconds(row.median_seconds),
            f"{_milliseconds(row.p10_seconds)} to {_milliseconds(row.p90_seconds)}",
            *([_milliseconds(row.call_median_seconds)] if call else []),
            f"{row.images_per_second:.1f}",
            f"{row.over_eager:.3f} ({row.over_eager_low:.3f} to {row.over_eager_high:.3f})",
            f"{row.peak_memory_bytes / 2**20:.0f}",
            *([_or_blank(row.peak_reserved_bytes, ".0f", 2**20)] if reserved else []),
            *([_or_blank(row.energy_joules_per_image, ".3g")] if energy else []),
            f"{row.share_of_ceiling:.0%}",
            _or_blank(row.share_apart_from_scan, ".0%"),
        ]
        for name, row in rows.items()
    ]
    headers = [
        "",
        "median ms",
        "10 to 90 % ms",
        *(["call ms"] if call else []),
        "images/s",
        "over eager",
        "peak MiB",
        *(["reserved MiB"] if reserved else []),
        *(["J/image"] if energy else []),
        "of ceiling¹",
        "apart from scans",
    ]
    return tabulate(cells, headers=headers)


def _milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.{1 if value >= 100 else 2 if value >= 10 else 3}f}"


def families_table(profile: DeviceProfile) -> str:
    """The device time of a call by family of kernels."""
    seconds, kernels = profile.by_family(), profile.launches()
    cells = [
        [family, f"{count:.4g}", f"{seconds[family] * 1e3:.3f}", f"{seconds[family] / profile.seconds:.1%}"]
        for family, count in kernels.items()
    ]
    cells.append(["gaps", "", f"{profile.gaps * 1e3:.3f}", ""])
    return tabulate(cells, headers=["family", "kernels", "ms", "of kernels' time"])


def _or_blank(value: float | None, form: str, unit: int = 1) -> str:
    return "" if value is None else format(value / unit, form)


def _conditions(measured: Ladder) -> Iterator[str]:
    """How the figures were measured, and what went wrong meanwhile."""
    measurement = measured.measurement
    flushed = ", the L2 cache overwritten before each" if measurement.flushed else ""
    yield (
        f"{measured.rounds} interleaved rounds, {measured.inputs} inputs in turn "
        f"({measured.input_bytes / 2**20:.0f} MiB); {MEANINGS[measurement.clock]}{flushed}"
    )
    if measurement.clock_reason is not None:
        yield f"not timed by the replay of CUDA graphs: {measurement.clock_reason}"
    if measurement.limited_by_host:
        yield (
            f"limited by the host, since a call takes more than {HOST_LIMIT} times its time on the device: "
            f"{', '.join(measurement.limited_by_host)}"
        )
    for reason, rounds in measurement.discarded.items():
        yield f"{rounds} rounds discarded: {reason}"
    if measurement.not_warm:
        yield f"had not settled when the rounds began: {', '.join(measurement.not_warm)}"
    if measurement.gpu is not None:
        yield from measurement.gpu.lines()
