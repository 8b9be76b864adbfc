"""The Triton scan at the shapes that it is made for: memory by its plans, and the predictions that are committed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from bench import scan_goals
from bench.on_gpu.scan_job import Shape
from bench.scan_rows import ORDERS, arguments, backward, forward
from mvc.offline.machine_code import Code, Stretch

RESULTS = Path(scan_goals.__file__).parent / "results" / "scan_rows.json"
COMMITTED = json.loads(RESULTS.read_text(encoding="utf-8"))
# Beside the goals: few states, the fewest channels that the limits are promised for, and an odd number of them. (Where
# the last of 32 channels are few, a sixth sum for 161 channels, partial sums take up to a tenth more than the limit.)
OTHERS = (
    Shape(8, 192, 3136, 1, "float16"),
    Shape(8, 192, 3136, 4, "float16"),
    Shape(4, 160, 1000, 16, "bfloat16"),
    Shape(4, 191, 1000, 16, "bfloat16"),
)


@pytest.mark.parametrize("problem", [*(goal.problem for goal in scan_goals.GOALS), *OTHERS], ids=str)
def test_training_takes_no_more_memory_than_promised(problem):
    """States that a forward keeps: a quarter of u, delta, B and C; partial sums of B's and C's gradients: as much."""
    held = scan_goals.memory(problem)
    _, dim, length, states, _ = problem
    itemsize = 4 if problem.dtype == "float32" else 2
    assert held["inputs"] == problem.batch * length * (2 * dim + 2 * states) * itemsize
    assert held["states"] <= held["inputs"] / 4
    assert held["partial sums"] <= held["inputs"]


@pytest.mark.parametrize("problem", OTHERS, ids=str)
def test_inference_keeps_no_states(problem):
    assert "states" not in forward(problem, ORDERS[0]).new
    assert forward(problem, ORDERS[0], keep=True).new["states"][0][1:] == (problem.batch, problem.dim, problem.states)


def test_a_program_runs_its_chunk():
    """Each chunk's tiles, for each block of channels of a program; short loops are unrolled."""
    problem = scan_goals.GOALS[0].problem
    plan = backward(problem, ORDERS[1])
    launch = plan.launches[-1]
    code = Code(32, 0, 0, (Stretch(0, True, {}, ()),))
    found = scan_goals.geometry(launch, plan, code)
    constants, chunk = launch.constants, arguments(launch, plan)["chunk"]
    steps = constants["W"] * constants["G"]
    chunks = -(-problem.length // chunk)
    assert found.programs == launch.grid[0] * problem.batch * chunks
    assert found.iterations == [-(-min(chunk, problem.length) // steps) * constants["BLOCKS"]]
    assert found.bytes_moved > scan_goals.memory(problem)["inputs"] * 2  # with the gradient of y, and the results
    assert scan_goals.rounds(19, 2) == [4, 3]


def test_the_page_is_of_what_is_committed():
    assert scan_goals.page(COMMITTED) == RESULTS.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize("each", COMMITTED["shapes"], ids=lambda each: f"{Shape(*each['problem'])} {each['order']}")
def test_what_is_committed_is_of_the_plans(each):
    """By the kernels of its launches and its memory; and each was compiled in time."""
    problem = Shape(*each["problem"])
    assert each["memory"] == scan_goals.memory(problem)
    for direction, plan, most in (("forward", forward, 4), ("backward", backward, 8)):
        kernels = [launch.kernel.__name__ for launch in plan(problem, each["order"]).launches]
        assert [*each[direction]["launches"]] == kernels
        assert max(each[direction]["seconds to compile"].values()) <= most
