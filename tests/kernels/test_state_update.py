"""One step of decoding: the op and mamba-ssm's function on a CPU, eager and compiled, against float64."""

from __future__ import annotations

import pytest
import torch
from step_cases import (
    BFLOAT,
    HALF,
    OP,
    STEPS,
    Step,
    assert_not_finite_alike,
    assert_step_within_budget,
    by_the_reference,
    converted,
    make_step,
    run_python,
    through_the_op,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mvc.compat.mamba_ssm import selective_state_update
from mvc.kernels import eager
from mvc.kernels.state_update.api import NAMES


@pytest.mark.parametrize("step", STEPS.values(), ids=str)
def test_the_op_on_a_cpu(step):
    assert_step_within_budget(step, through_the_op)


def test_not_finite_on_a_cpu():
    assert_not_finite_alike(through_the_op)


def test_in_float64():
    tensors = converted(make_step(Step(heads=4, dim=3, groups=2)), Tensor.double)
    expected = by_the_reference(tensors, True)
    torch.testing.assert_close(through_the_op(tensors, True), expected["y"], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(tensors["state"], expected["state"], rtol=1e-13, atol=1e-13)


@pytest.mark.versions
@pytest.mark.parametrize(
    "step",
    [
        Step(),
        Step(options=()),
        Step(heads=4, dim=3, groups=2, layout="permuted"),
        Step(state_dtype=HALF),
        Step(batch=0),
    ],
    ids=str,
)
def test_opcheck(step):
    torch.library.opcheck(OP, (*make_step(step).values(), step.softplus))


def test_flops():
    step = Step(heads=4, dim=3, groups=2)
    with FlopCounterMode(display=False) as counter:
        through_the_op(make_step(step), True)
    assert counter.get_total_flops() == 7 * step.batch * step.heads * step.dim * step.states


def test_eager_calls_give_the_bits_of_the_op_and_count_as_writes():
    step = Step(dtype=BFLOAT)
    expected, tensors = make_step(step), make_step(step)
    y = through_the_op(expected, True)
    eager._prepared.clear()
    for _ in range(2):
        tensors["state"].copy_(make_step(step)["state"])
        version = tensors["state"]._version
        assert torch.equal(selective_state_update(**tensors, dt_softplus=True), y)
        assert torch.equal(tensors["state"], expected["state"])
        assert tensors["state"]._version > version
    assert len(eager._prepared) == 1


def test_no_gradient_flows():
    tensors = converted(make_step(Step()), lambda tensor: tensor.requires_grad_())
    compiled = torch.compile(selective_state_update, fullgraph=True, backend="aot_eager")
    for update in (selective_state_update, compiled):
        y = update(**tensors, dt_softplus=True)
        assert not y.requires_grad
        assert tensors["state"].grad_fn is None


def test_under_vmap():
    """Of all but A, which the mapped sequences share."""
    tensors = {name: tensor[None].repeat(3, *[1] * tensor.dim()) for name, tensor in make_step(Step()).items()}
    tensors["x"] *= torch.arange(3.0)[:, None, None]
    tensors["A"] = tensors["A"][0]
    mapped, alone = (converted(tensors, Tensor.clone) for _ in range(2))
    axes = tuple(None if name == "A" else 0 for name in NAMES)
    y = torch.func.vmap(lambda *given: selective_state_update(*given, dt_softplus=True), in_dims=axes)(*mapped.values())
    for index in range(3):
        one = {name: tensor if name == "A" else tensor[index] for name, tensor in alone.items()}
        torch.testing.assert_close(y[index], through_the_op(one, True))
        torch.testing.assert_close(mapped["state"][index], one["state"])


def test_tangents_pass():
    """In forward mode, which no_grad leaves on: of the sum over states, in x."""
    tensors = make_step(Step(options=("D",)))
    tangent = torch.randn_like(tensors["x"])

    def y_and_state(x: Tensor) -> tuple[Tensor, Tensor]:
        given = converted(tensors | {"x": x}, Tensor.clone)
        return selective_state_update(**given), given["state"]

    _, tangents = torch.func.jvp(y_and_state, (tensors["x"],), (tangent,))
    differences = (y_and_state(tensors["x"] + tangent), y_and_state(tensors["x"]))  # both are linear in x
    for found, more, less in zip(tangents, *differences, strict=True):
        torch.testing.assert_close(found, more - less)


def test_autocast_changes_nothing():
    step = Step(heads=4, dim=3, groups=2)
    expected, tensors = make_step(step), make_step(step)
    y = through_the_op(expected, True)
    with torch.autocast("cpu", dtype=BFLOAT):
        assert torch.equal(selective_state_update(**tensors, dt_softplus=True), y)
    assert torch.equal(tensors["state"], expected["state"])


@pytest.mark.versions
def test_one_graph_serves_every_batch():
    compiled = torch.compile(selective_state_update, fullgraph=True)
    for batch in (3, 4, 9):
        step = Step(batch=batch, heads=4, dim=3, groups=2)
        expected, tensors = make_step(step), make_step(step)
        for name in ("state", "x", "dt", "B", "C", "z"):
            torch._dynamo.mark_dynamic(tensors[name], 0)
        with torch._dynamo.config.patch(error_on_recompile=batch != 3):
            y = compiled(**tensors, dt_softplus=True)
        torch.testing.assert_close(y, through_the_op(expected, True))
        torch.testing.assert_close(tensors["state"], expected["state"])


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from mvc.compat.mamba_ssm import selective_state_update
from step_cases import Step, make_step
for update in (selective_state_update, torch.compile(selective_state_update, fullgraph=True, backend="aot_eager")):
    tensors = make_step(Step())
    print(float(update(**tensors, dt_softplus=True).sum()), float(tensors["state"].sum()))
"""


def test_without_triton():
    """The op is there, and compiles; `triton_op` would warn that it finds no kernels."""
    tensors = make_step(Step())
    expected = [float(selective_state_update(**tensors, dt_softplus=True).sum()), float(tensors["state"].sum())]
    done = run_python("-c", WITHOUT_TRITON)
    for line in done.stdout.splitlines():
        assert [*map(float, line.split())] == pytest.approx(expected)
    assert len(done.stdout.splitlines()) == 2
    assert "find_triton_kernels" not in done.stderr


# Differ in one thing from what fits Step(heads=4, dim=6, groups=2), whose batch is 2 and whose N is 8.
NONSENSE = {
    "state": [(2, 4, 6), (8,), (2, 4, 6, 0), (2, 4, 6, 257)],
    "x": [(2, 24), (2, 4, 1), (1, 4, 6), (2, 3, 6)],
    "dt": [(2, 24), (2, 1, 6)],
    "A": [(6, 8), (4, 6, 1), (4, 8)],
    "B": [(1, 2, 8), (2, 2, 1), (2, 3, 8), (2, 0, 8), (8,)],
    "C": [(2, 8), (2, 4, 8), (1, 8)],
    "D": [(6,), (4, 1)],
    "z": [(2, 4, 1), (2, 24)],
    "dt_bias": [(4,), (1, 6)],
}  # fmt: skip


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in NONSENSE for shape in NONSENSE[name]], ids=str)
def test_nonsense_is_refused_by_the_bare_op(name, shape):
    """Neither a crash nor a broadcast."""
    tensors = make_step(Step(heads=4, dim=6, groups=2))
    with pytest.raises(ValueError, match=r" must be | must divide | must have "):
        through_the_op(tensors | {name: torch.zeros(shape, dtype=tensors[name].dtype)}, True)
