"""Programs with higher-order operators, transforms and graph breaks, compiled: as torch's own backend compiles them."""

import functools
import logging

import pytest
import torch
import torch.nn.functional as F
from recurrences import decayed, pair
from torch._higher_order_ops.while_loop import while_loop
from torch.func import grad, vmap
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import mvc
from mvc.compile.backend import Options
from mvc.compile.explanation import Recorder
from mvc.passes.accuracy import REWRITTEN, relative_error, rounding
from mvc.passes.raising.raise_loop import RaiseLoop

pytestmark = [pytest.mark.versions, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]

RECURRENCE = "mvc.linear_recurrence_cpu"
ALWAYS = {"passes": [RaiseLoop(always=True), "lower_scan"]}


def compiled(function, *, fullgraph=True):
    """The function as the backend compiles it, however few its steps are, and what the backend did."""
    torch.compiler.reset()
    recorder = Recorder(Options.parse(ALWAYS))
    return torch.compile(function, backend=recorder, fullgraph=fullgraph), recorder.explanation


def learned(*inputs):
    return [each.detach().clone().requires_grad_() for each in inputs]


def run(function, inputs):
    """Its result and the gradients of its inputs, random numbers as they are after one seed."""
    torch.manual_seed(0)
    y = function(*inputs)
    return y, *torch.autograd.grad(y.sin().sum(), inputs)


def selective(save):
    def policy(context, op, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if save in str(op) else CheckpointPolicy.PREFER_RECOMPUTE

    return functools.partial(create_selective_checkpoint_contexts, policy)


def checkpointed(a, b, **options):
    return checkpoint(lambda a, b: F.dropout(decayed(a, b)) * b, a, b, use_reentrant=False, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"context_fn": selective("sigmoid")}, {"context_fn": selective("linear_recurrence")}],
    ids=["all", "sigmoid-kept", "states-kept"],
)
def test_checkpoints_with_dropout(options):
    """The mask of the recomputation is that of the forward, and both are those of torch's own backend."""
    function, inputs = functools.partial(checkpointed, **options), learned(*pair(2, 6, 4))
    torch.compiler.reset()
    expected = run(torch.compile(function, fullgraph=True), inputs)
    ours, explanation = compiled(function)
    torch.testing.assert_close(run(ours, inputs), expected)
    assert explanation.graphs[0].after[RECURRENCE] == 1


def saved_elements(y, inputs):
    """How much a compiled forward keeps for its backward besides the inputs."""
    given = {each.data_ptr() for each in inputs}
    return sum(each.numel() for each in y.grad_fn.saved_tensors if each.data_ptr() not in given)


def test_a_checkpoint_keeps_no_states():
    inputs = learned(*pair(2, 6, 4))
    plain, _ = compiled(lambda a, b: decayed(a, b).exp())
    assert saved_elements(plain(*inputs), inputs) >= inputs[0].numel()
    ours, explanation = compiled(lambda a, b: checkpoint(decayed, a, b, use_reentrant=False) * 2)
    assert saved_elements(ours(*inputs), inputs) == 0
    assert explanation.graphs[0].after[RECURRENCE] == 1


def in_cond(a, b):
    return torch.cond(a.sum() > 0, lambda a, b: decayed(a, b), lambda a, b: decayed(b, a) + 1, (a, b))


region = torch.compiler.nested_compile_region(decayed)


@pytest.mark.parametrize(
    ("function", "count"),
    [(in_cond, 2), (lambda a, b: region(region(a, b), b), 1), (lambda a, b: vmap(decayed)(a, b), 1)],
    ids=["cond", "region", "vmap"],
)
def test_gradients_of_what_is_raised_inside(function, count):
    inputs = learned(*pair(3, 2, 6, 4)) if count == 1 and function is not in_cond else learned(*pair(2, 6, 4))
    before = [each.detach().clone() for each in inputs]
    ours, explanation = compiled(function)
    torch.testing.assert_close(run(ours, inputs), run(function, inputs))
    torch.testing.assert_close([each.detach() for each in inputs], before, rtol=0, atol=0)  # torch wrote over them
    assert explanation.graphs[0].after[RECURRENCE] == count


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, decayed(a, x)), (torch.tensor(0), b.clone())),
        grad(lambda a, b: decayed(a, b).sin().sum()),
    ],
    ids=["while_loop", "grad"],
)
def test_what_is_raised_inside(function):
    inputs = pair(2, 6, 4)
    ours, explanation = compiled(function)
    torch.testing.assert_close(ours(*inputs), function(*inputs))
    assert explanation.graphs[0].after[RECURRENCE] == 1


class InAutocast(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(3, 3)

    def forward(self, a, b, c):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            C, h, ys = self.project(c), torch.zeros(2, 4, 3), []
            for t in range(b.shape[1]):
                h = torch.exp(-a[:, t].abs()) * h + b[:, t]
                ys.append(torch.einsum("bdn,bn->bd", h, C[:, t]))  # which autocast lowers
            return torch.stack(ys, 1)


@pytest.mark.parametrize(("steps", "options"), [(6, ALWAYS), (80, None)], ids=["always", "many-steps"])
def test_a_recurrence_in_autocast_that_the_model_opens(steps, options):
    torch.manual_seed(0)
    model, inputs = InAutocast(), (*pair(2, steps, 4, 3), torch.randn(2, steps, 3))
    explanation = mvc.explain(model, *inputs, options=options)
    assert explanation.graphs[0].after[RECURRENCE] == 1
    assert not any(record.error for record in explanation.graphs[0].passes)
    torch.compiler.reset()
    with torch.no_grad():
        y, expected = torch.compile(model, backend="mvc", options=options)(*inputs), model(*inputs)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert relative_error(y, expected) <= REWRITTEN.tolerance(rounding(torch.bfloat16))


def broken_by_call(a, b):
    y = decayed(a, b)
    torch._dynamo.graph_break()
    return decayed(b, y)


def broken_by_print(a, b):
    y = decayed(a, b)
    print("half-way")
    return decayed(b, y)


def broken_by_data(a, b):
    y = decayed(a, b)
    return decayed(b, y) if y.sum() > 1e9 else decayed(y, b)


@pytest.mark.parametrize("function", [broken_by_call, broken_by_print, broken_by_data])
def test_every_part_of_a_broken_graph_is_raised(function, caplog, recwarn):
    inputs = learned(*pair(2, 6, 4))
    ours, explanation = compiled(function, fullgraph=False)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(run(ours, inputs), run(function, inputs))
    assert [report.after[RECURRENCE] for report in explanation.graphs] == [1, 1]
    assert not caplog.records
    assert not [each for each in recwarn if "mvc" in str(each.message)]


def cut_in_each_step(a, b):
    h, states = torch.zeros_like(b[:, 0]), []
    for t in range(b.shape[1]):
        h = torch.sigmoid(a[:, t]) * h + b[:, t]
        torch._dynamo.graph_break()
        states.append(h)
    return torch.stack(states, 1)


def test_a_loop_that_is_cut_in_each_step_says_so():
    inputs = pair(2, 3, 4)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(cut_in_each_step, backend="mvc")(*inputs), cut_in_each_step(*inputs))
    explanation = mvc.explain(cut_in_each_step, *inputs)
    assert explanation.graph_breaks
    assert "no recurrence is raised across it" in str(explanation)
    assert explanation.as_dict()["graph_breaks"] == explanation.graph_breaks


def test_whole_graphs_have_no_breaks():
    assert not mvc.explain(torch.sin, torch.ones(3)).graph_breaks


@pytest.mark.skipif(not hasattr(torch.compiler, "set_default_backend"), reason="torch has it from 2.13 on")
def test_as_the_default_backend(monkeypatch):
    import mvc.compile.backend

    graphs, run_passes = [], mvc.compile.backend.pipeline.run

    def seen(passes, module, **options):
        graphs.append(module)
        return run_passes(passes, module, **options)

    monkeypatch.setattr(mvc.compile.backend.pipeline, "run", seen)
    torch.compiler.reset()
    torch.compiler.set_default_backend("mvc")
    try:
        torch.testing.assert_close(torch.compile(torch.sin)(torch.ones(3)), torch.ones(3).sin())
    finally:
        torch.compiler.set_default_backend(None)
    assert len(graphs) == 1
