"""The facts of one `python -m mvc.compile` run, as a table for people and as JSON for programs.

`FIELDS` documents every key of the JSON; `SCHEMA` changes when a key changes its meaning or goes.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from mvc import __version__, files
from mvc.compile import torch_private
from mvc.errors import UserError
from mvc.measure import machine, nvml
from mvc.measure.profiler import HOST_LIMIT
from mvc.measure.stopwatch import MEANINGS
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
    "peak_memory_bytes": "CUDA: most that tensors took; CPU: most that the process had resident",
    "peak_reserved_bytes": "CUDA: most that the allocator had from the device; otherwise null",
    "energy_joules_per_image": "CUDA: of runs one after the other, null where the GPU does not tell; otherwise null",
    "share_of_ceiling": "the model's FLOP/s over the ceiling",
    "share_apart_from_scan": "the same with the scan's own time taken off, or null where it is no shorter",
}

FIELDS = {
    "schema": f'name and version of this format: "{SCHEMA}"',
    "model.variant": "name of the variant",
    "model.parameters": "number of parameters",
    "model.gmacs": "10⁹ multiply-adds of one image's forward pass: convolutions, matrix products, attention",
    "model.batch": "images in a batch",
    "model.height": "pixels",
    "model.width": "pixels",
    "model.dtype": "of parameters and input",
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
    "environment.cpu": "name of the processor",
    "environment.threads": "CPU threads torch uses",
    "environment.affinity": "processors that the process may run on, or null",
    "environment.frequency_mhz": "of the first processor at the start, or null where it cannot be read",
    "environment.cache_bytes": "of the processor's last level, or null where it cannot be read",
    "environment.load": "load average over the last minute, or null",
    "compile.backend": "mvc, inductor or eager",
    "compile.mode": "Inductor's mode",
    "compile.dynamic": "whether one graph was asked to serve every batch size",
    "compile.seconds": "first call with empty caches: capture, compilation and one run",
    "compile.graphs": "graphs captured in the whole run",
    "compile.recompiles": "graphs beyond the first",
    "compile.scans": "selective scans in the first graph, behind the passes",
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
    "timing.scan_share_source": "device profile: of the kernels of a compiled call; or scans timed apart",
    "timing.ceiling_flops": "FLOP/s: the best of a large matrix product and the two 3x3 convolutions, same run",
    "timing.rounds": "timed rounds, each running everything once in a random order",
    "timing.discarded": "rounds left out of the figures, as [reason, rounds]",
    "timing.clock": "; ".join(f"{name}: {meaning}" for name, meaning in MEANINGS.items()),
    "timing.clock_reason": "on CUDA, why the default clock was not graph; otherwise null",
    "timing.limited_by_host": f"of which a call takes more than {HOST_LIMIT} times its time on the device: names",
    "timing.flushed": "whether the GPU's L2 cache was overwritten before each call",
    "timing.not_warm": "what had not settled when the rounds began",
    "timing.inputs": "inputs, taken in turn",
    "timing.input_bytes": "of all inputs together",
    "timing.gpu": "with CUDA: clocks, temperature, power, energy and reasons of throttling meanwhile; otherwise null",
    "ladder": "with --ladder: name, compile_seconds and the figures of timing.eager for each rung; otherwise null",
    "families": "on CUDA, one call of compiled by torch.profiler: seconds of its kernels and of the gaps between them, "
    "and rows of family, kernels and seconds; otherwise null",
    "operators": "with --operators: what the compiled model's time goes to, see mvc.measure.operators; otherwise null",
    "explanation": "with --explain: each pass, its matches and near misses, and the code's launches; otherwise null",
    "classes": "with --image: the five most probable classes as [name, probability]; otherwise null",
}


def environment(device: torch.device) -> dict[str, Any]:
    """What the figures depend on besides the model."""
    try:
        import triton
    except ImportError:
        triton = None
    cuda = device.type == "cuda"
    gpu = nvml.identify(device) if cuda else nvml.UNKNOWN
    name = torch.cuda.get_device_name(device) if cuda else machine.processor()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "mvc": __version__,
        "torch": torch.__version__,
        "triton": triton and triton.__version__,
        "python": platform.python_version(),
        "compiler": torch_private.cpp_compiler(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{device.type}: {name}",
        "gpu_bus_id": nvml.place(device) if cuda else None,
        "cuda_devices": torch.cuda.device_count() if cuda else None,
        "driver": gpu.driver,
        "sm_clock_mhz": gpu.sm_clock,
        "memory_clock_mhz": gpu.memory_clock,
        "cpu": machine.processor(),
        "threads": torch.get_num_threads(),
        "affinity": machine.affinity(),
        "frequency_mhz": machine.frequency(),
        "cache_bytes": machine.last_level_cache(),
        "load": machine.load_average(),
    }


def environment_line(environment: dict[str, Any]) -> str:
    device = environment["device"]
    if (environment.get("cuda_devices") or 1) > 1:  # older recordings do not tell
        device += f" at {environment['gpu_bus_id']}, one of {environment['cuda_devices']}"
    compiler = environment["compiler"] or "no C++ compiler"
    triton = f"triton {environment['triton']}" if environment["triton"] else "no triton"
    threads = f"{environment['threads']} threads"
    if environment["affinity"] is not None:
        threads += f" on {environment['affinity']} processors"
    if environment["frequency_mhz"] is not None:
        threads += f" at {environment['frequency_mhz']:.0f} MHz"
    load = "" if environment["load"] is None else f", load average {environment['load']:.1f}"
    return f"{device}, {threads}{load}, torch {environment['torch']}, {triton}, {compiler}"


def table(facts: dict[str, Any]) -> str:
    """The facts for people."""
    timing, model, compiled, check = (facts[key] for key in ("timing", "model", "compile", "check"))
    rows = {name: timing[name] for name in ("eager", "compiled")}
    if facts["ladder"] is not None:
        rows = {row["name"]: row for row in facts["ladder"]}
    work = "forward and backward" if model["training"] else "inference"
    padding = " and ".join(f"{ratio:.2f}" for ratio in model["padded_tokens"])
    lines = [
        f"MambaVision-{model['variant']}, {work}, batch {model['batch']}, {model['height']} x {model['width']}, "
        f"{model['dtype']}: {model['parameters']:,} parameters, {model['gmacs']:.3f} GMACs an image",
        environment_line(facts["environment"]),
        f"compiled with {compiled['backend']} ({compiled['mode']}) in {compiled['seconds']:.1f} s: "
        f"{compiled['graphs']} graph(s), {compiled['recompiles']} recompile(s), {compiled['scans']} scans",
        f"check {'passed' if check['passed'] else 'FAILED'}: {check['tensor']} error {_number(check['error'])}, "
        f"eager's own {_number(check['eager_error'])}, tolerance {_number(check['tolerance'])} (relative, to a more "
        "precise oracle)",
        rungs_table(rows),
        f"speed-up {timing['speedup']:.3f} ({timing['speedup_low']:.3f} to {timing['speedup_high']:.3f}); the scans "
        f"take {timing['scan_share']:.1%} of the compiled time ({timing['scan_share_source']})",
        *([families_table(facts["families"])] if facts["families"] else []),
        *_conditions(timing),
        f"window padding: {padding} times the tokens in stages 3 and 4",
        f"¹ {timing['ceiling_flops'] / 1e9:,.0f} GFLOP/s, the best of a large matrix product and the 3x3 convolutions "
        "of stages 1 and 2 in this run",
    ]
    if facts["classes"] is not None:
        source = "of the photo" if model["weights"] else "of the photo, meaningless: the weights are random"
        lines.append(f"classes {source}:")
        lines.append(tabulate([[f"{p:.1%}", name] for name, p in facts["classes"]]))
    return "\n".join(lines)


def rungs_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each way of running the model; what only a GPU tells has a column where there is any of it."""
    call, reserved, energy = (
        any(row[key] is not None for row in rows.values())
        for key in ("call_median_seconds", "peak_reserved_bytes", "energy_joules_per_image")
    )
    cells = [
        [
            name,
            _milliseconds(row["median_seconds"]),
            f"{_milliseconds(row['p10_seconds'])} to {_milliseconds(row['p90_seconds'])}",
            *([_milliseconds(row["call_median_seconds"])] if call else []),
            f"{row['images_per_second']:.1f}",
            f"{row['over_eager']:.3f} ({row['over_eager_low']:.3f} to {row['over_eager_high']:.3f})",
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
            *([_or_blank(row["peak_reserved_bytes"], ".0f", 2**20)] if reserved else []),
            *([_or_blank(row["energy_joules_per_image"], ".3g")] if energy else []),
            f"{row['share_of_ceiling']:.0%}",
            _or_blank(row["share_apart_from_scan"], ".0%"),
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


def families_table(families: Mapping[str, Any]) -> str:
    """What a call's device time goes to, as `mvc.measure.device_profile.DeviceProfile.as_dict` has it."""
    cells = [
        [
            row["family"],
            f"{row['kernels']:.4g}",
            f"{row['seconds'] * 1e3:.3f}",
            f"{row['seconds'] / families['seconds']:.1%}",
        ]
        for row in families["rows"]
    ]
    cells.append(["gaps", "", f"{families['gaps'] * 1e3:.3f}", ""])
    return tabulate(cells, headers=["family", "kernels", "ms", "of kernels' time"])


def _or_blank(value: float | None, form: str, unit: int = 1) -> str:
    return "" if value is None else format(value / unit, form)


def _conditions(timing: Mapping[str, Any]) -> Iterator[str]:
    """How it was measured, and what went wrong meanwhile."""
    flushed = ", the L2 cache overwritten before each" if timing["flushed"] else ""
    yield (
        f"{timing['rounds']} interleaved rounds, {timing['inputs']} inputs in turn "
        f"({timing['input_bytes'] / 2**20:.0f} MiB); {MEANINGS[timing['clock']]}{flushed}"
    )
    if timing["clock_reason"] is not None:
        yield f"not timed by the replay of CUDA graphs: {timing['clock_reason']}"
    if timing["limited_by_host"]:
        yield (
            f"limited by the host, since a call takes more than {HOST_LIMIT} times its time on the device: "
            f"{', '.join(timing['limited_by_host'])}"
        )
    for reason, rounds in timing["discarded"]:
        yield f"{rounds} rounds discarded: {reason}"
    if timing["not_warm"]:
        yield f"had not settled when the rounds began: {', '.join(timing['not_warm'])}"
    if timing["gpu"] is not None:
        yield from nvml.lines(timing["gpu"])


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2e}"


def write_json(facts: dict[str, Any], target: str) -> None:
    """Write to a file, under another name first so that the file is whole or absent; "-" is standard output.

    Raises:
        UserError: the target cannot be written.
    """
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        print(text, end="")
        return
    path = Path(target)
    try:
        files.replace(path, text)
    except OSError as error:
        raise UserError(f"cannot write --json {target}: {error.strerror}") from error
