"""The chunked scan and its backward against the reference in float64."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from scan_cases import (
    ALL_OPTIONS,
    DIFFERENTIABLE,
    FORMS,
    Case,
    Inputs,
    assert_scan_within_budget,
    chunked as scan,
    make_inputs,
    map_tensors,
    run,
    tensors_of,
)
from torch import Tensor

from mvc.kernels.recurrence import chunked as recurrence, doubling
from mvc.kernels.scan import chunked

LENGTHS = (0, 1, 2, 7, 63, 196, 300)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

CASES = [
    *(Case(batch=3, length=length, groups=groups) for length in LENGTHS for groups in (1, 2, 3)),
    *(Case(batch, length, dim, states) for batch, length, dim, states in (
        (9, 63, 1, 8), (5, 7, 5, 1), (3, 63, 5, 16), (1, 63, 80, 8), (2, 19, 33, 3),
        (2, 19, 3, 256), (0, 7, 6, 8), (2, 7, 0, 8), (0, 0, 6, 8), (0, 0, 0, 8),
    )),
    Case(dim=3, groups=3),
    *(Case(batch=3, length=length, groups=groups).plus(*forms)
      for length in (0, 1, 63, 196) for groups, forms in ((2, ("reverse",)), (3, ("constant_B",)), (1, FORMS))),
    *(Case(batch=0).plus("reverse", name) for name in ("constant_B", "constant_C")),
]  # fmt: skip
OPTIONS = (*ALL_OPTIONS, *FORMS)
OPTION_CASES = [
    Case(batch=4, length=19, groups=2, options=options)
    for options in ((), *itertools.combinations(OPTIONS, 1), *itertools.combinations(OPTIONS, 2), ALL_OPTIONS, OPTIONS)
]


@pytest.fixture(params=["one-chunk", "chunks", "pieces", "doubling"])
def chunking(request, monkeypatch):
    """Every scan in one chunk, or (from length 4 on) in as many as are allowed, or in pieces of few steps each; or by
    doubling, as where the length is unknown."""
    if request.param == "doubling":
        monkeypatch.setattr(chunked, "linear_recurrence", functools.partial(doubling.linear_recurrence, bound=300))
    monkeypatch.setitem(recurrence.STATES_PER_STEP, "cpu", 0 if request.param == "one-chunk" else 2**40)
    if request.param == "pieces":
        monkeypatch.setitem(chunked.STATES_PER_PIECE, "cpu", 1000)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sizes(case, dtype, chunking):
    assert_scan_within_budget(make_inputs(case, dtype))


@pytest.mark.parametrize("case", OPTION_CASES, ids=str)
def test_options(case, chunking):
    assert_scan_within_budget(make_inputs(case))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype, chunking):
    inputs = make_inputs(Case(length=63, groups=2), dtype)
    assert_scan_within_budget(inputs)
    results = run(scan, inputs)
    assert results["y"].dtype == dtype
    assert results["last state"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for name in DIFFERENTIABLE:
        assert results[f"gradient of {name}"].dtype == inputs[name].dtype, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_model_dtypes(dtype, chunking):
    """Activations in half precision, parameters and state in float32, as the model calls it under autocast."""
    inputs = make_inputs(Case(length=63), dtype)
    for name in ("D", "delta_bias"):
        inputs[name] = make_inputs(Case(length=63))[name]
    assert_scan_within_budget(inputs)
    results = run(scan, inputs)
    for name in DIFFERENTIABLE:
        assert results[f"gradient of {name}"].dtype == inputs[name].dtype, name


def reversed_strides(tensor: Tensor) -> Tensor:
    axes = tuple(reversed(range(tensor.dim())))
    return tensor.permute(axes).contiguous().permute(axes)


def halves(inputs: Inputs) -> Inputs:
    """u beside z and B beside C, as one projection gives them."""
    for left, right in (("u", "z"), ("B", "C")):
        both = torch.cat((inputs[left], inputs[right]), dim=-1).chunk(2, dim=-1)
        inputs = inputs | dict(zip((left, right), both, strict=True))
    return inputs


LAYOUTS = {
    "channels-first": lambda inputs: map_tensors(lambda t: t.mT.contiguous().mT if t.dim() == 3 else t, inputs),
    "permuted": lambda inputs: map_tensors(reversed_strides, inputs),
    "halves": halves,
    "batch-expanded": lambda inputs: map_tensors(lambda t: t[:1].expand(t.shape), inputs),
    "all-expanded": lambda inputs: map_tensors(lambda t: t.flatten()[3].expand(t.shape), inputs),
    "every-second": lambda inputs: map_tensors(lambda t: t.repeat_interleave(2, -1)[..., ::2], inputs),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, chunking):
    inputs = LAYOUTS[layout](make_inputs(Case(length=63, groups=2)))
    assert not inputs["u"].is_contiguous()
    assert_scan_within_budget(inputs)
    for name, result in run(scan, inputs).items():
        assert result.is_contiguous(), name


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_linear_recurrence_for_every_chunk_length(length, reverse, monkeypatch):
    # Small integers and powers of two: every order of the sums is exact.
    generator = torch.Generator().manual_seed(length)
    decay = torch.tensor([0.0, 0.5, 1.0, -1.0])[torch.randint(4, (2, length, 3), generator=generator)]
    drive = torch.randint(-8, 9, (2, length, 3), generator=generator).float()
    initial = torch.randint(-8, 9, (2, 3), generator=generator).float()
    expected, state = torch.empty_like(drive), initial
    for t in reversed(range(length)) if reverse else range(length):
        expected[:, t] = state = decay[:, t] * state + drive[:, t]
    for steps in range(1, length + 2):
        monkeypatch.setattr(recurrence, "_steps_per_chunk", lambda *_, steps=steps: steps)
        actual = recurrence.linear_recurrence(decay, drive.clone(), initial, reverse=reverse)
        assert torch.equal(actual, expected), f"{steps} steps per chunk"


@pytest.mark.parametrize("length", [0, 1, 7, 100, 4096])
@pytest.mark.parametrize("states", [1, 100, 10**7])
def test_steps_per_chunk(length, states):
    """Chunks hold every step; there are never more of them than steps in one."""
    steps = recurrence._steps_per_chunk(length, states, torch.device("cpu"))
    chunks = -(-length // steps) if length else 1
    assert chunks <= max(steps, 1)
    if states > recurrence.STATES_PER_STEP["cpu"]:
        assert steps == length
    elsewhere, cuda = (recurrence._steps_per_chunk(length, states, torch.device(name)) for name in ("xpu", "cuda"))
    assert elsewhere == cuda


def test_same_bits_in_every_run(chunking):
    inputs = make_inputs(Case(length=63, groups=2))
    first, second = run(scan, inputs), run(scan, inputs)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("largest_delta", [1.0, 1e4])
@pytest.mark.parametrize("largest_A", [1e-4, 1.0, 1e4])
def test_any_decay(largest_delta, largest_A, chunking):
    inputs = make_inputs(Case(length=63, options=("initial_state",)))
    inputs["delta"] = torch.logspace(-4, 0, 63)[:, None] * largest_delta * torch.ones_like(inputs["delta"])
    inputs["A"] = torch.logspace(-2, 0, 8) * -largest_A * torch.ones_like(inputs["A"])
    assert_scan_within_budget(inputs)


PRECISION_CASES = [Case(length=63, groups=2), Case(4, 196, 160, 8)]


@pytest.fixture(params=["highest", "medium"])
def precision(request):
    """Of float32 matrix products: "medium" lets torch compute them in bfloat16 or TF32, where the device has it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("case", PRECISION_CASES, ids=str)
def test_sums_stay_float32(case, precision):
    assert_scan_within_budget(make_inputs(case))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", PRECISION_CASES, ids=str)
def test_cuda(case, precision):
    inputs = make_inputs(case)
    assert_scan_within_budget(inputs | {name: tensor.cuda() for name, tensor in tensors_of(inputs).items()})
