"""The linear recurrence of complex numbers: every implementation against the complex128 oracle, with real ones beside
them, and what torch does with its op."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from recurrence_cases import (
    CUBE,
    Case,
    arguments,
    assert_recurrence_within_budget,
    make_inputs,
    run,
    same_dtypes,
    tensors_of,
    through,
)
from scan_cases import require_cpp
from torch import Tensor
from torch.func import grad, jvp, vmap

from mvc.kernels import implementations
from mvc.kernels.recurrence import chunked, doubling, linear_recurrence
from mvc.kernels.schemas import op

C64, C128 = same_dtypes(torch.complex64), same_dtypes(torch.complex128)
SMALL = CUBE._replace(dtypes=C64)
MIXED = [  # of a, b and the initial state, of which one or two are complex
    dtypes
    for real in (torch.float32, torch.float64, torch.bfloat16)
    for dtypes in itertools.product((real, torch.complex64), repeat=3)
    if len({*dtypes}) == 2
]
ONE_COMPLEX = [(torch.float64,) * n + (torch.complex128,) + (torch.float64,) * (2 - n) for n in range(3)]
CASES = [
    *(Case((2, n, 19), (2, n, 19), 1, (2, 19), bool(n % 2), C64) for n in (0, 1, 2, 33, 70)),
    *(Case((19, n), (19, n), 1, (19,), not n % 2, C64) for n in (0, 1, 2, 33, 70)),
    *(Case((3, 9, size), (3, 9, size), 1, None, False, C64) for size in (0, 1, 255, 256, 257)),
    *(Case((2, 3, 4, 5), (2, 3, 4, 5), dim, None, True, C64) for dim in range(4)),
    Case((7,), (7,), 0, (), dtypes=C64),
    Case((600,), (600,), 0, (), True, C128),
    Case((5, 1), (3, 1, 9), 1, (1, 1), dtypes=C64),
    Case((3, 1, 4), (3, 6, 4), 1, (4,), dtypes=C128),
    Case((3, 6, 4), (1,), 1, (3, 1), True, C64),
    Case((6,), (3, 4, 6), 2, (1,), dtypes=C64),
    *(SMALL._replace(layout=layout, dim=dim, initial=initial) for layout in ("permuted", "expanded", "strided", "lazy")
      for dim, initial in ((1, (3, 19)), (2, (3, 37)))),
    CUBE._replace(dtypes=(torch.float32, torch.complex64, torch.float32), layout="lazy"),
    *(Case((3, 11, 4), (3, 11, 4), 1, (3, 4), dtypes=dtypes) for dtypes in MIXED),
    SMALL._replace(decays=(0.99, 1.01)),
    Case((2, 9, 20), (2, 9, 20), 1, (2, 20), dtypes=C64, decays=(1.0, 3.0)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_the_oracle(case, family):
    inputs = make_inputs(case)
    assert_recurrence_within_budget(inputs, through(family))
    results = run(through(family), inputs)
    tensors = tensors_of(inputs)
    assert results["h"].dtype == functools.reduce(torch.promote_types, [tensor.dtype for tensor in tensors.values()])
    assert all(results[f"gradient of {name}"].dtype == tensor.dtype for name, tensor in tensors.items())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 7, 64])
def test_length_unknown_while_traced(length, reverse, monkeypatch):
    monkeypatch.setattr(chunked, "linear_recurrence", functools.partial(doubling.linear_recurrence, bound=64))
    case = Case((2, length, 3), (2, length, 3), 1, (2, 3), reverse, C64)
    assert_recurrence_within_budget(make_inputs(case), through("linear_recurrence_chunked"))


def test_reference_is_the_recurrence():
    """By hand, and the gradients by torch's convention: that of a real function's input is ∂/∂re + i ∂/∂im."""
    a, b = torch.tensor([5.0, 1j]), torch.tensor([1 + 1j, 2.0], requires_grad=True)
    h = linear_recurrence(a, b, dim=0, impl="reference")
    assert h.tolist() == [1 + 1j, 1 + 1j]  # i (1 + i) + 2
    assert torch.autograd.grad(h[1].imag, b)[0].tolist() == [1, 1j]  # Im(i b₀ + b₁) = Re b₀ + Im b₁


SETTINGS = {
    "one-chunk": ("chunked", 0, None),
    "chunks": ("chunked", 2**40, None),
    "doubling": ("chunked", 0, 64),
    "cpp": ("cpp", 0, None),
}
VALUES = (math.nan, math.inf, complex(0, -math.inf), complex(math.inf, math.nan))
RECURRENCES = {  # a, b and the initial state, over 40 steps
    "decaying": lambda value: (torch.full((40, 3), 1e-3j), torch.ones(40, 3), torch.tensor([value, 1.0, 1j])),
    "growing": lambda value: (torch.full((40, 3), 1e3j), torch.zeros(40, 3), torch.tensor([0.0, value, 0.0])),
    "zero": lambda value: (torch.arange(40.0)[:, None].expand(40, 3) - 20, torch.ones(40, 3), torch.full((3,), value)),
    "in a": lambda value: (torch.full((40, 3), 0.5j).index_fill(0, torch.tensor(11), value), torch.zeros(40, 3), None),
    "in b": lambda value: (torch.full((40, 3), 0.5), torch.ones(40, 3) + 0j, None),
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("name", RECURRENCES)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_not_finite_where_the_reference_is_not(setting, name, value, reverse, monkeypatch):
    impl, states_per_step, bound = SETTINGS[setting]
    require_cpp(impl == "cpp")
    monkeypatch.setitem(chunked.STATES_PER_STEP, "cpu", states_per_step)
    if bound is not None:
        monkeypatch.setattr(chunked, "linear_recurrence", functools.partial(doubling.linear_recurrence, bound=bound))
    a, b, initial = RECURRENCES[name](complex(value))
    if name == "in b":
        b[11, 1] = value
    wanted, actual = (
        linear_recurrence(a, b, initial, dim=0, reverse=reverse, impl=each) for each in ("reference", impl)
    )
    assert not wanted.isfinite().all()
    assert torch.equal(actual.isfinite(), wanted.isfinite())


@pytest.mark.versions
@pytest.mark.parametrize("impl", ["chunked", "cpp"])
@pytest.mark.parametrize("dtypes", [C128, *ONE_COMPLEX])
def test_gradcheck_twice_and_forwards(impl, dtypes):
    require_cpp(impl == "cpp")
    inputs = make_inputs(Case((3, 1, 2), (4, 2), -2, (3, 1), True, dtypes))
    leaves = [inputs[name].requires_grad_() for name in ("a", "b", "initial")]

    def states(a, b, initial):
        return linear_recurrence(a, b, initial, dim=-2, reverse=True, impl=impl)

    assert torch.autograd.gradcheck(states, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(states, leaves)


@pytest.mark.parametrize("dtypes", [C64, (torch.float32, torch.complex64, torch.float32)], ids=["complex", "mixed"])
def test_opcheck(dtypes, family):
    inputs = make_inputs(Case((2, 5, 3), (2, 5, 3), 1, (2, 3), True, dtypes, "permuted"))
    inputs |= {name: tensor.detach().requires_grad_() for name, tensor in tensors_of(inputs).items()}
    torch.library.opcheck(op(family), arguments(inputs))


def test_torch_func():
    """vmap, grad, both, and jvp, of a real `a` and a complex b."""
    inputs = [make_inputs(Case((5, 3), (5, 3), 0, (3,), dtypes=(torch.float64, *C128[:2])), seed) for seed in range(3)]
    samples = [tuple(inputs[index][name] for name in ("a", "b", "initial")) for index in range(3)]
    stacked = tuple(map(torch.stack, zip(*samples, strict=True)))

    def states(a, b, initial):
        return linear_recurrence(a, b, initial, dim=0)

    def loss(*tensors):
        return states(*tensors).abs().sum()

    torch.testing.assert_close(vmap(states)(*stacked), torch.stack([states(*each) for each in samples]))
    gradients = vmap(grad(loss, (0, 1, 2)))(*stacked)
    for index, sample in enumerate(samples):
        leaves = [tensor.clone().requires_grad_() for tensor in sample]
        for mapped, expected in zip(gradients, torch.autograd.grad(loss(*leaves), leaves), strict=True):
            torch.testing.assert_close(mapped[index], expected)
    direction = samples[1]
    step = 1e-6
    ends = [states(*(t + sign * step * d for t, d in zip(samples[0], direction, strict=True))) for sign in (1, -1)]
    _, tangent = jvp(states, samples[0], direction)
    torch.testing.assert_close(tangent, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6)


def test_autocast_changes_nothing(family):
    inputs = make_inputs(SMALL)
    expected = run(through(family), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(through(family), inputs)
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


@pytest.mark.versions
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("impl", [None, "chunked"])
def test_compiled(backend, impl, fresh_dynamo):
    """In one graph, of a conjugate too."""

    def function(a: Tensor, b: Tensor, initial: Tensor, dim: int, reverse: bool) -> Tensor:
        return linear_recurrence(a.conj(), 2 * b, initial, dim=dim, reverse=reverse, impl=impl)

    compiled = torch.compile(function, backend=backend, fullgraph=True)
    inputs = make_inputs(Case((2, 9, 3), (2, 9, 3), 1, (2, 3), True, (torch.complex64, torch.float32, torch.float32)))
    actual, expected = (run(each, inputs) for each in (compiled, function))
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("a", "b"), [(torch.complex64,) * 2, (torch.float64, torch.complex64)], ids=str)
def test_fastest(a, b):
    """No Triton kernel computes complex numbers, which run in torch's own operations on a GPU."""
    dtype = torch.promote_types(a, b)
    assert implementations.fastest(torch.device("cuda"), dtype) == "chunked"
    require_cpp()
    assert implementations.fastest(torch.device("cpu"), dtype) == "cpp"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", [SMALL, SMALL._replace(dim=2, initial=(3, 37), reverse=True)], ids=str)
def test_on_a_gpu(case):
    inputs = make_inputs(case)
    inputs |= {name: tensor.cuda() for name, tensor in tensors_of(inputs).items()}
    assert_recurrence_within_budget(inputs, linear_recurrence)


def test_triton_refuses_complex_numbers():
    if not implementations.triton_available():
        pytest.skip("triton is not installed")
    a = torch.ones(4, dtype=torch.complex64, device="meta")
    with pytest.raises(TypeError, match=r"torch\.complex64, which impl='triton' does not accept"):
        op("linear_recurrence_triton")(a.real, a, None, 0, False)
