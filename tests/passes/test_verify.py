"""What the verifier sees of a pass: every property of a result that a program can observe, one broken at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import fx
from toy_passes import Replace, capture

from mvc.passes import pipeline
from mvc.passes.base import Outcome, Pass
from mvc.passes.observation import observe
from mvc.passes.verify import VerificationError, Verifier

X = torch.linspace(0.1, 1, 6).view(2, 3)


@dataclasses.dataclass(frozen=True)
class Exchange(Pass):
    """Every call of one function becomes a call of another."""

    name = "exchange"
    old: Callable
    new: Callable

    def __call__(self, graph: fx.Graph) -> Outcome:
        nodes = graph.find_nodes(op="call_function", target=self.old)
        for node in nodes:
            node.target = self.new
        return Outcome(len(nodes))


def verify(function: Callable, old: Callable, new: Callable, *inputs) -> None:
    module, examples = capture(function, *inputs)
    (record,) = pipeline.run([Exchange(old, new)], module, observers=[Verifier(module, examples)])
    assert record.matches == 1


def halves(x):
    """A view of half of its memory."""
    return torch.narrow(torch.cat([x, x]), 0, 0, 2)


def drawing(x):
    torch.rand(1)
    return x.sin()


def switching(x):
    torch.set_grad_enabled(False)
    return x.sin()


def twice(x):
    y = x * 2
    return y, torch.clone(y)


def writing(x):
    y = x.sin()
    torch.neg_(x)
    return y


BROKEN = {
    "shape": (torch.sin, torch.sin, lambda x: x.sin()[:1], r"output 0: shape \(1, 3\), expected \(2, 3\)"),
    "dtype": (torch.sin, torch.sin, lambda x: x.sin().double(), "output 0: dtype torch.float64, expected .*32"),
    "strides": (
        torch.sin, torch.sin, lambda x: x.sin().mT.contiguous().mT, r"output 0: strides .*1: 2}, expected .*1: 1}"
    ),
    "strides of a slice": (
        lambda x: torch.select(torch.stack([x, x], 2), 2, 0),
        torch.select,
        lambda x, *_: x[:, :, 0].mT.contiguous().mT,
        r"output 0: strides {0: 1, 1: 2}, expected {0: 6, 1: 2}",
    ),
    "storage offset": (halves, torch.narrow, lambda x, *_: x[2:], "output 0: storage offset 6, expected 0"),
    "storage size": (torch.sin, torch.sin, lambda x: halves(x.sin()), "output 0: storage bytes 48, expected 24"),
    "requires_grad": (
        torch.sin, torch.sin, lambda x: x.sin().detach(), "output 0: requires grad False, expected True"
    ),
    "output shared": (
        twice, torch.clone, lambda y: y.view_as(y), "output 1: memory shared with output 0, expected its own"
    ),
    "output repeated": (
        twice, torch.clone, lambda y: y, "output 1: memory the tensor of output 0, expected its own"
    ),
    "input shared": (
        torch.clone, torch.clone, lambda x: x.view_as(x), "output 0: memory shared with input 0, expected its own"
    ),
    "input no longer shared": (
        torch.detach, torch.detach, lambda x: x.detach().clone(), "memory its own, expected shared with input 0"
    ),
    "input's values": (writing, torch.neg_, torch.neg, "input 0: relative L2 error 2.00"),
    "input's strides": (
        writing, torch.neg_, lambda x: x.neg_().as_strided_((2, 3), (1, 2)), "input 0: strides .*1: 2}, expected .*: 1}"
    ),
    "values": (torch.sin, torch.sin, torch.cos, "output 0: relative L2 error"),
    "infinity": (torch.sin, torch.sin, lambda x: x.sin().div(0), "output 0: relative L2 error inf"),
    "gradient": (torch.sin, torch.sin, lambda x: (x + x.detach()).div(2).sin(), "gradient of input 0: relative"),
    "a run that fails": (
        torch.sin, torch.sin, lambda x: x.mT.view(6), "view size is not compatible"
    ),
    "a backward that fails": (
        torch.sin, torch.sin, lambda x: torch.exp(x).sin_().sin_(), "modified by an inplace operation"
    ),
    "gradients off": (torch.sin, torch.sin, switching, "the run: gradients enabled afterwards False, expected True"),
    "random numbers": (torch.sin, torch.sin, drawing, "the run: random numbers drawn afterwards"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_each_property_is_seen_alone(broken):
    function, old, new, message = BROKEN[broken]
    x = X.clone() if function is writing else X.clone().requires_grad_()
    with pytest.raises(VerificationError, match=f"pass exchange (changed|made the graph fail).*{message}"):
        verify(lambda x: function(x), old, new, x)


def padded(x):
    return torch.select(torch.stack([x, x], 1), 1, 0)


def padded_with_view(x):
    y = torch.select(torch.stack([x, x], 1), 1, 0)
    return y, y[:, 1]


KEPT = {
    "another spelling": (torch.sin, torch.sin, lambda x: x.sin().clone()),
    "dense where it was a slice": (padded, torch.select, lambda x, *_: x[:, 0].clone()),
    "a view of what is dense where it was a slice": (padded_with_view, torch.select, lambda x, *_: x[:, 0].clone()),
    "strides of an axis with one element": (
        lambda x: torch.sin(x[:1]), torch.sin, lambda x: x.sin().as_strided((1, 3), (7, 1))
    ),
    "NaN and infinities in the same places": (
        lambda x: torch.log(x.round()) + 0 / x.round(), torch.log, lambda x: x.double().log().float()
    ),
    "a gradient that is zero": (torch.detach, torch.detach, lambda x: x.detach()),
}  # fmt: skip


@pytest.mark.parametrize("kept", KEPT)
def test_what_nobody_can_tell_apart_passes(kept):
    function, old, new = KEPT[kept]
    verify(lambda x: function(x), old, new, X.clone().requires_grad_())


@pytest.mark.parametrize("grad", [False, True], ids=["outputs", "gradients"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_values_have_the_budget_of_their_dtype(dtype, grad):
    x = torch.linspace(0.1, 1, 5).to(dtype).requires_grad_(grad)
    module, inputs = capture(lambda x: torch.sin(x) + x, x)
    pipeline.run([Replace(new="sin")], module, observers=[Verifier(module, inputs)])
    with pytest.raises(VerificationError, match="pass replace changed output 0"):
        pipeline.run([Replace()], module, observers=[Verifier(module, inputs)])


def test_autocast_inside_the_graph_sets_the_budget():
    def product(x):
        with torch.autocast("cpu", torch.bfloat16):
            return torch.sin(x @ x)

    rounded = torch.linspace(0.1, 1, 9).view(3, 3)
    verify(product, torch.sin, lambda x: x.sin() * (1 + 2**-7), rounded)


def test_inputs_stay_as_they_were():
    def writes(x, y):
        x.add_(1)
        return torch.sin(x) + y

    module, inputs = capture(writes, torch.zeros(3), torch.zeros(3))
    kept = [each.clone() for each in inputs]
    pipeline.run([Replace(new="sin")], module, observers=[Verifier(module, inputs)])
    for each, before in zip(inputs, kept, strict=True):
        assert torch.equal(each, before)


def test_copies_of_inputs_share_memory_as_the_inputs_do():
    whole = torch.zeros(4, 3)
    seen = observe(lambda x, y: [x.add_(1), y * 1], [whole[1:3].mT, whole[2]])
    assert seen.values["output 1"].tolist() == [1, 1, 1]
    assert seen.traits["input 0"].strides == {0: 1, 1: 3}
    assert seen.traits["input 0"].storage_offset == 3
    assert seen.traits["input 0"].storage_bytes == 48
    assert seen.traits["input 1"].memory == "shared with input 0"
    assert not whole.any()


def test_an_input_inside_a_program_may_be_written_to_and_has_its_gradient():
    """A leaf that requires gradients could not be."""
    x = torch.ones(3, requires_grad=True) * 2
    seen = observe(lambda x: x.mul_(3), [x])
    assert seen.values["input 0"].tolist() == [6, 6, 6]
    once = torch.cos(torch.arange(3.0))
    torch.testing.assert_close(seen.gradients["gradient of input 0"], 6 * once, msg="as an output and as the input")
