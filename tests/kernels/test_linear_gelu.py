"""GELU in the epilogue of the library's product, and how far its tanh form is from the exact one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scan_cases import assert_within_budget

import mvc.kernels.ops  # noqa: F401  registers the op
from mvc.passes.accuracy import COMPILED, relative_error, rounding

OP = torch.ops.mvc.linear_gelu_cublas
DTYPES = (torch.float16, torch.bfloat16)
TANH_ERROR = 4.74e-4  # the largest distance of the two forms, near x = 2.7


def make_inputs(dtype: torch.dtype, rows: tuple[int, ...] = (3, 70), inner: int = 96, columns: int = 40) -> tuple:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((*rows, inner), (columns, inner), columns))
    return x.to(dtype), (weight * 2 / inner**0.5).to(dtype), bias.to(dtype)


def oracle(x, weight, bias, approximate: str = "tanh") -> torch.Tensor:
    return F.gelu(F.linear(x.double(), weight.double(), bias.double()), approximate=approximate)


def assert_right(device: str, dtype: torch.dtype, rows: tuple[int, ...]) -> None:
    inputs = make_inputs(dtype, rows)
    baseline = F.gelu(F.linear(*inputs), approximate="tanh")
    assert_within_budget(OP(*(t.to(device) for t in inputs)).cpu(), oracle(*inputs), baseline, "y")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [(3, 70), (), (0, 2), (2, 3, 4)], ids=str)
def test_on_a_cpu(dtype, rows):
    assert_right("cpu", dtype, rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_gpu(dtype):
    assert_right("cuda", dtype, (3, 70))


def test_the_forms_differ_by_no_more_than_the_docstring_says():
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    error = (F.gelu(x, approximate="tanh") - F.gelu(x)).abs().max().item()
    assert 4.6e-4 < error < TANH_ERROR


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_tanh_form_stays_within_what_the_check_of_compiled_models_allows(dtype):
    """The distance of the forms alone, before anything is rounded, in the budget that a tensor behind it has."""
    inputs = make_inputs(dtype)
    exact = oracle(*inputs, approximate="none")
    eager = relative_error(F.gelu(F.linear(*inputs)), exact)
    distance = relative_error(oracle(*inputs), exact)
    assert 0 < distance <= COMPILED.tolerance(rounding(dtype), eager_error=eager) - eager


def test_one_node_for_every_number_of_rows():
    compiled = torch.compile(lambda *given: OP(*given) + 1, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        compiled(*make_inputs(torch.float16, (2, 9)))
        with torch.compiler.set_stance("fail_on_recompile"):
            for rows in ((3, 9), (16, 5)):
                inputs = make_inputs(torch.float16, rows)
                assert torch.equal(compiled(*inputs), OP(*inputs) + 1)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({0: torch.zeros(2, 96)}, TypeError, "weight must be torch.float32 as x is, got torch.float16"),
        ({2: torch.zeros(40, dtype=torch.bfloat16)}, TypeError, "bias must be .* as x is, got torch.bfloat16"),
        ({1: torch.zeros(40, 95).half()}, ValueError, r"must be .* got shapes \(3, 70, 96\) and \(40, 95\)"),
        ({2: torch.zeros(40, dtype=torch.float16, requires_grad=True)}, RuntimeError, "has no derivative"),
    ],
    ids=["dtype of x", "dtype of bias", "shapes", "gradients"],
)
def test_errors(change, error, sentence):
    inputs = [change.get(place, tensor) for place, tensor in enumerate(make_inputs(torch.float16))]
    with pytest.raises(error, match=sentence):
        OP(*inputs)
