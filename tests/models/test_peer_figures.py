"""Vim and VMamba compute what the published models do, on weights and images that can be rebuilt anywhere."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import golden
import golden_peers
import pytest
import torch
from torch import Tensor, nn

from mvc.model.network import channels_last
from mvc.models.vim import Mixer, Vim
from mvc.models.vmamba import CrossScan, VMamba

TOLERANCE = 1e-5  # of an array's largest value


def cases() -> list[tuple[str, str, tuple[int, int, int]]]:
    """Every model, with "" or "small_", and every (batch, height, width) for which there are figures."""
    found = []
    for name in ("Vim-T", "VMamba-T"):
        for array in golden.figures(name):
            if match := re.fullmatch(r"(|small_)logits_(\d+)x(\d+)x(\d+)", array):
                found.append((name, match[1], tuple(map(int, match.groups()[1:]))))
    return found


def vim_arrays(model: Vim, x: Tensor) -> dict[str, Tensor]:
    """What the figures of Vim hold, whole maps under their names."""
    hidden, residual = model.embed(x), None
    found = {"tokens": hidden}
    for number, layer in enumerate(model.layers, start=1):
        hidden, residual = layer(hidden, residual)
        if number in (1, 12, 24):
            found |= {f"layer{number}_hidden": hidden, f"layer{number}_residual": residual}
    middle = model.config.patches // 2
    pooled = model.norm_f((residual + hidden)[:, middle])
    return found | {"pooled": pooled, "logits": model.head(pooled)}


def vmamba_arrays(model: VMamba, x: Tensor) -> dict[str, Tensor]:
    """What the figures of VMamba hold, whole maps under their names."""
    stages, pooled = model.forward_features(x)
    maps = {f"stage{stage}": each for stage, each in enumerate(stages)}
    return {
        "embed": model.patch_embed(channels_last(x)),
        **maps,
        "pooled": pooled,
        "logits": model.classifier.head(pooled),
    }


ARRAYS = {"Vim-T": vim_arrays, "VMamba-T": vmamba_arrays}


def errors(name: str, prefix: str, size: tuple[int, int, int], arrays: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of each array over its largest figure; shapes are asserted, and that no figure is left out."""
    figures, suffix = golden.figures(name), "x".join(map(str, size))
    of_case = {key for key in figures if key.startswith("small_") == bool(prefix) and key.endswith(suffix)}
    found = {}
    for array, values in arrays.items():
        shape = figures.get(f"{prefix}{array}_shape_{suffix}")
        if shape is not None:
            of_case.remove(f"{prefix}{array}_shape_{suffix}")
            assert list(values.shape) == shape.tolist(), f"{array}: {tuple(values.shape)}, published {shape.tolist()}"
            values = golden.sampled(values)
        of_case.remove(f"{prefix}{array}_{suffix}")
        expected = figures[f"{prefix}{array}_{suffix}"]
        assert values.shape == expected.shape, f"{array}: {tuple(values.shape)} for {tuple(expected.shape)}"
        found[array] = ((values - expected).abs().max() / expected.abs().max()).item()
    assert not of_case, f"figures that nothing was compared with: {of_case}"
    return found


def assert_figures(name: str, prefix: str, size: tuple[int, int, int], arrays: dict[str, Tensor]) -> None:
    found = errors(name, prefix, size, arrays)
    print(f"{name} {prefix}{size}: largest error {max(found.values()):.1e} of the largest value")
    wrong = {array: error for array, error in found.items() if not error <= TOLERANCE}
    assert not wrong, f"beyond {TOLERANCE} of the largest figure: {wrong}"


CASES = [pytest.param(*case, id=f"{case[0]}-{case[1]}{'x'.join(map(str, case[2]))}") for case in cases()]


@torch.no_grad()
@pytest.mark.parametrize(("name", "prefix", "size"), CASES)
def test_eager(name, prefix, size):
    model, x = golden_peers.model(name, small=bool(prefix)), golden.image(*size)
    assert_figures(name, prefix, size, ARRAYS[name](model, x))
    assert torch.equal(model(x), ARRAYS[name](model, x)["logits"])


def vim_parts(model: Vim) -> list[nn.Module]:
    return [model.patch_embed, *model.layers, model.norm_f, model.head]


def vmamba_parts(model: VMamba) -> list[nn.Module]:
    blocks = [block for layer in model.layers for block in layer.blocks]
    ways = [layer.downsample for layer in model.layers if layer.downsample is not None]
    return [model.patch_embed, *blocks, *ways, model.classifier.norm, model.classifier.head]


PARTS = {"Vim-T": (vim_parts, 5), "VMamba-T": (vmamba_parts, 10)}  # and how many of them differ in their code


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", PARTS)
def test_compiled(name, fresh_dynamo):
    """Every part of the network by the backend, blocks of one shape by the same code, since one graph of 24 blocks
    compiles for minutes; all figures, first of the plain weights, then, without compiling, of the small ones.

    Whole networks, frozen and in one graph, are compared with float64 in test_peer_compile.py.
    """
    model, (parts, different) = copy.deepcopy(golden_peers.model(name)), PARTS[name]
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for part in parts(model):
        part.compile(backend="mvc", fullgraph=True, dynamic=False)
    assert_figures(name, "", (2, 224, 224), ARRAYS[name](model, golden.image(2, 224, 224)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == different
    model.load_state_dict(golden_peers.weights(name, small=True))
    with torch._dynamo.config.patch(error_on_recompile=True):
        arrays = ARRAYS[name](model, golden.image(1, 224, 224).expand(2, -1, -1, -1).contiguous())
    assert_figures(name, "small_", (1, 224, 224), {array: values[:1] for array, values in arrays.items()})


Change = Callable[[nn.Module], object]


def every(kind: type[nn.Module], change: Change) -> Change:
    """The change of each part of a kind."""
    return lambda model: [change(part) for part in model.modules() if isinstance(part, kind)]


def set_epsilon(value: float) -> Change:
    return lambda norm: setattr(norm, "eps", value)


def bias_twice(mixer: nn.Module) -> None:
    for bias in (mixer.dt_proj.bias, mixer.dt_proj_b.bias):
        bias.mul_(2)


def class_first(model: nn.Module) -> None:
    """Its position, and the token; it is still read in the middle, where there is a patch then."""
    embed, middle = model.embed, model.config.patches // 2

    def embed_class_first(x: Tensor) -> Tensor:
        tokens = embed(x) - model.pos_embed
        order = [middle, *range(middle), *range(middle + 1, tokens.shape[1])]
        return tokens[:, order] + model.pos_embed

    model.embed = embed_class_first


def other_order_of_routes(op: CrossScan) -> None:
    """Rows, rows from the end, columns, columns from the end."""
    for tensor in (op.x_proj_weight, op.dt_projs_weight, op.dt_projs_bias, op.A_logs, op.Ds):
        routes = tensor.unflatten(0, (4, -1)) if tensor.shape[0] != 4 else tensor
        routes.copy_(routes[[0, 2, 1, 3]])


def pooling_before_norm(model: nn.Module) -> None:
    norm = model.classifier.norm
    model.classifier.norm = nn.Sequential(nn.AdaptiveAvgPool2d(1), norm)


# What is wrong, of which model, on small weights or not, and the least error that README.md of the figures promises.
WRONG = {
    "no halving": ("Vim-T", False, every(Mixer, lambda mixer: mixer.out_proj.weight.mul_(2)), 0.6),
    "bias of the step twice": ("Vim-T", False, every(Mixer, bias_twice), 0.2),
    "class token first": ("Vim-T", False, class_first, 1.0),
    "Vim's epsilon": ("Vim-T", True, every(nn.RMSNorm, set_epsilon(1e-6)), 2e-4),
    "order of the routes": ("VMamba-T", False, every(CrossScan, other_order_of_routes), 0.02),
    "GELU's tanh form": ("VMamba-T", False, every(nn.GELU, lambda gelu: setattr(gelu, "approximate", "tanh")), 1.5e-4),
    "pooling before the norm": ("VMamba-T", False, pooling_before_norm, 0.5),
    # A quarter of the sum is the same to the norm behind it, but for its epsilon, which is then 16 times as large.
    "a quarter of the routes": ("VMamba-T", False, every(CrossScan, lambda op: set_epsilon(16e-5)(op.out_norm)), 2e-5),
    "VMamba's epsilon": ("VMamba-T", True, every(nn.LayerNorm, set_epsilon(1e-6)), 2e-4),
}


@torch.no_grad()
@pytest.mark.parametrize("wrong", WRONG)
def test_the_figures_tell_it_apart(wrong):
    name, small, change, least = WRONG[wrong]
    model, prefix = copy.deepcopy(golden_peers.model(name, small=small)), "small_" if small else ""
    change(model)
    size = (1, 224, 224) if small else (2, 224, 224)
    found = errors(name, prefix, size, ARRAYS[name](model, golden.image(*size)))
    print(f"{wrong}: largest error {max(found.values()):.1e} of the largest value")
    assert max(found.values()) >= least > TOLERANCE
