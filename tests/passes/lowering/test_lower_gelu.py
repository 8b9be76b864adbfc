"""GELU's tanh form by an exponential: results, gradients, what is left alone, what becomes of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from toy_passes import capture, rewritten

from mvc.passes import pipeline
from mvc.passes.base import Outcome
from mvc.passes.lowering.lower_gelu import LowerGelu
from mvc.passes.verify import Verifier

EXTREMES = (0.0, -0.0, 1e-30, 40.0, -40.0, 1e4, -1e4, math.inf, -math.inf, math.nan)


def gelu(x):
    return F.gelu(x, approximate="tanh")


def points(dtype) -> torch.Tensor:
    return torch.cat([torch.linspace(-12, 12, 4001, dtype=torch.float64), torch.tensor(EXTREMES)]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_as_exact_as_torchs_own(dtype):
    """Beside float64: as close as torch's function in that dtype but for three roundings of the sigmoid, which is at
    most 1; the same places are infinite, and NaN."""
    x = points(dtype)
    run, done = rewritten(LowerGelu(), gelu)
    y, exact, eps = run(x), gelu(x.double()), torch.finfo(dtype).eps
    ((outcome, calls),) = done
    assert outcome == Outcome(matches=1)
    assert "gelu" not in calls
    assert torch.equal(y.isfinite(), gelu(x).isfinite())
    assert torch.equal(y.isnan(), gelu(x).isnan())
    finite = exact.isfinite() & y.isfinite()
    error, own = ((each.double() - exact)[finite].abs() for each in (y, gelu(x)))
    assert (error <= own + 3 * eps * x[finite].double().abs()).all(), (error - own).max()


def test_gradient_is_that_of_gelu():
    x = points(torch.float64)
    run, _ = rewritten(LowerGelu(), gelu)
    gradients = []
    for function in (run, gelu):
        leaf = x.clone().requires_grad_()
        function(leaf).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14, equal_nan=True)


def test_channels_last_and_the_user_s_line_stay():
    def function(x):
        return gelu(x.sin())

    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    module, examples = capture(function, x)
    (line,) = (node.meta["stack_trace"] for node in module.graph.nodes if node.target is F.gelu)
    (record,) = pipeline.run([LowerGelu()], module, strict=True, observers=[Verifier(module, examples)])
    assert record.matches == 1
    (output,) = module.graph.output_node().all_input_nodes
    assert output.meta["stack_trace"] == line
    assert module.forward(x)[0].stride() == function(x).stride()


@pytest.mark.parametrize(
    "function",
    [F.gelu, lambda x: F.gelu(x, approximate="none"), lambda x: torch.ops.aten.gelu_(x.sin(), approximate="tanh")],
    ids=["exact", "exact-by-name", "in-place"],
)
def test_others_are_left_alone(function):
    run, done = rewritten(LowerGelu(), function)
    torch.testing.assert_close(run(torch.ones(3)), function(torch.ones(3)))
    assert [outcome for outcome, _ in done] == [Outcome()]


def test_generated_code_has_no_tanh():
    from torch._inductor.utils import run_and_get_code

    x = torch.randn(64)
    codes = []
    for passes in ([], ["lower_gelu"]):
        torch.compiler.reset()
        run = torch.compile(gelu, backend="mvc", options={"passes": passes})
        _, (code,) = run_and_get_code(run, x)
        codes.append(code)
    assert ["tanh(" in code for code in codes] == [True, False]


def test_what_libraries_take_along_runs_before():
    """oneDNN's products take GELU's tanh form and the bias along: they have to see both."""
    order = list(pipeline.PASSES)
    assert max(map(order.index, ("prepack_linear", "prepack_convolution"))) < min(
        map(order.index, ("fuse_bias", "lower_gelu"))
    )
