"""Passes inside torch.func's transforms."""

import pytest
import torch
from recurrences import decayed, pair, scanned
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap
from toy_passes import all_passes, capture

from mvc.passes import pipeline
from mvc.passes.accuracy import COMPILED, relative_error, rounding
from mvc.passes.graph.regions import op_counts

pytestmark = [pytest.mark.versions, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]


def loss(a, b):
    return decayed(a, b).sin().sum()


def raised(function, inputs):
    """The ops of the rewritten graph and the records of what fired or was missed; results and strides are eager's."""
    expected = function(*inputs)
    module, given = capture(function, *inputs)
    records = pipeline.run(all_passes(), module)
    assert not any(record.error for record in records)
    got = module(*given)
    expected = expected if isinstance(expected, tuple) else (expected,)
    oracle = function(*(each.double() for each in inputs))
    oracle = oracle if isinstance(oracle, tuple) else (oracle,)
    for y, eager, exact in zip(got, expected, oracle, strict=True):
        budget = COMPILED.tolerance(rounding(eager.dtype), eager_error=relative_error(eager, exact))
        assert relative_error(y, exact) <= budget
    assert [each.stride() for each in got] == [each.stride() for each in expected]
    return op_counts(module), records


SINGLE = pair(2, 5, 3)
BATCH = pair(4, 2, 5, 3)
SCAN = (*pair(2, 5, 3), -pair(3, 4)[0].exp(), *pair(2, 5, 4, seed=1))
SCANS = [each if each is SCAN[2] else torch.stack([each, each / 2]) for each in SCAN]
SHARED = (0, 0, None, 0, 0)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (vmap(decayed), BATCH),
        (vmap(decayed, in_dims=(None, 0)), (SINGLE[0], BATCH[1])),
        (vmap(decayed, in_dims=-1, out_dims=1), BATCH),
        (vmap(vmap(decayed)), pair(2, 3, 2, 5, 3)),
        (grad(loss), SINGLE),
        (grad(lambda a, b: grad(loss)(a, b).sin().sum()), SINGLE),
        (lambda a, b: vjp(lambda a: decayed(a, b), a)[1](b), SINGLE),
        (jacrev(lambda a, b: decayed(a, b).sum(1)), pair(1, 5, 2)),
        (vmap(grad(loss)), BATCH),
        (grad(lambda a, b: vmap(loss)(a, b).sum()), BATCH),
    ],
    ids=["vmap", "shared", "innermost", "twice", "grad", "second", "vjp", "jacrev", "per-sample", "grad-of-vmap"],
)
def test_loops_inside_are_raised(function, inputs):
    calls, _ = raised(function, inputs)
    assert calls["mvc.linear_recurrence_cpu"] == 1
    assert calls["sigmoid"] == 1


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (vmap(scanned, in_dims=SHARED), SCANS),
        (vmap(lambda *given: scanned(*given).view(-1), in_dims=SHARED), SCANS),
        (grad(lambda *given: scanned(*given).sin().sum(), argnums=(0, 2)), SCAN),
        (vmap(grad(lambda *given: scanned(*given).sin().sum()), in_dims=SHARED), SCANS),
    ],
    ids=["vmap", "view", "grad", "per-sample"],
)
def test_selective_scans_inside_are_raised(function, inputs):
    assert raised(function, inputs)[0]["mvc.selective_scan_cpu"] == 1


def test_second_derivatives_keep_the_recurrence():
    """The scan's op has none."""
    calls, records = raised(grad(lambda *x: grad(lambda *x: scanned(*x).sin().sum())(*x).sin().sum()), SCAN)
    assert [name for name in calls if name.startswith("mvc.")] == ["mvc.linear_recurrence_cpu"]
    (reason,) = [miss.reason for record in records if record.name == "raise_scan" for miss in record.near_misses]
    assert reason == "torch.func.grad hides it, for which mvc.selective_scan has no rule"


@pytest.mark.parametrize("function", [lambda a, b: jvp(lambda a: decayed(a, b), (a,), (b,)), jacfwd(decayed)])
def test_forward_mode_is_a_near_miss(function):
    calls, records = raised(function, pair(1, 5, 2))
    assert calls["mvc.linear_recurrence_cpu"] == 0
    (miss,) = [miss for record in records for miss in record.near_misses]
    assert miss.reason == "no linear recurrence: torch.func.jvp is around it, for which ops have no rule"


def test_a_last_state_between_those_of_others_is_left_alone():
    """Dense copies would have other strides than what leaves vmap."""

    def both(a, b):
        h, states = torch.zeros_like(b[:, 0]), []
        for t in range(b.shape[1]):
            h = a[:, t] * h + b[:, t]
            states.append(h)
        return torch.stack(states, 1), h

    _, records = raised(vmap(both, in_dims=-1), pair(2, 5, 3, 4))
    (miss,) = records[0].near_misses
    assert miss.reason.endswith("depends on its strides")
