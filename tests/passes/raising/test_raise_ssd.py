"""Mamba-2's chunked matrix form becomes a selective scan, however it is spelled; what is almost it is left alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from toy_passes import capture

from mvc.kernels.scan import selective_scan
from mvc.passes import pipeline
from mvc.passes.accuracy import COMPILED, relative_error
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.raising import exponentials
from mvc.passes.raising.modular import PRIME
from mvc.passes.raising.raise_ssd import RaiseSsd
from mvc.passes.verify import Verifier

BATCH, CHUNKS, STEPS, HEADS, P, N = 2, 3, 4, 3, 2, 5
LENGTH = CHUNKS * STEPS


def inputs(length=LENGTH, *, width=P, states=N, dtype=torch.float32, grad=False):
    """x, delta, A, B and C."""
    generator = torch.Generator().manual_seed(0)

    def random(*sizes):
        return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)

    x, delta = random(BATCH, length, HEADS, width), random(BATCH, length, HEADS).abs()
    weights = (random(BATCH, length, HEADS, states) for _ in "BC")
    made = [x, delta, -random(HEADS).exp(), *weights]
    return [each.requires_grad_(grad) for each in made]


def lower(size, diagonal=0):
    return torch.tril(torch.ones(size, size, dtype=torch.bool), diagonal=diagonal)


def stable(A, mask=lower):
    """mamba-ssm's and transformers' segment sums."""
    size = A.shape[-1]
    repeated = A[..., None].expand(*A.shape, size).masked_fill(~mask(size, -1), 0)
    return torch.cumsum(repeated, dim=-2).masked_fill(~mask(size), -torch.inf)


def by_difference(A):
    sums = torch.cumsum(A, -1)
    return (sums[..., :, None] - sums[..., None, :]).masked_fill(lower(A.shape[-1]).logical_not(), -torch.inf)


def in_chunks(*sequences, steps=STEPS):
    return [each.unflatten(1, (-1, steps)) for each in sequences]


def ssd(X, A, B, C, segment_sums=stable, factor=None, initial=None, shift=0, last=-1, steps=STEPS):
    """mamba-ssm's `ssd_minimal_discrete`: y and the last state."""
    X, A, B, C = in_chunks(X, A, B, C, steps=steps)
    A = A.permute(0, 3, 1, 2)
    A_sums = torch.cumsum(A, dim=-1)
    y = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, torch.exp(segment_sums(A)), X)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, torch.exp(A_sums[..., -1:] - A_sums), X)
    initial = torch.zeros_like(states[:, :1]) if initial is None else initial
    states = torch.cat([initial, states], dim=1)
    decay = torch.exp(segment_sums(F.pad(A_sums[..., -1], (1, 0))))
    states = torch.einsum("bhzc,bchpn->bzhpn", decay, states)
    y_off = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states[:, shift : shift + A.shape[2]], torch.exp(A_sums))
    y_off = y_off if factor is None else factor * y_off
    return (y + y_off).flatten(1, 2), states[:, last]


def discretised(x, delta, A, B, C, **options):
    return ssd(x * delta.unsqueeze(-1), A * delta, B, C, **options)


def minimal(*args):
    return discretised(*args)[0]


def with_last_state(*args):
    return discretised(*args)


def differences(*args):
    return discretised(*args, segment_sums=by_difference)


def products(x, delta, A, B, C):
    """As transformers had it: products, sums of them and matrix products; chunks filled with zeros."""
    length, missing = x.shape[1], -x.shape[1] % STEPS
    sequences = (x * delta[..., None], A.float() * delta, B, C)
    padded = (F.pad(each, (0, 0) * (each.dim() - 2) + (0, missing)) for each in sequences)
    X, A, B, C = in_chunks(*padded)
    A_sums = torch.cumsum(A.permute(0, 3, 1, 2), dim=-1)
    scores = (C[:, :, :, None] * B[:, :, None]).sum(dim=-1)
    weights = scores * torch.exp(stable(A.permute(0, 3, 1, 2))).permute(0, 2, 3, 4, 1)
    y = (weights[..., None] * X[:, :, None]).sum(3)
    decayed = B * torch.exp(A_sums[:, :, :, -1:] - A_sums).permute(0, 2, 3, 1)[..., None]
    states = X.permute(0, 1, 3, 4, 2) @ decayed.permute(0, 1, 3, 2, 4)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    decay = torch.exp(stable(F.pad(A_sums[:, :, :, -1], (1, 0)))).transpose(1, 3)
    states = (decay[..., None, None] * states[:, :, None]).sum(dim=1)
    y_off = (C[:, :, :, :, None] * states[:, :-1][:, :, None]).sum(-1) * torch.exp(A_sums).permute(0, 2, 3, 1)[
        ..., None
    ]
    return (y + y_off).contiguous().reshape(x.shape[0], -1, HEADS, P)[:, :length], states[:, -1]


def from_bfloat16(*args):
    """As in models of bfloat16: rounded before, and exact from there."""
    wide = args[0].dtype
    return discretised(*(each.bfloat16().to(wide) for each in args))


def undiscretised(X, delta, A, B, C):
    """Some decays are one, as those of the zeros that fill a chunk."""
    return ssd(X, (A * delta).masked_fill(delta < 0.3, 0).clone(), B, C)


def expected(x, delta, A, B, C):
    flat = delta.unsqueeze(-1).expand(x.shape).flatten(2)
    rate = A.repeat_interleave(P)[:, None].expand(-1, N)
    y, last = selective_scan(x.flatten(2), flat, rate, B, C, return_last_state=True, impl="reference")
    return y.unflatten(2, (HEADS, P)), last.unflatten(1, (HEADS, P))


def run(function, *args):
    """The rewritten graph, which is checked against what it was, and the record of the pass."""
    module, examples = capture(function, *args)
    (record,) = pipeline.run([RaiseSsd()], module, strict=True, observers=[Verifier(module, examples)])
    return module, examples, record


@pytest.mark.parametrize("grad", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("function", [minimal, with_last_state, differences, products, from_bfloat16])
def test_form_becomes_one_scan(function, grad):
    module, _, record = run(function, *inputs(grad=grad))
    assert (record.matches, record.near_misses) == (1, ())
    calls = op_counts(module.graph)
    assert calls["mvc.selective_scan"] == 1
    assert not {"exp", "cumsum", "einsum", "matmul", "sum", "where", "div"} & {*calls}, "Δ is the graph's own"


@pytest.mark.parametrize("grad", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("length", [LENGTH, LENGTH - 3])
def test_results_and_gradients(length, grad):
    """Within the budget of what eager mode has in float32, against the oracle."""
    args = inputs(length, grad=grad)
    wide = [each.detach().double().requires_grad_(grad) for each in args]
    module, examples, record = run(products, *args)
    assert record.matches == 1
    assert op_counts(module.graph)["pad"] <= 1, "the scan is not of the zeros"
    results = [function(*given) for function, given in ((module, examples), (products, args), (expected, wide))]
    if grad:
        results = [
            result + torch.autograd.grad(sum(each.square().sum() for each in result), given)
            for result, given in zip(results, (args, args, wide), strict=True)
        ]
    for tensors in zip(*results, strict=True):
        actual, eager, oracle = (each.detach() for each in tensors)
        tolerance = COMPILED.tolerance(2e-7, eager_error=relative_error(eager, oracle), typical=2e-7)
        assert relative_error(actual, oracle) <= tolerance


def test_without_a_common_factor():
    """Divided by the decay's logarithm where there are no gradients."""
    module, _, record = run(undiscretised, *inputs())
    assert (record.matches, op_counts(module.graph)["mvc.selective_scan"]) == (1, 1)
    _, _, record = run(undiscretised, *inputs(grad=True))
    assert "no common factor" in record.near_misses[0].reason


@pytest.mark.parametrize(
    ("chunks", "steps", "states", "raised"), [(4, 16, 64, (False, False)), (16, 32, 128, (True, False))]
)
def test_short_chunks_are_left_alone(chunks, steps, states, raised):
    """As measured without and with gradients, of 64 channels for each head."""
    for grad, matches in zip((False, True), raised, strict=True):
        args = inputs(chunks * steps, grad=grad, width=64, states=states)
        module, _ = capture(lambda *args: discretised(*args, steps=steps), *args)
        (record,) = pipeline.run([RaiseSsd()], module, strict=True)
        assert record.matches == matches
        assert matches or "short chunks" in record.near_misses[0].reason


def test_other_dtypes_are_left_alone():
    module, _ = capture(minimal, *inputs(dtype=torch.float64))
    (record,) = pipeline.run([RaiseSsd()], module, strict=True)
    assert (record.matches, "in torch.float64" in record.near_misses[0].reason) == (0, True)


def test_any_batch():
    args = inputs()
    for each in (args[0], args[1], args[3], args[4]):
        torch._dynamo.mark_dynamic(each, 0)
    module, _ = capture(minimal, *args)
    (record,) = pipeline.run([RaiseSsd()], module, strict=True)
    assert record.matches == 1


def upper(size, diagonal=0):
    return torch.triu(torch.ones(size, size, dtype=torch.bool), diagonal=-diagonal)


def masked_below(*args):
    return discretised(*args, segment_sums=lambda A: stable(A, upper))


def twice_between(*args):
    return discretised(*args, factor=2.0)


def shifted(*args):
    """The states after a chunk, not those before it."""
    return discretised(*args, shift=1)


def initial_state(*args):
    return discretised(*args, initial=args[0].new_ones(BATCH, 1, HEADS, P, N))


def twice_the_decay(x, delta, A, B, C):
    return discretised(x, delta, A, B, C, segment_sums=lambda each: stable(each + each))


def decay_per_state(x, delta, A, B, C):
    """exp(A) for each of N states in the chunks."""
    X, A, B, C = in_chunks(x, (A * delta)[..., None] * B, B, C)
    L = torch.exp(stable(A.permute(0, 3, 4, 1, 2)))
    within = torch.einsum("bclhn,bcshn,bhncls,bcshp->bclhp", C, B, L, X)
    return within + torch.einsum("bclhn,bcshn,bhncls,bcshp->bclhp", C, B, L, X)


def within_alone(x, delta, A, B, C):
    X, A, B, C = in_chunks(x * delta[..., None], A * delta, B, C)
    return torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, torch.exp(stable(A.permute(0, 3, 1, 2))), X)


def last_decay(x, delta, A, B, C):
    """The sums of the last chunk, beside y."""
    kept = []
    y, _ = discretised(x, delta, A, B, C, segment_sums=lambda each: kept.append(stable(each)) or kept[-1])
    return y, kept[0].exp2()


def first_state(x, delta, A, B, C):
    return discretised(x, delta, A, B, C, last=1)


def factor_written(x, delta, A, B, C):
    """X is computed with another Δ than A."""
    factor = delta.clone()
    X = x * factor.unsqueeze(-1)
    factor.add_(1)
    return ssd(X, A * factor, B, C)


def written(x, delta, A, B, C):
    return discretised(x, delta, A, B, C, segment_sums=lambda each: (C.add_(1), stable(each))[1])


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (masked_below, "does not compute"),
        (twice_between, "factor 2.0"),
        (shifted, "does not compute"),
        (initial_state, "without an initial state"),
        (twice_the_decay, "does not compute"),
        (decay_per_state, "its sequences are not"),
        (last_decay, "used by exp2"),
        (first_state, "other states than the last"),
        (written, "written to"),
        (factor_written, "written to"),
        (lambda *args: minimal(*(each[..., :0] if each.dim() == 4 else each for each in args)), "empty"),
        (within_alone, "not in its chunked form"),
    ],
)
def test_near_misses(function, reason):
    module, _ = capture(function, *inputs())
    before = str(module.graph)
    (record,) = pipeline.run([RaiseSsd()], module, strict=True)
    assert record.matches == 0
    assert reason in record.near_misses[0].reason
    assert "test_raise_ssd.py" in record.near_misses[0].source
    assert str(module.graph) == before


def test_exponentials_of_sums_are_products():
    sums = torch.randint(0, PRIME - 1, (2, 100), generator=torch.Generator().manual_seed(0))
    left, right = map(exponentials.power, sums)
    assert torch.equal(exponentials.power(sums.sum(0) % (PRIME - 1)), left * right % PRIME)
    assert exponentials.power(torch.tensor([0, 1, exponentials.MINUS_INFINITY])).tolist() == [1, 7, 0]
    assert all(pow(exponentials.GENERATOR, (PRIME - 1) // each, PRIME) != 1 for each in (2, 3, 7, 11, 31, 151, 331))
