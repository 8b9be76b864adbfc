"""Convolutions with what follows them as one kernel: what is found, what is left alone, which choice is made."""

from __future__ import annotations

import pytest
import torch
from fused_kernels import on_cpu
from torch import nn
from torch.nn import functional as F
from toy_passes import capture, rewritten

from mvc.kernels.implementations import triton_available
from mvc.passes import own_kernels, pipeline
from mvc.passes.fusing import fuse_convolution
from mvc.passes.fusing.fuse_batch_norm import FuseBatchNorm
from mvc.passes.fusing.fuse_convolution import FuseConvolution
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.verify import Verifier

pytestmark = [
    pytest.mark.versions,
    pytest.mark.skipif(not triton_available(), reason="triton is not installed"),
]

torch.manual_seed(0)
OP = torch.ops.mvc.fused_conv2d_triton.default if triton_available() else None
B, C, SIDE, N = 2, 8, 6, 8


def image(*sizes):
    return torch.randn(sizes).half().to(memory_format=torch.channels_last)


X, REST = image(B, C, SIDE, SIDE), image(B, N, SIDE, SIDE)
WEIGHT, BIAS, FEW = image(N, C, 3, 3) / 8, torch.randn(N).half(), image(N, 3, 4, 4)


@pytest.fixture(autouse=True)
def cpu_in_place_of_a_gpu(monkeypatch):
    monkeypatch.setattr(own_kernels, "DEVICE", "cpu")
    with on_cpu(), torch.no_grad():
        yield


def run(function, *inputs, before=()):
    """The rewritten graph, the pass's record and each fused call; results are compared by `Verifier`."""
    module, examples = capture(function, *inputs)
    passes = (*before, FuseConvolution("own", frozen=True))
    *_, record = pipeline.run(passes, module, strict=True, observers=[Verifier(module, examples)])
    found = []
    for node in module.graph.find_nodes(op="call_function", target=OP):
        _, _, bias, activation, residual, stride, padding, _ = node.args
        parts = ["bias"] * (bias is not None) + [activation] * (activation != "none")
        parts += ["residual"] * (residual is not None)
        found.append((" ".join(parts), stride, padding))
    return op_counts(module.graph), record, found


def conv(x):
    return F.conv2d(x, WEIGHT, BIAS, padding=1)


def again(x):
    """A library's call, which reads what it is given from memory."""
    return F.conv2d(x, WEIGHT)


def in_place(x, rest):
    y = F.conv2d(x, WEIGHT, padding=1).relu_()
    y += rest
    return y


FOUND = {
    "gelu": (lambda x, rest: F.gelu(conv(x)), "bias gelu"),
    "gelu-tanh": (lambda x, rest: F.gelu(conv(x), approximate="tanh"), "bias gelu_tanh"),
    "no-bias": (lambda x, rest: F.silu(F.conv2d(x, WEIGHT, padding=1)), "silu"),
    "residual": (lambda x, rest: conv(x) + rest, "bias residual"),
    "activation-and-residual": (lambda x, rest: rest + F.relu(conv(x)), "bias relu residual"),
    "bias-alone": (lambda x, rest: conv(x), "bias"),
    "written-before": (lambda x, rest: conv(x.cos().sin_()), "bias"),
    "in-place": (in_place, "relu residual"),
    "residual-is-the-input": (lambda x, rest: x + F.gelu(conv(x)), "bias gelu residual"),
    "residual-and-a-loop": (lambda x, rest: ((y := conv(x) + rest), y.sin()), "bias residual"),
    "batch-as-an-input": (lambda x, rest: F.relu(conv(x[:1])), "bias relu"),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_follows_a_convolution_becomes_part_of_it(name):
    function, parts = FOUND[name]
    counts, record, found = run(function, X, REST)
    assert (record.matches, record.near_misses, found) == (1, (), [(parts, [1, 1], [1, 1])])
    assert not {"conv2d", "gelu", "silu", "relu", "relu_", "add", "iadd"} & counts.keys()


@pytest.mark.parametrize(
    ("stride", "padding"), [(1, 0), (2, 1), ((2, 1), (0, 2)), ([3], [1])], ids=["default", "both", "each", "list"]
)
def test_stride_and_padding_are_kept(stride, padding):
    _, _, found = run(lambda x: F.relu(F.conv2d(x, WEIGHT, None, stride, padding)), X)
    expected = [[each, each] if isinstance(each, int) else [*each] * (2 // len(each)) for each in (stride, padding)]
    assert found == [("relu", *expected)]


def test_few_channels_are_a_reason_of_their_own():
    """ConvNeXt's stem: nothing but a bias, and then a loop."""
    x = image(B, 3, 8, 8)
    counts, record, found = run(lambda x: F.conv2d(x, FEW, BIAS, 4).sin(), x)
    assert (record.matches, found, counts["conv2d"]) == (1, [("bias", [4, 4], [0, 0])], 0)


def shared(x, rest):
    y = conv(x)
    return F.gelu(y), again(y)


def two_activations(x, rest):
    return again(F.gelu(F.relu(conv(x))))


def broadcast(x, rest):
    return again(conv(x) + rest[:1])


def twice(x, rest):
    y = conv(x)
    return again(y + y)


def weighted(x, rest):
    return again(torch.add(rest, conv(x), alpha=2))


def turned(x, rest):
    """A residual whose channels are no neighbours in memory."""
    return again(conv(x) + rest.contiguous())


@pytest.mark.parametrize("function", [shared, broadcast, twice, weighted, turned])
def test_what_a_kernel_cannot_take_in_stays(function):
    """What other nodes read, what has another shape or order of axes, and what comes twice: some keep the bias."""
    _, record, found = run(function, X, REST)
    assert all(parts in ("bias", "bias gelu") for parts, *_ in found)
    assert record.matches == len(found) <= 1


def changed_between(x, rest):
    x = x + 1
    y = conv(x)
    x.zero_()
    return F.gelu(y)


LEFT = {
    "written": (changed_between, X, "zero_ writes to what it reads"),
    "float32": (lambda x, rest: F.gelu(F.conv2d(x, WEIGHT.float())), X.float(), "float32"),
    "groups": (lambda x, rest: F.gelu(F.conv2d(x, WEIGHT[:, :4], groups=2)), X, "groups or a dilation"),
    "dilation": (lambda x, rest: F.gelu(F.conv2d(x, WEIGHT, dilation=2)), X, "groups or a dilation"),
    "same": (lambda x, rest: F.gelu(F.conv2d(x, WEIGHT, padding="same")), X, "its padding is 'same'"),
    "layout": (lambda x, rest: F.gelu(conv(x)), X.contiguous(), "its input is not channels_last"),
    "loop": (lambda x, rest: F.relu(conv(x)).sin(), X, "the loop that reads the result"),
    "two-activations": (two_activations, X, "the loop that reads the result"),
    "residual-and-relu": (lambda x, rest: F.relu(conv(x) + rest), X, "the loop that reads the result"),
}


@pytest.mark.parametrize("name", LEFT)
def test_near_misses_say_why(name):
    function, x, reason = LEFT[name]
    _, record, found = run(function, x, REST)
    assert (record.matches, found) == (0, [])
    assert [reason in miss.reason for miss in record.near_misses] == [True]


def test_where_gradients_are_needed_the_convolution_stays():
    with torch.enable_grad():
        _, record, _ = run(lambda x, weight: F.gelu(F.conv2d(x, weight)), X, WEIGHT.clone().requires_grad_())
    assert [miss.reason.split(",")[0] for miss in record.near_misses] == ["gradients are needed"]


def test_nothing_after_it_is_nothing_to_miss():
    _, record, _ = run(lambda x: F.conv2d(x, WEIGHT, stride=2), X)
    assert (record.matches, record.near_misses) == (0, ())


def test_a_weight_in_another_order_is_copied_outside_of_the_call():
    """Where weights are frozen, `mvc.passes.frozen.freeze` computes the copy once."""
    for weight in (WEIGHT, WEIGHT.contiguous()):
        counts, record, _ = run(lambda x, weight: F.gelu(F.conv2d(x, weight)), X, weight)
        assert (record.matches, counts["contiguous"]) == (1, weight is not WEIGHT)


def test_autocast_computes_in_its_dtype():
    x, weight, bias = X.float(), WEIGHT.float(), BIAS.float()
    with torch.autocast("cpu", torch.bfloat16):
        _, record, found = run(lambda x, weight, bias: F.gelu(F.conv2d(x, weight, bias)), x, weight, bias)
    assert (record.matches, found) == (1, [("bias gelu", [1, 1], [0, 0])])


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_data_may_decide_the_batch():
    def function(x):
        return F.relu(conv(x[x[:, 0, 0, 0] > 0]))

    compiled, done = rewritten(FuseConvolution("own"), function)
    with torch.no_grad():
        x = image(9, C, SIDE, SIDE)
        torch.testing.assert_close(compiled(x), function(x), rtol=2e-3, atol=5e-3)
    assert [outcome.matches for outcome, _ in done] == [1]


class Bottleneck(nn.Module):
    """As ResNet has it."""

    def __init__(self):
        super().__init__()
        sizes = ((1, 0), (3, 1), (1, 0))
        self.convolutions = nn.ModuleList(nn.Conv2d(8, 8, side, padding=pad, bias=False) for side, pad in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in sizes)

    def forward(self, x):
        y = x
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(convolution(y))
            y = F.relu_(y) if index < 2 else y
        return F.relu_(y + x)


def test_resnets_blocks_keep_the_sum_that_the_next_loop_computes():
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)]
    module = nn.Sequential(*stem, Bottleneck(), Bottleneck()).eval().half().to(memory_format=torch.channels_last)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    counts, record, found = run(module, image(B, 3, 12, 12), before=[FuseBatchNorm(frozen=True)])
    assert [parts for parts, *_ in found] == ["bias relu"] * 5
    assert ["the loop that reads" in miss.reason for miss in record.near_misses] == [True, True]
    assert counts["conv2d"] == 2
    assert counts["batch_norm"] == 0


def test_the_batch_may_be_of_any_size():
    compiled, done = rewritten(FuseConvolution("own"), lambda x, rest: F.gelu(conv(x)) + rest, dynamic=True)
    for batch in (2, 5, 3):
        x, rest = image(batch, C, SIDE, SIDE), image(batch, N, SIDE, SIDE)
        torch.testing.assert_close(compiled(x, rest), F.gelu(conv(x)) + rest, rtol=2e-3, atol=5e-3)
    ((outcome, counts),) = done
    assert (outcome.matches, counts["mvc.fused_conv2d_triton"]) == (1, 1)


@pytest.mark.parametrize("kernels", ["measured", "own", "library"])
def test_the_measurement_decides_unless_it_is_forced(kernels, monkeypatch):
    asked = []

    def fastest(key, build, device):
        asked.append(key)
        return choice

    monkeypatch.setattr(own_kernels, "fastest", fastest)
    for choice in ("library", "4"):
        module, _ = capture(lambda x, rest: F.gelu(conv(x)) + rest, X, REST)
        outcome = FuseConvolution(kernels)(module.graph)
        tiles = [node.args[-1] for node in module.graph.find_nodes(op="call_function", target=OP)]
        if kernels == "measured":
            assert tiles == ([] if choice == "library" else [4])
            reasons = ["measured: the library is as fast"] * (choice == "library")
            assert [miss.reason for miss in outcome.near_misses] == reasons
        else:
            assert len(tiles) == outcome.matches == (kernels == "own")
    assert len(asked) == 2 * (kernels == "measured")


@pytest.mark.parametrize("after", ["kernel", "bytes", "none"])
@pytest.mark.parametrize("parts", ["bias", "gelu", "residual"])
def test_the_library_is_timed_with_no_more_than_inductor_would_run(after, parts, monkeypatch):
    """The kernel computes all of the pattern; behind the library's call stands what moves its bytes."""
    functions = {
        "bias": lambda x, rest: again(conv(x)),
        "gelu": lambda x, rest: again(F.gelu(F.conv2d(x, WEIGHT, padding=1))),
        "residual": lambda x, rest: again(F.conv2d(x, WEIGHT, padding=1) + rest),
    }
    module, _ = capture(functions[parts], X, REST)
    first = next(node for node in module.graph.nodes if node.target is F.conv2d or "conv2d" in str(node.target))
    pattern = fuse_convolution._pattern(first)
    inputs = (X, WEIGHT, BIAS if parts == "bias" else None, REST if parts == "residual" else None)
    monkeypatch.setattr(fuse_convolution, "rotated", lambda make, device: iter(lambda: inputs, None))
    runs = fuse_convolution._runs(pattern, after, (0, 7), frozen=True)
    assert [*runs] == ["library", "0", "7"]
    plain = F.conv2d(X, WEIGHT, padding=1)
    full = {"bias": lambda: conv(X), "gelu": lambda: F.gelu(plain), "residual": lambda: plain + REST}[parts]()
    torch.testing.assert_close(runs["7"](), full, rtol=2e-3, atol=5e-3)
    torch.testing.assert_close(runs["library"](), full if after == "kernel" else plain, rtol=2e-3, atol=5e-3)
