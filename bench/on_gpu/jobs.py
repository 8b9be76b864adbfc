"""One model run in one way, in a process of its own: it compiles, is compared with eager, and runs when told to."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import published, published_scan
from bench.models import FORCED, HOWS, TRAINED, create_peer, from_timm
from bench.on_gpu import torch_private, worker
from mvc import capture_step, create_model
from mvc.cli import DTYPES
from mvc.compile.backend import GraphReport
from mvc.compile.compiler import check_against_eager, compile_model, training_step
from mvc.measure.device_profile import profile_device
from mvc.measure.machine import peak_memory
from mvc.measure.stopwatch import WallClock, for_calls, synchronize
from mvc.model.config import VARIANTS, get_config
from mvc.passes import measured_choice
from mvc.patches import replaced
from mvc.tasks.backbone import Backbone

PUBLISHED = "published "
SHOWN_KERNELS = 60


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        model: a variant of ours, "published " and a variant, or what `bench.models.create_peer` makes.
        how: "eager", or one of `HOWS`, `FORCED` or `TRAINED` of `bench.models`.
        dtype: of parameters and input, or "autocast": float32 under autocast to half precision.
        mode: Inductor's mode.
        training: whether a backward is run too.
        captured: whether the training step is one CUDA graph, by `mvc.capture_step`.
        size: side of the images in pixels, or height and width.
        window_sizes: of the backbone of dense tasks, which is measured then; None measures the classifier.
        padded_windows: of that backbone, as `MambaVisionConfig.padded_windows`.
    """

    model: str
    how: str
    batch: int
    dtype: str = "float16"
    mode: str = "default"
    training: bool = False
    captured: bool = False
    size: int | tuple[int, int] = 224
    window_sizes: tuple[int, int] | None = None
    padded_windows: bool = True

    def __str__(self) -> str:
        mode = "" if self.mode == "default" else f", {self.mode}"
        step = ", training" if self.training else ""
        step += ", one CUDA graph" if self.captured else ""
        dense = ""
        if self.window_sizes:
            tokens = "padded windows" if self.padded_windows else "windows of valid tokens"
            dense = f", {self.size[0]} x {self.size[1]}, {tokens}"
        return f"{self.model}, {self.how}, batch {self.batch}, {self.dtype}{mode}{step}{dense}"

    @property
    def ours(self) -> bool:
        """Whether it is our model, compiled by mvc."""
        return self.model in VARIANTS and self.how.startswith("mvc")

    @property
    def peer(self) -> bool:
        """Whether it is neither ours nor the published MambaVision."""
        return self.model not in VARIANTS and not self.model.startswith(PUBLISHED)

    @property
    def from_timm(self) -> bool:
        return self.peer and from_timm(self.model)


class Autocast(nn.Module):
    """A model under autocast to half precision."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.float16 if x.is_cuda else torch.bfloat16):
            return self.model(x)


def build(job: Job, device: torch.device) -> nn.Module:
    """The job's model, with random weights."""
    dtype = DTYPES.get(job.dtype, torch.float32)
    changes = {"drop_path_rate": 0.0} if job.training else {}
    if job.peer:
        model = create_peer(job.model, device=device, dtype=dtype)
    elif job.window_sizes:
        windows = {"window_sizes": tuple(job.window_sizes), "padded_windows": job.padded_windows}
        model = Backbone(get_config(job.model, **windows), device=device, dtype=dtype)
    elif job.model.startswith(PUBLISHED):
        variant = job.model.removeprefix(PUBLISHED)
        model = published.create_model(variant, device=device, dtype=dtype, scan=published_scan.best(device), **changes)
    else:
        model = create_model(job.model, device=device, dtype=dtype, **changes)
    model.train(job.training)
    return Autocast(model).train(job.training) if job.dtype == "autocast" else model


def images(job: Job, device: torch.device) -> list[Tensor]:
    """Inputs to use in turns, so that none is found in a cache."""
    height, width = (job.size, job.size) if isinstance(job.size, int) else job.size
    shape, dtype = (job.batch, 3, height, width), DTYPES.get(job.dtype, torch.float32)
    count = 2 if job.batch > 64 else 8
    return [torch.randn(shape).to(device, dtype).contiguous(memory_format=torch.channels_last) for _ in range(count)]


def work(asked: dict[str, Any], answer: worker.Answer) -> None:
    job, device = Job(**asked["job"]), torch.device(asked["device"])
    alone = worker.Alone(Path(asked["lock"]))
    torch.manual_seed(0)
    torch.set_grad_enabled(job.training)
    with torch_private.tuning_within(alone), choosing_within(alone):
        run, inputs, facts = prepare(job, device, alone)
    answer(facts)
    watch, arguments = for_calls(device), itertools.cycle(inputs)
    for command in worker.asked():
        if "calls" in command:
            answer(turn(run, arguments, watch, command["calls"]))
        else:
            answer(profile(lambda: run(next(arguments)), device))
        _free(device)


def choosing_within(alone: worker.Alone) -> contextlib.AbstractContextManager[None]:
    """In the block, passes time the calls among which they choose within `alone()`."""
    measure = measured_choice.measure

    def measure_alone(*args: Any) -> tuple[str, bool]:
        with alone():
            return measure(*args)

    return replaced(measured_choice, "measure", measure_alone)


def prepare(
    job: Job, device: torch.device, alone: worker.Alone
) -> tuple[Callable[[Tensor], object], list[Tensor], dict[str, Any]]:
    """The callable to time, its inputs, and the facts found until it was warm."""
    model, inputs = build(job, device), images(job, device)
    step = functools.partial(_training_step, model) if job.training else (lambda run, x: run(x))
    compiled, facts = model, {}
    if device.type == "cuda":  # cuDNN chooses its algorithms once for each convolution: now, before a graph is captured
        with alone():
            torch.backends.cudnn.benchmark = True
            step(model, inputs[0])
            _free(device)
    if job.how != "eager":
        compiled, report = compile_model(model, inputs[0], mode=job.mode, **(HOWS | FORCED | TRAINED)[job.how])
        facts["compile_seconds"] = report.seconds
        if choices := chosen(report.explanation.graphs):
            facts["choices"] = choices
    with alone():
        if job.how != "eager":
            check = check_against_eager(model, compiled, inputs[0])
            if not check.passed:
                raise RuntimeError(f"disagrees with eager: {check}")
            facts |= {"error": check.error, "tolerance": check.tolerance}
        for x in inputs[:3]:
            step(compiled, x)
        run = functools.partial(step, compiled)
        facts["peak_bytes"] = peak_memory(lambda: run(inputs[0]), device).used
        if job.captured:
            run = capture_step(run, inputs[0])
        _free(device)
    return run, inputs, facts


def chosen(graphs: Sequence[GraphReport]) -> dict[str, dict[str, Any]]:
    """By pass, how many places it rewrote, and how many it left alone for each reason."""
    choices: dict[str, dict[str, Any]] = {}
    for record in itertools.chain.from_iterable(graph.passes for graph in graphs):
        if record.fired or record.near_misses:
            seen = choices.setdefault(record.name, {"rewritten": 0, "left": Counter()})
            seen["rewritten"] += record.matches
            seen["left"].update(miss.reason for miss in record.near_misses)
    return choices


def _training_step(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
    training_step(run, x)
    model.zero_grad(set_to_none=True)


def turn(
    run: Callable[[Tensor], object], arguments: Iterator[Tensor], watch: WallClock, calls: int
) -> dict[str, float]:
    """Seconds of a call, over `calls` calls one after the other: by the device's events, and by the wall clock."""

    def burst() -> None:
        for _ in range(calls):
            run(next(arguments))

    synchronize(watch.device)
    start = time.perf_counter()
    seconds = watch.seconds(burst)
    return {"seconds": seconds / calls, "wall_seconds": (time.perf_counter() - start) / calls}


def profile(run: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """The kernels that the device ran in a call; nothing on a CPU, which has no kernels."""
    if device.type != "cuda":
        return {}
    seen = profile_device(run, device=device)
    return {
        "kernel_seconds": seen.seconds,
        "families": seen.by_family(),
        "launches": sum(seen.launches().values()),
        "kernels": [list(kernel) for kernel in seen.kernels[:SHOWN_KERNELS]],
    }


def _free(device: torch.device) -> None:
    """Release the allocator's spare memory to the other processes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    worker.serve(work)
