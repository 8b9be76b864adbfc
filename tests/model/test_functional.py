"""Each part of the network against a plain restatement in float64, and what windows, forms and training promise."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvc.kernels.scan import reference
from mvc.model import network, windows
from mvc.model.config import MIXER_FORMS, get_config
from mvc.model.functional import Bound, without_values
from mvc.model.module import create_model

CONFIG = get_config("tiny", layer_scale=0.5)
STAGE = 2  # of 64 channels, two heads, and windows of 2 x 2 tokens


def random_params(config=CONFIG, dtype=torch.float64) -> dict[str, Tensor]:
    """Every tensor drawn anew, so that no bias, gamma or statistic is at a value that hides it."""
    generator = torch.Generator().manual_seed(0)
    tensors = create_model(config, device="meta").tensors()
    params = {name: 0.3 * torch.randn(t.shape, generator=generator, dtype=dtype) for name, t in tensors.items()}
    for name, tensor in params.items():
        if name.endswith("running_var"):
            params[name] = tensor.abs() + 0.5
    return params


def random_input(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def part(params: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A part's tensors by their names within it, as `load_state_dict` wants them."""
    return {name.removeprefix(prefix + "."): t for name, t in params.items() if name.startswith(prefix + ".")}


def bound(params: dict[str, Tensor], name: str = "", config=CONFIG, *, training: bool = False) -> Bound:
    """A part of the network with tensors of `params`."""
    return Bound(without_values(config).get_submodule(name), params, f"{name}.", training)


def load(module: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    module.double().eval().load_state_dict(tensors, strict=True)
    return module


def assert_equal(name: str, actual: Tensor, expected: Tensor) -> None:
    """Equal but for the rounding of sums taken in another order."""
    eps = torch.finfo(expected.dtype).eps
    error = (actual - expected).abs().max().item()
    budget = 100 * eps * max(1.0, expected.abs().max().item())
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} against {tuple(expected.shape)}"
    assert error <= budget, f"{name} is off by {error:.3g}, budget {budget:.3g}"


MAPS = [(4, 4, 2), (5, 4, 2), (4, 7, 2), (5, 7, 3), (3, 3, 4), (6, 9, 3), (1, 1, 2), (7, 7, 7)]
MAP_IDS = [f"{height}x{width}-window{window}" for height, width, window in MAPS]


@pytest.mark.parametrize(("height", "width", "window"), MAPS, ids=MAP_IDS)
def test_windows_are_cut_row_by_row_and_put_back(height, width, window):
    x = random_input(2, height, width, 3)
    tokens, (rows, columns) = windows.window_partition(x, (window, window))
    assert (rows, columns) == (math.ceil(height / window), math.ceil(width / window))
    padded = torch.zeros(2, rows * window, columns * window, 3, dtype=x.dtype)
    padded[:, :height, :width] = x
    expected = [
        padded[b, r * window : (r + 1) * window, c * window : (c + 1) * window].reshape(-1, 3)
        for b in range(2)
        for r in range(rows)
        for c in range(columns)
    ]
    assert torch.equal(tokens, torch.stack(expected))
    assert torch.equal(windows.window_reverse(tokens, (window, window), (rows, columns), height, width), x)


def stage_output(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return bound(params, f"levels.{STAGE}")(x)


def test_scan_and_attention_never_cross_a_window():
    params, x = random_params(), random_input(2, 64, 5, 6)
    changed = x.clone()
    changed[1, :, 2:4, 4:6] += 1.0
    moved = (stage_output(params, changed) - stage_output(params, x)).abs().amax(1) > 1e-12
    window = torch.zeros_like(moved)
    window[1, 2:4, 4:6] = True
    assert torch.equal(moved, window)


def test_padded_tokens_take_part():
    """A map of one token is computed as the whole window with zeros around it, and differently from the token alone."""
    params, x = random_params(), random_input(1, 64, 1, 1)
    whole = stage_output(params, F.pad(x, (0, 1, 0, 1)))
    assert_equal("stage", stage_output(params, x), whole[:, :, :1, :1])
    alone = dataclasses.replace(CONFIG, window_sizes=(1, 1))
    without = bound(params, f"levels.{STAGE}", alone)(x)
    assert (without - whole[:, :, :1, :1]).abs().max() > 1e-3


def test_stem():
    params, x = random_params(), random_input(2, 3, 37, 42)
    conv_down = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8, eps=1e-4),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16, eps=1e-4),
        nn.ReLU(),
    )
    name = "patch_embed.conv_down"
    assert_equal("stem", bound(params, "patch_embed")(x), load(conv_down, part(params, name))(x))


def test_conv_block():
    params, x, name = random_params(), random_input(2, 16, 9, 7), "levels.0.blocks.0"
    block = nn.ModuleDict(
        {
            "conv1": nn.Conv2d(16, 16, 3, padding=1),
            "norm1": nn.BatchNorm2d(16, eps=1e-5),
            "conv2": nn.Conv2d(16, 16, 3, padding=1),
            "norm2": nn.BatchNorm2d(16, eps=1e-5),
        }
    )
    load(block, part(params, name))
    inner = nn.GELU(approximate="tanh")(block["norm1"](block["conv1"](x)))
    expected = x + block["norm2"](block["conv2"](inner))
    assert_equal("conv_block", bound(params, name)(x), expected)


def test_attention():
    params, x, name = random_params(), random_input(3, 4, 64), "levels.2.blocks.1.mixer"
    qkv = F.linear(x, params[f"{name}.qkv.weight"], params[f"{name}.qkv.bias"])
    q, k, v = qkv.reshape(3, 4, 3, 2, 32).permute(2, 0, 3, 1, 4)
    heads = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(32), dim=-1) @ v
    expected = F.linear(
        heads.transpose(1, 2).reshape(3, 4, 64), params[f"{name}.proj.weight"], params[f"{name}.proj.bias"]
    )
    assert_equal("attention", bound(params, name)(x), expected)


def test_mlp_uses_the_exact_gelu():
    params, x, name = random_params(), random_input(3, 4, 64), "levels.2.blocks.0.mlp"
    mlp = nn.ModuleDict({"fc1": nn.Linear(64, 256), "fc2": nn.Linear(256, 64)})
    load(mlp, part(params, name))
    hidden = mlp["fc1"](x)
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    assert_equal("mlp", bound(params, name)(x), mlp["fc2"](gelu))


def plain_mixer(params: dict[str, Tensor], name: str, x: Tensor, form: str) -> Tensor:
    """The mixer as the paper has it, with the published code's second bias, on torch's own conv1d and the oracle."""
    p = part(params, name)
    two_branches = form in ("concat", "gated")
    projected = F.linear(x, p["in_proj.weight"]).transpose(1, 2)
    halves = projected.chunk(2, dim=1) if two_branches else (projected,)

    def branch(half: Tensor, weight: Tensor) -> Tensor:
        half = F.pad(half, (2, 0) if form == "causal" else (1, 1))
        return F.silu(F.conv1d(half, weight, groups=half.shape[1])).transpose(1, 2)

    u = branch(halves[0], p["conv1d_x.weight"])
    rank = p["dt_proj.weight"].shape[1]
    dt, B, C = F.linear(u, p["x_proj.weight"]).split((rank, 8, 8), dim=-1)
    y, _ = reference.selective_scan(
        u,
        F.linear(dt, p["dt_proj.weight"], p["dt_proj.bias"]),
        -torch.exp(p["A_log"]),
        B.unsqueeze(2),
        C.unsqueeze(2),
        p["D"],
        None,  # z
        p["dt_proj.bias"],
        None,  # initial_state
        None,  # reset
        True,
        False,
    )
    if form == "concat":
        y = torch.cat((y, branch(halves[1], p["conv1d_z.weight"])), dim=-1)
    elif form == "gated":
        y = y * branch(halves[1], p["conv1d_z.weight"])
    return F.linear(y, p["out_proj.weight"])


@pytest.mark.parametrize("form", MIXER_FORMS)
def test_mixer(form):
    config = dataclasses.replace(CONFIG, mixer=form)
    params, x, name = random_params(config), random_input(3, 9, 64), "levels.2.blocks.0.mixer"
    assert_equal(form, bound(params, name, config)(x), plain_mixer(params, name, x, form))


@pytest.mark.parametrize("form", MIXER_FORMS)
def test_only_the_causal_form_never_looks_ahead(form):
    config = dataclasses.replace(CONFIG, mixer=form)
    params, x = random_params(config), random_input(1, 9, 64)
    later = x.clone()
    later[:, 5:] += 1.0
    before, after = (bound(params, "levels.2.blocks.0.mixer", config)(t) for t in (x, later))
    moved = ((before - after).abs().amax((0, 2)) > 1e-9).tolist()
    first = 5 if form == "causal" else 4  # a convolution of three taps looks one token ahead
    assert moved == [token >= first for token in range(9)]


@pytest.mark.parametrize("block", [0, 1], ids=["mixer", "attention"])
def test_token_block(block):
    params, x, name = random_params(), random_input(3, 4, 64), f"levels.2.blocks.{block}"
    norms = {norm: load(nn.LayerNorm(64, eps=1e-5), part(params, f"{name}.{norm}")) for norm in ("norm1", "norm2")}
    y = bound(params, f"{name}.mixer")(norms["norm1"](x))
    expected = x + params[f"{name}.gamma_1"] * y
    expected = expected + params[f"{name}.gamma_2"] * bound(params, f"{name}.mlp")(norms["norm2"](expected))
    actual = bound(params, name)(x)
    assert_equal("token_block", actual, expected)


def test_layer_scale_only_where_there_is_a_gamma():
    x, gamma = random_input(2, 3, 4), random_input(4)
    assert torch.equal(network.layer_scale(x, gamma), x * gamma)
    assert network.layer_scale(x, None) is x


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    samples, rate = 4000, 0.3
    dropped = network.drop_path(torch.ones(samples, 2, 3, dtype=torch.float64), rate, True)
    per_sample = dropped.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(per_sample[:, 0].tolist()) == {0.0, 1 / (1 - rate)}
    standard_error = math.sqrt(rate / (1 - rate) / samples)
    assert dropped.mean().item() == pytest.approx(1.0, abs=5 * standard_error)


def test_drop_path_is_nothing_in_evaluation_or_at_rate_zero():
    x = random_input(4, 3)
    assert network.drop_path(x, 0.5, False) is x
    assert network.drop_path(x, 0.0, True) is x


@pytest.mark.parametrize("rate", ["drop_rate", "attn_drop_rate"])
def test_dropout_is_active_in_training_alone(rate):
    config = dataclasses.replace(CONFIG, **{rate: 0.5})
    params, x, name = random_params(), random_input(3, 4, 64), "levels.2.blocks.1"

    def run(training: bool, config=config) -> Tensor:
        torch.manual_seed(0)
        y = bound(params, f"{name}.mixer", config, training=training)(x)
        return bound(params, f"{name}.mlp", config, training=training)(y)

    assert torch.equal(run(False), run(False, CONFIG))
    assert not torch.allclose(run(True), run(False))
