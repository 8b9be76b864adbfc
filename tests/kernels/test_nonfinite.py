"""NaN and infinities: every implementation has them where the reference does, and none comes through a reset.

Of gradients, and of all results where a decay is infinite, the elements that are not finite are the same: which of them
are NaN depends on the order of the products.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from scan_cases import (
    DIFFERENTIABLE,
    Case,
    Inputs,
    Tiles,
    cut_into,
    interpreted,
    make_inputs,
    op_arguments,
    print_failures,
    reference,
    run,
)
from torch import Tensor

from mvc.kernels import cpu_scan
from mvc.kernels.implementations import triton_available
from mvc.kernels.recurrence import chunked as recurrence_chunked, doubling, linear_recurrence
from mvc.kernels.scan import chunked, selective_scan
from mvc.kernels.schemas import op

VALUES = (math.nan, math.inf, -math.inf)
WHERE = ("early", "reset", "late")  # in the first of three packed sequences, where the second starts, in the third
SEQUENCES = ("u", "delta", "z", "B", "C")
PLACES = [(name, where) for name in DIFFERENTIABLE for where in (WHERE if name in SEQUENCES else ("early",))]
FORMS = ("", "reverse", "softplus")


class Setting(NamedTuple):
    """How an implementation is made to cut a length."""

    impl: str
    length: int
    threads: int = 1
    chunked: bool = False
    pieces: bool = False
    doubling: bool = False  # as where the length is unknown while tracing


SETTINGS = {
    "chunked-one-chunk": Setting("chunked", 30),
    "chunked-chunks": Setting("chunked", 30, chunked=True),
    "chunked-pieces": Setting("chunked", 30, pieces=True),
    "chunked-doubling": Setting("chunked", 30, doubling=True),
    "cpp": Setting("cpp", 70),
    "cpp-segments": Setting("cpp", 800, threads=8),
}


@pytest.fixture(params=SETTINGS)
def setting(request, monkeypatch):
    setting = SETTINGS[request.param]
    if setting.impl == "cpp" and not cpu_scan.available():
        pytest.skip("the C++ scan cannot be built or loaded here")
    monkeypatch.setitem(recurrence_chunked.STATES_PER_STEP, "cpu", 2**40 if setting.chunked or setting.pieces else 0)
    monkeypatch.setitem(chunked.STATES_PER_PIECE, "cpu", 200 if setting.pieces else 2**40)
    if setting.doubling:
        for module in (chunked, recurrence_chunked):
            monkeypatch.setattr(module, "linear_recurrence", functools.partial(doubling.linear_recurrence, bound=64))
    before = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    yield setting
    torch.set_num_threads(before)


def packed(length: int, form: str, name: str, where: str, value: float, dim: int = 3) -> Inputs:
    """Three packed sequences and, beside them in the batch, one that is not; one element of `name` has the value."""
    options = ("D", "z", "delta_bias", "initial_state", "reset", *filter(None, [form]))
    inputs = make_inputs(Case(2, length, dim, 2, 1, options))
    inputs["reset"].fill_(False)
    inputs["reset"][0, [length // 3, 2 * length // 3]] = True
    step = {"early": length // 6, "reset": length // 3, "late": 5 * length // 6}[where]
    index = {"u": (0, step, 1), "B": (0, step, 0, 1), "A": (1, 1), "D": (1,), "initial_state": (0, 1, 1)}
    index |= dict.fromkeys(("delta", "z"), index["u"]) | {"C": index["B"], "delta_bias": index["D"]}
    inputs[name][index[name]] = value
    return inputs


@functools.cache
def expected(length: int, form: str, name: str, where: str, value: float) -> dict[str, Tensor]:
    return run(reference, packed(length, form, name, where, value))


def kinds(tensor: Tensor) -> Tensor:
    """0 for what is finite; NaN and the infinities have a number each."""
    kind = torch.where(tensor.isnan(), 1, 0)
    return torch.where(tensor == math.inf, 2, torch.where(tensor == -math.inf, 3, kind))


def assert_same_kinds(
    actual: dict[str, Tensor], wanted: dict[str, Tensor], case: object, *, infinite_decay: bool = False
) -> None:
    for name, tensor in wanted.items():
        same = torch.isfinite if infinite_decay or name.startswith("gradient") else kinds
        assert torch.equal(same(actual[name]), same(tensor)), f"{name} of {case}"


@pytest.mark.parametrize("form", FORMS)
def test_where_the_reference_has_them(setting, form):
    if setting.threads > 1 and form == "softplus":
        pytest.skip("how a length is cut does not depend on softplus")
    scan = functools.partial(selective_scan, impl=setting.impl, return_last_state=True)
    for name, where in PLACES:
        for value in VALUES:
            of_step = name in ("delta", "delta_bias") and form != "softplus"
            infinite_decay = (name, value) == ("A", math.inf) or (of_step and value == -math.inf)
            case = (setting.length, form, name, where, value)
            assert_same_kinds(run(scan, packed(*case)), expected(*case), case, infinite_decay=infinite_decay)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_gradient_does_not_pass_a_reset(setting, value):
    """NaN or infinite gradients of one sequence's outputs do not reach what the others are made of."""
    length = setting.length
    inputs = packed(length, "", "u", "early", 0.0)
    leaves = {name: inputs[name].requires_grad_() for name in (*SEQUENCES, "initial_state")}
    y, last_state = selective_scan(**inputs, impl=setting.impl, return_last_state=True)
    grad_y = torch.ones_like(y)
    grad_y[0, length // 2] = value  # of the second sequence
    gradients = torch.autograd.grad((y, last_state), leaves.values(), (grad_y, torch.ones_like(last_state)))
    for name, gradient in zip(leaves, gradients, strict=True):
        finite = gradient.isfinite()
        if name in SEQUENCES:
            assert not finite[0, length // 2].any(), name
            finite[0, length // 3 : length // 2 + 1] = True
        assert finite.all(), name


def underflowing(length: int, form: str) -> Inputs:
    """Infinite initial states, and decays of e⁻³⁰, whose fourth power is zero in float32; one decay is zero itself."""
    inputs = packed(length, form, "initial_state", "early", math.inf)
    inputs["initial_state"][0, 0, 0] = math.inf
    inputs["reset"].fill_(False)
    inputs["A"].fill_(-1.0)
    inputs["delta_bias"].zero_()
    inputs["delta"].fill_(30.0)[:, length // 2, 0] = 1e4
    return inputs


@pytest.mark.parametrize("form", ["", "reverse"])
def test_an_infinite_state_does_not_decay_to_a_number(setting, form):
    """Nor to NaN, but where a decay is zero."""
    inputs = underflowing(setting.length, form)
    wanted = run(reference, inputs)
    assert wanted["last state"].isinf().any()
    assert wanted["last state"].isnan().any()
    scan = functools.partial(selective_scan, impl=setting.impl, return_last_state=True)
    assert_same_kinds(run(scan, inputs), wanted, "decays that underflow")


RECURRENCES = {  # a, b and the initial state, over 40 steps; each once NaN, once infinite
    "decaying": lambda value: (torch.full((40, 3), 1e-3), torch.ones(40, 3), torch.tensor([value, 1.0, -value])),
    "alternating": lambda value: (torch.full((40, 3), -1e-3), torch.ones(40, 3), torch.tensor([value, 1.0, -value])),
    "zero": lambda value: (torch.arange(40.0)[:, None].expand(40, 3) - 20, torch.ones(40, 3), torch.full((3,), value)),
    "growing": lambda value: (torch.full((40, 3), 1e3), torch.zeros(40, 3), torch.tensor([0.0, value, 0.0])),
    "in a": lambda value: (torch.full((40, 3), 0.5).index_fill(0, torch.tensor(11), value), torch.zeros(40, 3), None),
    "in b": lambda value: (torch.full((40, 3), 0.5), torch.ones(40, 3).index_fill(0, torch.tensor(11), value), None),
}  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_linear_recurrence(setting, name, value, reverse):
    """A zero in `a` is a factor as any other: only a reset of the scan selects."""
    a, b, initial = RECURRENCES[name](value)
    wanted, actual = (
        linear_recurrence(a, b, initial, dim=0, reverse=reverse, impl=impl) for impl in ("reference", setting.impl)
    )
    assert not wanted.isfinite().all()
    assert torch.equal(kinds(actual), kinds(wanted))


# Triton's kernels, interpreted in a process of their own.


def triton_scan(**inputs: Tensor | bool) -> tuple[Tensor, Tensor]:
    assert triton_available()  # registers the op
    return op("selective_scan_triton")(*op_arguments(inputs))


def interpreted_cases() -> dict[str, Callable[[], None]]:
    def scan(*case, **options):
        assert_same_kinds(run(triton_scan, packed(*case)), expected(*case), case, **options)

    def alike(inputs):
        assert_same_kinds(run(triton_scan, inputs), run(reference, inputs), "decays that underflow")

    def recurrence(name, value, reverse):
        assert triton_available()
        a, b, initial = RECURRENCES[name](value)
        wanted = linear_recurrence(a, b, initial, dim=0, reverse=reverse, impl="reference")
        actual = op("linear_recurrence_triton")(a, b, initial, 0, reverse)
        assert torch.equal(kinds(actual), kinds(wanted))

    # The gradient of a last state passes the steps by which a tile is longer than the rest of a sequence: there a NaN
    # in A reaches what the reference leaves finite, the gradients of the last step. 16 steps are whole tiles.
    lengths = dict.fromkeys(DIFFERENTIABLE, 14) | {"A": 16}
    cases = {
        f"{name}-{where}-nan": functools.partial(scan, lengths[name], "", name, where, math.nan)
        for name, where in PLACES
    }
    for name, where in (("u", "early"), ("delta", "early"), ("C", "reset"), ("z", "reset"), ("initial_state", "early")):
        cases[f"{name}-{where}-inf"] = functools.partial(scan, 14, "reverse", name, where, math.inf)
    for value in (math.inf, -math.inf):
        case = (14, "", "A", "early", value)
        cases[f"A-early-{value}"] = functools.partial(scan, *case, infinite_decay=value > 0)
    for form in ("", "reverse"):
        inputs = underflowing(14, form)
        cases[f"underflow-{form}"] = functools.partial(alike, inputs)
    for name in RECURRENCES:
        cases[name] = functools.partial(recurrence, name, math.inf, name == "alternating")
    return cases


TILES = Tiles(forward=(4, 2, 1, 2), backward=(2, 2, 1, 2), blocks=2, chunk=2)  # of 4 steps; two chunks


def main() -> None:
    from mvc.kernels.recurrence import triton_ops as triton_recurrence

    triton_recurrence.FEWEST_TURNS, triton_recurrence.ROWS = 1, 2  # three chunks of two rows of eight steps
    with cut_into(TILES):
        print_failures(interpreted_cases())


@pytest.mark.slow
def test_interpreted_kernels():
    results = interpreted(__file__)
    assert len(results) == len(interpreted_cases())
    assert {name: error for name, error in results.items() if error is not None} == {}


if __name__ == "__main__":
    main()
