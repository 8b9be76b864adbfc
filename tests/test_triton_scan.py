"""The Triton scan under Triton's interpreter, on a CPU, and on a GPU where there is one, against the float64 reference.

Whether kernels are interpreted is decided when triton is imported, so this file runs itself in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mvc.kernels.checks import SEQUENCE_DTYPES
from mvc.kernels.ops import triton_available
from mvc.kernels.rules import op
from scan_cases import (
    ALL_OPTIONS,
    DIFFERENTIABLE,
    Case,
    Inputs,
    assert_same,
    assert_scan_within_budget,
    gradients_of_outputs,
    make_inputs,
    op_arguments,
    require_interpreter,
    run,
)
from torch import Tensor

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def by_channel(inputs: Inputs) -> Inputs:
    return inputs


def by_length(inputs: Inputs) -> Inputs:
    """Sequences whose length is contiguous."""
    return inputs | {name: inputs[name].mT.contiguous().mT for name in ("u", "delta", "z") if name in inputs}


class Run(NamedTuple):
    """Attributes:
    tiles: CH, G, S, W of the forward and of the backward, BLOCKS of the latter, and how many of its tiles are a chunk;
        None: the launcher's own, in which these short sequences are one tile.
    """

    case: Case
    dtype: torch.dtype = torch.float32
    layout: Callable[[Inputs], Inputs] = by_channel
    tiles: tuple[tuple[int, ...], tuple[int, ...], int, int] | None = None

    def __str__(self) -> str:
        tiles = "" if self.tiles is None else f"-tiles{self.tiles}"
        return f"{self.case}-{str(self.dtype)[6:]}-{self.layout.__name__}{tiles}"


SMALL = Case(batch=1, length=7, dim=5, states=3)
LONG = SMALL._replace(length=21, dim=3, states=2)
RUNS = {
    str(each): each
    for each in (
        *(Run(SMALL._replace(options=(name,))) for name in (*ALL_OPTIONS, "reverse", "constant_B", "constant_C")),
        Run(SMALL._replace(options=())),
        *(Run(SMALL, dtype, layout) for dtype in SEQUENCE_DTYPES for layout in (by_channel, by_length)),
        Run(SMALL._replace(length=8), layout=by_length),
        Run(SMALL.plus("reverse"), layout=by_length),
        Run(SMALL._replace(length=8).plus("reverse"), layout=by_length),
        Run(SMALL._replace(dim=6, groups=2).plus("constant_B")),
        Run(SMALL._replace(dim=6, groups=3).plus("constant_C", "reverse")),
        Run(SMALL.plus("constant_B", "constant_C")),
        Run(SMALL._replace(batch=2, dim=33)),
        *(Run(SMALL._replace(length=3, dim=2, states=states)) for states in (1, 8, 16, 20, 33)),
        Run(SMALL._replace(length=3, dim=2, states=20, options=("z", "D", "softplus"))),
        Run(LONG, tiles=((2, 2, 1, 1), (2, 4, 1, 1), 1, 9)),
        Run(LONG, tiles=((2, 2, 2, 2), (2, 2, 2, 2), 2, 1)),
        Run(LONG.plus("reverse"), layout=by_length, tiles=((4, 2, 1, 2), (1, 2, 2, 4), 4, 1)),
        Run(LONG.plus("reverse"), tiles=((1, 4, 2, 1), (2, 4, 1, 1), 1, 2)),
        Run(LONG._replace(dim=6, groups=2), torch.bfloat16, by_length, ((2, 2, 2, 2), (2, 2, 2, 2), 1, 2)),
        Run(LONG._replace(options=("z", "initial_state"), states=10).plus("constant_C"), tiles=((2, 1, 4, 4), (1, 2, 4, 2), 3, 2)),
        Run(LONG._replace(options=("z", "reset")).plus("constant_B"), tiles=((2, 2, 1, 2), (1, 2, 2, 4), 2, 1)),
        *(Run(SMALL._replace(**{size: 0})) for size in ("batch", "length", "dim")),
    )
}  # fmt: skip


def triton_scan(**inputs: Tensor | bool) -> tuple[Tensor, Tensor]:
    assert triton_available()  # registers the op
    return op("selective_scan_triton")(*op_arguments(inputs))


def assert_in_place_is_the_same(inputs: Inputs) -> None:
    """The op that writes y beside the rest of its input gives the bits of the scan and of the rest."""
    u = inputs["u"]
    rest = torch.randn(*u.shape[:2], 3, dtype=u.dtype)
    y, _ = triton_scan(**inputs)
    whole = torch.cat((u, rest), dim=-1)
    for x in (whole, whole.mT.contiguous().mT):
        result = op("selective_scan_triton_cat")(x, *op_arguments(inputs)[1:])
        assert torch.equal(result, torch.cat((y, rest), dim=-1))
    assert torch.equal(whole, torch.cat((u, rest), dim=-1)), "the input has changed"


def assert_prepared_is_the_same(inputs: Inputs, expected: dict[str, Tensor]) -> None:
    """What eager calls on a GPU run gives the bits of the op."""
    from mvc.kernels.triton_scan import PreparedScan

    *tensors, softplus, reverse = op_arguments(inputs)
    prepared = PreparedScan(tensors, softplus, reverse)
    grads = gradients_of_outputs(expected["y"], expected["last state"])
    *outputs, states = prepared.train(tensors)
    assert all(torch.equal(*each) for each in zip(prepared.forward(tensors), outputs, strict=True))
    results = [*outputs, *prepared.backward(*grads, tensors, states)]
    names = ["y", "last state", *(f"gradient of {name}" for name in DIFFERENTIABLE)]
    given = {name: result for name, result in zip(names, results, strict=True) if name in expected}
    assert_same(given, expected)


def assert_without_kept_states_is_the_same(inputs: Inputs, expected: dict[str, Tensor]) -> None:
    """The backward op that is given the scan's inputs alone gives the bits of the one that is given states too."""
    grads = gradients_of_outputs(expected["y"], expected["last state"])
    results = op("selective_scan_triton", backward=True)(*grads, *op_arguments(inputs))
    given = {f"gradient of {name}": result for name, result in zip(DIFFERENTIABLE, results, strict=True)}
    assert_same(given, {name: gradient for name, gradient in expected.items() if name.startswith("gradient")})


def interpret(each: Run) -> None:
    from mvc.kernels import triton_tiles

    chosen = triton_tiles.cut

    def cut(*sizes: int) -> triton_tiles.Cut:
        forward, backward, blocks, chunk = each.tiles
        tiles = [triton_tiles.Tile(*shape, warps=1) for shape in (forward, backward)]
        chunk *= tiles[1].length
        return chosen(*sizes)._replace(
            forward=tiles[0], summary=tiles[0], backward=tiles[1]._replace(blocks=blocks), forward_chunk=chunk, backward_chunk=chunk
        )

    triton_tiles.cut = chosen if each.tiles is None else cut
    try:
        inputs = each.layout(make_inputs(each.case, each.dtype))
        assert_scan_within_budget(inputs, triton_scan)
        first, second = (run(triton_scan, inputs) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first), "two runs differ"
        assert_in_place_is_the_same(inputs)
        assert_prepared_is_the_same(inputs, first)
        assert_without_kept_states_is_the_same(inputs, first)
    finally:
        triton_tiles.cut = chosen


def main() -> None:
    """Run every case; print what went wrong in each, or null, as JSON."""

    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    results = {}
    for name, each in RUNS.items():
        try:
            interpret(each)
            results[name] = None
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(results))


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str | None]:
    require_interpreter()
    root = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join((str(root), str(root / "tests"))),
    }
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", RUNS)
def test_interpreted(name, interpreted):
    assert interpreted[name] is None


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("each", RUNS.values(), ids=str)
def test_on_a_gpu(each):
    inputs = each.layout(make_inputs(each.case, each.dtype))
    inputs = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in inputs.items()}

    assert_scan_within_budget(inputs, triton_scan)


@needs_triton
def test_float64_is_refused():

    with pytest.raises(TypeError, match="float64"):
        triton_scan(**make_inputs(SMALL, torch.float64))


if __name__ == "__main__":
    main()
