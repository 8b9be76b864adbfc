"""What people do to the modules of a model: hooks, other layers, parametrizations, LoRA, int8 weights, sharding."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from closeness import assert_close
from small_models import EACH_KIND_ONCE
from torch import Tensor, multiprocessing, nn
from torch.nn.utils import parametrize, prune

from mvc.model import layers
from mvc.model.module import MambaVision, create_model
from mvc.passes.accuracy import relative_error

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")


@pytest.fixture
def tiny() -> MambaVision:
    torch.manual_seed(0)
    return create_model("tiny", layer_scale=0.5, drop_path_rate=0.0, **EACH_KIND_ONCE).eval()


@functools.cache
def images(batch: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, 64, 64, generator=torch.Generator().manual_seed(1))


# --- hooks


def test_every_layer_with_tensors_is_called(tiny):
    """So a hook on any of them runs, and whatever stands in its place is used."""
    owners = {name for name, layer in tiny.named_modules() if list(layer.parameters(recurse=False))}
    called = set()
    for name in owners:
        tiny.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    tiny(images())
    assert called == owners
    leaves = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm)
    own = {name for name in owners if not isinstance(tiny.get_submodule(name), leaves)}
    parts = ("levels.2.blocks.0", "levels.2.blocks.0.mixer", "levels.3.blocks.0")
    assert own == set(parts), "of gamma_1 and gamma_2, and of A_log and D"


def test_grad_cam_on_a_stage(tiny):
    """Forward and full backward hooks see the stage's map and its gradient."""
    seen: dict[str, Tensor] = {}
    stage = tiny.levels[3]
    stage.register_forward_hook(lambda _, inputs, map_: seen.update(map=map_))
    stage.register_full_backward_hook(lambda _, inputs, gradients: seen.update(gradient=gradients[0]))
    tiny(images())[:, 3].sum().backward()
    feature_map = tiny.forward_features(images()).stages[3]
    assert_close("map", seen["map"], feature_map)
    (gradient,) = torch.autograd.grad(tiny.head(tiny.norm(feature_map).mean((2, 3)))[:, 3].sum(), feature_map)
    assert_close("gradient", seen["gradient"], gradient)
    cam = (seen["gradient"].mean((2, 3), keepdim=True) * seen["map"]).sum(1).relu()
    assert cam.shape == (2, 2, 2)
    assert cam.any()


def test_forward_pre_hook_changes_the_input(tiny):
    expected = tiny(2 * images())
    tiny.patch_embed.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    assert torch.equal(tiny(images()), expected)


# --- other layers


@pytest.mark.parametrize(
    ("head", "classes"),
    [(nn.Identity(), 128), (nn.Sequential(nn.Dropout(0.2), nn.Linear(128, 5)), 5), (nn.Linear(128, 5), 5)],
    ids=["none", "sequence", "linear"],
)
def test_another_head(tiny, head, classes):
    pooled, tiny.head = tiny.forward_features(images()).pooled, head.eval()
    assert_close("scores", tiny(images()), head(pooled))
    assert tiny(images()).shape == (2, classes)


def test_another_stem_takes_its_own_channels(tiny):
    tiny.patch_embed.conv_down[0] = nn.Conv2d(5, 8, 3, stride=2, padding=1)
    assert tiny(images(channels=5)).shape == (2, 10)
    with pytest.raises(ValueError, match=r"\(batch, 5, height, width\), got shape \(2, 3, 64, 64\)"):
        tiny(images())
    tiny.patch_embed = nn.Sequential(nn.Conv2d(4, 16, 4, 4))
    assert tiny(images(channels=4)).shape == (2, 10)


class Doubled(nn.Module):
    """A wrapper around any layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.layer(x)


def test_a_layer_wrapped_in_place(tiny):
    place = tiny.levels[3].blocks[0].mlp
    expected = copy.deepcopy(tiny)
    with torch.no_grad():
        expected.levels[3].blocks[0].mlp.fc2.weight.mul_(2)
        expected.levels[3].blocks[0].mlp.fc2.bias.mul_(2)
    place.fc2 = Doubled(place.fc2)
    assert_close("scores", tiny(images()), expected(images()))


def test_blocks_may_be_taken_out(tiny):
    tiny.levels[0].blocks = nn.ModuleList()
    tiny.levels[3].blocks = nn.Sequential(*tiny.levels[3].blocks, nn.Identity())
    assert tiny(images()).shape == (2, 10)


# --- weights computed from others


class LowRank(nn.Module):
    """A parametrization: a weight and a product of two narrow matrices."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(weight.shape[0], 1))
        self.b = nn.Parameter(torch.ones(1, weight.shape[1]))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.a @ self.b


@pytest.mark.parametrize("name", ["head", "levels.2.blocks.0.mixer.dt_proj", "levels.3.blocks.0.mixer.qkv"])
def test_parametrization(tiny, name):
    expected = copy.deepcopy(tiny)
    with torch.no_grad():
        expected.get_submodule(name).weight.add_(1)
    layer = tiny.get_submodule(name)
    parametrize.register_parametrization(layer, "weight", LowRank(layer.weight))
    scores = tiny(images())
    assert_close("scores", scores, expected(images()), roundings=512)
    scores.sum().backward()
    assert layer.parametrizations.weight[0].a.grad.any()


def test_pruning(tiny):
    tiny.to(memory_format=torch.contiguous_format)  # torch's pruning asks for it
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    expected = copy.deepcopy(tiny)
    for layer in tiny.modules():
        if isinstance(layer, kinds):
            prune.l1_unstructured(layer, "weight", amount=0.5)
    masks = dict(tiny.named_buffers())
    with torch.no_grad():
        for name, layer in expected.named_modules():
            if isinstance(layer, kinds):
                layer.weight.mul_(masks[f"{name}.weight_mask"])
    assert_close("scores", tiny(images()), expected(images()))


# --- LoRA


@pytest.mark.parametrize(
    ("options", "wrapped"),
    [
        ({"target_modules": ["qkv", "in_proj", "dt_proj"]}, 3),
        ({"target_modules": r"levels\.3\..*\.mlp\.fc[12]"}, 2),
        ({"target_modules": "all-linear"}, 11),
        ({"target_parameters": ["mixer.qkv.weight"]}, 1),
    ],
    ids=["names", "expression", "all-linear", "parameters"],
)
def test_lora(tiny, options, wrapped):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    before, scores = {name: t.clone() for name, t in tiny.state_dict().items()}, tiny(images())
    model = peft.get_peft_model(tiny, peft.LoraConfig(r=2, **options))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * wrapped
    assert torch.equal(model(images()), scores), "LoRA starts as nothing"
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=10.0)
    for _ in range(2):  # B is zero at first, and A has no gradient then
        model(images()).square().sum().backward()
        optimizer.step()
    changed = model(images())
    assert not torch.allclose(changed, scores)
    merged = model.merge_and_unload()
    assert isinstance(merged, MambaVision)
    assert_close("scores", merged(images()), changed, roundings=512)
    moved = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, before[name])}
    assert len(moved) == wrapped


# --- quantized weights


EIGHT_BITS = 2 * 2**-7  # of each weight and each input, a few times over


def test_dynamic_quantization(tiny):
    """torch's int8 layers, whose bias is returned by a method."""
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(tiny), {nn.Linear})
    kinds = [type(layer) for layer in quantized.modules()]
    assert kinds.count(torch.ao.nn.quantized.dynamic.Linear) == sum(isinstance(m, nn.Linear) for m in tiny.modules())
    error = relative_error(quantized(images()), tiny(images()))
    assert 0 < error < 4 * EIGHT_BITS


def test_int8_weights_of_torchao(tiny):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    expected = tiny(images())
    quantization.quantize_(tiny, quantization.Int8WeightOnlyConfig())
    assert "Int8" in type(tiny.head.weight).__name__ + type(tiny.head.weight.data).__name__
    error = relative_error(tiny(images()), expected)
    assert 0 < error < 2 * EIGHT_BITS


# --- graphs


@pytest.mark.versions
def test_symbolic_trace(tiny):
    traced = torch.fx.symbolic_trace(tiny)
    assert torch.equal(traced(images()), tiny(images()))
    assert torch.equal(traced(images(5)[..., :33]), tiny(images(5)[..., :33])), "of any batch and size"
    calls = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {"levels.2.blocks.0.mixer.in_proj", "levels.0.blocks.0.norm1", "head"} <= calls


def test_feature_extraction(tiny):
    extraction = pytest.importorskip("torchvision.models.feature_extraction", reason="torchvision is not installed")
    stages = ("levels.0.blocks", "levels.1.blocks", "levels.2.permute_1", "levels.3")
    projection = "levels.2.blocks.0.mixer.x_proj"
    found = extraction.create_feature_extractor(tiny, [*stages, "levels.0", projection])(images())
    maps = tiny.forward_features(images()).stages
    for name, expected in zip(stages, maps, strict=True):
        assert torch.equal(found[name], expected), name
    down = tiny.levels[0].downsample(maps[0])
    assert torch.equal(found["levels.0"], down), "torchvision takes the last result below a name"
    assert found[projection].shape == (2 * 4, 4, 4 + 2 * 8)


def training_step(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by the names of the unwrapped model."""
    model.train()
    model.zero_grad()
    model(images(4)).square().sum().backward()
    return {name.replace("_checkpoint_wrapped_module.", ""): p.grad for name, p in model.named_parameters()}


def test_checkpointing_by_stage(tiny):
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as wrapping

    expected = training_step(copy.deepcopy(tiny))
    stages = (layers.ConvStage, layers.TokenStage)
    wrapping.apply_activation_checkpointing(tiny, check_fn=lambda layer: isinstance(layer, stages))
    assert sum(isinstance(layer, wrapping.CheckpointWrapper) for layer in tiny.modules()) == 4
    for name, gradient in training_step(tiny).items():
        assert_close(name, gradient, expected[name], roundings=256)


@pytest.mark.slow
def test_a_changed_model_compiles_in_one_graph(tiny):
    """A hook, another head, LoRA on what passes join, and a parametrization."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = peft.get_peft_model(tiny, peft.LoraConfig(r=2, target_modules=["in_proj", "dt_proj"])).eval()
    nn.init.ones_(model.get_submodule("base_model.model.levels.2.blocks.0.mixer.dt_proj.lora_B.default").weight)
    tiny.head = nn.Sequential(nn.ReLU(), nn.Linear(128, 5))
    projection = tiny.levels[3].blocks[0].mixer.proj
    parametrize.register_parametrization(projection, "weight", LowRank(projection.weight))
    tiny.levels[1].register_forward_hook(lambda _, inputs, map_: 2 * map_)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="mvc", fullgraph=True)
        assert_close("scores", compiled(images()), model(images()), roundings=512)


# --- copies


def test_average_of_a_model(tiny):
    averaged = torch.optim.swa_utils.AveragedModel(
        tiny, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.75), use_buffers=True
    )
    averaged.update_parameters(tiny)  # the first one copies
    start = copy.deepcopy(tiny.state_dict())
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.add_(0.25)
    averaged.update_parameters(tiny)
    for name, parameter in averaged.module.named_parameters():
        assert_close(name, parameter, start[name] + 0.0625)
    assert torch.equal(averaged(images()), averaged.module(images()))


# --- two processes


def test_conversion_to_synchronized_batch_norm_and_fsdp_in_two_processes():
    multiprocessing.spawn(_process, args=(_free_port(), _on_a_cpu), nprocs=2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: SyncBatchNorm does not train on a CPU")
def test_synchronized_batch_norm_in_two_processes():
    multiprocessing.spawn(_process, args=(_free_port(), _statistics_on_a_gpu), nprocs=2)


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _process(rank: int, port: int, check: Callable[[MambaVision, int], None]) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        model = create_model("tiny", layer_scale=0.5, **EACH_KIND_ONCE).eval()
        check(model, rank)
    finally:
        torch.distributed.destroy_process_group()


def _on_a_cpu(model: MambaVision, rank: int) -> None:
    _converted(copy.deepcopy(model))
    _sharded(model, rank)


def _statistics_on_a_gpu(model: MambaVision, rank: int) -> None:
    """Of half of the images in each process, those of the whole batch."""
    whole = copy.deepcopy(model).cuda().train()
    whole(images(4).cuda())
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).cuda().train()
    model(images(4).chunk(2)[rank].cuda())
    for (name, actual), expected in zip(model.named_buffers(), whole.buffers(), strict=True):
        assert_close(name, actual.double(), expected.double(), roundings=2**32)


def _converted(model: MambaVision) -> None:
    expected, names = model(images()), list(model.state_dict())
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert sum(isinstance(layer, nn.SyncBatchNorm) for layer in model.modules()) == norms == 7
    assert list(model.state_dict()) == names
    assert torch.equal(model(images()), expected)
    with pytest.raises(ValueError, match="SyncBatchNorm expected input tensor to be on"):
        model.train()(images())  # torch's own layer runs on accelerators alone, and says so


def _sharded(model: MambaVision, rank: int) -> None:
    """Each process has half of the images and of every tensor; gradients are the means over both."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model(images(4)).square().mean().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.to(memory_format=torch.contiguous_format)  # FSDP2 asks for it
    mesh = init_device_mesh("cpu", (2,))
    for stage in model.levels:
        for block in stage.blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model(images(4).chunk(2)[rank]).square().mean().backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.full_tensor()
        assert_close(name, gradient, expected[name], roundings=1024)
