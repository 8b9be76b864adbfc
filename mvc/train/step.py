"""One update of the weights: forward and backward in parts, the optimiser, the schedule and the moving average."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mvc.compile import torch_private
from mvc.compile.compiler import compile_model
from mvc.errors import UserError
from mvc.model.module import MambaVision
from mvc.processes import Processes
from mvc.train import data, sharding
from mvc.train.data import Batch
from mvc.train.recipe import Recipe

Backend = Literal["mvc", "inductor", "eager"]

# Of the distance between the scores of the weights and of their average: train.py of the published configurations.
TEMPERATURE, DISTANCE_WEIGHT = 3.0, 50.0

# The argument by which each process keeps its buffers in a forward, which torch renamed in 2.14.
_NAMES = inspect.signature(DistributedDataParallel).parameters
OWN_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a training runs, which changes its results by roundings at most.

    Attributes:
        backend: what compiles the model; "eager" compiles nothing.
        dtype: float32, or bfloat16 for automatic mixed precision.
        parts: batches of an update in each process, whose gradients are added up.
        recompute: whether blocks are computed again in the backward instead of keeping what they compute.
        fsdp: whether weights, gradients and the optimiser's state are spread over the processes.
    """

    backend: Backend = "mvc"
    dtype: torch.dtype = torch.bfloat16
    parts: int = 1
    recompute: bool = False
    fsdp: bool = False


class Update(NamedTuple):
    """What an update did: the mean loss of its images, the norm of the gradients and the learning rate."""

    loss: float
    gradient_norm: float
    rate: float


class Step:
    """The weights, their moving average, the optimiser and the schedule; `update` moves all of them on by one.

    Args:
        model: on the device of the processes; equal in all of them.
        updates: in an epoch.

    Raises:
        UserError: timm does not know the optimiser.
    """

    def __init__(
        self, model: MambaVision, recipe: Recipe, execution: Execution, processes: Processes, *, updates: int
    ) -> None:
        from timm.scheduler import create_scheduler_v2
        from timm.utils import ModelEmaV3

        self.model, self.recipe, self.execution, self.processes = model, recipe, execution, processes
        for level in model.levels:
            level.grad_checkpointing = execution.recompute
        self.average = ModelEmaV3(model, decay=recipe.ema_decay, foreach=not execution.fsdp)
        if execution.fsdp:
            for module in (model, self.average.module):
                sharding.shard(module, processes, backend=execution.backend)
        self.optimizer = _optimizer(model, recipe, foreach=False if execution.fsdp else None)
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            "cosine",
            num_epochs=recipe.epochs,
            warmup_epochs=recipe.warmup_epochs,
            cooldown_epochs=recipe.cooldown_epochs,
            warmup_lr=recipe.warmup_lr,
            min_lr=recipe.min_lr,
            step_on_epochs=False,
            updates_per_epoch=updates,
        )
        self._mix = data.mixing(recipe, model.config.num_classes)
        self._forward = self._training_forward()
        self._scorers: dict[str, Callable[[Tensor], Tensor]] = {}

    def update(self, parts: Sequence[Batch], *, images: int, epoch: int, number: int) -> Update:
        """Compute the gradients of all parts and take one step.

        Args:
            parts: of this process, on any device.
            images: whose loss counts, of all parts of all processes.
            epoch: counted from 0.
            number: of the update, counted from 0 over all epochs.

        Raises:
            UserError: the loss or the gradients are not finite. The weights are then as before the update.
        """
        self.model.train()
        self.scheduler.step_update(number + 1)
        total = torch.zeros((), device=self.processes.device)
        for place, part in enumerate(parts):
            with self._communicating(last=place == len(parts) - 1):
                # Gradients are means over the processes, and this sum is a part of the mean over all images.
                loss = self._weighted_losses(part, epoch).sum() * (self.processes.count / images)
                loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.processes.add(total)
        result = Update(float(total) / self.processes.count, float(sharding.whole(norm)), self.rate)
        self._require_finite(result, epoch, number)
        self.optimizer.step()
        self.optimizer.zero_grad()
        sharding.average_buffers(self.model, self.processes)
        self.average.update(self.model)
        return result

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    def scores(self, of: Literal["weights", "average"], images: Tensor) -> Tensor:
        """Class scores (batch, classes) of images in inference, compiled with frozen weights at the first call.

        The compiled code reads weights that an update has changed: torch counts the changes, which are in place.
        """
        module = self.model if of == "weights" else self.average.module
        module.eval()
        with torch.no_grad(), self._mixed_precision():
            if self.execution.backend == "eager" or self.execution.fsdp:
                return module(images)
            if of not in self._scorers:
                options = {"frozen": True} if self.execution.backend == "mvc" else None
                compiled, _ = compile_model(module, images, backend=self.execution.backend, options=options)
                self._scorers[of] = compiled
            return self._scorers[of](images)

    def _weighted_losses(self, batch: Batch, epoch: int) -> Tensor:
        """The loss of each image times its weight: float32 (rows,)."""
        device = self.processes.device
        images, labels, weights = (tensor.to(device, non_blocking=True) for tensor in batch)
        images, targets = self._mix(images, labels)
        expected = self.scores("average", images).float() if self.recipe.distils(epoch) else None
        with self._mixed_precision(), _compile_failures():
            scores = self._forward(images).float()
        losses = F.cross_entropy(scores, targets, reduction="none")
        if expected is not None:
            losses = losses + self.recipe.mesa * DISTANCE_WEIGHT * _distance(scores, expected)
        return losses * weights

    def _training_forward(self) -> Callable[[Tensor], Tensor]:
        backend, processes = self.execution.backend, self.processes
        if self.execution.fsdp:
            return self.model  # whose blocks are compiled
        forward: Any = self.model
        if backend != "eager":
            forward = torch.compile(forward, backend=backend, fullgraph=True, dynamic=False)
        if processes.count > 1:
            # Buffers are averaged after each update, so that all images count in the statistics of BatchNorm.
            forward = DistributedDataParallel(forward, **{OWN_BUFFERS: False})
        return forward

    @contextlib.contextmanager
    def _communicating(self, *, last: bool) -> Iterator[None]:
        """Gradients are exchanged in the backward of an update's last part alone."""
        if isinstance(self._forward, DistributedDataParallel) and not last:
            with self._forward.no_sync():
                yield
            return
        if self.execution.fsdp:
            self.model.set_requires_gradient_sync(last)
        yield

    def _mixed_precision(self) -> contextlib.AbstractContextManager[None]:
        mixed = self.execution.dtype != torch.float32
        return torch.autocast(self.processes.device.type, self.execution.dtype, enabled=mixed)

    def _require_finite(self, result: Update, epoch: int, number: int) -> None:
        if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
            raise UserError(
                f"the loss is {result.loss} and the norm of the gradients {result.gradient_norm} in epoch {epoch + 1}, "
                f"update {number + 1}, at the learning rate {result.rate:.3g}; the optimiser did not take it. "
                "Begin again with a lower --lr or a longer --warmup-epochs, or with --dtype float32"
            )


@contextlib.contextmanager
def _compile_failures() -> Iterator[None]:
    """Turn the error of a missing or broken compiler into one sentence with its remedy."""
    try:
        yield
    except Exception as error:
        if (reason := torch_private.compile_failure(error)) is not None:
            raise UserError(f"compilation failed: {reason}; --backend eager needs no compiler") from error
        raise


def _distance(scores: Tensor, expected: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of the scores from the expected ones, both softened: (rows,)."""
    soft, wanted = F.log_softmax(scores / TEMPERATURE, 1), F.softmax(expected / TEMPERATURE, 1)
    return F.kl_div(soft, wanted, reduction="none").sum(1)


def _optimizer(model: nn.Module, recipe: Recipe, *, foreach: bool | None) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    try:
        optimizer = create_optimizer_v2(
            model, recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, eps=recipe.eps, foreach=foreach
        )
    except (AssertionError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"--optimizer {recipe.optimizer} cannot be made ({error}); timm.optim.list_optimizers() names timm's"
        ) from error
    if getattr(optimizer, "is_second_order", False):
        raise UserError(f"--optimizer {recipe.optimizer} needs second derivatives, which an update does not compute")
    return optimizer
