"""Twelve families of models without scans: the passes match, never fail on them and leave their results."""

import dataclasses
from collections import Counter

import pytest
import torch
from fused_kernels import on_cpu
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from toy_passes import capture

from mvc.kernels.implementations import triton_available
from mvc.passes import pipeline, torch_private
from mvc.passes.frozen.freeze import freeze
from mvc.passes.frozen.prepack import Prepack

timm = pytest.importorskip("timm")

# The smallest of each family, and how often a pass matches there at least: convolutions before BatchNorms, and products
# that oneDNN computes with packed weights.
MODELS = {
    "resnet10t": {"fuse_batch_norm": 14},
    "convnext_atto": {"prepack_convolution": 27},
    "swin_tiny_patch4_window7_224": {"prepack_linear": 52},
    "vit_tiny_patch16_224": {"prepack_linear": 49},
    "mobilenetv3_small_050": {"fuse_batch_norm": 34},
    "efficientnet_lite0": {"fuse_batch_norm": 49},
    "regnetx_002": {"fuse_batch_norm": 44},
    "mambaout_femto": {"prepack_linear": 38},
    "poolformerv2_s12": {"prepack_convolution": 3},
    "maxvit_pico_rw_256": {"fuse_batch_norm": 23, "prepack_linear": 89},
    "edgenext_xx_small": {"prepack_linear": 31},
    "coatnet_pico_rw_224": {"fuse_batch_norm": 11},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_passes_match_and_results_are_unchanged(name):
    """Frozen inference, the whole pipeline, strict, with packed weights wherever oneDNN takes them: at most ten times
    the error of float32 itself against float64."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for module in model.modules():  # BatchNorms that do something
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(1, *model.default_cfg["input_size"])
    matches, onednn = Counter(), torch_private.has_onednn(torch.float32)

    def backend(graph_module, inputs):
        passes = pipeline.build(list(pipeline.PASSES), frozen=True)
        passes = [dataclasses.replace(each, force="fused") if isinstance(each, Prepack) else each for each in passes]
        for record in pipeline.run(passes, graph_module, strict=True):
            matches[record.name] += record.matches
        return freeze(graph_module, inputs, lambda module, _: module.forward)

    torch.compiler.reset()
    with torch.no_grad():
        eager, oracle = model(x), model.double()(x.double())
        actual = torch.compile(model.float(), backend=backend, fullgraph=True)(x)
    fired = {name: count for name, count in matches.items() if count}
    assert not [name for name in fired if name.startswith("raise") or name == "lower_scan"]
    expected = {name: count for name, count in MODELS[name].items() if onednn or not name.startswith("prepack")}
    assert {name: min(matches[name], count) for name, count in expected.items()} == expected, fired
    error, own_error = ((y.double() - oracle).norm() / oracle.norm() for y in (actual, eager))
    assert error <= 10 * own_error, fired


# Small models, and how often a linear layer there takes in what surrounds it: LayerNorm before the first layer of an
# MLP and GELU behind it, residual and layer scale behind the second; in a ViT both layers of its attention as well. The
# convolutions are those into and between stages, whose bias is taken in. Swin's attention has a bias of
# its own and stays the library's.
ON_A_GPU = {
    "convnext_tiny": (
        {"depths": (1, 2, 1, 1), "dims": (16, 32, 48, 64)},
        {"fuse_linear": 2 * 5, "fuse_convolution": 4},
    ),
    "swin_tiny_patch4_window7_224": (
        {"depths": (1, 2, 1, 1), "embed_dim": 48},
        {"fuse_linear": 2 * 5 + 3, "fuse_convolution": 1, "lower_attention": 0},
    ),
    "vit_tiny_patch16_224": ({"depth": 2}, {"fuse_linear": 4 * 2, "fuse_convolution": 1, "lower_attention": 2}),
}


def move_to_a_fake_gpu(model):
    """Every parameter and buffer becomes a fake on a GPU that need not be there."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
                    tensors[name] = nn.Parameter(fake, False) if tensors is module._parameters else fake


@pytest.mark.slow
@pytest.mark.skipif(not triton_available(), reason="triton is not installed")
@pytest.mark.parametrize("name", ON_A_GPU)
def test_what_passes_write_for_a_gpu_computes_the_same(name):
    """Frozen, in float16, with every kernel of mvc that fits, computed by torch on a CPU: at most twice
    the error of float16 itself against float64."""
    options, expected = ON_A_GPU[name]
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    for parameter in model.parameters():  # layer scales and biases that do something
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.2, 1)
    model, x = model.to(memory_format=torch.channels_last), torch.randn(1, 3, 224, 224)
    x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        oracle = model.double()(x.double())
        eager = model.half()(x.half())
        _, inputs = capture(model, x.half())
        with FakeTensorMode(allow_non_fake_inputs=True):
            move_to_a_fake_gpu(model)
            module, _ = capture(model, torch.empty_like(x, dtype=torch.float16, device="cuda"))
        passes = pipeline.build(list(pipeline.PASSES), frozen=True, inference=True, kernels="own")
        matches = {record.name: record.matches for record in pipeline.run(passes, module, strict=True)}
        with on_cpu():
            (actual,) = fx.Interpreter(module).run(*inputs)
    assert {each: matches[each] for each in expected} == expected
    error, own_error = ((y.double() - oracle).norm() / oracle.norm() for y in (actual, eager))
    assert error <= 2 * own_error
