"""The Triton kernel of the linear recurrence: interpreted, predicted from its machine code, and on a GPU.

Whether Triton's kernels are interpreted is decided when triton is imported, so for these this file runs itself in a
process of its own.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from opcodes import Binary, Launch, compiled_as_launched, recorded_launches
from recurrence_cases import (
    CUBE,
    HALVES,
    Case,
    assert_recurrence_within_budget,
    make_inputs,
    same_dtypes,
    tensors_of,
    through,
)
from scan_cases import needs_triton, print_failures

from mvc.kernels.recurrence import linear_recurrence
from mvc.kernels.schemas import op
from mvc.offline.scan_cost import Geometry, predict
from mvc.offline.targets import TARGETS

H200 = TARGETS["h200"]
TRITON_LENGTHS = (0, 1, 3, 4, 9)
TRITON_CASES = [
    *(Case((2, n, 3), (2, n, 3), 1, (2, 3), reverse) for n in TRITON_LENGTHS for reverse in (False, True)),
    *(Case((3, n), (3, n), 1, (3,), reverse) for n in (*TRITON_LENGTHS, 8) for reverse in (False, True)),
    Case((7,), (7,), 0, ()),
    Case((5, 33), (5, 33), 0, (33,)),
    Case((1, 2, 2, 3, 1, 2), (2, 1, 2, 3, 4, 2), 4, (2, 2, 2, 3, 2)),
    Case((1, 2, 2, 3, 1, 2), (2, 1, 2, 3, 4, 2), 2),
    Case((5, 1), (3, 1, 9), 1, (1, 1)),
    *(CUBE._replace(a=(2, 8, 3), b=(2, 8, 3), initial=(2, 3), layout=layout) for layout in ("permuted", "strided")),
    Case((2, 8, 3), (2, 8, 3), 1, (2, 3), True, layout="permuted"),
    *(Case((3, 8), (3, 8), 1, (3,), dtypes=same_dtypes(dtype)) for dtype in HALVES),
    Case((3, 8), (3, 8), 0, (8,), dtypes=(torch.float32, torch.bfloat16, torch.float16)),
    Case((3, 8), (3, 8), 1, (3,), decays=(1.0, 3.0)),
    # Several tiles, and pieces of memory that a thread reads at once: 16 bytes, of halves 8 where no more are aligned.
    *(Case((2, 70, 12), (2, 70, 12), 1, (2, 12), reverse) for reverse in (False, True)),
    *(Case((2, 300), (2, 300), 1, (2,), reverse) for reverse in (False, True)),
    *(Case((2, 12), (2, 12), dim, None, True, same_dtypes(torch.float16)) for dim in (0, 1)),
    Case((3, 12, 8), (3, 12, 8), 1, (3, 8), True, layout="permuted"),
    Case((12, 1), (3, 12, 8), 1),
    Case((12,), (3, 8, 12), 2),
]
CHUNKED_CASES = [
    *(Case((2, 41, 3), (2, 41, 3), 1, initial, reverse) for initial in (None, (2, 3)) for reverse in (False, True)),
    *(Case((1, 2100), (1, 2100), 1, (1,), reverse) for reverse in (False, True)),
]
# By name, the limits in the table of tiles that are set for some cases.
LIMITS = {"": {}, "-many lanes": {"ENOUGH": 1}, "-chunks": {"FEWEST_TURNS": 1, "ROWS": 2}}
TRITON_RUNS = {f"{case}{name}": (case, name) for case in TRITON_CASES for name in ("", "-many lanes")}
TRITON_RUNS |= {f"{case}-chunks": (case, "-chunks") for case in CHUNKED_CASES}


def triton_run(case: Case, limits: str) -> None:
    from mvc.kernels.recurrence import triton_ops as triton_recurrence

    launched = []

    def wrap_triton(kernel):
        launched.append(kernel)
        return torch.library.wrap_triton(kernel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_recurrence, "wrap_triton", wrap_triton)
        for name, limit in LIMITS[limits].items():
            patch.setattr(triton_recurrence, name, limit)
        assert_recurrence_within_budget(make_inputs(case), through("linear_recurrence_triton"))
    assert (triton_recurrence.combine_kernel in launched) == (limits == "-chunks"), (
        "chunks, or none, against expectation"
    )


@pytest.mark.parametrize("name", TRITON_RUNS)
def test_triton_interpreted(name, failures):
    assert failures[name] is None


def compiled(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype, reverse: bool, patch: pytest.MonkeyPatch
) -> list[tuple[Launch, Binary]]:
    """Each launch of the recurrence's kernel for a and b of that shape, compiled for an H200 without one."""
    from mvc.kernels.recurrence import triton_ops as triton_recurrence

    launches = recorded_launches(triton_recurrence, patch)
    a, b = (torch.empty(shape, dtype=dtype, device="meta") for _ in range(2))
    op("linear_recurrence_triton")(a, b, None, dim, reverse)
    return [
        (launch, compiled_as_launched(launch, H200.compute_capability))
        for launch in launches
        if launch.kernel is not triton_recurrence.combine_kernel
    ]


LONG = {"across": ((64, 4096, 1024), 1), "along": ((64, 1024, 4096), 2), "few along": ((1, 512, 65536), 2)}


@pytest.mark.versions
@needs_triton
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", LONG)
def test_long_rows_are_predicted_at_the_speed_of_a_copy(name, reverse, monkeypatch):
    """Within 1.5 of what the bytes take, with 16 bytes a load and store, nothing spilt or put into shared memory."""
    shape, dim = LONG[name]
    ((launch, found),) = compiled(shape, dim, torch.float32, reverse, monkeypatch)
    assert found.count("LDG.E.128") == found.count("LDG") > 0
    assert found.count("STG.E.128") == found.count("STG") > 0
    assert found.code.local == found.count("LDS") == found.count("STS") == found.count("BAR") == 0
    assert (found.count("SHFL") == 0) == (name == "across")
    given = launch.arguments
    turns = math.ceil(given["length"] / (given["G"] * given["W"] * given["AHEAD"]))
    moved = 3 * 4 * math.prod(shape)
    geometry = Geometry(math.prod(launch.grid), launch.num_warps, [turns] * found.code.loops, moved, lines=4)
    assert predict(found.code, geometry, H200) <= 1.5 * moved / H200.bandwidth


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dim", "wide"),
    [
        ((256, 196, 160), 1, "128"),
        ((256, 160, 192), 2, "128"),
        ((256, 160, 196), 2, "64"),  # rows of a multiple of 8 bytes
        ((256, 196, 100), 1, "64"),
    ],
)
def test_half_precision_is_read_as_widely_as_it_is_aligned(shape, dim, wide, monkeypatch):
    ((_, found),) = compiled(shape, dim, torch.float16, False, monkeypatch)
    assert found.count(f"LDG.E.{wide}") == found.count("LDG") > 0
    assert found.count(f"STG.E.{wide}") == found.count("STG") > 0
    assert found.code.local == found.count("LDS") == found.count("BAR") == 0


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dim", "launches"),
    [
        ((64, 4096, 1023), 1, 1),
        ((64, 1023, 4097), 2, 1),
        ((1, 65536, 512), 1, 2),  # chunks: what each makes of a zero state, then all states
        ((3, 65537), 1, 2),
    ],
)
def test_nothing_is_spilt_in_chunks_or_where_nothing_is_aligned(shape, dim, launches, monkeypatch):
    found = compiled(shape, dim, torch.float32, False, monkeypatch)
    assert len(found) == launches
    assert [each.code.local for _, each in found] == [0] * launches


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", [*TRITON_CASES, Case((1, 5000, 7), (1, 5000, 7), 1, (1, 7))], ids=str)
def test_triton_on_a_gpu(case):
    inputs = make_inputs(case)
    inputs |= {name: tensor.cuda() for name, tensor in tensors_of(inputs).items()}
    assert_recurrence_within_budget(inputs, linear_recurrence)


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    print_failures({name: functools.partial(triton_run, *run) for name, run in TRITON_RUNS.items()})
