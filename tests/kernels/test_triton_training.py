"""Gradients of the Triton scan start from states that its forward keeps: autograd, autocast and torch.func, by Triton's
interpreter on a CPU. What Inductor makes of a training step is tests/offline/test_offline_codegen.py's.

This file runs itself in a process of its own for that.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scan_cases import (
    DIFFERENTIABLE,
    Case,
    Inputs,
    Tiles,
    assert_same,
    cut_into,
    make_inputs,
    map_tensors,
    op_arguments,
    print_failures,
    run,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mvc.kernels.implementations import triton_available
from mvc.kernels.scan import rules
from mvc.kernels.schemas import op

NAME = "selective_scan_triton"
CASE = Case(batch=1, length=7, dim=3, states=2)
REORDERED = {"rtol": 1e-4, "atol": 1e-5}  # sums of the same numbers in another order
TILES = Tiles((4, 2, 1, 1), (4, 2, 1, 2), 1, 1)  # two tiles of the backward, each a chunk


def scan(**inputs: Tensor | bool) -> tuple[Tensor, Tensor]:
    return rules.selective_scan(NAME, *op_arguments(inputs))


class Calls(TorchDispatchMode):
    """Counts the scan's ops."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mvc":
            self.names[func._opname] += 1
        return func(*args, **(kwargs or {}))


def ops_of_a_training_step() -> None:
    with Calls() as calls:
        run(scan, make_inputs(CASE))
    assert calls.names == {f"{NAME}_training": 1, f"{NAME}_gradients": 1}, calls.names


def ops_without_gradients() -> None:
    inputs = make_inputs(CASE)
    with Calls() as calls:
        scan(**inputs)
        with torch.no_grad():
            scan(**map_tensors(Tensor.requires_grad_, inputs))
    assert calls.names == {NAME: 2}, calls.names


def second_derivative_is_refused() -> None:
    inputs = map_tensors(Tensor.requires_grad_, make_inputs(CASE))
    y, _ = scan(**inputs)
    (gradient,) = torch.autograd.grad(y.sum(), inputs["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="once, not twice"):
        gradient.sum().backward()


def a_gradient_through_one_output_alone() -> None:
    inputs = map_tensors(Tensor.requires_grad_, make_inputs(CASE))
    leaves = [inputs[name] for name in DIFFERENTIABLE]
    outputs = scan(**inputs)
    parts = [torch.autograd.grad(each.sum(), leaves, retain_graph=True, materialize_grads=True) for each in outputs]
    together = torch.autograd.grad(sum(each.sum() for each in outputs), leaves)
    sums = {name: sum(each) for name, *each in zip(DIFFERENTIABLE, *parts, strict=True)}
    torch.testing.assert_close(sums, dict(zip(DIFFERENTIABLE, together, strict=True)), **REORDERED)


def autocast_lowers_the_operands() -> None:
    inputs = make_inputs(CASE)
    lowered = {name: inputs[name].bfloat16() for name in ("u", "delta", "B", "C", "z")}
    expected = run(scan, inputs | lowered)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run(scan, inputs)
    assert actual["y"].dtype == torch.bfloat16
    assert actual["last state"].dtype == torch.float32
    assert_same({name: t.to(expected[name].dtype) for name, t in actual.items()}, expected)


def an_input_changed_before_the_backward_is_noticed() -> None:
    inputs = map_tensors(Tensor.requires_grad_, make_inputs(CASE))
    y, _ = scan(**inputs)
    with torch.no_grad():
        inputs["B"].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def loss(tensors: Inputs, reset: Tensor) -> Tensor:
    y, last_state = scan(**tensors, reset=reset, delta_softplus=True, reverse=False)
    return y.sin().sum() + last_state.square().sum()


def samples() -> list[tuple[Inputs, Tensor]]:
    found = [make_inputs(CASE, seed=seed) for seed in range(2)]
    return [({name: inputs[name] for name in DIFFERENTIABLE}, inputs["reset"]) for inputs in found]


def by_autograd(tensors: Inputs, reset: Tensor) -> dict[str, Tensor]:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves, reset), leaves.values()), strict=True))


def func_grad_is_autograds() -> None:
    tensors, reset = samples()[0]
    assert_same(torch.func.grad(loss)(tensors, reset), by_autograd(tensors, reset))


def vmap_of_grad_is_each_samples() -> None:
    (first, reset), (second, _) = samples()
    stacked = {name: torch.stack([first[name], second[name]]) for name in DIFFERENTIABLE}
    actual = torch.vmap(torch.func.grad(loss), in_dims=(0, None))(stacked, reset)
    for index, tensors in enumerate((first, second)):
        expected = by_autograd(tensors, reset)
        for name, tensor in expected.items():
            torch.testing.assert_close(
                actual[name][index], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


def opcheck() -> None:
    """Of the ops that a training step is made of. Kernels that are interpreted cannot be traced."""
    tests = ("test_schema", "test_autograd_registration")
    torch.library.opcheck(
        op(NAME), op_arguments(map_tensors(Tensor.requires_grad_, make_inputs(CASE))), test_utils=tests
    )
    inputs = op_arguments(make_inputs(CASE))
    *outputs, states = op(f"{NAME}_training")(*inputs)
    given = {"training": inputs, "gradients": (*outputs, states, *inputs), "backward": (*outputs, *inputs)}
    for name, arguments in given.items():
        torch.library.opcheck(op(f"{NAME}_{name}"), arguments, test_utils=tests)


CASES = (
    ops_of_a_training_step,
    ops_without_gradients,
    second_derivative_is_refused,
    a_gradient_through_one_output_alone,
    autocast_lowers_the_operands,
    an_input_changed_before_the_backward_is_noticed,
    func_grad_is_autograds,
    vmap_of_grad_is_each_samples,
    opcheck,
)


def main() -> None:
    assert triton_available()  # registers the ops
    with cut_into(TILES):
        print_failures({case.__name__: case for case in CASES})


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_interpreted(name, failures):
    assert failures[name] is None


if __name__ == "__main__":
    main()
