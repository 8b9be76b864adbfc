"""A decoding step's kernel: under Triton's interpreter and on a GPU against float64, its machine code, and the bytes it
moves.

Whether kernels are interpreted is decided when triton is imported, so this file runs itself in a process of its own.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import torch
from scan_cases import needs_triton, require_interpreter
from step_cases import (
    BFLOAT,
    OP,
    STEPS,
    Step,
    Tensors,
    assert_not_finite_alike,
    assert_step_within_budget,
    make_step,
    run_python,
    through_the_op,
)
from torch import Tensor

from mvc.compat.mamba_ssm import selective_state_update

if TYPE_CHECKING:
    from mvc.kernels.scan.triton_launch import Plan


@needs_triton
@pytest.mark.versions
def test_inductor_sees_the_kernel():
    """Traced for a GPU with a batch of unknown size, the op is one call of a Triton kernel, whatever the batch is."""
    from torch._functorch.aot_autograd import aot_function
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    graphs = []
    tensors = make_step(Step(heads=4, dim=6, groups=2, states=16))
    with FakeTensorMode(shape_env=ShapeEnv()) as mode, torch.no_grad():
        on_gpu = [mode.from_tensor(t).to("cuda") for t in tensors.values()]
        aot_function(lambda *given: OP(*given, True), lambda graph, _: graphs.append(graph) or graph, dynamic=True)(
            *on_gpu
        )
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert sum("triton_kernel_wrapper" in target for target in targets) == 1
    assert not any("selective_state_update" in target for target in targets)


# Compiled for sm_90, in the sizes of Mamba and Mamba-2, and at the ends of what N may be.
COMPILED = (
    Step(1, 1536, 16),
    Step(8, 5120, 16),
    Step(8, 5120, 16, dtype=BFLOAT),
    Step(8, 5120, 16, dtype=BFLOAT, state_dtype=BFLOAT),
    Step(1, 64, 128, heads=24, groups=1, dtype=BFLOAT, layout="expanded"),
    Step(8, 64, 128, heads=24, groups=1, dtype=BFLOAT, layout="expanded"),
    Step(8, 64, 256, heads=24, groups=1),
    Step(8, 320, 12),
    Step(8, 320, 8),
    Step(8, 320, 1),
)


@needs_triton
@pytest.mark.versions
@pytest.mark.parametrize("step", COMPILED, ids=str)
def test_machine_code(step):
    """States move 16 bytes at a time, exponentials are computed once, and enough is in flight to hide a microsecond."""
    from opcodes import compiled

    plan, tensors = planned(step)
    (launch,) = plan.launches
    values = [*(pointer and tensors[pointer] for pointer in launch.pointers), *launch.sizes]
    names = launch.kernel.arg_names
    assert {*launch.constants} == {*names[len(values) :]}, "pointers, integers and constants follow each other"
    binary = compiled(launch, dict(zip(names, values, strict=False)) | launch.constants, 90)
    assert binary.code.local == binary.count("LDL") == binary.count("STL") == 0

    states = math.prod(launch.constants[name] for name in ("BATCHES", "BLOCK", "BLOCK_N"))
    bytes_of_states = states * step.state_dtype.itemsize
    assert binary.count("LDG.E.128") >= bytes_of_states // (32 * 16)
    assert binary.count("STG.E.128") >= bytes_of_states // (32 * 16)
    decays = launch.constants["BATCHES"] if step.layout == "expanded" else states / 32
    a_row = min(32, max(1, launch.constants["BLOCK_N"] * step.state_dtype.itemsize // 16))  # threads of a channel
    others = 2 * launch.constants["BATCHES"] * launch.constants["BLOCK"] * a_row / 32  # softplus and SiLU, in each
    assert binary.count("MUFU.EX2") <= 1.25 * decays + others + 2
    if step.batch > 1:
        programs = min(32, 65536 // (32 * -(-binary.code.registers // 8) * 8))  # that a multiprocessor holds at once
        assert programs * bytes_of_states >= 32 * 1024  # on each of 132, at 4.3 TB/s


def planned(step: Step) -> tuple[Plan, Tensors]:
    """The plan of the step's launch, and the tensors that it is launched on."""
    from mvc.kernels.scan.triton_launch import Meta
    from mvc.kernels.state_update.triton_kernel import plan_step

    tensors = make_step(step)
    plan = plan_step({name: t if t is None else Meta.of(t) for name, t in tensors.items()}, softplus=step.softplus)
    return plan, tensors | {"y": torch.empty_like(tensors["x"])}


# --- Under Triton's interpreter, in a process of its own


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def through_the_launcher(tensors: Tensors, softplus: bool) -> Tensor:
    """What the op runs on a GPU; and what eager calls run there gives the same bits."""
    from mvc.kernels.state_update.triton_kernel import PreparedStep, launch

    before = tensors["state"].clone()
    if before.numel() == 0:
        return through_the_op(tensors, softplus)  # nothing is launched
    y = launch(tensors, softplus=softplus)
    state = tensors["state"].clone()
    given = [*tensors.values()]
    prepared = PreparedStep(given, softplus)
    for _ in range(2):
        tensors["state"].copy_(before)
        assert torch.equal(bits(prepared(given)), bits(y)), "a prepared call gives another y"
        assert torch.equal(bits(tensors["state"]), bits(state)), "a prepared call gives another state"
    return y


def bytes_moved(step: Step) -> tuple[int, int]:
    """What the programs of the step's launch read and write, in sectors of 32 bytes, each once for a load or store of
    the kernel; and the bytes of all tensors, the state's twice.

    One program is run, and stands for all: the sizes are such that all are whole.
    """
    import numpy as np
    from triton.runtime.interpreter import interpreter_builder as builder

    plan, tensors = planned(step)
    (launch,) = plan.launches
    sectors = 0

    def counted(access: Callable, mask: int) -> Callable:
        def run(*operands):
            nonlocal sectors
            sectors += len(np.unique(operands[0].data[operands[mask].data.astype(bool)] // 32))
            return access(*operands)

        return run

    load, store = counted(builder.create_masked_load, 1), counted(builder.create_masked_store, 2)
    with mock.patch.multiple(builder, create_masked_load=load, create_masked_store=store):
        arguments = [pointer and tensors[pointer] for pointer in launch.pointers]
        launch.kernel[(1,)](*arguments, *launch.sizes, **launch.constants, num_warps=launch.num_warps)
    constants = launch.constants
    assert step.dim % constants["BLOCK"] == step.batch % constants["BATCHES"] == 0
    least = sum(map(bytes_of, (*tensors.values(), tensors["state"])))
    return launch.grid[0] * sectors * 32, least


def bytes_of(tensor: Tensor) -> int:
    """In memory: those of an expanded axis are there once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(sizes) * tensor.element_size()


def main() -> None:
    """Run every step; print what went wrong in each, or null, and the bytes that launches move, as JSON."""
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    checks = {name: functools.partial(assert_step_within_budget, step) for name, step in STEPS.items()}
    wrong = {}
    for name, check in {**checks, NOT_FINITE: assert_not_finite_alike}.items():
        try:
            check(through_the_launcher)
            wrong[name] = None
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"
    print(json.dumps({"wrong": wrong, "bytes": {name: bytes_moved(step) for name, step in MOVED.items()}}))


NOT_FINITE = "NaN and infinities"
# What a step of Mamba's published sizes moves, in the dtypes that they are run in.
MOVED = {
    str(step): step
    for batch in (1, 64)
    for dtype in (torch.float32, BFLOAT)
    for step in (
        Step(batch, 1536, 16, dtype=dtype),
        Step(batch, 5120, 16, dtype=dtype),
        Step(batch, 64, 128, heads=24, groups=1, dtype=dtype, layout="expanded"),
    )
}


@pytest.fixture(scope="module")
def interpreted() -> dict:
    require_interpreter()
    done = run_python(__file__, TRITON_INTERPRET="1")
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [*STEPS, NOT_FINITE])
def test_interpreted(name, interpreted):
    assert interpreted["wrong"][name] is None


@pytest.mark.parametrize("name", MOVED)
def test_a_launch_moves_little_more_than_its_tensors(name, interpreted):
    moved, least = interpreted["bytes"][name]
    assert moved <= 1.3 * least, f"{moved} bytes, where the tensors have {least}"


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("step", STEPS.values(), ids=str)
def test_on_a_gpu(step):
    assert_step_within_budget(step, through_the_op, "cuda")
    assert_step_within_budget(
        step, lambda tensors, softplus: selective_state_update(**tensors, dt_softplus=softplus), "cuda"
    )


if __name__ == "__main__":
    main()
