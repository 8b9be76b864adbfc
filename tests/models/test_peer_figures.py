"""Vim and VMamba compute what the published models do, on weights and images that can be rebuilt anywhere."""

from __future__ import annotations

import re

import golden
import golden_peers
import pytest
import torch
from torch import Tensor, nn

from mvc.models.vim import Vim
from mvc.models.vmamba import VMamba

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
    pooled = model.forward_features(x)
    return found | {"pooled": pooled, "logits": model.head(pooled)}


def vmamba_arrays(model: VMamba, x: Tensor) -> dict[str, Tensor]:
    """What the figures of VMamba hold, whole maps under their names."""
    stages, pooled = model.forward_features(x)
    maps = {f"stage{stage}": each for stage, each in enumerate(stages)}
    return {"embed": model.patch_embed(x), **maps, "pooled": pooled, "logits": model.classifier.head(pooled)}


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
