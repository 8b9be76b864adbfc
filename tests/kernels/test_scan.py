"""The public function: its options, and what stays the same when its arguments are cut, turned or reset."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from scan_cases import (
    CPU_IMPLEMENTATIONS,
    FORMS,
    TENSORS,
    Case,
    Inputs,
    assert_scan_within_budget,
    implementation,
    make_inputs,
    reference,
    run,
)
from torch import Tensor

from mvc.kernels.scan import reset_from_cu_seqlens, selective_scan


@pytest.fixture(params=CPU_IMPLEMENTATIONS)
def impl(request) -> str:
    implementation(request.param)  # skips where it cannot run
    return request.param


@pytest.fixture
def scan(impl) -> Callable:
    return implementation(impl)


@pytest.mark.versions
def test_return_last_state(impl):
    inputs = make_inputs(Case())
    y, last_state = selective_scan(**inputs, impl=impl, return_last_state=True)
    assert torch.equal(selective_scan(**inputs, impl=impl), y)
    assert (last_state.shape, last_state.dtype) == ((2, 6, 8), torch.float32)


def test_B_and_C_without_groups(scan):
    inputs = make_inputs(Case())
    flat = inputs | {name: inputs[name].squeeze(2) for name in ("B", "C")}
    results = [run(scan, given) for given in (inputs, flat)]
    for name, grouped in results[0].items():
        assert torch.equal(results[1][name].reshape(grouped.shape), grouped), name
    assert results[1]["gradient of B"].shape == (2, 7, 8)


def test_options_are_off_by_default():
    inputs = make_inputs(Case(options=()))
    expected = selective_scan(**inputs, D=None, z=None, delta_bias=None, initial_state=None, reset=None)
    assert torch.equal(selective_scan(*(inputs[name] for name in ("u", "delta", "A", "B", "C"))), expected)


def test_options_are_keywords_only():
    inputs = make_inputs(Case())
    with pytest.raises(TypeError, match="positional"):
        selective_scan(*(inputs[name] for name in TENSORS))


def test_outputs_do_not_share_memory_with_inputs(scan):
    inputs = make_inputs(Case(length=0))
    _, last_state = scan(**inputs)
    assert torch.equal(last_state, inputs["initial_state"])
    assert last_state.data_ptr() != inputs["initial_state"].data_ptr()


STEPS = ("u", "delta", "B", "C", "z", "reset")  # what has an axis of length, B and C unless they are constant


def of_steps(inputs: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    changed = {name: function(inputs[name]) for name in STEPS if name in inputs}
    return inputs | {name: tensor for name, tensor in changed.items() if inputs[name].dim() > 2 or name == "reset"}


def flipping(scan: Callable) -> Callable:
    """The reversed scan by one that runs forward."""

    def flipped(**inputs):
        y, last_state = scan(**(of_steps(inputs, lambda t: t.flip(1)) | {"reverse": False}))
        return y.flip(1), last_state

    return flipped


@pytest.mark.parametrize("forms", [(), ("constant_B",), ("constant_C",)], ids="+".join)
@pytest.mark.parametrize("length", [1, 7, 63, 200])
def test_reverse_is_flipping_everything(length, forms, scan):
    inputs = make_inputs(Case(length=length, groups=2).plus("reverse", *forms))
    assert_scan_within_budget(inputs, scan, oracle_scan=flipping(reference))


def splitting(scan: Callable, boundaries: tuple[int, ...]) -> Callable:
    """The scan in parts, each starting with the state that the one before it ends with."""

    def split(**inputs):
        state, outputs = inputs.pop("initial_state", None), {}
        parts = list(itertools.pairwise(boundaries))
        for start, stop in reversed(parts) if inputs["reverse"] else parts:
            part = of_steps(inputs, lambda t, start=start, stop=stop: t[:, start:stop])
            outputs[start, stop], state = scan(**part, initial_state=state)
        return torch.cat([outputs[part] for part in parts], dim=1), state

    return split


@pytest.mark.parametrize("forms", [(), ("reverse",), FORMS], ids="+".join)
def test_split_sequence_equals_the_whole(forms, scan):
    inputs = make_inputs(Case(length=63, groups=2).plus(*forms))
    assert_scan_within_budget(inputs, splitting(scan, (0, 1, 1, 20, 63)))


def one_by_one(scan: Callable) -> Callable:
    """Each sample in a batch of its own."""

    def alone(**inputs):
        batched = (*STEPS, "initial_state")
        results = []
        for index in range(len(inputs["u"])):
            own = {name: inputs[name][index : index + 1] for name in batched if inputs[name].shape[0] == 5}
            results.append(scan(**(inputs | own)))
        return tuple(torch.cat(parts) for parts in zip(*results, strict=True))

    return alone


@pytest.mark.parametrize("forms", [(), FORMS], ids="+".join)
def test_samples_do_not_depend_on_their_batch(forms, scan):
    assert_scan_within_budget(make_inputs(Case(batch=5, length=63, groups=2).plus(*forms)), one_by_one(scan))


def expanding(scan: Callable) -> Callable:
    """Constant B and C by the same numbers for each step, and one group for each channel."""

    def expanded(**inputs):
        batch, length, dim = inputs["u"].shape
        B, C = (
            w.expand(batch, length, *w.shape) if w.dim() == 2 else w.repeat_interleave(dim // w.shape[2], 2)
            for w in (inputs["B"], inputs["C"])
        )
        return scan(**(inputs | {"B": B, "C": C}))

    return expanded


@pytest.mark.parametrize("forms", [("constant_B",), ("constant_C",), ("constant_B", "constant_C"), FORMS], ids="+".join)
def test_constant_equals_expanded(forms, scan):
    inputs = make_inputs(Case(length=63, groups=2).plus(*forms))
    assert_scan_within_budget(inputs, scan, oracle_scan=expanding(reference))


CU_SEQLENS = {
    "three": [0, 5, 6, 19],
    "one": [0, 19],
    "empty-first": [0, 0, 7, 19],
    "empty-inside": [0, 7, 7, 7, 19],
    "empty-last": [0, 7, 19, 19],
}


def piecewise(scan: Callable, boundaries: list[int]) -> Callable:
    """Packed sequences, each scanned by itself; the last state is that of the one that runs last."""

    def pieces(**inputs):
        inputs = {name: value for name, value in inputs.items() if name not in ("reset", "initial_state")}
        parts = [(start, stop) for start, stop in itertools.pairwise(boundaries) if start < stop]
        results = []
        for start, stop in parts:
            results.append(scan(**of_steps(inputs, lambda t, start=start, stop=stop: t[:, start:stop])))
        ys, states = zip(*results, strict=True)
        return torch.cat(ys, dim=1), states[0 if inputs["reverse"] else -1]

    return pieces


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("boundaries", CU_SEQLENS.values(), ids=CU_SEQLENS)
def test_reset_equals_separate_scans(boundaries, reverse, dtype, scan):
    """Gradients too; a first reset drops the initial state."""
    reset = reset_from_cu_seqlens(torch.tensor(boundaries, dtype=dtype), 19, reverse=reverse)
    assert (reset.shape, reset.dtype) == ((1, 19), torch.bool)
    inputs = make_inputs(Case(batch=1, length=19, groups=2)) | {"reset": reset, "reverse": reverse}
    assert_scan_within_budget(inputs, scan, oracle_scan=piecewise(reference, boundaries))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("boundaries", [[0], [0, 0], [0, 0, 0]], ids=str)
def test_reset_of_no_steps(boundaries, reverse):
    assert reset_from_cu_seqlens(torch.tensor(boundaries), 0, reverse=reverse).shape == (1, 0)


def test_wrong_cu_seqlens():
    with pytest.raises(TypeError, match=r"^cu_seqlens must be an int32 or int64 tensor, got torch.float32"):
        reset_from_cu_seqlens(torch.tensor([0.0, 2.0]), 2)
    with pytest.raises(TypeError, match=r"^cu_seqlens must be a tensor, got list"):
        reset_from_cu_seqlens([0, 2], 2)
    with pytest.raises(ValueError, match=r"^cu_seqlens must be \(sequences \+ 1,\), got shape \(1, 2\)"):
        reset_from_cu_seqlens(torch.tensor([[0, 2]]), 2)
    with pytest.raises(ValueError, match=r"^cu_seqlens must be \(sequences \+ 1,\), got shape \(0,\)"):
        reset_from_cu_seqlens(torch.tensor([], dtype=torch.int64), 2)
    for ends, sentence in {(1, 2): "got 1 to 2", (0, 3): "got 0 to 3", (0, 1): "got 0 to 1"}.items():
        with pytest.raises(ValueError, match=rf"^cu_seqlens must run from 0 to length 2, {sentence}"):
            reset_from_cu_seqlens(torch.tensor(ends), 2)
    with pytest.raises(ValueError, match=r"^cu_seqlens must not fall, got 4 and then 2 at index 2"):
        reset_from_cu_seqlens(torch.tensor([0, 4, 2, 5]), 5)


def channels_first(inputs: Inputs) -> Inputs:
    """(batch, dim, length) in memory, passed transposed."""
    return inputs | {name: inputs[name].mT.contiguous().mT for name in ("u", "delta", "z") if name in inputs}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("forms", [(), ("reverse",)], ids="+".join)
@pytest.mark.parametrize("length", [3, 63])
def test_channels_first(length, forms, dtype, scan):
    inputs = channels_first(make_inputs(Case(length=length, groups=2).plus(*forms), dtype))
    assert inputs["u"].stride() == (length * 6, 1, length)
    assert_scan_within_budget(inputs, scan)


@pytest.mark.parametrize("forms", [(), FORMS], ids="+".join)
@pytest.mark.parametrize("states", [1, 256])
def test_least_and_most_states(states, forms, scan):
    assert_scan_within_budget(make_inputs(Case(dim=3, states=states).plus(*forms)), scan)
