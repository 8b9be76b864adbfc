"""What ptxas makes of the Triton scan, held to the budgets of bench/scan_rows.py, and what Inductor sees of it.

The launches are those of plans; each is compiled ahead of time, without a GPU.
"""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from opcodes import compiled
from scan_cases import Case, make_inputs, op_arguments
from torch import Tensor

from mvc.kernels.schemas import op

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from bench import scan_rows
from mvc.kernels.scan import triton_ops as triton_scan  # noqa: F401  registers the op

SLACK = 1.05  # of a budget: versions of one compiler differ by so much
IN_USE = (8, 16)  # states of the models that this project and others train
SPILT = {  # bytes of a thread, where all registers are taken that ptxas gives: 2 to 22 of them for a tile
    ("sm_80", "backward, N 16, many"): 24,
    ("sm_90", "backward, N 16, many"): 16,
    ("sm_100", "backward, N 16, many"): 88,
    ("sm_100", "forward, N 16, many"): 32,
}
QUICK = "forward, N 8, many, channels"
WRITE = "write them by `python bench/scan_rows.py --budgets bench/scan_budgets.json`"


ROWS = [
    pytest.param(row, id=row.name, marks=pytest.mark.versions if row.name == QUICK else pytest.mark.slow)
    for row in scan_rows.rows(IN_USE)
]


@pytest.mark.parametrize("row", ROWS)
def test_rows_in_use_keep_to_their_budgets(row):
    found = scan_rows.figures(row, scan_rows.compiled(row.launch, row.plan, 90).code)
    assert found["local"] <= allowed_local("sm_90", row.name), "bytes of a thread that do not fit into registers"
    if not scan_rows.budgets():
        pytest.skip(f"there are no budgets for triton {scan_rows.version()}; {WRITE}")
    budget = scan_rows.budgets()["sm_90"][row.name]
    assert found.keys() == budget.keys()
    assert found.get("tile") == budget.get("tile"), f"the budgets are of another tile; {WRITE}"
    figures = {name: (seen, budget[name]) for name, seen in found.items() if name != "tile"}
    above = {name: pair for name, pair in figures.items() if pair[0] > SLACK * pair[1]}
    assert not above, "seen, and the budget"


def allowed_local(architecture: str, name: str) -> int:
    return SPILT.get((architecture, name.rpartition(", ")[0]), 0)


COMMITTED = json.loads(scan_rows.BUDGETS.read_text(encoding="utf-8"))
ARCHITECTURES = [(version, name) for version, found in COMMITTED.items() for name in found]


def test_budgets_are_of_two_tritons_and_of_every_architecture():
    assert len(COMMITTED) >= 2
    assert all("sm_90" in found for found in COMMITTED.values())
    assert COMMITTED[max(COMMITTED)].keys() == set(scan_rows.ARCHITECTURES)


@pytest.mark.parametrize(("version", "architecture"), ARCHITECTURES)
def test_budgets_are_of_the_table(version, architecture):
    """Of all its rows, as they are now; those in use do not spill, and each exponential is computed once."""
    budgets = COMMITTED[version][architecture]
    rows = {row.name: row for row in scan_rows.rows()}
    assert rows.keys() == budgets.keys(), WRITE
    for name, budget in budgets.items():
        states, tile = scan_rows.states_of(rows[name]), scan_rows.tile_of(rows[name])
        assert budget.get("tile") == tile, f"{name}: {WRITE}"
        if states in IN_USE:
            assert budget["local"] <= allowed_local(architecture, name), name
        if states <= 16 and tile is not None:  # softplus takes one and a reciprocal, the decay over rows the rest
            assert states <= budget["special"] <= 1.25 * states + 4, name


@pytest.mark.parametrize("order", scan_rows.ORDERS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_load_takes_no_single_half(dtype, order):
    """In both orders lanes read words at least, although a tile has as few as 64 numbers of a sequence."""
    plan = scan_rows.forward(scan_rows.ROWS["many"]._replace(dtype=dtype), order)
    (launch,) = plan.launches
    binary = compiled(launch, scan_rows.arguments(launch, plan), 90)
    assert binary.count("LDG") > 0
    assert binary.count("LDG.E.U16") == binary.count("LDG.E.S16") == binary.count("LDG.E.U8") == 0


@pytest.mark.versions
def test_inductor_sees_the_kernels():
    """Traced for a GPU, the op is calls of Triton kernels, not one opaque node."""
    from torch._functorch.aot_autograd import aot_function
    from torch._subclasses.fake_tensor import FakeTensorMode

    graphs = []
    inputs = make_inputs(Case(batch=2, length=32, dim=64))
    arguments = [t for t in op_arguments(inputs) if isinstance(t, Tensor)]
    with FakeTensorMode() as mode, torch.no_grad():
        on_gpu = [mode.from_tensor(t).to("cuda") for t in arguments]

        def scan(*tensors):
            given = iter(tensors)
            return op("selective_scan_triton")(
                *(next(given) if isinstance(a, Tensor) else a for a in op_arguments(inputs))
            )

        aot_function(scan, lambda graph, _: graphs.append(graph) or graph)(*on_gpu)
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert sum("triton_kernel_wrapper" in target for target in targets) == 1
    assert not any("selective_scan" in target for target in targets)
