"""`capture_step`: a whole training step as one CUDA graph, so that the host launches it in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mvc.arguments import require
from mvc.errors import UserError
from mvc.measure import capture

TRIALS = 2  # before that of the capture itself; kernels are compiled, and states of optimizers made, in the first one


def capture_step(
    step: Callable[..., Any], *examples: Tensor, optimizer: torch.optim.Optimizer | None = None
) -> CapturedStep:
    """Capture a training step (forward, loss, backward, update) as one CUDA graph.

    The step is called three times on the examples beside the current stream, which are three steps of training, and
    then recorded without being run. It may do nothing that waits for the device, such as `.item()`, and must call the
    same kernels every time: Python that it runs is not run again. It sets gradients to None before the backward
    (`optimizer.zero_grad()`), so that they lie in the graph's memory. A learning rate that changes is a tensor that is
    filled in place. A `torch.amp.GradScaler` waits for the device in its `step`, unless the optimizer is fused
    (`fused=True`), which skips a step on the device; bfloat16 needs no scaler.

    Args:
        step: called with tensors like the examples; a function of compiled or eager code. Code that was compiled with
            the mode "reduce-overhead" replays graphs of its own and is refused.
        examples: tensors of the shapes, dtypes and device of every later call.
        optimizer: the one that the step updates parameters with, where it has one; it is checked.

    Returns:
        the step, to be called with other tensors. Its results lie in the graph's memory: the next call overwrites them.

    Raises:
        UserError: no examples, examples that are not on one CUDA device, an optimizer that keeps its state on the host,
            or a step that cannot be captured.
    """
    require(callable(step), "step", step, "a function")
    device = _device(examples)
    if optimizer is not None:
        _check_optimizer(optimizer)
    return CapturedStep(step, examples, device)


class CapturedStep:
    """What `capture_step` returns."""

    def __init__(self, step: Callable[..., Any], examples: tuple[Tensor, ...], device: torch.device) -> None:
        self._inputs = tuple(example.detach().clone() for example in examples)
        self._results: Any = None

        def run(*inputs: Tensor) -> None:
            self._results = step(*inputs)

        try:
            for _ in range(TRIALS):
                if reason := capture.obstacle(run, self._inputs, device):
                    raise capture.NotCapturable(reason)
            pool = torch.cuda.graph_pool_handle()
            self._replay = capture.capture(run, self._inputs, device, pool=pool)
        except capture.NotCapturable as error:
            raise UserError(f"step {error}, so that it cannot be one CUDA graph; {_remedy(str(error))}") from error

    def __call__(self, *inputs: Tensor) -> Any:
        """Run the step on tensors like the examples.

        Raises:
            UserError: another number of tensors, or another shape, dtype or device.
        """
        if len(inputs) != len(self._inputs):
            raise UserError(f"the captured step takes {len(self._inputs)} tensors, got {len(inputs)}")
        for place, (given, own) in enumerate(zip(inputs, self._inputs, strict=True)):
            wanted, seen = _kind(own), _kind(given) if isinstance(given, Tensor) else type(given).__name__
            if seen != wanted:
                raise UserError(
                    f"tensor {place} of the captured step must be {wanted}, got {seen}; capture another step"
                )
        for given, own in zip(inputs, self._inputs, strict=True):
            own.copy_(given)
        self._replay()
        return self._results


def _device(examples: tuple[Any, ...]) -> torch.device:
    """The one CUDA device of the examples."""
    for place, example in enumerate(examples):
        require(isinstance(example, Tensor), f"example {place}", example, "a tensor")
    devices = list(dict.fromkeys(example.device for example in examples))
    if len(devices) != 1 or devices[0].type != "cuda":
        seen = ", ".join(map(str, devices)) or "missing"
        raise UserError(
            f"examples must be on one CUDA device, and are {seen}: a CUDA graph runs on a GPU alone; call the step "
            "itself"
        )
    return devices[0]


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    require(isinstance(optimizer, torch.optim.Optimizer), "optimizer", optimizer, "a torch.optim.Optimizer")
    if any(group.get("capturable") is False for group in optimizer.param_groups):
        name = type(optimizer).__name__
        raise UserError(
            f"optimizer is a {name} that counts its steps on the host, which a CUDA graph would repeat; make it with "
            "capturable=True"
        )


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"


def _remedy(reason: str) -> str:
    if reason == capture.REPLAYS:
        return "compile the model without the mode 'reduce-overhead'"
    if reason == capture.WAITS:
        return "leave out .item() and the like, and with a GradScaler use an optimizer made with fused=True"
    return "call it as it is"
