"""Linear layers with what surrounds them as one kernel: what is found, what is left alone, which choice is made."""

from __future__ import annotations

import pytest
import torch
from fused_kernels import on_cpu
from torch.nn import functional as F
from toy_passes import capture, rewritten

from mvc.kernels.implementations import triton_available
from mvc.passes import own_kernels, pipeline
from mvc.passes.fusing import fuse_linear
from mvc.passes.fusing.fuse_linear import FuseLinear, Library
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.verify import Verifier

pytestmark = [
    pytest.mark.versions,
    pytest.mark.skipif(not triton_available(), reason="triton is not installed"),
]

torch.manual_seed(0)
OP = torch.ops.mvc.fused_linear_triton.default if triton_available() else None
B, L, K, N = 2, 6, 10, 8
PARTS = ("norm", "activation", "scale", "residual")


def half(*sizes):
    return torch.randn(sizes).half()


X, REST, WEIGHT, BIAS, SCALE, GAMMA, BETA = half(B, L, K), half(B, L, N), half(N, K), half(N), half(N), half(K), half(K)


@pytest.fixture(autouse=True)
def cpu_in_place_of_a_gpu(monkeypatch):
    monkeypatch.setattr(own_kernels, "DEVICE", "cpu")
    with on_cpu(), torch.no_grad():
        yield


def run(function, *inputs, kernels="own"):
    """The rewritten graph, the pass's record and the parts of each fused call; results are compared by `Verifier`."""
    module, examples = capture(function, *inputs)
    (record,) = pipeline.run([FuseLinear(kernels)], module, strict=True, observers=[Verifier(module, examples)])
    found = []
    for node in module.graph.find_nodes(op="call_function", target=OP):
        _, _, _, _, _, eps, activation, scale, residual, _ = node.args
        has = (eps is not None, activation != "none", scale is not None, residual is not None)
        found.append(" ".join(part for part, there in zip(PARTS, has, strict=True) if there))
    return op_counts(module.graph), record, found


def norm(x):
    return F.layer_norm(x, (K,), GAMMA.to(x.device), BETA.to(x.device))


def linear(x):
    return F.linear(x, WEIGHT, BIAS)


def in_windows(y, rest):
    """Behind views and dropout, as in windows and under a stage of channels."""
    y = F.dropout(y.reshape(-1, 3, N), 0.1, False)
    return rest.reshape(-1, 3, N) + y


def as_channels(y, rest):
    """As ConvNeXt goes on: a residual and a scale in channels_last memory."""
    y = y.view(B, 2, L // 2, N).permute(0, 3, 1, 2) * SCALE.reshape(1, -1, 1, 1)
    return rest.view(B, 2, L // 2, N).permute(0, 3, 1, 2) + y


def in_place(y, rest):
    y = y.relu_().mul_(SCALE)
    y += rest
    return y


FOUND = {
    "gelu": (lambda x, rest: F.gelu(linear(x)), "activation"),
    "gelu-tanh": (lambda x, rest: F.gelu(linear(x), approximate="tanh"), "activation"),
    "no-bias": (lambda x, rest: F.silu(F.linear(x, WEIGHT)), "activation"),
    "norm": (lambda x, rest: linear(norm(x)), "norm"),
    "norm-without-parameters": (lambda x, rest: F.relu(linear(F.layer_norm(x, [K], eps=1e-3))), "norm activation"),
    "norm-and-views": (lambda x, rest: linear(norm(x).flatten(0, 1)), "norm"),
    "residual": (lambda x, rest: linear(x) + rest, "residual"),
    "scaled": (lambda x, rest: rest + SCALE * linear(x), "scale residual"),
    "all": (lambda x, rest: rest + F.silu(linear(norm(x))) * SCALE, "norm activation scale residual"),
    "dropout": (lambda x, rest: rest + F.dropout(linear(x), 0.1, False), "residual"),
    "in-windows": (lambda x, rest: in_windows(linear(x), rest), "residual"),
    "as-channels": (lambda x, rest: as_channels(linear(x), rest), "scale residual"),
    "in-place": (lambda x, rest: in_place(linear(x), rest), "activation scale residual"),
    "residual-used-again": (lambda x, rest: (linear(x) + rest, rest.sin()), "residual"),
    "residual-is-the-input": (lambda x, rest: rest + F.gelu(F.linear(rest, WEIGHT[:, :N])), "activation residual"),
    "view-of-the-result": (lambda x, rest: F.gelu(linear(x)).transpose(0, 1), "activation"),
    "written-afterwards": (lambda x, rest: (linear(x) + rest).add_(1), "residual"),
    "matrix": (lambda x, rest: F.gelu(linear(x[0])), "activation"),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_surrounds_a_product_becomes_part_of_it(name):
    function, parts = FOUND[name]
    counts, record, found = run(function, X, REST)
    assert (record.matches, record.near_misses, found) == (1, (), [parts])
    assert not {"linear", "layer_norm", "gelu", "silu", "relu", "relu_", "dropout", "mul_", "iadd"} & counts.keys()


def shared_norm(x, rest):
    y = norm(x)
    return F.gelu(linear(y)), y


@torch.compiler.allow_in_graph
def dropout(x, p, training):
    return x / p


def own_dropout(x, rest):
    return dropout(F.gelu(linear(x)), 0.1, False) + rest


def inner_result(x, rest):
    y = F.gelu(linear(x))
    return y + rest, y


def twice(x, rest):
    y = F.silu(linear(x))
    return y + y


def broadcast(x, rest):
    return F.gelu(linear(x)) + rest[0]


def rows_scaled(x, rest):
    return F.gelu(linear(x)) * rest[..., :1]


def two_activations(x, rest):
    return F.gelu(F.relu(linear(x)))


def turned(x, rest):
    """A residual whose rows cannot be read as rows of a matrix."""
    return F.gelu(linear(x)) + rest.transpose(0, 1).contiguous().transpose(0, 1)


def weighted(x, rest):
    return torch.add(rest, F.relu(linear(x)), alpha=2)


def training(x, rest):
    return F.dropout(F.relu(linear(x)), 0.0, True) + rest


def wider(x, rest):
    return F.relu(linear(x)) * SCALE.float()


def residual_written(x, rest):
    rest = rest + 1
    return rest.add_(F.relu(linear(x)))


@pytest.mark.parametrize(
    "function",
    [
        *(shared_norm, inner_result, twice, broadcast, rows_scaled, two_activations, turned, weighted, training, wider),
        *(residual_written, own_dropout),
    ],
)
def test_what_a_kernel_cannot_take_in_stays(function):
    """What other nodes read, what has another shape, order of axes or dtype, and what comes twice."""
    _, record, found = run(function, X, REST)
    assert (record.matches, found) == (1, ["activation"])


def changed_between(x, rest):
    x = x + 1
    y = linear(x)
    x.zero_()
    return F.gelu(y)


def mapped(x, rest):
    return torch.vmap(lambda x: F.gelu(linear(x)))(x)


def autocast_inside(x, rest):
    y = linear(x)
    with torch.autocast("cpu", torch.bfloat16):
        return F.relu(y)


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (changed_between, (X, REST), "zero_ writes to what it reads"),
        (autocast_inside, (X, REST), "autocast is switched"),
        (mapped, (X, REST), "a transform of torch.func"),
        (lambda x, weight: F.gelu(F.linear(x, weight)), (X.float(), WEIGHT.float()), "float32"),
    ],
    ids=["written", "autocast", "vmap", "float32"],
)
def test_near_misses_say_why(function, inputs, reason):
    counts, record, found = run(function, *inputs)
    assert (record.matches, found, counts["linear"]) == (0, [], 1)
    assert [reason in miss.reason for miss in record.near_misses] == [True]


def test_where_gradients_are_needed_the_product_stays():
    with torch.enable_grad():
        _, record, _ = run(lambda x, weight: F.gelu(F.linear(x, weight)), X, WEIGHT.clone().requires_grad_())
    assert [miss.reason.split(",")[0] for miss in record.near_misses] == ["gradients are needed"]


@pytest.mark.parametrize("bias", [BIAS[:1], BIAS[0], REST[0]], ids=["of-one", "number", "matrix"])
def test_a_bias_that_torch_broadcasts_keeps_the_product(bias):
    _, record, _ = run(lambda x, bias: F.gelu(F.linear(x, WEIGHT, bias)), X[0], bias)
    assert (record.matches, record.near_misses) == (0, ())


@pytest.mark.parametrize("kernels", ["own", "measured"])
def test_nothing_around_it_is_nothing_to_miss(kernels):
    _, record, _ = run(lambda x, rest: (linear(x), norm(x)), X, REST, kernels=kernels)
    assert (record.matches, record.near_misses) == (0, ())


def test_autocast_computes_in_its_dtype():
    """The LayerNorm, which autocast computes in float32, stays outside."""
    x, weight, bias, gamma, beta = (each.float() for each in (X, WEIGHT, BIAS, GAMMA, BETA))
    with torch.autocast("cpu", torch.bfloat16):
        _, record, found = run(
            lambda x, weight, bias, gamma, beta: F.gelu(F.linear(F.layer_norm(x, (K,), gamma, beta), weight, bias)),
            *(x, weight, bias, gamma, beta),
        )
    assert (record.matches, found) == (1, ["activation"])


def test_the_batch_may_be_of_any_size():
    compiled, done = rewritten(
        FuseLinear("own"), lambda x, rest: in_windows(F.gelu(linear(norm(x))), rest), dynamic=True
    )
    with torch.no_grad():
        for batch in (2, 5, 3):
            x, rest = half(batch, L, K), half(batch, L, N)
            torch.testing.assert_close(
                compiled(x, rest), in_windows(F.gelu(linear(norm(x))), rest), rtol=2e-3, atol=5e-3
            )
    ((outcome, counts),) = done
    assert (outcome.matches, counts["mvc.fused_linear_triton"]) == (1, 1)


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_data_may_decide_the_number_of_rows():
    def function(x):
        chosen = x[x[:, 0] > 0]
        return chosen + F.gelu(F.linear(chosen, WEIGHT[:, :N]))

    compiled, done = rewritten(FuseLinear("own"), function)
    with torch.no_grad():
        for rows in (9, 20):
            x = half(rows, N)
            torch.testing.assert_close(compiled(x), function(x), rtol=2e-3, atol=5e-3)
    assert all((outcome.matches, outcome.near_misses) == (1, []) for outcome, _ in done)


def test_with_many_rows_layer_norm_stays_a_kernel(monkeypatch):
    monkeypatch.setattr(fuse_linear, "FEW_ROWS", B * L - 1)
    _, _, found = run(lambda x, rest: F.gelu(linear(norm(x))), X, REST)
    assert found == ["activation"]
    _, record, _ = run(lambda x, rest: linear(norm(x)), X, REST)
    assert (record.matches, record.near_misses) == (0, ())


# The choice


@pytest.mark.parametrize("kernels", ["measured", "own", "library"])
def test_the_measurement_decides_unless_it_is_forced(kernels, monkeypatch):
    asked = []

    def fastest(key, build, device):
        asked.append((key, device))
        return choice

    monkeypatch.setattr(own_kernels, "fastest", fastest)
    for choice in ("library", "4"):
        module, _ = capture(lambda x, rest: F.gelu(linear(x)) + rest, X, REST)
        outcome = FuseLinear(kernels)(module.graph)
        fused = module.graph.find_nodes(op="call_function", target=OP)
        wanted = {"measured": choice != "library", "own": True, "library": False}[kernels]
        assert (outcome.matches, len(fused)) == (wanted, wanted)
        if kernels == "measured":
            assert [miss.reason for miss in outcome.near_misses] == ["measured: the library is as fast"] * (not wanted)
            assert not fused or fused[0].args[-1] == 4
    assert len(asked) == 2 * (kernels == "measured")
    for key, device in asked:
        assert device.type == "cpu"
        assert all(each in key for each in ("float16", str((B, L, K)), str((K, 1)), "gelu"))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_the_library_may_compute_gelu_too(approximate, monkeypatch):
    """Its tanh form differs from the exact one by less than rounding to half precision does to larger results."""
    monkeypatch.setattr(own_kernels, "fastest", lambda key, build, device: "cublas")
    counts, record, found = run(
        lambda x, rest: F.gelu(linear(norm(x)).view(B * L, N), approximate=approximate), X, REST, kernels="measured"
    )
    assert (record.matches, found) == (1, [])
    assert counts["mvc.linear_gelu_cublas"] == counts["layer_norm"] == 1
    assert not {"linear", "gelu"} & counts.keys()


def both_library_and_own(function, *inputs):
    """What stands for the library, and all results of the calls that would be timed on the first place."""
    module, _ = capture(function, *inputs)
    patterns = map(fuse_linear.linear_pattern, module.graph.nodes)
    (pattern,) = (each for each in patterns if each is not None and len(each.calls) > 1)
    library = fuse_linear._library(pattern)
    runs = fuse_linear._runs(pattern, library, fuse_linear.FuseLinear().tiles(pattern))
    return library, {name: run() for name, run in runs.items()}


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x, rest: F.linear(F.gelu(linear(norm(x))), WEIGHT.T), Library(True, "kernel")),
        (lambda x, rest: F.gelu(linear(norm(F.linear(rest, WEIGHT.T)))).view(-1), Library(True, "kernel")),
        (lambda x, rest: F.gelu(linear(norm(x + 1))) * 2, Library(False, "none")),
        (lambda x, rest: F.layer_norm(rest + SCALE * linear(x), (N,)), Library(False, "kernel")),
        (lambda x, rest: (rest + linear(x)).sin(), Library(False, "none")),
        (lambda x, rest: linear(norm(F.linear(rest, WEIGHT.T))), Library(True, "none")),
        (lambda x, rest: F.gelu(linear(x[:1].expand(B, L, K))).view(-1), Library(False, "kernel")),
    ],
    ids=[
        *("then-a-product", "after-a-product", "in-a-loop", "then-a-norm", "then-an-unknown-loop", "norm-alone"),
        "of-what-was-expanded",
    ],
)
def test_what_stands_for_the_library_moves_no_more_than_inductor_would(function, wanted, monkeypatch):
    monkeypatch.setattr(fuse_linear, "rotated", lambda make, device: iter(make, None))
    found, results = both_library_and_own(function, X, REST)
    assert found == wanted
    assert len(results.keys() - {"cublas"}) == 1 + 3
    assert {(y.shape, y.dtype) for y in results.values()} == {((B, L, N), torch.float16)}


def test_with_many_rows_a_loop_that_follows_is_credited_with_bytes(monkeypatch):
    monkeypatch.setattr(fuse_linear, "rotated", lambda make, device: iter(make, None))
    monkeypatch.setattr(fuse_linear, "FEW_ROWS", B * L - 1)
    found, _ = both_library_and_own(lambda x, rest: F.layer_norm(rest + linear(x), (N,)), X, REST)
    assert found == Library(False, "bytes")
