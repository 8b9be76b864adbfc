"""Models that others wrote: every scan in them is found, and computes what it did."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn
from toy_passes import all_passes

from mvc.passes import pipeline
from mvc.passes.graph.fx_utils import op_counts

transformers = pytest.importorskip("transformers")

LAYERS = 2
LENGTH = 7
TOKENS = torch.arange(2 * LENGTH).reshape(2, LENGTH) * 7 % 31
COMMON = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": LAYERS, "use_cache": False}
MODELS = {
    "Mamba": {"state_size": 4},
    "FalconMamba": {"state_size": 4},
    "Jamba": {
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "attn_layer_period": 8,
        "attn_layer_offset": 7,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "use_mamba_kernels": False,
        "pad_token_id": 0,
    },
}


def build(name: str, form: str) -> nn.Module:
    torch.manual_seed(0)
    configuration = getattr(transformers, f"{name}Config")
    config = configuration(**COMMON, **MODELS[name], use_associative_scan=form == "associative_scan")
    return getattr(transformers, f"{name}ForCausalLM")(config)


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens, use_cache=False).logits


def raised(model: nn.Module) -> tuple[nn.Module, list[Counter[str]]]:
    """The model with its graph rewritten by all passes and run as it is; the calls of each graph."""
    graphs = []

    def backend(graph_module, inputs):
        pipeline.run(all_passes(), graph_module, strict=True)
        graphs.append(op_counts(graph_module.graph))
        return graph_module.forward

    torch.compiler.reset()
    return torch.compile(model, backend=backend, fullgraph=True), graphs


def results(run, model: nn.Module, *, training: bool) -> dict[str, torch.Tensor]:
    """The logits, and in training each parameter's gradient."""
    if not training:
        with torch.no_grad():
            return {"logits": run(TOKENS)}
    model.zero_grad()
    logits = run(TOKENS)
    logits.float().square().mean().backward()
    return {"logits": logits.detach(), **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30))


@pytest.mark.parametrize(
    ("training", "dtype"),
    [(False, torch.float32), (True, torch.float32), (True, torch.bfloat16)],
    ids=["forward", "training", "training-bfloat16"],
)
@pytest.mark.parametrize("form", ["loop", "associative_scan"])
@pytest.mark.parametrize("name", MODELS)
def test_every_mixer_becomes_one_scan(name, form, dtype, training):
    """Within four times the error that eager has in this dtype against float64, and one rounding."""
    model = Logits(build(name, form)).train(training).to(dtype)
    oracle = copy.deepcopy(model).double()
    expected = results(oracle, oracle, training=training)
    eager = results(model, model, training=training)
    run, graphs = raised(model)
    actual = results(run, model, training=training)
    (calls,) = graphs
    scans = {op: count for op, count in calls.items() if op.startswith("mvc.")}
    assert sum(scans.values()) == LAYERS, f"{scans} of {LAYERS} mixers"
    assert all(op.startswith("mvc.selective_scan") for op in scans)
    assert calls.keys().isdisjoint({"associative_scan", "scan", "_vmap_increment_nesting"})
    assert actual.keys() == expected.keys()
    typical = sorted(distance(eager[key], expected[key]) for key in expected)[len(expected) // 2]
    for key, tensor in expected.items():
        budget = 4 * max(distance(eager[key], tensor), typical) + torch.finfo(dtype).eps
        assert distance(actual[key], tensor) <= budget, key
