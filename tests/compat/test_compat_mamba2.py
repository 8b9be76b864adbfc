"""mamba-ssm's Mamba2 module: its parameters, and its forward and step against the block written out in tests of ssd."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from scan_cases import assert_within_budget
from torch.nn import functional as F

from mvc.compat.mamba2 import Mamba2
from mvc.compat.ssd import mamba_chunk_scan_combined

SIZES = {"d_model": 6, "d_state": 5, "headdim": 3, "chunk_size": 4}
LENGTHS = [3, 1, 5]
VARIANTS = {
    "default": {},
    "groups": {"ngroups": 2, "dt_limit": (0.01, 0.05), "bias": True},
    "no norm": {"rmsnorm": False, "D_has_hdim": True, "conv_bias": False},
    "gated MLP": {"d_ssm": 6, "norm_before_gate": True, "conv_init": 0.1},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def make(**options) -> Mamba2:
    torch.manual_seed(0)
    module = Mamba2(**SIZES | options)
    with torch.no_grad():
        for parameter in module.parameters():  # so that no D and no weight of a norm is one
            parameter.add_(torch.rand_like(parameter) / 2)
    return module


def hidden(length: int = 9, batch: int = 2, **options) -> torch.Tensor:
    return torch.randn(batch, length, SIZES["d_model"], generator=torch.Generator().manual_seed(1), **options)


def written_out(module: Mamba2, u: torch.Tensor) -> torch.Tensor:
    """The block of whole sequences, step by step, in the dtype of the module."""
    mlp, groups, states = module.d_inner - module.d_ssm, module.ngroups, module.d_state
    weights = groups * states
    sizes = (mlp, mlp, module.d_ssm, module.d_ssm + 2 * weights, module.nheads)
    gate, value, z, xBC, dt = module.in_proj(u).split(sizes, dim=-1)
    xBC = F.silu(module.conv1d(xBC.transpose(1, 2))[..., : u.shape[1]]).transpose(1, 2)
    x, B, C = xBC.split((module.d_ssm, weights, weights), dim=-1)
    x, D = x.unflatten(-1, (module.nheads, -1)), module.D.view(module.nheads, -1)
    B, C = (t.unflatten(-1, (groups, -1)).repeat_interleave(module.nheads // groups, 2) for t in (B, C))
    dt = F.softplus(dt + module.dt_bias).clamp(*module.dt_limit)
    state, ys = 0, []
    for t in range(u.shape[1]):
        step = dt[:, t, :, None, None]
        drive = step * x[:, t, :, :, None] * B[:, t, :, None]
        state = torch.exp(-step * module.A_log.exp()[:, None, None]) * state + drive
        ys.append((state * C[:, t, :, None]).sum(-1) + D * x[:, t])
    y = torch.stack(ys, dim=1).flatten(2)
    y = module.norm(y, z) if module.rmsnorm else y * F.silu(z)
    return module.out_proj(torch.cat((F.silu(gate) * value, y.to(gate.dtype)), dim=-1))


def test_parameters_are_those_of_mamba_ssm():
    shapes = {name: tuple(t.shape) for name, t in Mamba2(64, d_state=16, headdim=32, ngroups=2).state_dict().items()}
    assert shapes == {
        "dt_bias": (4,),
        "A_log": (4,),
        "D": (4,),
        "in_proj.weight": (2 * 128 + 2 * 2 * 16 + 4, 64),
        "conv1d.weight": (128 + 64, 1, 4),
        "conv1d.bias": (128 + 64,),
        "norm.weight": (128,),
        "out_proj.weight": (64, 128),
    }
    assert list(shapes)[:4] == ["dt_bias", "A_log", "D", "in_proj.weight"]
    marked = [name for name, t in Mamba2(64).named_parameters() if getattr(t, "_no_weight_decay", False)]
    assert marked == ["dt_bias", "A_log", "D"]
    half = Mamba2(64, dtype=torch.bfloat16)
    assert half.A_log.dtype == half.dt_bias.dtype == torch.bfloat16
    assert half.D.dtype == torch.float32


def test_initial_values():
    torch.manual_seed(0)
    module = Mamba2(64, headdim=1, A_init_range=(2, 3), dt_min=0.01, dt_max=0.2, dt_init_floor=0.02, conv_init=0.01)
    delta, rates = F.softplus(module.dt_bias), module.A_log.exp()
    assert 0.0199 < delta.min() < 0.021
    assert 0.18 < delta.max() < 0.2001
    above = delta[delta > 0.021].log()  # log-uniform above the floor
    assert abs(above.mean() - (math.log(0.021) + math.log(0.2)) / 2) < 0.15
    assert 2 <= rates.min() < 2.1
    assert 2.9 < rates.max() <= 3
    assert module.conv1d.weight.abs().max() <= 0.01
    assert (module.D == 1).all()


@variants
def test_forward_and_gradients_are_those_of_the_formulas(variant):
    module, u = make(**variant, dtype=torch.float64).double(), hidden(dtype=torch.float64)
    runs = []
    for forward in (module, lambda u: written_out(module, u)):
        leaves = (u.clone().requires_grad_(), *module.parameters())
        y = forward(leaves[0])
        runs.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    for name, actual, expected in zip(("y", "u", *dict(module.named_parameters())), *runs, strict=True):
        torch.testing.assert_close(actual, expected, msg=lambda text, name=name: f"{name}: {text}")


@variants
def test_steps_after_a_prompt_are_the_sequence(variant):
    module, u = make(**variant, layer_idx=3), hidden()
    expected = module(u)
    for prompt in (2, 6):  # fewer steps than the convolution is wide, and more
        cache = SimpleNamespace(key_value_memory_dict={}, max_seqlen=9, seqlen_offset=0)
        outputs = [module(u[:, :prompt], inference_params=cache)]
        for t in range(prompt, 9):
            cache.seqlen_offset = t
            outputs.append(module(u[:, t : t + 1], inference_params=cache))
        torch.testing.assert_close(torch.cat(outputs, dim=1), expected)
        conv_state, ssm_state = cache.key_value_memory_dict[3]
        assert conv_state.shape == (2, module.conv1d.weight.shape[0], 4)
        assert ssm_state.shape == (2, module.nheads, 3, 5)
        assert not conv_state.requires_grad
        assert not ssm_state.requires_grad


def test_steps_alone_are_the_sequence():
    module, u = make(ngroups=2), hidden()
    states = module.allocate_inference_cache(2, 9)
    outputs = [module.step(u[:, t : t + 1], *states)[0] for t in range(9)]
    torch.testing.assert_close(torch.cat(outputs, dim=1), module(u))


@pytest.mark.parametrize("form", ["seq_idx", "cu_seqlens", "both"])
def test_packed_sequences_do_not_see_each_other(form):
    module, u = make(), hidden(batch=1)
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    packed = {"cu_seqlens": offsets, "seq_idx": torch.tensor([0, 0, 0, 4, 2, 2, 2, 2, 2])[None]}
    packed = packed if form == "both" else {form: packed[form]}
    alone = torch.cat([module(part) for part in u.split(LENGTHS, dim=1)], dim=1)
    torch.testing.assert_close(module(u, **packed), alone)


def test_layers_are_called_as_modules():
    module, seen = make(), []
    for name in ("in_proj", "norm", "out_proj"):
        getattr(module, name).register_forward_hook(lambda *_, name=name: seen.append(name))
    module(hidden())
    assert seen == ["in_proj", "norm", "out_proj"]


def test_packed_prompts_have_a_state_each():
    module, u = make(layer_idx=0), hidden(batch=1)
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    packed, alone = (SimpleNamespace(key_value_memory_dict={}, max_seqlen=9, seqlen_offset=0) for _ in range(2))
    y = module(u, cu_seqlens=offsets, inference_params=packed)
    torch.testing.assert_close(y, module(u, cu_seqlens=offsets))
    for index, part in enumerate(u.split(LENGTHS, dim=1)):
        alone.key_value_memory_dict.clear()
        module(part, inference_params=alone)
        for actual, expected in zip(packed.key_value_memory_dict[0], alone.key_value_memory_dict[0], strict=True):
            torch.testing.assert_close(actual[index : index + 1], expected)


def test_flat_batches_are_decoded_flat():
    module, u = make(layer_idx=0), hidden()
    cache = SimpleNamespace(key_value_memory_dict={}, max_seqlen=9, seqlen_offset=0)
    module(u[:, :8].flatten(0, 1), seqlen=8, inference_params=cache)
    cache.seqlen_offset = 8
    torch.testing.assert_close(module(u[:, 8], seqlen=1, inference_params=cache), module(u)[:, 8])


def test_flat_batches_autocast_and_compiled_code():
    module, u = make(), hidden()
    expected = module(u)
    torch.testing.assert_close(module(u.flatten(0, 1), seqlen=9), expected.flatten(0, 1))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(u), expected)
    with torch.autocast("cpu", torch.bfloat16):
        y, baseline = module(u), written_out(module, u)
    assert y.dtype == torch.bfloat16
    assert_within_budget(y, written_out(copy.deepcopy(module).double(), u.double()), baseline, "autocast")
    half, u = copy.deepcopy(module).bfloat16(), u.bfloat16()
    half.A_log.data, half.dt_bias.data = module.A_log.data, module.dt_bias.data
    oracle = written_out(copy.deepcopy(half).double(), u.double())
    assert_within_budget(half(u), oracle, written_out(half, u), "half precision")


def test_compiled_scan_is_one_op():
    graphs = []
    inputs = (torch.randn(1, 5, 2, 3), torch.rand(1, 5, 2), -torch.ones(2), *torch.randn(2, 1, 5, 1, 4))
    scan = torch.compile(mamba_chunk_scan_combined, fullgraph=True, backend=lambda gm, _: graphs.append(gm) or gm)
    torch.testing.assert_close(scan(*inputs, 4), mamba_chunk_scan_combined(*inputs, 4))
    scans = [node for node in graphs[0].graph.nodes if node.target is torch.ops.mvc.selective_scan.default]
    assert len(scans) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process_group": object()}, "process_group is a object; it must be None: mvc has no tensor-parallel Mamba2"),
        ({"headdim": 5}, "headdim is 5; it must be a divisor of the scan's 12 features"),
        ({"ngroups": 3}, "ngroups is 3"),
        ({"d_ssm": 15}, "d_ssm is 15; it must be at most expand [*] d_model, 12"),
        ({"d_ssm": 0}, "d_ssm is 0; it must be a whole number of at least 1"),
        ({"headdim": 0}, "headdim is 0; it must be a whole number of at least 1"),
        ({"ngroups": 0}, "ngroups is 0"),
        ({"expand": 1.5}, "expand is 1.5; it must be a whole number of at least 1"),
        ({"d_state": 257}, "d_state is 257; it must be a whole number from 1 to 256"),
        ({"A_init_range": (0, 1)}, "A_init_range"),
        ({"A_init_range": (1,)}, r"A_init_range is \(1,\); it must be two positive numbers, the smaller one first"),
        ({"dt_min": 0}, r"\(dt_min, dt_max\) is \(0, 0.1\)"),
    ],
)
def test_malformed_constructions(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_malformed_calls():
    module, cache = make(), SimpleNamespace(key_value_memory_dict={}, max_seqlen=9, seqlen_offset=0)
    with pytest.raises(ValueError, match=r"u must be \(batch, length, 6\), got shape \(2, 9, 5\)"):
        module(hidden()[..., :5])
    with pytest.raises(ValueError, match="layer_idx is None"):
        module(hidden(), inference_params=cache)
    module.layer_idx = 0
    module(hidden(), inference_params=cache)
    with pytest.raises(ValueError, match="states of 2 sequences, and this call has 1"):
        module(hidden(batch=1), inference_params=cache)  # its states would be copied to both
    with pytest.raises(ValueError, match="the length of hidden_states is 2"):
        module.step(hidden(2), *module.allocate_inference_cache(2, 9))
