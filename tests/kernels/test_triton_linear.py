"""The fused linear layer against float64: interpreted, traced for every size, and on a GPU.

Whether Triton's kernels are interpreted is decided when triton is imported, so for these this file runs itself in a
process of its own.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from fused_kernels import IN_TORCH
from scan_cases import assert_within_budget, needs_triton, print_failures, with_last_stride
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mvc.kernels.linear.triton_tiles import TILES

PARTS = ("bias", "norm", "scale", "residual")
HALF = torch.float16
SMALL = 9  # a tile that an interpreter runs several of in little time


class Case(NamedTuple):
    """x (*rows, inner), and the parts besides the product.

    Attributes:
        layout: of x and the residual: "dense"; "slice", the first columns of wider tensors, as are the vectors;
            "permuted", rows next to each other in memory; "blocks", axes of rows that are no single axis.
        mean: of x, in standard deviations.
    """

    rows: tuple[int, ...] = (3, 7)
    columns: int = 40
    inner: int = 136
    parts: tuple[str, ...] = ()
    activation: str = "none"
    dtype: torch.dtype = torch.float32
    layout: str = "dense"
    mean: float = 0.0
    tile: int = SMALL

    def __str__(self) -> str:
        sizes = f"{'x'.join(map(str, self.rows))}-K{self.inner}-N{self.columns}"
        others = (self.activation, str(self.dtype)[6:], self.layout, f"mean {self.mean:g}", f"tile {self.tile}")
        return "-".join((sizes, "+".join(self.parts) or "plain", *others))


ALL = Case(parts=PARTS, activation="gelu")
CASES = [
    Case(),
    *(Case(parts=(part,)) for part in PARTS),
    *(Case(activation=activation) for activation in IN_TORCH if activation != "none"),
    *(ALL._replace(dtype=dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
    ALL._replace(parts=("norm", "no norm parameters")),
    *(ALL._replace(layout=layout) for layout in ("slice", "permuted", "blocks")),
    *(Case(parts=("norm",), mean=1e3, inner=inner) for inner in (300, 1)),
    ALL._replace(rows=(1,), columns=1, inner=1),
    ALL._replace(rows=()),
    ALL._replace(rows=(16, 9), columns=64, inner=512),
    *(ALL._replace(**zero) for zero in ({"rows": (0, 7)}, {"columns": 0})),
    Case(parts=("bias", "residual"), activation="relu", inner=0),
    *(ALL._replace(rows=(300,), columns=72, inner=72, dtype=HALF, tile=tile) for tile in range(len(TILES))),
]


def make_inputs(case: Case) -> dict[str, Any]:
    """The op's arguments by name."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(case.dtype)

    def rows_of(width: int) -> Tensor:
        if case.layout == "slice":
            return random(*case.rows, width + 24)[..., :width]
        if case.layout == "permuted":
            return random(width, *case.rows).movedim(0, -1)
        if case.layout == "blocks":
            return random(*case.rows[::-1], width).movedim(0, len(case.rows) - 1)
        return random(*case.rows, width)

    def vector(size: int) -> Tensor:
        return random(size, 3)[:, 0] if case.layout == "slice" else random(size)

    columns, inner = case.columns, case.inner
    given = {"x": rows_of(inner).add_(case.mean), "weight": random(columns, inner) / max(inner, 1) ** 0.5}
    made = {"bias": vector(columns), "norm_weight": vector(inner), "norm_bias": vector(inner), "norm_eps": 1e-5}
    made |= {"activation": case.activation, "scale": vector(columns), "residual": rows_of(columns), "tile": case.tile}
    absent = set(PARTS) - set(case.parts)
    if "norm" in absent:
        absent |= {"norm_weight", "norm_bias", "norm_eps"}
    if "no norm parameters" in case.parts:
        absent |= {"norm_weight", "norm_bias"}
    return given | {name: None if name in absent else value for name, value in made.items()}


def fused_linear(**inputs: Any) -> Tensor:
    return torch.ops.mvc.fused_linear_triton(**inputs)


def unfused(x, weight, bias, norm_weight, norm_bias, norm_eps, activation, scale, residual, tile) -> Tensor:
    """The same by torch's own operations, each of which rounds to its dtype."""
    if norm_eps is not None:
        x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, norm_eps)
    y = IN_TORCH[activation](F.linear(x, weight, bias))
    y = y if scale is None else scale * y
    return y if residual is None else residual + y


def map_tensors(function, inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: function(value) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def assert_linear_within_budget(inputs: dict[str, Any], linear=fused_linear) -> None:
    actual, baseline = linear(**inputs), unfused(**inputs)
    assert actual.is_contiguous()
    assert actual.dtype == inputs["x"].dtype
    assert_within_budget(actual, unfused(**map_tensors(Tensor.double, inputs)), baseline, "y")


def interpreted_run(case: Case) -> None:
    from mvc.kernels.linear import triton_ops  # noqa: F401  registers the op

    assert_linear_within_budget(make_inputs(case))


def strange_numbers() -> None:
    """A row or a column with a NaN or an infinity spoils no other, tails of blocks included."""
    from mvc.kernels.linear import triton_ops  # noqa: F401

    inputs = make_inputs(ALL._replace(activation="relu"))
    inputs["x"][0, 1, 5], inputs["x"][1, 2, 130] = float("nan"), float("inf")
    inputs["weight"][3, 7], inputs["bias"][11], inputs["residual"][2, 3, 4] = (float("inf"), *[float("nan")] * 2)
    torch.testing.assert_close(fused_linear(**inputs), unfused(**inputs), equal_nan=True, atol=1e-5, rtol=1e-5)


def far_apart(name: str) -> None:
    """Neighbours of the inner axis between which 32 bits cannot count."""
    from mvc.kernels.linear import triton_ops  # noqa: F401

    inputs = make_inputs(Case(dtype=HALF))
    inputs[name] = with_last_stride(inputs[name], 2**24)
    assert_linear_within_budget(inputs)


RUNS = {str(case): functools.partial(interpreted_run, case) for case in CASES}
RUNS["strange numbers"] = strange_numbers
RUNS |= {f"{name} far apart": functools.partial(far_apart, name) for name in ("x", "weight")}


@pytest.mark.parametrize("name", RUNS)
def test_interpreted(name, failures):
    assert failures[name] is None


@needs_triton
def test_inductor_sees_one_kernel_for_every_number_of_rows():
    """Traced for a GPU with a number of rows that is unknown and cannot be guarded, the op is one Triton kernel. (In
    torch 2.11 flattening the axes of rows makes a guard.)"""
    from torch._functorch.aot_autograd import aot_function
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    from mvc.kernels.linear import triton_ops  # noqa: F401

    graphs, environment = [], ShapeEnv()
    with FakeTensorMode(shape_env=environment), torch.no_grad():
        inputs = map_tensors(lambda tensor: torch.empty(tensor.shape, device="cuda"), make_inputs(ALL))
        for name in ("x", "residual"):
            with environment.ignore_fresh_unbacked_symbols():  # nothing that is traced makes them
                batch = environment.create_unbacked_symint()
            inputs[name] = torch.empty((batch, *inputs[name].shape[1:]), device="cuda")
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}

        def run(*given):
            return fused_linear(**(inputs | dict(zip(tensors, given, strict=True))))

        aot_function(run, lambda graph, _: graphs.append(graph) or graph, dynamic=True)(*tensors.values())
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert sum("triton_kernel_wrapper" in target for target in targets) == 1
    assert not any("fused_linear" in target for target in targets)
    assert environment.guards == []


@needs_triton
@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"activation": "tanh"}, ValueError, "activation is 'tanh'; it must be one of 'none', 'relu'"),
        ({"tile": len(TILES)}, ValueError, f"tile is {len(TILES)}; it must be an index"),
        ({"norm_eps": None}, ValueError, "norm_weight is given without norm_eps"),
        ({"x": torch.zeros(3, 7, 136).double()}, TypeError, "x must be torch.float32 .* got torch.float64"),
        ({"weight": torch.zeros(40, 136).half()}, TypeError, "weight must be torch.float32 as x is, got torch.float16"),
        ({"weight": torch.zeros(40, 135)}, ValueError, r"must be \(..., K\) and weight \(N, K\), got shapes"),
        ({"bias": torch.zeros(39)}, ValueError, r"bias must have shape \(40,\) beside x and weight, got \(39,\)"),
        ({"scale": torch.zeros(40, dtype=torch.int32)}, TypeError, "scale must be .* got torch.int32"),
        ({"residual": torch.zeros(3, 7, 1)}, ValueError, r"residual must have shape \(3, 7, 40\) .* got \(3, 7, 1\)"),
        ({"bias": torch.zeros(40, device="meta")}, ValueError, "bias must be on x's device cpu, got meta"),
        ({"bias": torch.zeros(40, requires_grad=True)}, RuntimeError, "mvc::fused_linear_triton has no derivative"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors(changes, error, sentence):
    from mvc.kernels.linear import triton_ops  # noqa: F401

    with pytest.raises(error, match=sentence):
        fused_linear(**(make_inputs(ALL) | changes))


@needs_triton
def test_flops_are_those_of_the_product():
    from mvc.kernels.linear import triton_ops  # noqa: F401

    inputs = map_tensors(lambda tensor: tensor.to("meta"), make_inputs(ALL))
    with FlopCounterMode(display=False) as counter:
        assert fused_linear(**inputs).shape == (3, 7, 40)
    assert counter.get_total_flops() == 2 * 3 * 7 * 40 * 136


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_a_gpu(case):
    from mvc.kernels.linear import triton_ops  # noqa: F401

    assert_linear_within_budget(map_tensors(Tensor.cuda, make_inputs(case)))


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    print_failures(RUNS)
