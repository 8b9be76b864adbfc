"""What ptxas makes of the fused linear layer's tiles, compiled ahead of time, and which tiles a shape is offered."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from opcodes import Binary, compiled_as_launched, recorded_launches
from torch import Tensor

from mvc.kernels.linear.triton_tiles import TILES, candidates

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from mvc.kernels.linear import triton_ops

LARGE, SMALL = (25_088, 1280, 320), (196, 1280, 320)  # rows, columns and terms of two layers of MambaVision-T
HALF_EVEN, ODD = (197, 1000, 104), (197, 999, 99)
SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}  # bytes that a program may have
WIDE = [index for index, tile in enumerate(TILES) if tile.rows >= 64]
BARRIERS = 1 << 10  # bytes of shared memory, at most, beside the pieces of the factors
MOST_REGISTERS = (0, 1, 2, 9)


def compiled(tile: int, sizes: tuple[int, int, int], architecture: int, patch: pytest.MonkeyPatch) -> Binary:
    """The kernel with all that it can do, in float16, as the op launches it."""
    launches = recorded_launches(triton_ops, patch)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float16, device="meta")

    rows, columns, inner = sizes
    vector, norm = empty(columns), empty(inner)
    torch.ops.mvc.fused_linear_triton(
        empty(rows, inner), empty(columns, inner), vector, norm, norm, 1e-5, "gelu", vector, empty(rows, columns), tile
    )
    (launch,) = launches
    return compiled_as_launched(launch, architecture)


@pytest.mark.parametrize(
    "index", [pytest.param(i, marks=pytest.mark.versions if i in (0, 9) else ()) for i in range(len(TILES))]
)
def test_a_tile_on_hopper(index, monkeypatch):
    """Nothing is spilt, products take the widest instruction, and memory is read and written 16 bytes at a time."""
    tile = TILES[index]
    found = compiled(index, LARGE if index in WIDE else SMALL, 90, monkeypatch)
    assert found.code.local == 0
    assert found.code.shared <= tile.shared(torch.float16.itemsize) + BARRIERS <= SHARED[80]
    assert (found.count("HGMMA") > 0, found.count("HMMA") > 0) == (index in WIDE, index not in WIDE)
    assert found.count("LDGSTS.E.BYPASS.128") > found.count("LDGSTS") // 2
    assert found.count("STG.E.U16") == 0
    assert found.count("STG.E.128") == found.count("STG") > 0
    # GELU takes an exponential and a reciprocal; what remains are the rows' deviations and quotients.
    results = tile.rows * tile.columns // (32 * tile.warps)
    assert 2 * results <= found.count("MUFU") <= 2 * results + 2 * tile.rows // tile.warps + 8


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 100])
@pytest.mark.parametrize("index", MOST_REGISTERS)
def test_nothing_is_spilt_on_other_cards(index, architecture, monkeypatch):
    found = compiled(index, LARGE if index in WIDE else SMALL, architecture, monkeypatch)
    assert found.code.local == 0
    assert found.code.shared <= SHARED[architecture]


@pytest.mark.slow
@pytest.mark.parametrize("index", MOST_REGISTERS)
def test_nothing_is_spilt_where_sizes_are_multiples_of_eight(index, monkeypatch):
    found = compiled(index, HALF_EVEN, 90, monkeypatch)
    assert found.code.local == 0


@pytest.mark.slow
@pytest.mark.parametrize("index", candidates(*ODD, torch.float16))
def test_nothing_is_spilt_in_tiles_for_odd_sizes(index, monkeypatch):
    assert compiled(index, ODD, 90, monkeypatch).code.local == 0


@pytest.mark.parametrize(
    "sizes", [LARGE, SMALL, HALF_EVEN, ODD, (49, 640, 2560), (1, 1, 1), (0, 8, 8), (8, 0, 8), (8, 8, 0)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_few_tiles_are_worth_timing(sizes, dtype):
    found = candidates(*sizes, dtype)
    assert len(set(found)) == len(found) == 3
    assert set(found) <= set(range(len(TILES)))
    assert all(TILES[index].shared(dtype.itemsize) <= SHARED[90] for index in found)


def test_large_products_take_large_tiles_and_small_ones_keep_the_card_busy():
    assert {TILES[index].rows * TILES[index].columns for index in candidates(*LARGE, torch.float16)} >= {128 * 256}
    rows, columns, _ = SMALL
    best = TILES[candidates(*SMALL, torch.float16)[0]]
    assert -(-rows // best.rows) * -(-columns // best.columns) >= 132
