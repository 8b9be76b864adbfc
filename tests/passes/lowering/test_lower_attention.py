"""Attention over windows as mvc's kernel: results, gradients, what is left alone, which choice is made."""

from __future__ import annotations

import math

import pytest
import torch
from fused_kernels import on_cpu
from torch.nn import functional as F
from toy_passes import capture

from mvc.kernels.implementations import triton_available
from mvc.passes import own_kernels, pipeline
from mvc.passes.graph.fx_utils import op_counts
from mvc.passes.lowering import lower_attention
from mvc.passes.lowering.lower_attention import LowerAttention
from mvc.passes.verify import Verifier

pytestmark = [
    pytest.mark.versions,
    pytest.mark.skipif(not triton_available(), reason="triton is not installed"),
]

OP, LIBRARY = "mvc.window_attention_triton", "scaled_dot_product_attention"


@pytest.fixture(autouse=True)
def cpu_in_place_of_a_gpu(monkeypatch):
    monkeypatch.setattr(own_kernels, "DEVICE", "cpu")
    torch.manual_seed(0)
    with on_cpu():
        yield


def projection(length=6, d=8, dtype=torch.float16, batch=2, **options):
    return torch.randn(batch, length, 3 * 2 * d, **options).to(dtype)


def attend(x, **options):
    """As models write it: views of a projection, and heads that are joined."""
    q, k, v = x.unflatten(-1, (3, 2, -1)).transpose(1, 3).unbind(2)
    return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)


def run(function, *inputs, kernels="own"):
    """The calls of the rewritten graph and the pass's record; results are compared by `Verifier`."""
    module, examples = capture(function, *inputs)
    (record,) = pipeline.run([LowerAttention(kernels)], module, strict=True, observers=[Verifier(module, examples)])
    return op_counts(module.graph), record


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"attn_mask": None, "dropout_p": 0.0}], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_becomes_the_kernel(training, options, dtype):
    calls, record = run(lambda x: attend(x, **options), projection(dtype=dtype).requires_grad_(training))
    assert (record.matches, calls[OP], calls[LIBRARY]) == (1, 1, 0)


def test_under_autocast():
    def function(x):
        with torch.autocast("cpu", torch.bfloat16):
            return attend(x)

    calls, record = run(function, projection(dtype=torch.float32).requires_grad_())
    assert (record.matches, calls[OP]) == (1, 1)


def test_an_unknown_batch():
    def function(x):
        return attend(x)

    x = projection(batch=3)
    torch._dynamo.mark_dynamic(x, 0)
    calls, record = run(function, x)
    assert (record.matches, calls[OP]) == (1, 1)


def bias(x):
    return attend(x, attn_mask=x.new_zeros(6, 6))


def longer_keys(x):
    q = x.unflatten(-1, (3, 2, -1)).transpose(1, 3)[:, :, 0]
    return F.scaled_dot_product_attention(q[:, :, :3], q, q)


def library_asked_for(x):
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return attend(x)


@pytest.mark.parametrize(
    ("function", "inputs", "reason"),
    [
        (bias, {}, "its attn_mask is not None"),
        (lambda x: attend(x, is_causal=True), {}, "its is_causal is not False"),
        (lambda x: attend(x, enable_gqa=True), {}, "its enable_gqa is not False"),
        (lambda x: attend(x, scale=-1.0), {}, "its scale is -1.0, which is no finite constant above 0"),
        (lambda x: attend(x, scale=math.inf), {}, "its scale is inf, which is no finite constant above 0"),
        (lambda x: torch.vmap(attend)(x[None]), {}, "inside a transform of torch.func"),
        (longer_keys, {}, "are not of one shape"),
        (attend, {"dtype": torch.float32}, "it computes in float32, in which the library stays"),
        (attend, {"length": 1025, "d": 1, "batch": 1}, "windows have 1025 tokens"),
        (attend, {"d": 136}, "heads 136 channels"),
        (library_asked_for, {}, "may choose the library's kernel"),
    ],
    ids=["bias", "causal", "gqa", "scale", "infinite", "vmap", "shapes", "float32", "long", "wide", "sdpa_kernel"],
)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap over attention on a CPU
def test_left_alone(function, inputs, reason):
    calls, record = run(function, projection(**inputs))
    (miss,) = record.near_misses
    assert reason in miss.reason
    assert (record.matches, calls[OP], calls[LIBRARY]) == (0, 0, 1)


def test_an_unknown_length_is_left_alone():
    x = projection()
    torch._dynamo.mark_dynamic(x, 1)
    _, record = run(lambda x: attend(x), x)
    assert ["of tokens or of channels is not known" in miss.reason for miss in record.near_misses] == [True]


def test_dropout_is_left_alone():
    module, _ = capture(lambda x: attend(x, dropout_p=0.1), projection())
    (record,) = pipeline.run([LowerAttention("own")], module, strict=True)
    assert [miss.reason for miss in record.near_misses] == ["its dropout_p is not 0"]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("choice", ["library", "own"])
def test_the_faster_is_chosen(choice, training, monkeypatch):
    """Both calls are measured with what they are needed for: in training they return the three gradients."""
    results = {}

    def fastest(key, build, device):
        assert f"training={training}" in key
        results.update({name: each() for name, each in build().items()})
        return choice

    monkeypatch.setattr(lower_attention, "fastest", fastest)
    monkeypatch.setattr(lower_attention, "rotated", lambda make, device: iter([given := make(), given]))
    calls, record = run(attend, projection().requires_grad_(training), kernels="measured")
    assert record.matches == calls[OP] == (choice == "own")
    assert [miss.reason for miss in record.near_misses] == ["measured: the library is as fast"] * (choice == "library")
    assert [*results] == ["library", "own"]
    assert isinstance(results["own"], tuple) == training
    torch.testing.assert_close(results["own"], results["library"], rtol=2e-3, atol=2e-3)


def test_the_library_by_option_and_another_device(monkeypatch):
    assert run(attend, projection(), kernels="library")[0][LIBRARY] == 1
    monkeypatch.setattr(own_kernels, "DEVICE", "cuda")
    calls, record = run(attend, projection())
    assert (calls[LIBRARY], record.near_misses) == (1, ())
