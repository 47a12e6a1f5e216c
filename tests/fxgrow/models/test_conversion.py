"""Tensors of a class of transformers in the names and forms of its files, and back."""
from __future__ import annotations

import importlib

import pytest
import safetensors.torch
import torch

from fxgrow.common import Refusal
from fxgrow.models import Shards
from fxgrow.models.conversion import Conversion

transformers = pytest.importorskip("transformers")
SIZES = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 1}


@pytest.mark.parametrize("kind", ["Mixtral", "Olmoe"])
def test_files_have_experts_one_by_one_and_the_class_in_one_tensor(kind, tmp_path):
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**SIZES))
    model.save_pretrained(tmp_path)
    theirs = safetensors.torch.load_file(tmp_path / "model.safetensors")
    shards, conversion = Shards(tmp_path, model), Conversion(model)
    found = {}
    for name, p in model.named_parameters():
        assert torch.equal(shards.read(name), p)
        found |= conversion.to_files(name, p.detach())
    assert found.keys() == theirs.keys() and all(torch.equal(found[n], t) for n, t in theirs.items())
    assert any(".experts.1." in name for name in found) and not any("gate_up_proj" in name for name in found)


def test_a_tensor_of_files_that_is_several_of_the_class_is_refused(monkeypatch):
    core = importlib.import_module("transformers.core_model_loading")
    parts = core.WeightConverter(source_patterns="qkv", target_patterns=["q", "k", "v"], operations=[core.Chunk(0)])
    place = importlib.import_module("transformers.conversion_mapping")
    monkeypatch.setattr(place, "get_model_conversion_mapping", lambda *_, **__: [parts])
    with pytest.raises(Refusal, match="several tensors of its class"):
        Conversion(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)))
