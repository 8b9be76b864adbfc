"""Inputs for the scan's tests, and how far from the oracle a result may be."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import pytest
import torch
from places import ROOT
from torch import Tensor

from mvc.kernels import cpu_scan
from mvc.kernels.scan import selective_scan
from mvc.offline.interpreter import mended

REQUIRED = ("u", "delta", "A", "B", "C")
OPTIONAL = ("D", "z", "delta_bias", "initial_state", "reset")
TENSORS = REQUIRED + OPTIONAL
DIFFERENTIABLE = TENSORS[:-1]
ALL_OPTIONS = (*OPTIONAL, "softplus")
FORMS = ("reverse", "constant_B", "constant_C")  # the options that replace something
CPU_IMPLEMENTATIONS = ("reference", "chunked", "cpp")

Inputs = dict[str, "Tensor | bool"]
reference = partial(selective_scan, impl="reference", return_last_state=True)
chunked = partial(selective_scan, impl="chunked", return_last_state=True)


def implementation(impl: str | None) -> Callable:
    """The public function with `impl`; skips the test where that cannot run."""
    require_cpp(impl == "cpp")
    return partial(selective_scan, impl=impl, return_last_state=True)


def require_cpp(needed: bool = True) -> None:
    if needed and not cpu_scan.available():
        pytest.skip("the C++ scan cannot be built or loaded here")


def require_interpreter() -> None:
    """Skips the test where Triton's interpreter cannot run an op's kernels."""
    pytest.importorskip("triton", reason="triton is not installed")
    if torch.__version__ < (2, 14):
        pytest.skip(f"interpreted kernels as ops need torch 2.14 with triton 3.8; this is torch {torch.__version__}")


class Tiles(NamedTuple):
    """Of the Triton scan: CH, G, S and W of its forward and of its backward, how many blocks of channels a program of
    the latter runs, and how many of its tiles are a chunk."""

    forward: tuple[int, int, int, int]
    backward: tuple[int, int, int, int]
    blocks: int
    chunk: int


@contextlib.contextmanager
def cut_into(tiles: Tiles | None) -> Iterator[None]:
    """Triton's scans run on these tiles, small enough for an interpreter; None: on those of the table."""
    from mvc.kernels.scan import triton_tiles

    chosen = triton_tiles.cut

    def cut(*sizes: int) -> triton_tiles.Cut:
        forward, backward = (triton_tiles.Tile(*shape, warps=1) for shape in (tiles.forward, tiles.backward))
        chunk = tiles.chunk * backward.length
        backward = backward._replace(blocks=tiles.blocks)
        chunks = {"forward_chunk": chunk, "backward_chunk": chunk}
        return chosen(*sizes)._replace(forward=forward, summary=forward, backward=backward, **chunks)

    triton_tiles.cut = chosen if tiles is None else cut
    try:
        yield
    finally:
        triton_tiles.cut = chosen


needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def interpreted(path: str) -> dict[str, str | None]:
    """What a test file prints that is run with Triton's interpreter: what went wrong in each of its cases, or None.

    Whether kernels are interpreted is decided when triton is imported.
    """
    require_interpreter()
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def print_failures(cases: Mapping[str, Callable[[], None]]) -> None:
    """Runs each; prints what `interpreted` reads."""
    failures = {}
    with mended():
        for name, case in cases.items():
            try:
                case()
                failures[name] = None
            except Exception as error:
                failures[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(failures))


class Case(NamedTuple):
    batch: int = 2
    length: int = 7
    dim: int = 6
    states: int = 8
    groups: int = 1
    options: tuple[str, ...] = ALL_OPTIONS

    def __str__(self) -> str:
        sizes = f"B{self.batch}-L{self.length}-D{self.dim}-N{self.states}-G{self.groups}"
        return sizes if self.options == ALL_OPTIONS else f"{sizes}-{'+'.join(self.options) or 'plain'}"

    def plus(self, *options: str) -> Case:
        return self._replace(options=(*self.options, *options))


def make_inputs(case: Case, dtype: torch.dtype = torch.float32, seed: int = 0) -> Inputs:
    """The scan's tensors and flags; in float64 they hold float32 numbers, which a float32 run can take.

    A and initial_state are never below float32, whatever `dtype` is.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, length, dim, states, groups, options = case
    softplus = "softplus" in options
    shapes = {
        "u": (batch, length, dim),
        "delta": (batch, length, dim),
        "A": (dim, states),
        "B": (dim, states) if "constant_B" in options else (batch, length, groups, states),
        "C": (dim, states) if "constant_C" in options else (batch, length, groups, states),
        "D": (dim,),
        "z": (batch, length, dim),
        "delta_bias": (dim,),
        "initial_state": (batch, dim, states),
    }
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["A"] = -tensors["A"].exp()
    if softplus:
        tensors["delta"][:1, :1, :1] = 24.0  # softplus is linear above 20
    else:
        tensors["delta"], tensors["delta_bias"] = tensors["delta"].abs() / 4, tensors["delta_bias"].abs() / 4
    wide = torch.promote_types(dtype, torch.float32)
    dtypes = {"A": wide, "initial_state": wide}
    tensors = {name: tensor.to(dtypes.get(name, dtype)) for name, tensor in tensors.items()}
    tensors["reset"] = torch.rand((batch, length), generator=generator) < 0.25
    kept = {name: tensor for name, tensor in tensors.items() if name in REQUIRED or name in options}
    return kept | {"delta_softplus": softplus, "reverse": "reverse" in options}


def tensors_of(inputs: Inputs) -> dict[str, Tensor]:
    return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """The function of every tensor but reset."""
    return inputs | {name: function(t) for name, t in tensors_of(inputs).items() if name in DIFFERENTIABLE}


def op_arguments(inputs: Inputs) -> tuple[Tensor | bool | None, ...]:
    """The positional arguments of `torch.ops.mvc.selective_scan`."""
    return (*(inputs.get(name) for name in TENSORS), inputs["delta_softplus"], inputs["reverse"])


def run(scan: Callable, inputs: Inputs, *, backward: bool = True) -> dict[str, Tensor]:
    """y, the last state and the gradient of each tensor through both, for fixed random gradients of the outputs."""
    leaves = {name: tensor.detach() for name, tensor in tensors_of(inputs).items() if name in DIFFERENTIABLE}
    leaves = {name: tensor.requires_grad_(backward) for name, tensor in leaves.items()}
    y, last_state = scan(**(inputs | leaves))
    results = {"y": y.detach(), "last state": last_state.detach()}
    if backward:
        outputs = [t for t in (y, last_state) if t.requires_grad]
        grads = gradients_of_outputs(y, last_state)
        grads = [grad for t, grad in zip((y, last_state), grads, strict=True) if t.requires_grad]
        gradients = torch.autograd.grad(outputs, leaves.values(), grads, allow_unused=True, materialize_grads=True)
        results |= {f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return results


def gradients_of_outputs(*outputs: Tensor) -> list[Tensor]:
    """Random, the same in every run, and such that bfloat16 holds them."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(t.shape, generator=generator).bfloat16().to(t) for t in outputs]


def with_last_stride(tensor: Tensor, stride: int) -> Tensor:
    """The tensor with neighbours of its last axis so far apart; of the memory between them nothing is touched."""
    rows = tensor[..., 0].numel()
    assert rows <= stride
    strides = tensor[..., 0].contiguous().stride()
    memory = tensor.new_empty(rows + stride * (tensor.shape[-1] - 1))
    return memory.as_strided(tensor.shape, (*strides, stride)).copy_(tensor)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0


def assert_within_budget(actual: Tensor, oracle: Tensor, baseline: Tensor, name: str) -> None:
    """The largest error of `actual` is at most twice that of `baseline`, plus the rounding of the largest value.

    `oracle` is the reference in float64, or complex128. `baseline` is the reference run in the dtype of `actual`: its
    error is what that arithmetic costs, and the factor two allows another order of the sums. The rounding, of
    max|oracle|, is one eps of the dtype of `actual` and 16 eps of the sums' dtype (float32, or float64 for float64):
    where few numbers make up a tensor, as in the gradient of A, the baseline's can happen to be almost exact. The
    float64 reference would be its own oracle: there the baseline is the float32 run, and its error is scaled by the
    ratio of the two eps.
    """
    assert actual.shape == oracle.shape, f"{name}: shape {tuple(actual.shape)} instead of {tuple(oracle.shape)}"
    eps = torch.finfo(actual.dtype).eps
    scale = eps / torch.finfo(baseline.dtype).eps
    rounding = eps + 16 * min(eps, torch.finfo(torch.float32).eps)
    error = largest(actual.to(oracle.dtype) - oracle)
    budget = 2 * scale * largest(baseline.to(oracle.dtype) - oracle) + rounding * largest(oracle)
    assert error <= budget, f"{name}: error {error:.3g} is above the budget {budget:.3g}"


def assert_scan_within_budget(
    inputs: Inputs, scan: Callable = chunked, *, backward: bool = True, oracle_scan: Callable = reference
) -> None:
    """`scan` on `inputs`, forward and backward, against the reference, or what was made of it, in float64."""
    actual = run(scan, inputs, backward=backward)
    oracle = run(oracle_scan, map_tensors(Tensor.double, inputs), backward=backward)
    is_double = inputs["u"].dtype == torch.float64
    baseline = run(oracle_scan, map_tensors(Tensor.float, inputs) if is_double else inputs, backward=backward)
    for name in oracle:
        assert_within_budget(actual[name], oracle[name], baseline[name], name)


def assert_each_state_of_A_within_budget(scan: Callable, states: int = 16) -> None:
    """The gradient of A under strong decay, each state within the budget of its own numbers.

    A reaches from -1 to -`states` and steps are about 2: what the last states contribute is e⁻³⁰ of what the first do,
    and lost in a norm over all.
    """
    inputs = make_inputs(Case(batch=1, length=13, dim=3, states=states, options=("initial_state",)))
    inputs["A"] = -torch.arange(1.0, states + 1).repeat(3, 1)
    inputs["delta"] = 2 + inputs["delta"].clamp(max=1) / 4
    name = "gradient of A"
    oracle, baseline, actual = (
        run(each, given)[name]
        for each, given in ((reference, map_tensors(Tensor.double, inputs)), (reference, inputs), (scan, inputs))
    )
    assert largest(oracle[:, -1]) < 1e-9 * largest(oracle[:, 0])
    for state in range(states):
        tensors = (each[:, state] for each in (actual, oracle, baseline))
        assert_within_budget(*tensors, f"{name} in state {state}")
