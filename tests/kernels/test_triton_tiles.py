"""The table of tiles: what the kernels take for granted."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from mvc.kernels.scan import triton_tiles

SEQUENCES = ((1, 16), (1, 160), (1, 1536), (1, 5120), (8, 1536), (128, 320))  # (batch, dim): from few to many


@pytest.mark.parametrize("states", [1, 2, 3, 4, 8, 10, 16, 20, 64, 100, 256])
def test_cuts(states):
    for (batch, dim), length, groups in itertools.product(SEQUENCES, (1, 49, 196, 12544), (1, 2)):
        cut = triton_tiles.cut(batch, length, dim, states, groups)
        assert cut.backward.length % cut.forward.length == 0, "a state is kept between tiles of the forward"
        for tile in (cut.forward, cut.backward, cut.summary):
            assert cut.padded % tile.lanes == 0
        for chunk in (cut.forward_chunk, cut.backward_chunk):
            assert chunk % cut.backward.length == chunk % cut.summary.length == 0
        assert cut.forward_chunk >= cut.forward.length


def test_the_bits_of_a_sequence_do_not_depend_on_the_batch_that_one_row_serves():
    """Where two batch sizes take the same row, everything that the order of the sums depends on is the same."""
    many = [triton_tiles.cut(batch, 196, 160, 8, 1) for batch in (64, 128, 1024)]
    assert len({(cut.forward, cut.forward_chunk) for cut in many}) == 1
