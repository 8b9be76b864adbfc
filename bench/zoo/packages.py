"""Models and layers of mambapy and transformers. An entry imports its package when it is built."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.zoo.attention import heads
from bench.zoo.entry import HEADS, Entry, Size, sequence

TRANSFORMERS = "huggingface/transformers"
VOCABULARY = 31


def transformers(name: str, build: Callable, inputs: Callable, **expected: Any) -> Entry:
    return Entry(f"transformers' {name}", TRANSFORMERS, build, inputs, needs="transformers", **expected)


def mambapy(size: Size, *, pscan: bool) -> nn.Module:
    package = importlib.import_module("mambapy.mamba")
    return package.Mamba(package.MambaConfig(d_model=size.width, n_layers=1, d_state=size.states, pscan=pscan))


def tokens(size: Size) -> tuple[Tensor]:
    return (torch.randint(VOCABULARY, (size.batch, size.length)),)


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids, use_cache=False).logits


def causal(name: str, options: Callable[[Size], dict[str, Any]]) -> Callable[[Size], nn.Module]:
    """A model of one layer."""

    def build(size: Size) -> nn.Module:
        package = importlib.import_module("transformers")
        common = {"vocab_size": VOCABULARY, "hidden_size": size.width, "num_hidden_layers": 1, "use_cache": False}
        config = getattr(package, f"{name}Config")(**common, pad_token_id=0, **options(size))
        return Logits(getattr(package, f"{name}ForCausalLM")(config))

    return build


TREE = {"use_associative_scan": True}


def mamba(size: Size) -> dict[str, Any]:
    return {"state_size": size.states, "use_associative_scan": False}


def mamba_2(size: Size) -> dict[str, Any]:
    return {
        "num_heads": HEADS,
        "head_dim": size.width,
        "state_size": size.states,
        "n_groups": 1,
        "chunk_size": size.length // 4,
    }


def bamba(size: Size) -> dict[str, Any]:
    return {
        "mamba_n_heads": HEADS,
        "mamba_d_head": size.width,
        "mamba_d_state": size.states,
        "mamba_n_groups": 1,
        "mamba_chunk_size": size.length // 4,
        "attn_layer_indices": [],
        "intermediate_size": size.width,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
    }


class RecurrentGemma(nn.Module):
    """The recurrence's layer alone: the model keeps its states from call to call."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        package = importlib.import_module("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
        config = package.RecurrentGemmaConfig(lru_width=size.width, num_attention_heads=HEADS)
        self.layer = package.RecurrentGemmaRglru(config)
        for weights in self.layer.parameters():
            nn.init.normal_(weights)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.recurrent_states = None
        positions = torch.arange(x.shape[1], device=x.device) % 5
        y = self.layer(x, positions.expand(x.shape[0], -1))
        self.layer.recurrent_states = None
        return y


def rwkv(size: Size) -> Callable[..., Tensor]:
    module = importlib.import_module("transformers.models.rwkv.modeling_rwkv")
    return lambda *inputs: module.rwkv_linear_attention_cpu(*inputs)[0]


def rwkv_inputs(size: Size) -> tuple[Tensor, ...]:
    return *torch.randn(2, size.width).unbind(), *torch.randn(2, *size[:3]).unbind()


def gated_delta(size: Size) -> Callable[..., Tensor]:
    module = importlib.import_module("transformers.models.qwen3_next.modeling_qwen3_next")
    return lambda q, k, v: module.torch_recurrent_gated_delta_rule(q, k, v, -q[..., 0].square(), k[..., 0].sigmoid())[0]


MAMBAPY = "alxndrTL/mamba.py"
ENTRIES = (
    Entry("mambapy, loop", MAMBAPY, lambda size: mambapy(size, pscan=False), sequence, needs="mambapy"),
    Entry("mambapy, pscan", MAMBAPY, lambda size: mambapy(size, pscan=True), sequence, needs="mambapy"),
    transformers("Mamba, loop", causal("Mamba", mamba), tokens),
    transformers("Mamba, associative_scan", causal("Mamba", lambda s: {**mamba(s), **TREE}), tokens),
    transformers("Mamba-2, chunks", causal("Mamba2", mamba_2), tokens),
    transformers("Bamba, chunks", causal("Bamba", bamba), tokens),
    transformers("RecurrentGemma, RG-LRU", RecurrentGemma, sequence),
    transformers("RWKV-4 with a running maximum", rwkv, rwkv_inputs, recurrences=0, cause="maximum"),
    transformers("Qwen3-Next, gated delta rule", gated_delta, heads(), recurrences=0),
)
