"""Decoding with mamba-ssm's cache, and its readers of published models."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mvc.compat.generation import GenerationMixin, InferenceParams
from mvc.compat.hub import load_config_hf, load_state_dict_hf
from mvc.compat.mamba_simple import Mamba
from mvc.errors import UserError

VOCABULARY = 13


class Model(nn.Module, GenerationMixin):
    """A language model of one Mamba, which keeps its states; it counts its calls."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.mixer = nn.Embedding(VOCABULARY, 8), Mamba(8, layer_idx=0)
        self.head, self.calls = nn.Linear(8, VOCABULARY), []

    def forward(self, input_ids, position_ids=None, inference_params=None, num_last_tokens=0):
        self.calls.append((input_ids.shape[1], None if position_ids is None else position_ids.tolist()))
        hidden = self.mixer(self.embedding(input_ids), inference_params=inference_params)
        return SimpleNamespace(logits=self.head(hidden[:, -num_last_tokens:]))


PROMPT = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_greedy_decoding_is_that_without_a_cache():
    model, tokens = Model(), PROMPT
    for _ in range(4):
        tokens = torch.cat((tokens, model(tokens, num_last_tokens=1).logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    model.calls.clear()
    found = model.generate(PROMPT, max_length=7, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(found.sequences, tokens)
    assert [scores.shape for scores in found.scores] == [(2, VOCABULARY)] * 4
    assert model.calls == [(3, None), *((1, [[seen], [seen]]) for seen in (3, 4, 5))]
    assert torch.equal(model.generate(PROMPT, 7), tokens)


def test_it_stops_at_the_end_token():
    model = Model()
    first = model.generate(PROMPT[:1], 4)[0, 3].item()
    assert model.generate(PROMPT[:1], 9, eos_token_id=first).shape == (1, 4)
    assert model.generate(PROMPT, 3).shape == (2, 3), "a prompt of the full length stays as it is"


def test_sampling_keeps_to_the_likeliest():
    model = Model()
    (scores,) = model.generate(PROMPT, 4, return_dict_in_generate=True, output_scores=True).scores
    likeliest = scores.topk(3).indices
    torch.manual_seed(0)
    tokens = model.generate(PROMPT.repeat_interleave(100, 0), 4, top_k=3, temperature=2.0)[:, -1].view(2, 100)
    assert [set(row.tolist()) for row in tokens] == [set(row.tolist()) for row in likeliest]
    narrow = model.generate(PROMPT, 4, top_k=0, top_p=1e-6)[:, -1]
    assert torch.equal(narrow, scores.argmax(-1)), "the likeliest token is kept, however small top_p is"
    assert model.generate(PROMPT, 9, top_k=0, vocab_size=2)[:, 3:].max() <= 1


def test_inference_params_start_again():
    params = InferenceParams(8, 2, seqlen_offset=5, lengths_per_sample=torch.tensor([3, 4]))
    params.reset(6, 1)
    assert (params.max_seqlen, params.max_batch_size, params.seqlen_offset) == (6, 1, 0)
    assert params.lengths_per_sample.tolist() == [0, 0]
    assert params.key_value_memory_dict == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_length": 0}, "max_length is 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 2.0}, "top_p is 2.0"),
        ({"temperature": 0}, "temperature is 0"),
        ({"input_ids": torch.ones(2, 0, dtype=torch.long)}, "input_ids is a Tensor"),
    ],
)
def test_generate_says_what_is_wrong(change, message):
    with pytest.raises(UserError, match=message):
        Model().generate(**{"input_ids": PROMPT, "max_length": 5} | change)


def test_a_model_must_write_its_cache():
    with pytest.raises(NotImplementedError, match="Model must define allocate_inference_cache"):
        Model().allocate_inference_cache(1, 2)


def test_models_in_a_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 8}), encoding="utf-8")
    saved = {"weight": torch.ones(2), "numbers": torch.arange(3)}
    torch.save(saved, tmp_path / "pytorch_model.bin")
    assert load_config_hf(str(tmp_path)) == {"d_model": 8}
    for dtype in (None, torch.bfloat16):
        loaded = load_state_dict_hf(str(tmp_path), device="cpu", dtype=dtype)
        assert loaded["weight"].dtype == (dtype or torch.float32)
        assert loaded["numbers"].dtype == torch.int64
        torch.testing.assert_close(loaded["weight"].float(), saved["weight"])


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json; save it there"):
        load_config_hf(str(tmp_path))
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="holds a list; a configuration is a JSON object"):
        load_config_hf(str(tmp_path))
    torch.save({"weight": torch.ones(1), "code": UserError("x")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"(?s)cannot be read as tensors .*; fetch it again, or pass a device that"):
        load_state_dict_hf(str(tmp_path))
    torch.save({"step": 1}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds more than tensors by name"):
        load_state_dict_hf(str(tmp_path))


def test_the_hub_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"'owner/model' is no folder here, .*mvc-mambavision\[hub\]"):
        load_config_hf("owner/model")


def test_models_of_the_hub(monkeypatch, tmp_path):
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        if name != "config.json":
            raise OSError("offline")
        (tmp_path / name).write_text("{}", encoding="utf-8")
        return str(tmp_path / name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    assert load_config_hf("owner/model") == {}
    assert asked == [("owner/model", "config.json")]
    with pytest.raises(UserError, match=r"pytorch_model\.bin of 'owner/model' cannot be fetched from the hub: offline"):
        load_state_dict_hf("owner/model")
