"""Steps of decoding for tests, and how far from the float64 reference a result may be."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from places import ROOT
from scan_cases import assert_within_budget, reference
from torch import Tensor

from mvc.kernels.state_update.api import NAMES

OP = torch.ops.mvc.selective_state_update.default
OPTIONAL = ("D", "z", "dt_bias", "softplus")
HALF, BFLOAT = torch.float16, torch.bfloat16

Tensors = dict[str, "Tensor | None"]


class Step(NamedTuple):
    batch: int = 2
    dim: int = 6
    states: int = 8
    heads: int | None = None
    groups: int | None = None  # None: B and C have no axis of them
    options: tuple[str, ...] = OPTIONAL
    dtype: torch.dtype = torch.float32
    state_dtype: torch.dtype = torch.float32
    layout: str = "contiguous"  # or "permuted", "sliced", "expanded" as Mamba-2 has them

    def __str__(self) -> str:
        sizes = f"B{self.batch}-H{self.heads}-D{self.dim}-N{self.states}-G{self.groups}"
        dtypes = f"{str(self.dtype)[6:]}-{str(self.state_dtype)[6:]}"
        return (
            f"{sizes}-{'all' if self.options == OPTIONAL else '+'.join(self.options) or 'plain'}-{dtypes}-{self.layout}"
        )

    @property
    def softplus(self) -> bool:
        return "softplus" in self.options


STEPS = {
    str(each): each
    for each in (
        *(Step(options=options) for options in ((), *((name,) for name in OPTIONAL), OPTIONAL)),
        *(Step(states=states, batch=batch) for states in (1, 3, 16, 20) for batch in (1, 5)),
        *(Step(states=states, dim=3, batch=2) for states in (64, 128, 200, 256)),
        *(Step(dim=dim, states=16, batch=9) for dim in (1, 17, 40)),
        Step(groups=3),
        Step(groups=1, states=5),
        Step(heads=4, dim=3, groups=2),
        Step(heads=4, dim=9, groups=4, batch=1),
        Step(heads=3, dim=5),
        *(Step(dtype=dtype, state_dtype=state) for dtype in (HALF, BFLOAT) for state in (torch.float32, dtype)),
        Step(batch=7, dim=33, states=16, dtype=BFLOAT, state_dtype=BFLOAT),
        Step(state_dtype=HALF),
        *(Step(batch=batch, layout=layout, states=16) for layout in ("permuted", "sliced") for batch in (1, 5)),
        Step(heads=4, dim=6, groups=2, layout="permuted", dtype=BFLOAT),
        Step(heads=4, dim=6, groups=2, layout="sliced"),
        *(Step(batch=batch, heads=4, dim=6, groups=1, states=16, layout="expanded") for batch in (1, 2)),
        *(Step(**{size: 0}) for size in ("batch", "dim")),
    )
}


def make_step(step: Step, seed: int = 0) -> Tensors:
    """The op's tensors by name, None where an option is left out."""
    generator = torch.Generator().manual_seed(seed)
    channels = (step.dim,) if step.heads is None else (step.heads, step.dim)
    weights = (step.batch, step.states) if step.groups is None else (step.batch, step.groups, step.states)
    sequence = (step.batch, *channels)
    shapes = {"state": (*sequence, step.states), "x": sequence, "dt": sequence, "A": (*channels, step.states)}
    shapes |= {"B": weights, "C": weights, "D": channels, "z": sequence, "dt_bias": channels}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["A"] = -tensors["A"].exp()
    if step.softplus:
        tensors["dt"].view(-1)[:1] = 24.0  # softplus is linear above 20
    else:
        tensors["dt"], tensors["dt_bias"] = tensors["dt"].abs() / 4, tensors["dt_bias"].abs() / 4
    dtypes = {"A": torch.float32, "state": step.state_dtype}
    tensors = {name: tensor.to(dtypes.get(name, step.dtype)) for name, tensor in tensors.items()}
    if step.layout == "expanded":  # one A, D, dt and dt_bias for each head
        first = {"A": (Ellipsis, slice(1), slice(1)), **dict.fromkeys(("D", "dt", "dt_bias"), (Ellipsis, slice(1)))}
        tensors |= {name: tensors[name][index].expand(shapes[name]) for name, index in first.items()}
    lay = {"permuted": permuted, "sliced": sliced}.get(step.layout, lambda tensor: tensor)
    return {name: lay(tensors[name]) if name not in OPTIONAL or name in step.options else None for name in NAMES}


def permuted(tensor: Tensor) -> Tensor:
    """The same numbers with the axes in memory the other way round."""
    axes = tuple(reversed(range(tensor.dim())))
    return tensor.permute(axes).contiguous().permute(axes)


def sliced(tensor: Tensor) -> Tensor:
    """The same numbers in the midst of others, no axis of which is dense."""
    whole = torch.randn(*(2 * size + 1 for size in tensor.shape), generator=torch.Generator().manual_seed(2))
    part = whole.to(tensor.dtype)[(slice(1, None, 2),) * tensor.dim()]
    part.copy_(tensor)
    return part


def converted(tensors: Tensors, convert: Callable[[Tensor], Tensor]) -> Tensors:
    return {name: tensor if tensor is None else convert(tensor) for name, tensor in tensors.items()}


def by_the_reference(tensors: Tensors, softplus: bool) -> dict[str, Tensor]:
    """y and the state of the scan's reference, which has no heads, over a sequence of one step."""
    state, x, dt, A, B, C, D, z, dt_bias = tensors.values()
    options = {"D": D, "delta_bias": dt_bias}
    options = {name: tensor if tensor is None else tensor.flatten() for name, tensor in options.items()}
    options |= {"z": z if z is None else z.flatten(1)[:, None], "delta_softplus": softplus}
    options["initial_state"] = state.flatten(1, -2).to(torch.promote_types(state.dtype, torch.float32))
    y, last = reference(
        x.flatten(1)[:, None], dt.flatten(1)[:, None], A.flatten(0, -2), B[:, None], C[:, None], **options
    )
    return {"y": y.view(x.shape), "state": last.view(state.shape).to(state.dtype)}


def assert_step_within_budget(step: Step, run: Callable[[Tensors, bool], Tensor], device: str = "cpu") -> None:
    """y and the state after one step, in the dtypes that they should have; nothing else is written to."""
    given = make_step(step)
    tensors = given if device == "cpu" else converted(given, lambda tensor: tensor.to(device))
    before = converted(tensors, memory_of)
    y = run(tensors, step.softplus)
    assert (y.dtype, y.is_contiguous(), y.requires_grad) == (step.dtype, True, False)
    fresh = make_step(step)
    oracle = by_the_reference(converted(fresh, Tensor.double), step.softplus)
    baseline = by_the_reference(fresh, step.softplus)
    for name, actual in {"y": y, "state": tensors["state"]}.items():
        assert_within_budget(actual.cpu(), oracle[name], baseline[name], name)
    put_back = tensors["state"].copy_(fresh["state"])
    for name, tensor in (tensors | {"state": put_back}).items():
        assert tensor is None or torch.equal(memory_of(tensor), before[name]), f"{name} has changed"


def memory_of(tensor: Tensor) -> Tensor:
    """A copy of all that lies where the tensor does, seen or skipped by it."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage, 0, (storage.nbytes(),)).clone()


def through_the_op(tensors: Tensors, softplus: bool) -> Tensor:
    return OP(*tensors.values(), softplus)


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))} | variables
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def assert_not_finite_alike(run: Callable[[Tensors, bool], Tensor]) -> None:
    """NaN and infinities are where the reference has them, wherever one came from."""
    step = Step(heads=2, dim=3, groups=1, states=3)
    for name in NAMES:
        for value in (math.nan, math.inf, -math.inf):
            tensors = make_step(step)
            tensors[name].view(-1)[1] = value
            expected = by_the_reference(converted(tensors, Tensor.clone), True)
            actual = {"y": run(tensors, True), "state": tensors["state"]}
            for result, tensor in actual.items():
                where = f"{result}, for {value} in {name}"
                for kind in (torch.isnan, torch.isposinf, torch.isneginf):
                    assert torch.equal(kind(tensor), kind(expected[result])), where
