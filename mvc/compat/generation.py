"""Decoding with mamba-ssm's cache: `InferenceParams`, and `GenerationMixin` whose `generate` runs token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mvc.arguments import is_number, is_whole, require
from mvc.errors import UserError
from mvc.kernels.checks import check_flags


@dataclass
class InferenceParams:
    """What the layers of a model keep from one decoding step to the next."""

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0  # the tokens seen so far
    batch_size_offset: int = 0
    key_value_memory_dict: dict[int, Any] = field(default_factory=dict)  # each layer's states by its layer_idx
    lengths_per_sample: Tensor | None = None  # (batch,)

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        """Start at the first token of another sequence; states stay, and are overwritten by its prompt."""
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


def states_of_layer(layer: nn.Module, inference_params: Any, batch_size: int) -> tuple[Tensor, ...]:
    """The states that `inference_params` keeps for a layer, which are zero before its first call.

    Raises:
        UserError: the layer's `layer_idx` is None, or the states are those of another batch.
    """
    require(layer.layer_idx is not None, "layer_idx", None, "the number of this layer, to decode")
    kept = inference_params.key_value_memory_dict
    if layer.layer_idx not in kept:
        kept[layer.layer_idx] = layer.allocate_inference_cache(batch_size, inference_params.max_seqlen)
    batch = kept[layer.layer_idx][0].shape[0]
    if batch != batch_size:
        raise UserError(
            f"inference_params holds states of {batch} sequences, and this call has {batch_size}; start with new "
            "InferenceParams"
        )
    return kept[layer.layer_idx]


@dataclass
class Generated:
    """What `generate` returns where `return_dict_in_generate` asks for it."""

    sequences: Tensor  # (batch, length), the prompt and the tokens after it
    scores: tuple[Tensor, ...] | None  # the logits (batch, vocabulary) that each new token was chosen from


class GenerationMixin:
    """`generate` for a model of tokens.

    The model's forward accepts `(input_ids, position_ids=..., inference_params=..., num_last_tokens=1)` and returns an
    object whose `logits` are (batch, 1, vocabulary). Its layers keep their states in `inference_params`.
    """

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> dict[int, Any]:
        """Zero states by layer, as for `InferenceParams.key_value_memory_dict`; a model writes it."""
        raise NotImplementedError(f"{type(self).__name__} must define allocate_inference_cache")

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor,
        max_length: int,
        top_k: int = 1,
        top_p: float = 0.0,
        temperature: float = 1.0,
        return_dict_in_generate: bool = False,
        output_scores: bool = False,
        *,
        eos_token_id: int | None = None,
        vocab_size: int | None = None,
    ) -> Tensor | Generated:
        """Continue each prompt, greedily or by sampling, without gradients.

        Args:
            input_ids: (batch, length), the prompts, all of one length of at least 1.
            max_length: of a sequence with its prompt.
            top_k: 1 takes the likeliest token; k samples from the k likeliest, 0 from all.
            top_p: where not 0, sample from the fewest of them whose probabilities sum up to it.
            temperature: divides the logits before sampling.
            return_dict_in_generate: return a `Generated` in place of its sequences.
            output_scores: keep the logits in it.
            eos_token_id: stop when the whole batch has just ended in this token.
            vocab_size: leave out logits from this one on, which pad the vocabulary.

        Returns:
            (batch, at most max_length).

        Raises:
            UserError: an argument out of its range.
        """
        require(input_ids.dim() == 2 and input_ids.shape[1] > 0, "input_ids", input_ids, "(batch, length), not empty")
        require(is_whole(max_length, 1), "max_length", max_length, "a whole number of at least 1")
        require(is_whole(top_k, 0), "top_k", top_k, "a whole number of at least 0")
        require(is_number(top_p) and 0 <= top_p <= 1, "top_p", top_p, "a number from 0 to 1")
        require(is_number(temperature) and temperature > 0, "temperature", temperature, "a number above 0")
        check_flags(return_dict_in_generate=return_dict_in_generate, output_scores=output_scores)
        batch, length = input_ids.shape
        cache = InferenceParams(max_seqlen=max_length, max_batch_size=batch)
        sequences, scores = [input_ids], []
        while length < max_length:
            positions = input_ids.new_full((batch, 1), cache.seqlen_offset) if cache.seqlen_offset else None
            options = {"position_ids": positions, "inference_params": cache, "num_last_tokens": 1}
            logits = self(sequences[-1], **options).logits.squeeze(1)[..., :vocab_size]
            cache.seqlen_offset, length = length, length + 1
            sequences.append(_choose(logits, top_k, top_p, temperature)[:, None])
            if output_scores:
                scores.append(logits)
            if eos_token_id is not None and bool((sequences[-1] == eos_token_id).all()):
                break
        tokens = torch.cat(sequences, dim=1)
        return Generated(tokens, tuple(scores) if output_scores else None) if return_dict_in_generate else tokens


def _choose(logits: Tensor, top_k: int, top_p: float, temperature: float) -> Tensor:
    """A token for each row of (batch, vocabulary)."""
    if top_k == 1:
        return logits.argmax(-1)
    size = logits.shape[-1]
    values, tokens = logits.topk(min(top_k, size) if top_k else size)  # the likeliest first
    probabilities = (values.float() / temperature).softmax(-1)
    if 0 < top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.where(before < top_p, 0)
    return tokens.gather(-1, torch.multinomial(probabilities, 1)).squeeze(-1)
