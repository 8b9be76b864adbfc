"""The Triton scan under Triton's interpreter, on a CPU, and on a GPU where there is one, against the float64 reference.

This file runs itself in a process of its own for that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from scan_cases import (
    ALL_OPTIONS,
    DIFFERENTIABLE,
    FORMS,
    TENSORS,
    Case,
    Inputs,
    Tiles,
    assert_each_state_of_A_within_budget,
    assert_same,
    assert_scan_within_budget,
    cut_into,
    gradients_of_outputs,
    make_inputs,
    needs_triton,
    op_arguments,
    print_failures,
    run,
)
from torch import Tensor

from mvc.kernels.implementations import triton_available
from mvc.kernels.scan.checks import SEQUENCE_DTYPES
from mvc.kernels.schemas import op


def by_channel(inputs: Inputs) -> Inputs:
    return inputs


def by_length(inputs: Inputs) -> Inputs:
    """Sequences whose length is contiguous."""
    return inputs | {name: inputs[name].mT.contiguous().mT for name in ("u", "delta", "z") if name in inputs}


class Run(NamedTuple):
    """Attributes:
    tiles: None: those of the table, in which these short sequences are one tile.
    """

    case: Case
    dtype: torch.dtype = torch.float32
    layout: Callable[[Inputs], Inputs] = by_channel
    tiles: Tiles | None = None

    def __str__(self) -> str:
        tiles = "" if self.tiles is None else "-tiles" + "-".join(map(str, self.tiles))
        return f"{self.case}-{str(self.dtype)[6:]}-{self.layout.__name__}{tiles}".replace(" ", "")


ONE = Tiles((8, 4, 2, 2), (8, 4, 2, 2), 1, 1)  # covers SMALL
SMALL = Case(batch=1, length=7, dim=5, states=3)
LONG = SMALL._replace(length=13, dim=3, states=2)
# More than one tile, block of channels, program or chunk. These go through every way to the kernels.
CUT = (
    Run(LONG, tiles=Tiles((2, 2, 1, 1), (4, 4, 1, 1), 1, 9)),
    Run(LONG, tiles=Tiles((2, 2, 2, 2), (2, 4, 2, 2), 2, 1)),
    Run(LONG.plus("reverse"), layout=by_length, tiles=Tiles((4, 2, 1, 2), (1, 2, 2, 4), 4, 1)),
    Run(LONG.plus("reverse"), tiles=Tiles((2, 4, 2, 1), (4, 4, 1, 1), 1, 2)),
    Run(LONG._replace(dim=6, groups=2), torch.bfloat16, by_length, Tiles((4, 2, 2, 2), (2, 2, 2, 4), 2, 1)),
    Run(
        SMALL._replace(states=10, options=("z", "initial_state")).plus("constant_C"),
        tiles=Tiles((2, 1, 4, 4), (1, 2, 4, 2), 3, 2),
    ),
    Run(LONG._replace(options=("z", "reset")).plus("constant_B"), tiles=Tiles((2, 2, 1, 2), (1, 2, 2, 4), 2, 1)),
)  # fmt: skip
RUNS = {
    str(each): each
    for each in (
        *CUT,
        *(Run(SMALL._replace(options=(name,)), tiles=ONE) for name in (*ALL_OPTIONS, *FORMS)),
        Run(SMALL._replace(options=()), tiles=ONE),
        *(Run(SMALL, dtype, layout, ONE) for dtype in SEQUENCE_DTYPES for layout in (by_channel, by_length)),
        Run(SMALL._replace(length=8), layout=by_length, tiles=ONE),
        Run(SMALL.plus("reverse"), layout=by_length, tiles=ONE),
        Run(SMALL._replace(length=8).plus("reverse"), layout=by_length, tiles=ONE),
        Run(SMALL._replace(dim=6, groups=2).plus("constant_B"), tiles=ONE),
        Run(SMALL._replace(dim=6, groups=3).plus("constant_C", "reverse"), tiles=ONE),
        Run(SMALL.plus("constant_B", "constant_C"), tiles=ONE),
        Run(SMALL._replace(batch=2, dim=17), tiles=ONE._replace(blocks=2)),
        *(Run(SMALL._replace(length=3, dim=2, states=states)) for states in (1, 2, 4, 8, 16, 20, 33, 65)),
        Run(SMALL._replace(length=3, dim=2, states=20, options=("z", "D", "softplus"))),
        *(Run(SMALL._replace(**{size: 0})) for size in ("batch", "length", "dim")),
    )
}


def triton_scan(**inputs: Tensor | bool) -> tuple[Tensor, Tensor]:
    assert triton_available()  # registers the op
    return op("selective_scan_triton")(*op_arguments(inputs))


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "u"])
def test_nonsense_is_refused_by_the_bare_ops(name):
    """Before anything is launched."""
    pytest.importorskip("triton", reason="triton is not installed")
    assert triton_available()
    inputs = make_inputs(Case())
    wrong = op_arguments(inputs | {name: inputs[name].new_zeros((*inputs[name].shape, 1))})
    grads, states = (torch.zeros(2, 7, 6), torch.zeros(2, 6, 8)), torch.zeros(1, 2, 6, 8)
    calls = {"": wrong, "_training": wrong, "_cat": wrong}
    calls |= {"_backward": (*grads, *wrong), "_gradients": (*grads, states, *wrong)}
    for suffix, arguments in calls.items():
        with pytest.raises(ValueError, match=rf"^{name} must "):
            op(f"selective_scan_triton{suffix}")(*arguments)


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
    from mvc.kernels.scan.triton_ops import PreparedScan

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
    inputs = each.layout(make_inputs(each.case, each.dtype))
    with cut_into(each.tiles):
        assert_scan_within_budget(inputs, triton_scan)
        if each in CUT:
            first = run(triton_scan, inputs)
            assert_in_place_is_the_same(inputs)
            assert_prepared_is_the_same(inputs, first)
            assert_without_kept_states_is_the_same(inputs, first)


def each_state_of_A() -> None:
    with cut_into(Tiles((4, 4, 4, 2), (4, 4, 4, 2), 1, 1)):
        assert_each_state_of_A_within_budget(triton_scan)


CASES = {name: partial(interpret, each) for name, each in RUNS.items()} | {
    "the gradient of A in each state under strong decay": each_state_of_A
}


def main() -> None:
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    print_failures(CASES)


@pytest.mark.parametrize("name", CASES)
def test_interpreted(name, failures):
    assert failures[name] is None


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
