"""The fused convolution against float64: interpreted, compiled ahead of time, traced, and on a GPU.

Whether Triton's kernels are interpreted is decided when triton is imported, so for these this file runs itself in a
process of its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from fused_kernels import IN_TORCH
from opcodes import Binary, compiled_as_launched, recorded_launches
from scan_cases import assert_within_budget, needs_triton, print_failures
from torch import Tensor
from torch.nn import functional as F

from mvc.kernels.convolution.triton_tiles import LEAST_OUTPUTS, SHAPES, TILES, Tile, candidates, parts

PARTS = ("bias", "residual")
SMALL = next(i for i, tile in enumerate(TILES) if tile[1:] == (2, 4, 4))  # 32 pixels, 64 terms of the sum at a time


class Case(NamedTuple):
    """x (batch, channels, *size).

    Attributes:
        layout: of all images: "channels_last"; "slice", some channels of wider images, as the bias is some numbers of
            more; "rows", lines and columns taken from larger images; "contiguous", with the width innermost, as the
            weight then is too.
    """

    batch: int = 2
    channels: int = 5
    size: tuple[int, int] = (7, 9)
    outputs: int = 20
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    parts: tuple[str, ...] = ()
    activation: str = "none"
    dtype: torch.dtype = torch.float32
    layout: str = "channels_last"
    tile: int = SMALL

    def __str__(self) -> str:
        sizes = f"{self.batch}x{self.channels}x{'x'.join(map(str, self.size))}-O{self.outputs}"
        window = f"k{self.kernel}-s{self.stride}-p{self.padding}".replace(", ", "x")
        others = (self.activation, str(self.dtype)[6:], self.layout, f"tile {self.tile}")
        return "-".join((sizes, window, "+".join(self.parts) or "plain", *others))


ALL = Case(parts=PARTS, activation="gelu_tanh")
STEM = ALL._replace(channels=3, size=(9, 8), stride=(2, 2), activation="relu")
CASES = [
    Case(),
    *(Case(parts=(part,)) for part in PARTS),
    *(Case(activation=activation) for activation in IN_TORCH if activation != "none"),
    *(ALL._replace(dtype=dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
    *(ALL._replace(layout=layout) for layout in ("slice", "rows", "contiguous")),
    STEM,
    *(STEM._replace(channels=channels, dtype=torch.float16) for channels in (1, 4, 32)),
    ALL._replace(channels=80, outputs=80, size=(4, 5), dtype=torch.float16, tile=SMALL),  # 720 terms: 11.25 steps
    ALL._replace(kernel=(1, 1), padding=(0, 0)),
    ALL._replace(kernel=(4, 4), stride=(4, 4), padding=(0, 0), channels=3, size=(12, 9)),
    ALL._replace(kernel=(7, 7), stride=(4, 4), padding=(3, 3), channels=3, size=(13, 9)),
    ALL._replace(kernel=(2, 3), stride=(1, 3), padding=(2, 0)),
    ALL._replace(size=(1, 1)),
    ALL._replace(batch=1, channels=1, outputs=1, size=(1, 2)),
    ALL._replace(batch=0),
    # Every tile, over several programs along each axis that it leaves; outputs in a wide and a narrow part.
    *(
        ALL._replace(batch=tile.images + 1, size=(tile.lines + 1, tile.columns + 1), outputs=72, channels=2, tile=index)
        for index, tile in enumerate(TILES)
        if tile.images <= 8
    ),
]


def make_inputs(case: Case) -> dict[str, Any]:
    """The op's arguments by name."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(case.dtype)

    def image(batch: int, channels: int, height: int, width: int) -> Tensor:
        if case.layout == "contiguous":
            return random(batch, channels, height, width)
        if case.layout == "slice":
            return random(batch, height, width, channels + 3)[..., 1 : channels + 1].permute(0, 3, 1, 2)
        if case.layout == "rows":
            return random(batch, height + 2, 2 * width, channels)[:, 1:-1, ::2].permute(0, 3, 1, 2)
        return random(batch, height, width, channels).permute(0, 3, 1, 2)

    weight = random(case.outputs, case.channels, *case.kernel)
    weight /= math.prod(weight.shape[1:]) ** 0.5
    if case.layout != "contiguous":
        weight = weight.to(memory_format=torch.channels_last)
    window = zip(case.size, case.kernel, case.stride, case.padding, strict=True)
    result = [(size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in window]
    bias = random(case.outputs, 3)[:, 0] if case.layout == "slice" else random(case.outputs)
    made = {"bias": bias, "residual": image(case.batch, case.outputs, *result)}
    made |= dict.fromkeys(set(PARTS) - set(case.parts))
    return {
        "x": image(case.batch, case.channels, *case.size), "weight": weight, "bias": made["bias"],
        "activation": case.activation, "residual": made["residual"], "stride": [*case.stride],
        "padding": [*case.padding], "tile": case.tile,
    }  # fmt: skip


def fused_conv2d(**inputs: Any) -> Tensor:
    from mvc.kernels.convolution import triton_ops  # noqa: F401  registers the op

    return torch.ops.mvc.fused_conv2d_triton(**inputs)


def unfused(x, weight, bias, activation, residual, stride, padding, tile) -> Tensor:
    """The same by torch's own operations, each of which rounds to its dtype."""
    y = IN_TORCH[activation](F.conv2d(x, weight, bias, stride, padding))
    return y if residual is None else residual + y


def map_tensors(function, inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: function(value) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def assert_convolution_within_budget(inputs: dict[str, Any]) -> None:
    actual, baseline = fused_conv2d(**inputs), unfused(**inputs)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert actual.dtype == inputs["x"].dtype
    assert_within_budget(actual, unfused(**map_tensors(Tensor.double, inputs)), baseline, "y")


def strange_numbers() -> None:
    """A NaN or an infinity spoils what it is part of and no other, at the edges of an image and of a tile too."""
    inputs = make_inputs(ALL._replace(activation="relu"))
    inputs["x"][0, 1, 0, 0], inputs["x"][1, 2, 6, 8] = float("nan"), float("inf")
    inputs["bias"][11], inputs["residual"][1, 3, 4, 4] = float("nan"), float("-inf")
    torch.testing.assert_close(fused_conv2d(**inputs), unfused(**inputs), equal_nan=True, atol=1e-5, rtol=1e-5)


RUNS = {str(case): lambda case=case: assert_convolution_within_budget(make_inputs(case)) for case in CASES}
RUNS["strange numbers"] = strange_numbers


@pytest.mark.parametrize("name", RUNS)
def test_interpreted(name, failures):
    assert failures[name] is None


class Place(NamedTuple):
    """A convolution of a model, whose activation or residual is fused with it."""

    channels: int
    outputs: int
    height: int  # of the result
    stride: int = 1
    kernel: int = 3
    activation: str = "gelu_tanh"
    residual: bool = False

    @property
    def inner(self) -> int:
        return self.channels * self.kernel**2

    @property
    def padding(self) -> int:
        return self.kernel // 2 if self.kernel != self.stride else 0


# Of MambaVision-T and of ConvNeXt.
PLACES = {
    "stem of 3 channels": Place(3, 32, 112, 2, activation="relu"),
    "stem of 32 channels": Place(32, 80, 56, 2, activation="relu"),
    "80 channels": Place(80, 80, 56),
    "80 channels and a residual": Place(80, 80, 56, activation="none", residual=True),
    "160 channels": Place(160, 160, 28),
    "160 channels and a residual": Place(160, 160, 28, activation="none", residual=True),
    "down-sampling": Place(80, 160, 28, 2, activation="none"),
    "40 channels": Place(40, 40, 56, residual=True),
    "patches": Place(3, 96, 56, 4, 4),
}
MATRIX = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}  # the products of tensor cores


def compiled(place: Place, tile: Tile, architecture: int, patch: pytest.MonkeyPatch) -> Binary:
    """The kernel as the op launches it at batch 128, compiled without a GPU."""
    from mvc.kernels.convolution import triton_ops

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float16, device="meta", memory_format=torch.channels_last)

    launches = recorded_launches(triton_ops, patch)
    outputs, side = place.outputs, place.height * place.stride
    fused_conv2d(
        x=empty(128, place.channels, side, side),
        weight=empty(outputs, place.channels, place.kernel, place.kernel),
        bias=torch.empty(outputs, dtype=torch.float16, device="meta"),
        activation=place.activation,
        residual=empty(128, outputs, place.height, place.height) if place.residual else None,
        stride=[place.stride] * 2,
        padding=[place.padding] * 2,
        tile=TILES.index(tile),
    )
    (launch,) = launches
    return compiled_as_launched(launch, architecture)


def best(place: Place, batch: int = 128) -> Tile:
    return TILES[candidates(batch, place.height, place.height, place.outputs, place.inner)[0]]


@needs_triton
@pytest.mark.versions
@pytest.mark.parametrize("name", PLACES)
def test_products_run_on_tensor_cores_and_memory_is_read_16_bytes_at_a_time(name, monkeypatch):
    place = PLACES[name]
    found = compiled(place, best(place), 90, monkeypatch)
    assert found.code.local == 0, "bytes of a thread that do not fit into registers"
    assert found.count(MATRIX[90]) > 0
    assert found.count("STG.E.128") == found.count("STG") > 0
    if place.channels % 8 == 0:  # a piece of 16 bytes then belongs to one tap, and is copied while products run
        assert found.count("LDGSTS.E.BYPASS.128") > 0
        assert found.count("LDG.E.U16") == 0


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("architecture", MATRIX)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def test_no_tile_spills(shape, architecture, monkeypatch):
    """With as many outputs as a program of that shape can have, GELU and a residual."""
    assert sum(parts(shape.outputs, shape.outputs)) == shape.outputs
    tile = next(tile for tile in TILES if tile.shape == shape)
    found = compiled(Place(80, shape.outputs, 56, residual=True), tile, architecture, monkeypatch)
    assert found.code.local == 0
    assert found.count("HMMA") + found.count(MATRIX[architecture]) > 0


@pytest.mark.parametrize("outputs", [1, 16, 20, 32, 48, 64, 80, 96, 160, 196, 320, 512, 640])
def test_outputs_are_covered_by_two_powers_of_2(outputs):
    for most in {shape.outputs for shape in SHAPES}:
        wide, narrow = parts(outputs, most)
        assert wide >= LEAST_OUTPUTS
        assert wide + narrow <= most
        assert narrow < wide
        assert narrow == 0 or narrow >= LEAST_OUTPUTS
        assert all(size & (size - 1) == 0 for size in (wide, narrow))
    assert -outputs % sum(parts(outputs, 192)) < LEAST_OUTPUTS, "more are unused than a block of the least size has"


@pytest.mark.parametrize("name", PLACES)
def test_no_pixel_of_a_tile_is_unused_in_common_maps(name):
    place = PLACES[name]
    tile = best(place)
    assert tile.blocks(128, place.height, place.height) * tile.shape.pixels == 128 * place.height**2


def test_small_batches_take_small_tiles():
    assert best(PLACES["160 channels"], batch=1).shape.pixels < best(PLACES["160 channels"]).shape.pixels


FAULTS = [
    ({"activation": "tanh"}, ValueError, "activation is 'tanh'; it must be one of"),
    ({"stride": [0, 1]}, ValueError, r"stride is \[0, 1\]; it must be two numbers of at least 1"),
    ({"padding": [-1, 1]}, ValueError, r"padding is \[-1, 1\]; it must be two numbers of at least 0"),
    ({"tile": len(TILES)}, ValueError, f"tile is {len(TILES)}; it must be an index of"),
    ({"x": torch.zeros(2, 5, 7, 9, dtype=torch.float64)}, TypeError, "x must be .* got torch.float64"),
    ({"weight": torch.zeros(20, 5, 3, 3, dtype=torch.float16)}, TypeError, "weight must be torch.float32 as x is"),
    (
        {"weight": torch.zeros(20, 4, 3, 3)},
        ValueError,
        "weight must be .outputs, channels, kernel height, kernel width",
    ),
    ({"weight": torch.zeros(20, 5, 3, 12)}, ValueError, "weight's kernel width is 12 with padding 1, and x's is 9"),
    ({"weight": torch.zeros(20, 5, 0, 3)}, ValueError, "weight must have a channel and a tap at least"),
    ({"bias": torch.zeros(5)}, ValueError, "bias must be .outputs,. with .*outputs 20"),
    ({"residual": torch.zeros(2, 20, 7, 8)}, ValueError, "residual must have width 9 as the result, got 8"),
    ({"x": torch.zeros(1, dtype=torch.int8).expand(2, 5, 7, 9)}, TypeError, "x must be .* got torch.int8"),
]


@needs_triton
@pytest.mark.versions
@pytest.mark.parametrize(("changed", "error", "message"), FAULTS, ids=[message[:24] for *_, message in FAULTS])
def test_errors_name_the_argument_and_the_remedy(changed, error, message):
    with pytest.raises(error, match=message):
        fused_conv2d(**make_inputs(ALL) | changed)


@needs_triton
def test_an_image_whose_offsets_take_more_than_32_bits_is_refused():
    inputs = map_tensors(lambda tensor: tensor.to("meta"), make_inputs(Case()))
    with pytest.raises(ValueError, match=r"an image of x spans 5368709119 elements; it must be less than 2\*\*31"):
        fused_conv2d(**inputs | {"x": torch.empty(2, 5, 2**15, 2**15, device="meta")})
    inputs |= {"x": torch.empty(1, 1, 2**11, 2**11, device="meta"), "bias": None, "residual": None}
    with pytest.raises(ValueError, match=r"an image of the result spans 2147483648 elements"):
        fused_conv2d(**inputs | {"weight": torch.empty(2**9, 1, 3, 3, device="meta")})


@needs_triton
@pytest.mark.versions
def test_where_gradients_are_needed_it_says_so():
    inputs = make_inputs(ALL)
    inputs["weight"].requires_grad_()
    with pytest.raises(RuntimeError, match="mvc::fused_conv2d_triton has no derivative"):
        fused_conv2d(**inputs)


@needs_triton
@pytest.mark.versions
@pytest.mark.parametrize("layout", ["channels_last", "slice"])
def test_inductor_sees_one_kernel_for_every_batch(layout):
    """Traced for a GPU with a batch of unknown size, the op is one call of a Triton kernel, and guards no size."""
    from torch._functorch.aot_autograd import aot_function
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
    from torch.utils.flop_counter import FlopCounterMode

    graphs, inputs, environment = [], make_inputs(ALL._replace(layout=layout)), ShapeEnv()
    with FakeTensorMode(shape_env=environment) as mode, torch.no_grad():

        def fake(name: str, tensor: Tensor) -> Tensor:
            kinds = [DimDynamic.STATIC] * tensor.dim()
            if name in ("x", "residual"):
                kinds[0] = DimDynamic.DYNAMIC
            return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds)).to("cuda")

        tensors = {name: fake(name, value) for name, value in inputs.items() if isinstance(value, Tensor)}

        def run(*given: Tensor) -> Tensor:
            return fused_conv2d(**(inputs | dict(zip(tensors, given, strict=True))))

        aot_function(run, lambda graph, _: graphs.append(graph) or graph, dynamic=True)(*tensors.values())
        static = {
            name: mode.from_tensor(value).to("cuda") for name, value in inputs.items() if isinstance(value, Tensor)
        }
        with FlopCounterMode(display=False) as ours:
            run(*static.values())
        with FlopCounterMode(display=False) as theirs:
            unfused(**(inputs | static))
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert sum("triton_kernel_wrapper" in target for target in targets) == 1
    assert not any("conv" in target for target in targets)
    assert not any("==" in str(guard.expr) or "Mod" in str(guard.expr) for guard in environment.guards)
    assert ours.get_total_flops() == theirs.get_total_flops() > 0


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PLACES)
def test_on_a_gpu(name, dtype):
    place = PLACES[name]
    for batch in (1, 128):
        for tile in candidates(batch, place.height, place.height, place.outputs, place.inner):
            case = ALL._replace(
                batch=batch, channels=place.channels, size=(place.height * place.stride,) * 2, outputs=place.outputs,
                kernel=(place.kernel,) * 2, stride=(place.stride,) * 2, activation=place.activation, dtype=dtype,
                padding=(place.padding,) * 2, tile=tile,
            )  # fmt: skip
            assert_convolution_within_budget(map_tensors(Tensor.cuda, make_inputs(case)))


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    print_failures(RUNS)
