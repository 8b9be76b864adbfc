"""Attention's Triton kernels: interpreted against float64, compiled for three architectures, and as an op.

Whether Triton's kernels are interpreted is decided when triton is imported, so for these this file runs itself in a
process of its own.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from attention_cases import Case, assert_within_budget, in_torch, make_inputs, results
from opcodes import Launch, compiled_as_launched, recorded_launches
from scan_cases import needs_triton, print_failures, with_last_stride
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mvc.kernels.implementations import triton_available

HALVES = (torch.float16, torch.bfloat16)
CASES = [
    *(Case(length, d) for length in (1, 7, 49, 50) for d in (8, 40, 49, 64)),
    *(Case(length, 40, dtype) for length in (7, 49, 196) for dtype in HALVES),
    Case(196, 64),
    Case(577, 40, heads=1),
    Case(65, 80, torch.float16),
    Case(33, 128),
    *(Case(50, 40, layout=layout, batch=2) for layout in ("contiguous", "channels first", "strided", "expanded")),
    Case(80, 16, torch.bfloat16, "strided"),
    Case(50, 40, torch.float16, factor=100.0),
    Case(49, 40, batch=0),
    Case(49, 40, heads=3, batch=2),
]


def op():
    return torch.ops.mvc.window_attention_triton.default


def nonfinite(value: float, place: str) -> None:
    """Not finite in the same elements as torch's, and the same elements NaN."""
    inputs = make_inputs(Case(70, 8))
    inputs["qkv".index(place)][0, 1, 3] = value
    actual, expected = (results(function, *inputs, 8**-0.5) for function in (op(), in_torch))
    assert torch.equal(actual[0].isnan(), expected[0].isnan())
    torch.testing.assert_close(actual[0], expected[0], equal_nan=True)
    for one, other in zip(actual[2:], expected[2:], strict=True):
        assert torch.equal(one.isfinite(), other.isfinite())


def no_finite_score() -> None:
    """A query whose scores are all minus infinity has no weights, as in torch, and a gradient of zero for v."""
    q, k, v, grad = make_inputs(Case(70, 8))
    q[:], k[..., 0] = 1.0, -math.inf
    k[..., 1:] = 0.0
    out, lse, *_, dv = results(op(), q, k, v, grad, 1.0)
    assert torch.equal(out, F.scaled_dot_product_attention(q, k, v, scale=1.0))
    assert out.abs().max() == dv.abs().max() == 0
    assert (lse == -math.inf).all()


def written_where_heads_join() -> None:
    q, k, v, grad = make_inputs(Case(7, 40, batch=2))
    out, _, *gradients = results(op(), q, k, v, grad, 1.0)
    assert all(each.transpose(1, 2).is_contiguous() for each in (out, *gradients))


def channels_far_apart() -> None:
    """Between which 32 bits cannot count."""
    q, k, v, grad = make_inputs(Case(7, 128, torch.float16))
    expected = results(op(), q, k, v, grad, 0.1)
    for far in "qkv":
        given = {"q": q, "k": k, "v": v}
        given[far] = with_last_stride(given[far], 2**24 + 2**18)
        for one, other in zip(results(op(), *given.values(), grad, 0.1), expected, strict=True):
            assert torch.equal(one, other), far


def checked_as_an_op() -> None:
    """Its schema, and its derivative's registration; what is traced has no values to interpret."""
    q, k, v, _ = make_inputs(Case(7, 8))
    inputs = [each.requires_grad_() for each in (q, k, v)]
    torch.library.opcheck(op(), (*inputs, 0.5), test_utils=("test_schema", "test_autograd_registration"))


def mapped() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 1, 7, 8), torch.randn(2, 1, 7, 3, 8)
    run = torch.vmap(lambda q, k: op()(q, k, q, 0.5)[0], (1, 3))
    expected = F.scaled_dot_product_attention(q.movedim(1, 0), k.movedim(3, 0), q.movedim(1, 0), scale=0.5)
    torch.testing.assert_close(run(q, k), expected)


def under_autocast() -> None:
    q, k, v, grad = make_inputs(Case(7, 8))
    with torch.autocast("cpu", torch.bfloat16):
        out, lse, *gradients = results(op(), q, k, v, grad.bfloat16(), 0.5)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert {each.dtype for each in gradients} == {torch.float32}
    low = [each.bfloat16() for each in (q, k, v)]
    assert torch.equal(out, op()(*low, 0.5)[0])


RUNS = {
    **{str(case): functools.partial(assert_within_budget, case, lambda *given: op()(*given)) for case in CASES},
    **{
        f"{value} in {place}": functools.partial(nonfinite, value, place)
        for value in (math.nan, math.inf)
        for place in "qkv"
    },
    **{
        each.__name__: each
        for each in (
            no_finite_score,
            written_where_heads_join,
            channels_far_apart,
            checked_as_an_op,
            mapped,
            under_autocast,
        )
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_interpreted(name, failures):
    assert failures[name] is None


# What is compiled

SHAPES = [(196, 40), (49, 40), (196, 48), (196, 49), (49, 49), (49, 64), (196, 64), (577, 64), (577, 80), (1024, 128)]
QUICK = (196, 40), (49, 64)
ARCHITECTURES = (80, 90, 100)


def launches(length: int, d: int, monkeypatch) -> list[Launch]:
    """Those of forward and backward, for a projection of 8 heads at batch 128."""
    from mvc.kernels.attention import triton_ops

    found = recorded_launches(triton_ops, monkeypatch)
    q, k, v = torch.empty(128, length, 3, 8, d, dtype=torch.float16, device="meta").transpose(1, 3).unbind(2)
    out, lse = op()(q, k, v, 0.5)
    torch.ops.mvc.window_attention_triton_backward(out, q, k, v, out, lse, 0.5)
    return found


@needs_triton
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("length", "d"),
    [pytest.param(*each, marks=pytest.mark.versions if each in QUICK else pytest.mark.slow) for each in SHAPES],
)
def test_nothing_is_spilt(length, d, architecture, monkeypatch):
    """Nor added to memory by atomics; each exponential is computed once, those of padding and of sums are few."""
    found = launches(length, d, monkeypatch)
    assert len(found) == (2 if length == 49 and d % 8 == 0 else 3)
    for launch in found:
        binary = compiled_as_launched(launch, architecture)
        assert binary.code.local == 0, launch.kernel.__name__
        assert binary.count("RED.") == binary.count("ATOMG") == 0, launch.kernel.__name__


@needs_triton
@pytest.mark.versions
def test_resources_on_a_hopper(monkeypatch):
    """Windows of 196 tokens with heads of 40: three programs of four warps fit a multiprocessor (65,536 registers,
    227 KiB), no key beyond 208 is computed, and no load takes a single number."""
    forward, *_ = launches(196, 40, monkeypatch)
    binary = compiled_as_launched(forward, 90)
    assert forward.grid == (1024, 1)
    assert binary.code.registers <= 65536 // (3 * 32 * forward.num_warps) // 8 * 8
    assert binary.code.shared <= 227 * 1024 // 3
    exponentials = 64 * 208 // (32 * forward.num_warps)
    assert exponentials <= binary.count("MUFU") <= exponentials + 12
    assert binary.count("LDG") > 0
    assert binary.count("LDG.E.U16") == binary.count("LDG.E.S16") == 0


@needs_triton
def test_few_heads_run_their_blocks_of_queries_side_by_side(monkeypatch):
    from mvc.kernels.attention import triton_ops

    monkeypatch.setattr(triton_ops, "ENOUGH", 4096)
    assert launches(196, 40, monkeypatch)[0].grid == (1024, 4)


@needs_triton
def test_flops_are_those_of_torchs_attention():
    q, k, v = (torch.empty(2, 3, 49, 40, device="meta", requires_grad=True) for _ in range(3))
    counted = []
    for attention in (lambda: op()(q, k, v, 0.5)[0], lambda: F.scaled_dot_product_attention(q, k, v)):
        with FlopCounterMode(display=False) as mode:
            attention().sum().backward()
        counted.append(mode.get_total_flops())
    ours, torchs = counted
    once = torch.utils.flop_counter.sdpa_flop_count(q.shape, k.shape, v.shape)
    assert ours == torchs + once // 2  # torch on "meta" keeps the weights; the kernels compute them once more


@needs_triton
@pytest.mark.versions
def test_an_unknown_batch_makes_no_guard():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    environment = ShapeEnv()
    with FakeTensorMode(shape_env=environment):
        batch = environment.create_unbacked_symint()
        torch._check(batch >= 0)
        before = len(environment.guards), len(environment.deferred_runtime_asserts)
        q, k, v = torch.empty(batch, 49, 3, 8, 40, dtype=torch.float16, device="cuda").transpose(1, 3).unbind(2)
        out, lse = op()(q, k, v, 0.5)
        gradients = torch.ops.mvc.window_attention_triton_backward(out, q, k, v, out, lse, 0.5)
    assert (len(environment.guards), len(environment.deferred_runtime_asserts)) == before
    assert out.shape == q.shape
    assert out.transpose(1, 2).is_contiguous()
    assert all(each.stride() == out.stride() for each in gradients)


@needs_triton
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"k": torch.zeros(1, 2, 5, 8)}, ValueError, r"k must be .* with batch 1, heads 2, length 7, d 8, got shape"),
        ({"v": torch.zeros(1, 2, 7, 8).half()}, TypeError, "v must be torch.float32 as q is, got torch.float16"),
        ({"q": torch.zeros(1, 2, 7, 8).double()}, TypeError, "q must be torch.float32 .* got torch.float64"),
        ({name: torch.zeros(1, 1, 3, 136) for name in "qkv"}, ValueError, "136 channels, and at most 128 fit"),
        ({"scale": -1.0}, ValueError, "scale must be a number above 0, got -1.0"),
    ],
    ids=["shape", "dtypes", "float64", "wide", "scale"],
)
def test_errors_name_the_argument_and_the_value(changes, error, message):
    given = {**{name: torch.zeros(1, 2, 7, 8) for name in "qkv"}, "scale": 0.5} | changes
    with pytest.raises(error, match=message):
        op()(**given)


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_a_gpu(case):
    def attention(q, k, v, scale):
        return tuple(each.cpu() for each in op()(*(each.cuda() for each in (q, k, v)), scale))

    assert_within_budget(case, attention)


if __name__ == "__main__":
    assert triton_available()
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    print_failures(RUNS)
